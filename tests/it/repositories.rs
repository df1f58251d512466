//! Repositories with hostile refs of earlier versions, and repository changes while few database connections
//! are free.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use hmac::{Hmac, KeyInit, Mac};
use reqwest::Method;
use serde_json::{Value, json};
use sha2::Sha256;
use tancho::kernel::names::{AppName, BranchName};
use tancho::kernel::request_context::RequestContext;
use tancho::repositories::{self, RemoteRepository, RepositoryHealer};
use tancho::sagas::Reconciler;

use crate::test_server::{TestServer, TestUser};

async fn with_app() -> (TestServer, TestUser) {
    let tancho = TestServer::start().await;
    let ana = tancho.create_user("ana").await;
    tancho.create_team(&ana, "red").await;
    let new = json!({ "name": "shop", "platform": "procfile" });
    let (status, text) = tancho.send_json(&ana, Method::POST, "/apps", Some(new)).await;
    assert_eq!(status, 200, "{text}");
    (tancho, ana)
}

/// Returns the ref advertisement, as git requests it over HTTP.
async fn advertise(tancho: &TestServer, by: &TestUser) -> (u16, String) {
    let answer = tancho
        .request(Method::GET, "/git/shop.git/info/refs?service=git-receive-pack")
        .basic_auth("token", Some(&by.token))
        .send()
        .await
        .unwrap();
    let status = answer.status().as_u16();
    let text = answer.bytes().await.unwrap();
    (
        status,
        String::from_utf8_lossy(&text[..text.len().min(2000)]).into_owned(),
    )
}

/// Returns the path of a server's only repository.
fn repository(tancho: &TestServer) -> PathBuf {
    let folder = tancho.running.core.data_dir.repositories_dir();
    let entries = std::fs::read_dir(folder).unwrap();
    let mut found = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "git"));
    found.next().unwrap()
}

fn git(repository: &Path, arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new("git")
        .args(["-c", "safe.directory=*", "--git-dir"])
        .arg(repository)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{arguments:?}");
    output.stdout
}

/// Writes packed refs of these names into a repository, in their order, all to one object.
fn write_refs(repository: &Path, names: &[Vec<u8>]) {
    let object = git(repository, &["hash-object", "-w", "--stdin"], b"x");
    let object = object.trim_ascii_end();
    let mut packed = b"# pack-refs with: peeled fully-peeled sorted \n".to_vec();
    for name in names {
        packed.extend_from_slice(&[object, b" ", name, b"\n"].concat());
    }
    std::fs::write(repository.join("packed-refs"), packed).unwrap();
}

fn branches(count: usize, padding: usize) -> Vec<Vec<u8>> {
    let padding = "x".repeat(padding);
    (0..count)
        .map(|n| format!("refs/heads/{n:08}-{padding}").into_bytes())
        .collect()
}

