//! Where versions and archives lie: hosts without a worker hand archives over, and each holder removes its own files.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use tancho::config::{ServerRole, Settings};
use tancho::kernel::ids::AppId;
use tokio::task::JoinHandle;

use crate::recorded::test_service;
use crate::test_server::{TestServer, TestUser};

fn without_worker(settings: &mut Settings) {
    settings.roles = vec![ServerRole::Api];
}

/// Waits for something to become true.
async fn wait_for<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn create_app(tancho: &TestServer, ana: &TestUser, name: &str) -> AppId {
    let new = json!({ "name": name, "platform": "procfile" });
    let (status, text) = tancho.send_json(ana, Method::POST, "/apps", Some(new)).await;
    assert_eq!(status, 200, "{text}");
    let id: uuid::Uuid = sqlx::query_scalar("select app_id from app where name = $1")
        .bind(name)
        .fetch_one(&tancho.running.core.db)
        .await
        .unwrap();
    AppId(id)
}

async fn start_with_apps(
    apps: &[&str],
    change: impl FnOnce(&mut Settings),
) -> (TestServer, TestUser, Vec<AppId>) {
    let tancho = TestServer::start_with(change).await;
    let ana = tancho.create_user("ana").await;
    tancho.create_team(&ana, "red").await;
    let mut ids = Vec::new();
    for app in apps {
        ids.push(create_app(&tancho, &ana, app).await);
    }
    (tancho, ana, ids)
}

/// Sends an archive; status and text once the deploy has ended, or was refused.
async fn send_archive(tancho: &TestServer, ana: &TestUser, app: &str, archive: Vec<u8>) -> (u16, String) {
    begin_request(tancho, ana, app, archive).await.unwrap()
}

fn begin_request(
    tancho: &TestServer,
    ana: &TestUser,
    app: &str,
    archive: Vec<u8>,
) -> JoinHandle<(u16, String)> {
    let request = tancho.request_as(ana, Method::POST, &format!("/1.0/apps/{app}/deploy"));
    let request = request.header("content-type", "application/gzip").body(archive);
    tokio::spawn(async move {
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    })
}

/// Sends an archive, and waits until its deploy has begun; what the answer will be.
async fn begin_deploy(
    tancho: &TestServer,
    ana: &TestUser,
    app: &str,
    archive: Vec<u8>,
) -> JoinHandle<(u16, String)> {
    let sagas = "select count(*) from saga where kind = 'app.deploy'";
    let before = count(tancho, sagas).await;
    let answer = begin_request(tancho, ana, app, archive);
    wait_for("the deploy has begun", async || {
        (count(tancho, sagas).await > before).then_some(())
    })
    .await;
    answer
}

/// Another server on the same database, with all roles. It begins no deploy before it has its platforms.
async fn start_worker(tancho: &TestServer) -> TestServer {
    let wake = "update saga set wake_at = now() + interval '1 hour' where ended_at is null";
    run_sql(tancho, wake).await;
    let worker = tancho.start_replica(|_| {}).await;
    test_service::install_platforms(&worker);
    test_service::listen_for_all_units(&worker).await;
    run_sql(tancho, "update saga set wake_at = now() where ended_at is null").await;
    worker
}

async fn run_sql(tancho: &TestServer, sql: &str) {
    let query = sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned()));
    query.execute(&tancho.running.core.db).await.unwrap();
}

async fn count(tancho: &TestServer, sql: &str) -> i64 {
    let query = sqlx::query_scalar(sqlx::AssertSqlSafe(sql.to_owned()));
    query.fetch_one(&tancho.running.core.db).await.unwrap()
}

async fn run_healer(tancho: &TestServer, ana: &TestUser, name: &str) {
    let (status, text) = tancho
        .send_json(ana, Method::GET, &format!("/healers/{name}"), None)
        .await;
    assert_eq!(status, 200, "{text}");
}

