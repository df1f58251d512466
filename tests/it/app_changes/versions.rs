//! Versions of an app: their removal, and whether the app may go back to them.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::AppFixture;
use crate::accounts::{RequestBody, send_request};

const UPDATE: &str = "PUT /1.4/apps/shop/deploy/rollback/update";
const ROLLBACK: &str = "POST /1.0/apps/shop/deploy/rollback";

impl AppFixture {
    async fn two_versions() -> Self {
        let app = Self::start().await;
        app.deploy_ok("web: serve\n").await;
        app.deploy_ok("web: serve\nworker: work\n").await;
        app
    }

    /// Image and `CanRollback` of each deploy, the newest first.
    async fn deploys(&self) -> Vec<(String, bool)> {
        let list = self.read("/1.0/deploys?app=shop").await;
        let deploy = |d: &Value| {
            (
                d["Image"].as_str().unwrap().to_owned(),
                d["CanRollback"].as_bool().unwrap(),
            )
        };
        list.as_array().unwrap().iter().map(deploy).collect()
    }

    async fn disable(&self, image: &str, disable: &str, reason: &str) -> (u16, String) {
        let form = [
            ("image", image),
            ("disable", disable),
            ("reason", reason),
            ("origin", "rollback"),
        ];
        let answer = self.send(UPDATE, RequestBody::Form(&form)).await;
        (answer.status, answer.body)
    }
}

#[tokio::test]
async fn version_can_be_removed_with_its_files_unless_it_runs() {
    let app = AppFixture::two_versions().await;
    let core = &app.tancho.running.core;
    let folder = |version: i32| {
        let id = app_id(&app);
        async move {
            core.data_dir
                .versions_dir()
                .join(id.await)
                .join(version.to_string())
        }
    };
    assert!(folder(1).await.exists());
    let path = |version: &str| format!("DELETE /1.10/apps/shop/versions/{version}");
    let answer = app.send(&path("2"), RequestBody::None).await.expect_status(409);
    assert!(answer.body.contains("Version 2 of app shop runs"), "{answer:?}");
    for unknown in ["3", "0", "-1", "x", "v99999999999", "1.0"] {
        app.send(&path(unknown), RequestBody::None)
            .await
            .expect_status(404);
    }
    send_request(&app.tancho, Some(&app.bob), &path("1"), RequestBody::None)
        .await
        .expect_status(403);
    assert_eq!(
        app.deploys().await,
        [("v2".to_owned(), true), ("v1".to_owned(), true)]
    );
    let answer = app.change(&path("1"), RequestBody::None).await;
    assert!(answer.body.contains("Removing version 1 of shop"), "{answer:?}");
    assert_eq!(
        app.deploys().await,
        [("v2".to_owned(), true), ("v1".to_owned(), false)]
    );
    app.send(&path("1"), RequestBody::None).await.expect_status(404);
    app.send(ROLLBACK, RequestBody::Form(&[("image", "v1")]))
        .await
        .expect_status(404);
    let gone = folder(1).await;
    let deadline = Instant::now() + Duration::from_secs(30);
    while gone.exists() {
        assert!(Instant::now() < deadline, "the files are still there");
        app.send_as_root("GET /healers/versions", RequestBody::None)
            .await
            .expect_status(200);
    }
    assert!(folder(2).await.exists());
    // The number is not given again.
    app.deploy_ok("web: serve\n").await;
    assert_eq!(app.deploys().await[0].0, "v3");
    app.stop().await;
}

async fn app_id(app: &AppFixture) -> String {
    let id: uuid::Uuid = sqlx::query_scalar("select app_id from app where name = 'shop'")
        .fetch_one(&app.tancho.running.core.db)
        .await
        .unwrap();
    id.to_string()
}

