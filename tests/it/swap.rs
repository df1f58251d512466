//! Swapping two apps under load: no request is lost, and no client ever sees a partial swap.

use std::time::Duration;

use axum::Router;
use reqwest::Method;
use serde_json::{Value, json};
use tancho::kernel::public_hosts::PlatformHosts;
use tancho::proxy::{BackendSet, Proxy, ProxySettings};
use tancho::routing;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::test_server::{TestServer, TestUser};

const HOSTS: [&str; 2] = ["shop.localhost", "blog.localhost"];
const SWAPS: usize = 21;

/// Creates an app with one unit that returns its name, on another host so that this host's reconciler leaves
/// it alone.
pub(crate) async fn app_with_unit(tancho: &TestServer, ana: &TestUser, name: &'static str) -> String {
    let body = json!({ "name": name, "platform": "go", "teamOwner": "red" });
    let (status, text) = tancho.send_json(ana, Method::POST, "/apps", Some(body)).await;
    assert_eq!(status, 200, "{text}");
    let unit = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = unit.local_addr().unwrap().to_string();
    let says = Router::new().fallback(async move || name);
    tokio::spawn(async move { axum::serve(unit, says).await });
    let sql = format!(
        r#"insert into version (app_id, version, host, state)
               select app_id, 1, 'elsewhere', 'ready' from app where name = '{name}';
           insert into version_process select app_id, 1, 'web', 'x' from app where name = '{name}';
           insert into release (app_id, version, env, user_env) select app_id, 1, '\x01', '\x01' from app where name = '{name}';
           update app set current_release = release_id from release
               where release.app_id = app.app_id and app.name = '{name}';
           insert into unit (unit_id, app_id, release_id, process, version, host, phase, address, ready)
               select '{name}-1', app_id, current_release, 'web', 1, 'elsewhere', 'serving', '{address}', true
               from app where name = '{name}';"#
    );
    let query = sqlx::raw_sql(sqlx::AssertSqlSafe(sql));
    query.execute(&tancho.running.core.db).await.unwrap();
    address
}

/// Starts a proxy that follows the route table; returns its URL.
async fn start_proxy(tancho: &TestServer) -> String {
    let core = tancho.running.core.clone();
    let proxy = Proxy::new(ProxySettings::default());
    let loaded = core.stop.child_token();
    let (db, notices) = (core.db.clone(), core.notices.clone());
    let follow = routing::follow_routes(
        db,
        tancho::kernel::ids::ReplicaId::new(),
        notices,
        PlatformHosts::new("localhost", ""),
        proxy.clone(),
        loaded,
        core.stop.clone(),
    );
    tokio::spawn(follow);
    let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", front.local_addr().unwrap());
    tokio::spawn(async move { proxy.serve(front, core.stop.clone()).await });
    url
}

/// Returns the response of a host: the status and the body.
async fn get_host(http: &reqwest::Client, url: &str, host: &str) -> (u16, String) {
    match http.get(url).header("host", host).send().await {
        Ok(answer) => (answer.status().as_u16(), answer.text().await.unwrap_or_default()),
        Err(why) => (0, why.to_string()),
    }
}

/// Waits until the two hosts return these bodies.
async fn wait_for_both(http: &reqwest::Client, url: &str, wanted: [&str; 2]) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        let seen = [
            get_host(http, url, HOSTS[0]).await.1,
            get_host(http, url, HOSTS[1]).await.1,
        ];
        if seen == wanted {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{seen:?}, not {wanted:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swap_under_load_loses_no_request_and_is_atomic() {
    let tancho = TestServer::start().await;
    let ana = tancho.create_user("ana").await;
    tancho.create_team(&ana, "red").await;
    let units = [
        app_with_unit(&tancho, &ana, "shop").await,
        app_with_unit(&tancho, &ana, "blog").await,
    ];
    let url = start_proxy(&tancho).await;
    let http = tancho.http.clone();
    wait_for_both(&http, &url, ["shop", "blog"]).await;
    let stop = tokio_util::sync::CancellationToken::new();

    // The load: at a fixed rate, however long each request takes.
    let load = tokio::spawn({
        let (http, url, stop) = (http.clone(), url.clone(), stop.clone());
        async move {
            let mut ticks = tokio::time::interval(Duration::from_millis(5));
            let mut requests = JoinSet::new();
            for number in 0.. {
                tokio::select! {
                    _ = ticks.tick() => {}
                    () = stop.cancelled() => break,
                }
                let (http, url) = (http.clone(), url.clone());
                requests.spawn(async move { get_host(&http, &url, HOSTS[number % 2]).await });
            }
            requests.join_all().await
        }
    });
    // One task reads the route table, as each router does, and one the list of apps.
    let tables = tokio::spawn({
        let (db, stop) = (tancho.running.core.db.clone(), stop.clone());
        async move {
            let mut seen = 0;
            while !stop.is_cancelled() {
                let table = routing::load_table(&db, &PlatformHosts::new("localhost", ""))
                    .await
                    .unwrap();
                let at =
                    HOSTS.map(
                        |host| match &table.find_host(host).expect("each has an address").backends {
                            BackendSet::Ready(at) => at.iter().map(ToString::to_string).collect::<Vec<_>>(),
                            BackendSet::None { reason } => panic!("{host}: {reason}"),
                        },
                    );
                let [one, two] = [[units[0].clone()], [units[1].clone()]];
                assert!(
                    at == [one.to_vec(), two.to_vec()] || at == [two.to_vec(), one.to_vec()],
                    "{at:?}"
                );
                seen += 1;
            }
            seen
        }
    });
    for swap in 1..=SWAPS {
        let (status, text) = tancho
            .send_json(&ana, Method::PUT, "/swap?app1=shop&app2=blog", None)
            .await;
        assert_eq!(status, 200, "{text}");
        let wanted = if swap % 2 == 1 {
            ["blog", "shop"]
        } else {
            ["shop", "blog"]
        };
        wait_for_both(&http, &url, wanted).await;
        let list = tancho.read_json(&ana, "/apps").await;
        let ips: Vec<&Value> = list.as_array().unwrap().iter().map(|app| &app["ip"]).collect();
        assert!(ips.len() == 2 && ips[0] != ips[1], "{list}");
    }
    stop.cancel();
    let answers = load.await.unwrap();
    let lost: Vec<_> = answers
        .iter()
        .filter(|(status, text)| *status != 200 || !["shop", "blog"].contains(&text.as_str()))
        .collect();
    assert!(
        lost.is_empty(),
        "{} of {} lost: {:?}",
        lost.len(),
        answers.len(),
        &lost[..lost.len().min(5)]
    );
    assert!(answers.len() > 2 * SWAPS, "only {} requests", answers.len());
    assert!(
        tables.await.unwrap() > SWAPS,
        "the route table was read too rarely"
    );
    tancho.running.drain_and_stop().await;
}