fn uploads(tancho: &TestServer) -> usize {
    let folder = tancho.running.core.data_dir.uploads_dir();
    fs::read_dir(folder).unwrap().count()
}

/// Bytes that do not compress, as an archive that no build can read.
fn random_bytes(length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        bytes.extend_from_slice(uuid::Uuid::new_v4().as_bytes());
    }
    bytes.truncate(length);
    bytes
}

#[tokio::test]
async fn archive_sent_to_a_host_without_a_worker_is_built_by_one_that_has_a_worker() {
    let (tancho, ana, _) = start_with_apps(&["shop", "desk"], without_worker).await;
    let answer = begin_deploy(&tancho, &ana, "shop", test_service::archive("web: serve\n")).await;
    // More than one piece, and nothing that can be built.
    let broken = begin_deploy(&tancho, &ana, "desk", random_bytes((2 << 20) + 17)).await;
    assert_eq!(uploads(&tancho), 0, "the receiver keeps no file");
    let pieces = "select count(*) from uploaded_archive_chunk";
    assert_eq!(count(&tancho, pieces).await, 1 + 3);
    assert_eq!(
        count(&tancho, "select count(*) from saga where host is not null").await,
        0
    );

    let worker = start_worker(&tancho).await;
    let (_, text) = answer.await.unwrap();
    assert!(text.ends_with("\nOK\n"), "{text}");
    let (_, text) = broken.await.unwrap();
    assert!(!text.ends_with("\nOK\n") && !text.contains("is gone"), "{text}");
    wait_for("no archive is left", async || {
        let left = count(&tancho, "select count(*) from uploaded_archive").await;
        (left == 0 && uploads(&worker) == 0).then_some(())
    })
    .await;
    assert_eq!(count(&tancho, pieces).await, 0);
    // Each became bound to the host that made its version, by its row and by its data.
    let bound =
        "select count(*) from saga where kind = 'app.deploy' and host is not null and host = data ->> 'host'";
    assert_eq!(count(&tancho, bound).await, 2);
    worker.running.drain_and_stop().await;
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn stored_archives_take_bounded_space_by_caller_and_in_all() {
    let (tancho, ana, _) = start_with_apps(&["a", "b"], |settings| {
        without_worker(settings);
        settings.api.max_upload_bytes.0 = 1000;
    })
    .await;
    let bob = tancho.create_user("bob").await;
    tancho.create_team(&bob, "blue").await;
    create_app(&tancho, &bob, "c").await;
    let waiting = begin_deploy(&tancho, &ana, "a", random_bytes(900)).await;
    // What lies there counts, wherever it was sent to.
    run_sql(&tancho, "update uploaded_archive set size_bytes = 4000").await;
    let refused = send_archive(&tancho, &ana, "b", random_bytes(900)).await;
    assert_eq!(refused.0, 429, "{}", refused.1);
    // Another caller has a share of their own.
    let other = begin_deploy(&tancho, &bob, "c", random_bytes(900)).await;
    run_sql(&tancho, "update uploaded_archive set size_bytes = 8000").await;
    let full = send_archive(&tancho, &bob, "c", random_bytes(900)).await;
    assert!([429, 503].contains(&full.0), "{full:?}");
    waiting.abort();
    other.abort();
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn deploy_that_is_refused_leaves_no_stored_archive() {
    let (tancho, ana, _) = start_with_apps(&["shop"], without_worker).await;
    let first = begin_deploy(&tancho, &ana, "shop", random_bytes(100)).await;
    // The first one holds the app.
    let second = send_archive(&tancho, &ana, "shop", random_bytes(100)).await;
    assert!(second.1.starts_with("event locked"), "{second:?}");
    first.abort();
    assert_eq!(count(&tancho, "select count(*) from uploaded_archive").await, 1);
    assert_eq!(uploads(&tancho), 0);
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn archive_healer_deletes_only_what_no_deploy_needs() {
    let (tancho, ana, _) = start_with_apps(&["shop"], without_worker).await;
    let waiting = begin_deploy(&tancho, &ana, "shop", random_bytes(100)).await;
    run_sql(
        &tancho,
        "update uploaded_archive set created_at = now() - interval '1 day';
         insert into uploaded_archive (archive, owner) values ('fresh', '');
         insert into uploaded_archive (archive, owner, created_at) values ('left', '', now() - interval '2 hours');
         insert into uploaded_archive (archive, owner, event_id)
             select 'ended', '', event_id from event where ended_at is not null limit 1;
         insert into uploaded_archive_chunk values ('left', 0, 'x')",
    )
    .await;
    assert_eq!(count(&tancho, "select count(*) from uploaded_archive").await, 4);
    run_healer(&tancho, &ana, "archives").await;
    let left: Vec<String> = sqlx::query_scalar("select archive from uploaded_archive order by 1")
        .fetch_all(&tancho.running.core.db)
        .await
        .unwrap();
    assert!(left.len() == 2 && left.contains(&"fresh".to_owned()), "{left:?}");
    assert_eq!(
        count(&tancho, "select count(*) from uploaded_archive_chunk").await,
        1
    );
    waiting.abort();
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn deploys_that_wait_on_a_host_that_lost_its_worker_are_handed_over_at_its_start() {
    let (tancho, ana, _) = start_with_apps(&["shop"], without_worker).await;
    let answer = begin_deploy(&tancho, &ana, "shop", test_service::archive("web: serve\n")).await;
    // As it was when the host still had a worker: the archive is a file, and the deploy is bound to the host.
    let content: Vec<u8> = sqlx::query_scalar("select content from uploaded_archive_chunk")
        .fetch_one(&tancho.running.core.db)
        .await
        .unwrap();
    let archive: String = sqlx::query_scalar("select archive from uploaded_archive")
        .fetch_one(&tancho.running.core.db)
        .await
        .unwrap();
    let file = tancho.running.core.data_dir.uploads_dir().join(&archive);
    fs::write(&file, &content).unwrap();
    run_sql(
        &tancho,
        "delete from uploaded_archive;
         update saga set host = 'test', data = jsonb_set(data, '{host}', '\"test\"') where ended_at is null",
    )
    .await;
    tancho::deploys::remove_leftovers(&tancho.running.core)
        .await
        .unwrap();
    assert!(!file.exists());
    let bound = "select count(*) from saga where host is not null or data ->> 'host' is not null";
    assert_eq!(count(&tancho, bound).await, 0);
    let worker = start_worker(&tancho).await;
    let (_, text) = answer.await.unwrap();
    assert!(text.ends_with("\nOK\n"), "{text}");
    worker.running.drain_and_stop().await;
    tancho.running.drain_and_stop().await;
}

/// The folder of an app's versions on this host.
fn versions_of(tancho: &TestServer, app: AppId) -> PathBuf {
    tancho.running.core.data_dir.versions_dir().join(app.to_string())
}

#[tokio::test]
async fn holder_removes_files_of_versions_and_apps_that_are_gone_and_no_others() {
    let (tancho, ana, apps) = start_with_apps(&["shop", "gone", "far"], without_worker).await;
    let (shop, gone, far) = (apps[0], apps[1], apps[2]);
    let core = &tancho.running.core;
    run_sql(
        &tancho,
        &format!(
            "insert into version (app_id, version, host, state) values
                 ('{shop}', 1, 'test', 'ready'), ('{shop}', 2, 'test', 'removed'), ('{shop}', 3, 'test', 'failed'),
                 ('{shop}', 4, 'elsewhere', 'removed'), ('{shop}', 5, 'test', 'failed'), ('{shop}', 6, 'test', 'building');
             insert into release (app_id, version, env, user_env) values ('{shop}', 5, '', '');
             insert into unit (unit_id, app_id, release_id, process, version, host)
                 select 'shop-1', app_id, release_id, 'web', 5, 'elsewhere' from release;
             insert into version_holder select host, app_id, number from app cross join (values ('test'), ('elsewhere')) h (host);
             delete from version_holder where app_id = '{far}' and host = 'test';
             delete from app where app_id in ('{gone}', '{far}')"
        ),
    )
    .await;
    for app in [shop, gone, far] {
        for version in ["1", "2", "3", "4", "5", "6"] {
            fs::create_dir_all(versions_of(&tancho, app).join(version)).unwrap();
        }
        fs::create_dir(core.data_dir.cache_dir().join(app.to_string())).unwrap();
    }
    run_healer(&tancho, &ana, "versions").await;
    let mut left: Vec<String> = fs::read_dir(versions_of(&tancho, shop))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    assert_eq!(
        left,
        ["1", "4", "5", "6"],
        "version 5 has a unit, 4 another holder"
    );
    assert!(!versions_of(&tancho, gone).exists() && versions_of(&tancho, far).exists());
    assert!(!core.data_dir.cache_dir().join(gone.to_string()).exists());
    assert!(core.data_dir.cache_dir().join(shop.to_string()).exists());
    let holders = "select count(*) from version_holder where host = ";
    assert_eq!(count(&tancho, &format!("{holders}'test'")).await, 1);
    assert_eq!(count(&tancho, &format!("{holders}'elsewhere'")).await, 3);
    let held = "select count(*) from version where host = 'test'";
    assert_eq!(count(&tancho, held).await, 3);
    // Once its unit is gone, so is the version.
    run_sql(&tancho, "delete from unit").await;
    run_healer(&tancho, &ana, "versions").await;
    assert!(!versions_of(&tancho, shop).join("5").exists());
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn files_that_cannot_be_removed_keep_no_others_from_removal() {
    let (tancho, ana, apps) = start_with_apps(&["bad", "shop"], without_worker).await;
    let (bad, shop) = (apps[0], apps[1]);
    // No folder can be there.
    fs::write(versions_of(&tancho, bad), "a file").unwrap();
    run_sql(
        &tancho,
        &format!(
            "insert into version (app_id, version, host, state)
                 select '{bad}', n, 'test', 'removed' from generate_series(1, 120) n;
             insert into version (app_id, version, host, state)
                 select '{shop}', n, 'test', 'removed' from generate_series(1, 1000) n"
        ),
    )
    .await;
    for version in ["1", "500", "1000"] {
        fs::create_dir_all(versions_of(&tancho, shop).join(version)).unwrap();
    }
    let left = format!("select count(*) from version where host = 'test' and app_id = '{shop}'");
    wait_for("all others are removed", async || {
        run_healer(&tancho, &ana, "versions").await;
        (count(&tancho, &left).await == 0).then_some(())
    })
    .await;
    assert_eq!(fs::read_dir(versions_of(&tancho, shop)).unwrap().count(), 0);
    let kept = format!("select count(*) from version where host = 'test' and app_id = '{bad}'");
    assert_eq!(count(&tancho, &kept).await, 120, "they are tried again");
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn removal_of_an_app_is_bound_to_no_host() {
    let (tancho, ana, _) = start_with_apps(&["shop"], without_worker).await;
    let request = tancho.request_as(&ana, Method::DELETE, "/1.0/apps/shop");
    let answer = tokio::spawn(async move { request.send().await.unwrap().text().await.unwrap() });
    wait_for("the removal has begun", async || {
        let begun = "select count(*) from saga where kind = 'app.remove' and host is null";
        (count(&tancho, begun).await == 1).then_some(())
    })
    .await;
    let worker = tancho.start_replica(|_| {}).await;
    let text = answer.await.unwrap();
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert!(last["Error"].as_str().unwrap_or_default().is_empty(), "{text}");
    worker.running.drain_and_stop().await;
    tancho.running.drain_and_stop().await;
}