#[tokio::test]
async fn app_does_not_go_back_to_a_disabled_version_until_it_is_enabled() {
    let app = AppFixture::two_versions().await;
    for (image, disable, reason, status) in [
        ("", "true", "leaks memory", 400),
        ("v1", "true", "", 400),
        ("v1", "true", "  ", 400),
        ("v1", "perhaps", "leaks memory", 400),
        ("v9", "true", "leaks memory", 404),
        ("../1", "true", "leaks memory", 404),
    ] {
        let answer = app.disable(image, disable, reason).await;
        assert_eq!(answer.0, status, "{image} {disable} {reason}: {answer:?}");
    }
    assert!(app.deploys().await[1].1, "a refused change changes nothing");
    let by_bob = RequestBody::Form(&[("image", "v1"), ("disable", "false")]);
    send_request(&app.tancho, Some(&app.bob), UPDATE, by_bob)
        .await
        .expect_status(403);
    assert_eq!(app.disable("v1", "true", "leaks\u{1b}[2J memory").await.0, 200);
    assert_eq!(app.deploys().await[1], ("v1".to_owned(), false));
    let back = || RequestBody::Form(&[("image", "registry.example.com/tsuru/app-shop:v1")]);
    let answer = app.send(ROLLBACK, back()).await.expect_status(409);
    assert_eq!(
        answer.body,
        "Version 1 of app shop must not be gone back to: leaks\u{fffd}[2J memory\n"
    );
    // A version that runs goes on when it is disabled.
    assert_eq!(app.disable("2", "true", "too new").await.0, 200);
    app.change("POST /1.0/apps/shop/restart", RequestBody::None).await;
    assert_eq!(app.disable("v1", "false", "").await.0, 200);
    app.change(ROLLBACK, back()).await;
    assert_eq!(app.info().await["units"][0]["Version"], 1);
    let answer = app.send(ROLLBACK, RequestBody::Form(&[("image", "v2")])).await;
    assert_eq!(answer.status, 409, "{answer:?}");
    app.stop().await;
}

#[tokio::test]
async fn rebuild_and_diff_are_refused_and_clone_deploys() {
    let app = AppFixture::two_versions().await;
    let rebuild = "POST /1.3/apps/shop/deploy/rebuild";
    let answer = app
        .send(rebuild, RequestBody::Form(&[("origin", "rebuild")]))
        .await
        .expect_status(412);
    assert!(answer.body.contains("is not kept"), "{answer:?}");
    app.send(rebuild, RequestBody::Form(&[("origin", "elsewhere")]))
        .await
        .expect_status(400);
    app.send("POST /1.0/apps/shop/diff", RequestBody::Text("--- a\n"))
        .await
        .expect_status(410);
    let clone = app
        .tancho
        .request_as(&app.ana, reqwest::Method::POST, "/1.0/apps/shop/repository/clone");
    let clone = clone
        .header("content-type", "application/gzip")
        .body(crate::recorded::test_service::archive("web: serve\n"));
    let text = clone.send().await.unwrap().text().await.unwrap();
    assert!(text.ends_with("\nOK\n"), "{text}");
    assert_eq!(app.deploys().await[0], ("v3".to_owned(), true));
    app.stop().await;
}

#[tokio::test]
async fn deploy_list_shows_why_a_build_failed() {
    let app = AppFixture::start().await;
    let text = app.deploy("no process in here\n").await;
    assert!(!text.ends_with("\nOK\n"), "{text}");
    let list = app.read("/1.0/deploys?app=shop&limit=10").await;
    let error = list[0]["Error"].as_str().unwrap();
    assert!(error.len() > 20 && text.contains(error), "{error}: {text}");
    assert_eq!(
        (&list[0]["CanRollback"], &list[0]["Version"]),
        (&json!(false), &json!(1))
    );
    app.stop().await;
}

#[tokio::test]
async fn only_version_that_runs_stays_routable() {
    let app = AppFixture::two_versions().await;
    let set = async |version: Value, routable: bool| {
        let body = json!({ "version": version, "isRoutable": routable });
        let answer = app
            .send("POST /1.8/apps/shop/routable", RequestBody::Bare(body))
            .await;
        answer.status
    };
    for (version, routable, status) in [
        (json!("2"), true, 200),
        (json!(2), true, 200),
        (json!("1"), false, 200),
        (json!("2"), false, 409),
        (json!("1"), true, 409),
        (json!("99"), true, 404),
        (json!("x"), true, 404),
        (json!(""), true, 400),
        (json!([1]), true, 400),
    ] {
        assert_eq!(
            set(version.clone(), routable).await,
            status,
            "{version} {routable}"
        );
    }
    let both = [
        ("image", "v1"),
        ("new-version", "true"),
        ("override-versions", "true"),
    ];
    app.send(ROLLBACK, RequestBody::Form(&both))
        .await
        .expect_status(400);
    app.stop().await;
}
