//! Edge cases of deploys: fields beside the archive, concurrent uploads, lists of deploys.

use futures_util::{StreamExt, stream};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::recorded::test_service;
use crate::test_server::{TestServer, TestUser};

const PATH: &str = "/1.0/apps/shop/deploy";

async fn with_app() -> (TestServer, TestUser) {
    let tancho = TestServer::start().await;
    let ana = tancho.create_user("ana").await;
    tancho.create_team(&ana, "red").await;
    let new = json!({ "name": "shop", "platform": "procfile" });
    let (status, text) = tancho.send_json(&ana, Method::POST, "/apps", Some(new)).await;
    assert_eq!(status, 200, "{text}");
    (tancho, ana)
}

/// Builds a multipart body of fields; those named `file` are files.
fn multipart(parts: &[(&str, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, value) in parts {
        let file = if *name == "file" {
            "; filename=\"archive.tar.gz\""
        } else {
            ""
        };
        let head = format!("--line\r\ncontent-disposition: form-data; name=\"{name}\"{file}\r\n\r\n");
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(value);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"--line--\r\n");
    body
}

async fn send(tancho: &TestServer, by: &TestUser, parts: &[(&str, &[u8])]) -> (u16, String) {
    let request = tancho
        .request_as(by, Method::POST, PATH)
        .header("content-type", "multipart/form-data; boundary=line");
    let answer = request.body(multipart(parts)).send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

async fn deploys(tancho: &TestServer, by: &TestUser) -> Vec<Value> {
    tancho
        .read_json(by, "/1.0/deploys?app=shop")
        .await
        .as_array()
        .unwrap()
        .clone()
}

fn uploads(tancho: &TestServer) -> usize {
    std::fs::read_dir(tancho.running.core.data_dir.uploads_dir())
        .unwrap()
        .count()
}

#[tokio::test]
async fn deploy_with_several_sources_or_an_unknown_origin_is_rejected() {
    let (tancho, ana) = with_app().await;
    let archive = test_service::archive("web: serve\n");
    let file: (&str, &[u8]) = ("file", &archive);
    let cases: [&[(&str, &[u8])]; 11] = [
        &[("archive-url", b"http://example.com/a.tgz"), file],
        &[file, ("archive-url", b"http://example.com/a.tgz")],
        &[file, ("image", b"nginx")],
        &[("archive-url", b"http://example.com/a.tgz"), ("image", b"nginx")],
        &[("archive-url", b"http://example.com/a.tgz")],
        &[file, ("dockerfile", b"FROM scratch")],
        &[file, file],
        &[("origin", b"elsewhere"), file],
        &[("message", b"a\0b"), file],
        &[("message", b"\xff"), file],
        &[("origin", b"git"), ("origin", b"image"), file],
    ];
    for parts in cases {
        let (status, text) = send(&tancho, &ana, parts).await;
        let names: Vec<&str> = parts.iter().map(|(name, _)| *name).collect();
        assert_eq!(status, 400, "{names:?}: {text}");
        assert!(
            text.trim_end().lines().count() == 1 && text.len() < 300,
            "{names:?}: {text}"
        );
    }
    let raw = tancho.request_as(&ana, Method::POST, &format!("{PATH}?origin=elsewhere"));
    let raw = raw
        .header("content-type", "application/gzip")
        .body(archive.clone());
    assert_eq!(raw.send().await.unwrap().status(), 400);
    assert!(deploys(&tancho, &ana).await.is_empty());
    assert_eq!(uploads(&tancho), 0, "a rejected deploy leaves no archive");
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn deploy_origin_and_sanitized_message_are_stored() {
    let (tancho, ana) = with_app().await;
    test_service::install_platforms(&tancho);
    test_service::listen_for_all_units(&tancho).await;
    let archive = test_service::archive("web: serve\n");
    let message = "fix \u{1b}[2Jall\nmore".as_bytes();
    let parts: [(&str, &[u8]); 3] = [
        ("origin", b"drag-and-drop"),
        ("message", message),
        ("file", &archive),
    ];
    let (status, text) = send(&tancho, &ana, &parts).await;
    assert!(status == 200 && text.ends_with("\nOK\n"), "{text}");
    let raw = tancho.request_as(
        &ana,
        Method::POST,
        &format!("{PATH}?origin=rebuild&message=again"),
    );
    let raw = raw.header("content-type", "application/gzip").body(archive);
    let text = raw.send().await.unwrap().text().await.unwrap();
    assert!(text.ends_with("\nOK\n"), "{text}");
    let deploys = deploys(&tancho, &ana).await;
    let kept: Vec<(&Value, &Value)> = deploys
        .iter()
        .map(|deploy| (&deploy["Origin"], &deploy["Message"]))
        .collect();
    let expected = [
        (&json!("rebuild"), &json!("again")),
        (&json!("drag-and-drop"), &json!("fix \u{fffd}[2Jall\nmore")),
    ];
    assert_eq!(kept, expected);
    assert_eq!(uploads(&tancho), 0, "a finished deploy leaves no archive");
    tancho.running.drain_and_stop().await;
}

/// Begins to send an archive whose end never comes.
fn begin_endless_upload(
    tancho: &TestServer,
    by: &TestUser,
    path: &str,
) -> JoinHandle<reqwest::Result<reqwest::Response>> {
    let chunks = stream::once(async { Ok::<_, std::io::Error>(vec![0_u8; 1024]) }).chain(stream::pending());
    let request = tancho
        .request_as(by, Method::POST, path)
        .header("content-type", "application/gzip");
    tokio::spawn(request.body(reqwest::Body::wrap_stream(chunks)).send())
}

#[tokio::test]
async fn waiting_uploads_of_one_user_leave_slots_to_others() {
    let (tancho, ana) = with_app().await;
    let mallory = tancho.create_user("mallory").await;
    tancho.create_team(&mallory, "evil").await;
    let mut held = Vec::new();
    for n in 0..36 {
        let new = json!({ "name": format!("evil-{n}"), "platform": "procfile" });
        let (status, text) = tancho.send_json(&mallory, Method::POST, "/apps", Some(new)).await;
        assert_eq!(status, 200, "{text}");
        let path = format!("/1.0/apps/evil-{n}/deploy");
        held.push(begin_endless_upload(&tancho, &mallory, &path));
    }
    let limits = &tancho.running.core.caller_limits;
    wait_until("all but four uploads wait", async || {
        limits.uploads.count_all_waiting() == 32
    })
    .await;
    let (status, text) = send(&tancho, &ana, &[("file", b"x")]).await;
    assert_eq!(status, 200, "{text}");
    for upload in held {
        upload.abort();
    }
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn uploads_are_limited_to_one_per_app_and_few_per_caller() {
    let (tancho, ana) = with_app().await;
    for n in 0..6 {
        let new = json!({ "name": format!("app-{n}"), "platform": "procfile" });
        assert_eq!(
            tancho.send_json(&ana, Method::POST, "/apps", Some(new)).await.0,
            200
        );
    }
    let open = |path: String| begin_endless_upload(&tancho, &ana, &path);
    let mut held = vec![open(PATH.to_owned())];
    let one_more = || {
        tancho
            .request_as(&ana, Method::POST, PATH)
            .header("content-type", "application/gzip")
            .body("x")
    };
    wait_until("the first upload is received", async || uploads(&tancho) == 1).await;
    let answer = one_more().send().await.unwrap();
    assert_eq!(answer.status(), 409, "{}", answer.text().await.unwrap());
    for n in 0..3 {
        held.push(open(format!("/1.0/apps/app-{n}/deploy")));
    }
    wait_until("four uploads are received", async || uploads(&tancho) == 4).await;
    let fifth = tancho
        .request_as(&ana, Method::POST, "/1.0/apps/app-4/deploy")
        .header("content-type", "application/gzip");
    let fifth = tokio::spawn(fifth.body("x").send());
    let shares = &tancho.running.core.caller_limits;
    wait_until("the fifth upload waits", async || {
        shares.uploads.count_all_waiting() == 1
    })
    .await;
    assert_eq!(uploads(&tancho), 4, "nothing of the fifth upload is received");
    held.pop().unwrap().abort();
    assert_eq!(fifth.await.unwrap().unwrap().status(), 200);
    for upload in &held {
        upload.abort();
    }
    wait_until("archives of disconnected clients are deleted", async || {
        uploads(&tancho) == 0
    })
    .await;
    let answer = one_more().send().await.unwrap();
    assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn disk_usage_of_waiting_archives_is_limited() {
    let (tancho, ana) = with_app().await;
    let folder = tancho.running.core.data_dir.uploads_dir();
    let most = tancho.running.core.settings.api.max_upload_bytes.0;
    // Nothing is written: the files are sparse.
    let full = std::fs::File::create(folder.join("of-many.archive")).unwrap();
    full.set_len(most * 16).unwrap();
    let answer = tancho
        .request_as(&ana, Method::POST, PATH)
        .header("content-type", "application/gzip")
        .body("x");
    assert_eq!(answer.send().await.unwrap().status(), 503);
    assert_eq!(uploads(&tancho), 1, "nothing was received");
    full.set_len(0).unwrap();
    let answer = tancho
        .request_as(&ana, Method::POST, PATH)
        .header("content-type", "application/gzip")
        .body("x");
    assert_eq!(answer.send().await.unwrap().status(), 200);
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn deploy_list_of_an_unknown_app_is_empty_or_404_by_version() {
    let (tancho, ana) = with_app().await;
    for app in ["unknown", "Not%20a%20name", "!", &"x".repeat(5000)] {
        let listed = tancho.read_json(&ana, &format!("/deploys?app={app}")).await;
        assert_eq!(listed, json!([]), "{app}");
        let path = format!("/1.0/deploys?app={app}");
        let (status, text) = tancho.send_json(&ana, Method::GET, &path, None).await;
        assert_eq!(status, 404, "{app}: {text}");
    }
    let bob = tancho.create_user("bob").await;
    let (status, _) = tancho
        .send_json(&bob, Method::GET, "/1.0/deploys?app=shop", None)
        .await;
    assert_eq!(status, 403, "an app of another team is forbidden");
    tancho.running.drain_and_stop().await;
}

async fn wait_until(what: &str, mut look: impl AsyncFnMut() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while !look().await {
        assert!(
            std::time::Instant::now() < deadline,
            "timed out waiting until {what}"
        );
        tokio::task::yield_now().await;
    }
}