#[tokio::test]
async fn foreign_refs_behind_many_branches_are_removed_and_all_branches_stay() {
    let (tancho, ana) = with_app().await;
    assert_eq!(advertise(&tancho, &ana).await.0, 200);
    let path = repository(&tancho);
    // Names of more than a MiB, and some that are not UTF-8.
    let mut names = branches(16_000, 60);
    names.push(b"refs/heads/\xff\xfe".to_vec());
    let kept = names.len();
    let foreign: [&[u8]; 3] = [b"refs/notes/commits", b"refs/pull/1/head", b"refs/x/\xff"];
    names.extend(foreign.map(<[u8]>::to_vec));
    write_refs(&path, &names);
    let db = &tancho.running.core.db;
    sqlx::query("update repository set pushed_at = now(), tidied_at = null")
        .execute(db)
        .await
        .unwrap();
    RepositoryHealer::new(&tancho.running.core)
        .run_round()
        .await
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let tidy: bool = sqlx::query_scalar("select bool_and(tidied_at is not null) from repository")
            .fetch_one(db)
            .await
            .unwrap();
        if tidy {
            break;
        }
        assert!(Instant::now() < deadline, "the repository is never packed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let listed = git(&path, &["for-each-ref", "--format=%(refname)"], b"");
    let listed: Vec<&[u8]> = listed.trim_ascii_end().split(|byte| *byte == b'\n').collect();
    assert_eq!(listed.len(), kept);
    assert!(listed.iter().all(|name| name.starts_with(b"refs/heads/")));
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn too_long_ref_advertisement_is_rejected_instead_of_truncated() {
    let (tancho, ana) = with_app().await;
    assert_eq!(advertise(&tancho, &ana).await.0, 200);
    let path = repository(&tancho);
    write_refs(&path, &branches(300_000, 200));
    let (status, text) = advertise(&tancho, &ana).await;
    assert_eq!(status, 413, "{text}");
    assert!(text.contains("over SSH"), "{text}");
    write_refs(&path, &branches(100, 200));
    let (status, text) = advertise(&tancho, &ana).await;
    assert_eq!(status, 200, "{text}");
    assert!(text.contains("refs/heads/00000000-x"), "{text}");
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn forge_fetch_waits_for_a_push_that_may_use_the_remaining_quota() {
    let (tancho, ana) = with_app().await;
    assert_eq!(advertise(&tancho, &ana).await.0, 200);
    // As a push leaves it that has reserved the remaining quota.
    let receiving = std::fs::File::create(repository(&tancho).join("tancho.receive")).unwrap();
    receiving.lock().unwrap();
    let (name, branch) = (
        AppName::parse("shop").unwrap(),
        BranchName::parse("main").unwrap(),
    );
    let core = tancho.running.core.clone();
    let mut fetch = tokio::spawn(async move {
        // A forge that sends nothing.
        let (remote, ours) = std::os::unix::net::UnixStream::pair().unwrap();
        drop(ours);
        let remote = RemoteRepository::Socket(remote.into());
        let call = RequestContext::new_internal();
        repositories::fetch_branch(&core, &call, &name, remote, &branch).await
    });
    let waiting = tokio::time::timeout(Duration::from_secs(5), &mut fetch).await;
    assert!(waiting.is_err(), "{waiting:?}");
    drop(receiving);
    let error = fetch.await.unwrap().unwrap_err();
    assert!(error.message().contains("cannot be fetched"), "{error:?}");
    tancho.running.drain_and_stop().await;
}

/// Takes all database connections but one.
async fn hold_connections(tancho: &TestServer) -> Vec<sqlx::pool::PoolConnection<sqlx::Postgres>> {
    let db = &tancho.running.core.db;
    let mut held = Vec::new();
    while let Ok(connection) = tokio::time::timeout(Duration::from_secs(1), db.acquire()).await {
        held.push(connection.unwrap());
    }
    held.pop();
    held
}

#[tokio::test]
async fn repository_changes_and_forge_deliveries_need_one_connection() {
    let (tancho, ana) = with_app().await;
    let secret = "a secret of a forge";
    let forge = json!({ "url": "https://git.example.com/shop.git", "secret": secret });
    let (status, text) = tancho
        .send_json(&ana, Method::PUT, "/1.0/forges/shop", Some(forge))
        .await;
    assert_eq!(status, 200, "{text}");
    // So that her session is cached.
    tancho.read_json(&ana, "/1.0/apps/shop/repository").await;
    let held = hold_connections(&tancho).await;
    assert!(!held.is_empty());
    let branch = json!({ "branch": "live" });
    for (method, body) in [(Method::PUT, Some(branch)), (Method::DELETE, None::<Value>)] {
        let path = "/1.0/apps/shop/repository";
        let (status, text) = tancho.send_json(&ana, method.clone(), path, body).await;
        assert!((200..300).contains(&status), "{method}: {status} {text}");
    }
    let body = json!({ "ref": "refs/heads/main", "after": "a".repeat(40) }).to_string();
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(body.as_bytes());
    let signature = hex::encode(mac.finalize().into_bytes());
    let delivery = tancho
        .request(Method::POST, "/1.0/forges/shop")
        .header("x-github-event", "push")
        .header("x-github-delivery", "one")
        .header("x-hub-signature-256", format!("sha256={signature}"))
        .body(body);
    let answer = delivery.send().await.unwrap();
    let status = answer.status();
    let text = answer.text().await.unwrap();
    assert!(
        status.is_success() && text.contains("will be fetched"),
        "{status} {text}"
    );
    drop(held);
    tancho.running.drain_and_stop().await;
}
