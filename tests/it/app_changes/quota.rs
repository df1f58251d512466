//! The quota of an app: how many units it may have.

use futures_util::future::join_all;
use serde_json::json;

use super::AppFixture;
use crate::accounts::{RequestBody, grant, send_request};

const QUOTA: &str = "/1.0/apps/shop/quota";

impl AppFixture {
    async fn set_limit(&self, limit: &str) -> u16 {
        let line = format!("PUT {QUOTA}");
        let body = RequestBody::Form(&[("limit", limit)]);
        self.send_as_root(&line, body).await.status
    }
}

#[tokio::test]
async fn app_quota_is_read_by_members_and_changed_by_administrators() {
    let app = AppFixture::start().await;
    assert_eq!(app.read(QUOTA).await, json!({ "limit": -1, "inuse": 0 }));
    assert_eq!(app.set_limit("3").await, 200);
    app.deploy_ok("web: serve\nworker: work\n").await;
    assert_eq!(app.read(QUOTA).await, json!({ "limit": 3, "inuse": 2 }));
    assert_eq!(app.info().await["quota"], json!({ "limit": 3, "inuse": 2 }));
    let (put, get) = (format!("PUT {QUOTA}"), format!("GET {QUOTA}"));
    let more = || RequestBody::Form(&[("limit", "100")]);
    // A member must not raise the limit of their own app, and somebody else sees nothing.
    app.send(&put, more()).await.expect_status(403);
    for (line, body) in [(&put, more()), (&get, RequestBody::None)] {
        send_request(&app.tancho, Some(&app.bob), line, body)
            .await
            .expect_status(403);
    }
    // A role on the pool is that of an operator.
    grant(
        &app.tancho,
        &app.root,
        &app.bob,
        "pool",
        "local",
        &["app.admin.quota"],
    )
    .await;
    send_request(
        &app.tancho,
        Some(&app.bob),
        &put,
        RequestBody::Form(&[("limit", "5")]),
    )
    .await
    .expect_status(200);
    for (limit, status) in [
        ("1", 403),
        ("2", 200),
        ("x", 400),
        ("-2", 400),
        ("", 400),
        ("1.5", 400),
        ("99999999999", 400),
        ("-1", 200),
        ("unlimited", 200),
    ] {
        assert_eq!(app.set_limit(limit).await, status, "{limit}");
    }
    assert_eq!(app.read(QUOTA).await["limit"], -1);
    for line in ["GET /1.0/apps/nobody/quota", "PUT /1.0/apps/nobody/quota"] {
        app.send_as_root(line, more()).await.expect_status(404);
    }
    let events = app
        .read("/1.1/events?target.type=app&kindname=app.admin.quota")
        .await;
    assert_eq!(events.as_array().unwrap().len(), 5, "{events}");
    app.stop().await;
}

#[tokio::test]
async fn deploy_with_more_processes_than_the_quota_allows_fails_and_changes_nothing() {
    let app = AppFixture::start().await;
    assert_eq!(app.set_limit("2").await, 200);
    app.deploy_ok("web: serve\n").await;
    app.deploy_ok("web: serve\nworker: work\n").await;
    let text = app.deploy("web: serve\nworker: work\nclock: tick\n").await;
    assert!(
        text.contains("Quota exceeded: the processes of version 3 request 3 units")
            && !text.ends_with("OK\n"),
        "{text}"
    );
    assert_eq!(app.read(QUOTA).await, json!({ "limit": 2, "inuse": 2 }));
    let info = app.info().await;
    let versions: Vec<i64> = info["units"]
        .as_array()
        .unwrap()
        .iter()
        .map(|unit| unit["Version"].as_i64().unwrap())
        .collect();
    assert_eq!(versions, [2, 2]);
    // Renamed processes are as many as before, and the earlier version has fewer.
    app.deploy_ok("api: serve\nclock: tick\n").await;
    let back = RequestBody::Form(&[("image", "v1")]);
    app.change("POST /1.0/apps/shop/deploy/rollback", back).await;
    assert_eq!(app.read(QUOTA).await, json!({ "limit": 2, "inuse": 1 }));
    app.stop().await;
}

#[tokio::test]
async fn concurrent_unit_additions_stay_within_the_quota() {
    let app = AppFixture::start().await;
    app.deploy_ok("web: serve\n").await;
    assert_eq!(app.set_limit("2").await, 200);
    let adding = (0..8).map(|_| {
        let form = RequestBody::Form(&[("units", "1"), ("process", "web")]);
        app.send("PUT /1.0/apps/shop/units", form)
    });
    let answers = join_all(adding).await;
    assert!(answers.iter().any(|answer| answer.status == 200), "{answers:?}");
    let form = RequestBody::Form(&[("units", "1")]);
    app.send("PUT /1.0/apps/shop/units", form)
        .await
        .expect_status(403);
    assert_eq!(app.read(QUOTA).await, json!({ "limit": 2, "inuse": 2 }));
    app.stop().await;
}
