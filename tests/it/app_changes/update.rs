//! `PUT /1.0/apps/{app}` and what a new app is given: tags, metadata, plans of processes, builds without a cache.

use std::fs;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::AppFixture;
use crate::accounts::{RequestBody, grant, send_request};

const PUT: &str = "PUT /1.0/apps/shop";

fn label(name: &str, value: &str) -> Value {
    json!({ "name": name, "value": value })
}

impl AppFixture {
    async fn update(&self, body: Value) {
        self.change(PUT, RequestBody::Bare(body)).await;
    }
}

#[tokio::test]
async fn processes_can_have_settings_before_the_first_deploy_and_keep_them() {
    let app = AppFixture::start().await;
    app.update(json!({ "processes": [
        { "name": "worker", "plan": "large" },
        { "name": "web", "metadata": { "labels": [label("tier", "gold")] } },
    ]}))
    .await;
    let expected = json!([
        { "name": "web", "metadata": { "labels": [label("tier", "gold")], "annotations": [] } },
        { "name": "worker", "plan": "large", "metadata": { "labels": [], "annotations": [] } },
    ]);
    assert_eq!(app.info().await["processes"], expected);
    app.deploy_ok("web: serve\n").await;
    app.deploy_ok("web: serve\nworker: work\n").await;
    assert_eq!(app.info().await["processes"], expected);
    // From then on a misspelt name is noticed, but what is there can be reset.
    let unknown = json!({ "processes": [{ "name": "wroker", "plan": "large" }] });
    let answer = app.send(PUT, RequestBody::Bare(unknown)).await.expect_status(400);
    assert!(
        answer.body.contains("The app has no process wroker"),
        "{answer:?}"
    );
    app.update(json!({ "processes": [{ "name": "worker", "plan": "$default" }] }))
        .await;
    assert!(app.info().await["processes"][1]["plan"].is_null());
    app.stop().await;
}

#[tokio::test]
async fn new_app_is_created_with_metadata_and_processes() {
    let app = AppFixture::start().await;
    let new = |name: &str, plan: &str| {
        RequestBody::Bare(json!({
            "name": name, "platform": "go", "tags": ["a", " a ", "", "b"],
            "metadata": { "labels": [label("tier", "gold")] },
            "processes": [{ "name": "web", "plan": plan, "metadata": { "annotations": [label("note", "x y")] } }],
        }))
    };
    app.send("POST /1.0/apps", new("blog", "none"))
        .await
        .expect_status(400);
    app.send("GET /1.0/apps/blog", RequestBody::None)
        .await
        .expect_status(404);
    app.send("POST /1.0/apps", new("blog", "large"))
        .await
        .expect_status(201);
    let info = app.read("/1.0/apps/blog").await;
    assert_eq!(info["tags"], json!(["a", "b"]));
    assert_eq!(info["metadata"]["labels"], json!([label("tier", "gold")]));
    let metadata = json!({ "labels": [], "annotations": [label("note", "x y")] });
    assert_eq!(
        info["processes"],
        json!([{ "name": "web", "plan": "large", "metadata": metadata }])
    );
    app.stop().await;
}

#[tokio::test]
async fn invalid_changes_are_refused_and_change_nothing() {
    let app = AppFixture::start().await;
    app.deploy_ok("web: serve\n").await;
    let before = app.info().await;
    let many: Vec<Value> = (0..1001).map(|n| json!({ "name": format!("p{n}") })).collect();
    for body in [
        json!({}),
        json!({ "planoverride": {}, "metadata": {}, "processes": [], "noRestart": true }),
        json!({ "planoverride": { "memory": "much" } }),
        json!({ "planoverride": { "memory": 1024 } }),
        json!({ "planoverride": { "memory": 1.5 } }),
        json!({ "planoverride": { "cpumilli": -1 } }),
        json!({ "planoverride": { "cpumilli": 9_999_999_999_i64 } }),
        json!({ "planoverride": { "cpuBurst": 0.5 } }),
        json!({ "planoverride": [1] }),
        json!({ "plan": "none" }),
        json!({ "plan": "large", "planoverride": { "memory": -1 } }),
        json!({ "description": "new", "pool": "elsewhere" }),
        json!({ "description": "new", "router": "other" }),
        json!({ "description": "new", "routeropts": { "a": "b" } }),
        json!({ "platform": "cobol" }),
        json!({ "imageReset": "perhaps" }),
        json!({ "teamOwner": "nobody" }),
        json!({ "tags": "x".repeat(300) }),
        json!({ "processes": [{ "plan": "large" }] }),
        json!({ "processes": [{ "name": "web", "plan": "none" }] }),
        json!({ "processes": [{ "name": "web", "plan": "Not A Name" }] }),
        json!({ "processes": [{ "name": "web" }, { "name": "web" }] }),
        json!({ "processes": [{ "name": "web", "metadata": { "labels": [label("a b", "c")] } }] }),
        json!({ "processes": [{ "name": "a/../b" }] }),
        json!({ "processes": { "name": "web" } }),
        json!({ "processes": ["web"] }),
        json!({ "processes": many }),
        json!({ "metadata": { "labels": [label("tsuru.io/app", "x")] } }),
        json!({ "metadata": { "labels": [label("tier", "two words")] } }),
        json!({ "metadata": { "labels": [{ "value": "x" }] } }),
        json!({ "metadata": { "labels": [{ "name": "a", "delete": "maybe" }] } }),
        json!({ "metadata": "none" }),
    ] {
        let answer = app.send(PUT, RequestBody::Bare(body.clone())).await;
        assert_eq!(answer.status, 400, "{body}: {answer:?}");
        assert_eq!(answer.body.trim_end().lines().count(), 1, "{body}: {answer:?}");
    }
    assert_eq!(app.info().await, before);
    app.stop().await;
}

#[tokio::test]
async fn metadata_of_an_app_and_all_its_processes_is_limited() {
    let app = AppFixture::start().await;
    let notes = |process: usize, value: &str| {
        let notes: Vec<Value> = (0..20).map(|n| label(&format!("n{n}"), value)).collect();
        let process = json!({ "name": format!("p{process}"), "metadata": { "annotations": notes } });
        RequestBody::Bare(json!({ "processes": [process] }))
    };
    let large = "x".repeat(4096);
    for process in 0..3 {
        app.change(PUT, notes(process, &large)).await;
    }
    let answer = app.send(PUT, notes(3, &large)).await.expect_status(400);
    assert!(answer.body.contains("at most 262144 bytes"), "{answer:?}");
    app.change(PUT, notes(2, "small")).await;
    app.change(PUT, notes(3, &large)).await;
    app.stop().await;
}

#[tokio::test]
async fn each_field_requires_its_own_permission() {
    let app = AppFixture::start().await;
    let (root, bob) = (&app.root, &app.bob);
    grant(
        &app.tancho,
        root,
        bob,
        "app",
        "shop",
        &["app.read.info", "app.update.tags"],
    )
    .await;
    let put = async |body: Value| {
        send_request(&app.tancho, Some(bob), PUT, RequestBody::Bare(body))
            .await
            .status
    };
    for body in [
        json!({ "planoverride": { "cpumilli": 100 } }),
        json!({ "processes": [{ "name": "web", "plan": "large" }] }),
        json!({ "metadata": { "labels": [label("a", "b")] } }),
        json!({ "imageReset": true }),
        json!({ "tags": ["a"], "plan": "large" }),
    ] {
        assert_eq!(put(body.clone()).await, 403, "{body}");
    }
    assert_eq!(put(json!({ "tags": ["a", "a"], "pool": "local" })).await, 200);
    assert_eq!(app.info().await["tags"], json!(["a"]));
    app.stop().await;
}

#[tokio::test]
async fn concurrent_changes_of_settings_are_all_kept() {
    let app = AppFixture::start().await;
    let changing = (0..6).map(|n| {
        let app = &app;
        async move {
            let body = json!({
                "processes": [{ "name": format!("p{n}"), "plan": "large" }],
                "metadata": { "labels": [label(&format!("l{n}"), "x")] },
            });
            // The lock of an app is held for a moment; the client tries again.
            let deadline = Instant::now() + Duration::from_secs(30);
            loop {
                let answer = app.send(PUT, RequestBody::Bare(body.clone())).await;
                if answer.status == 200 {
                    break;
                }
                assert!(
                    answer.body.contains("event locked") && Instant::now() < deadline,
                    "{answer:?}"
                );
            }
        }
    });
    join_all(changing).await;
    let info = app.info().await;
    assert_eq!(info["processes"].as_array().unwrap().len(), 6, "{info}");
    assert_eq!(info["metadata"]["labels"].as_array().unwrap().len(), 6, "{info}");
    app.stop().await;
}

#[tokio::test]
async fn image_reset_and_new_platform_make_the_next_build_begin_without_a_cache() {
    let app = AppFixture::start().await;
    app.deploy_ok("web: serve\n").await;
    let core = &app.tancho.running.core;
    let id: uuid::Uuid = sqlx::query_scalar("select app_id from app where name = 'shop'")
        .fetch_one(&core.db)
        .await
        .unwrap();
    let cached = core.data_dir.cache_dir().join(id.to_string()).join("cached");
    fs::write(&cached, "x").unwrap();
    app.deploy_ok("web: serve\n").await;
    assert!(cached.exists(), "a build keeps the cache");
    for change in [json!({ "imageReset": true }), json!({ "platform": "static" })] {
        app.update(change.clone()).await;
        app.update(json!({ "platform": "procfile" })).await;
        assert!(cached.exists(), "nothing happens before the next build");
        let text = app.deploy("web: serve\n").await;
        assert!(
            text.contains("without the cache of earlier builds") && text.ends_with("\nOK\n"),
            "{text}"
        );
        assert!(!cached.exists(), "{change}");
        fs::write(&cached, "x").unwrap();
        app.deploy_ok("web: serve\n").await;
        assert!(cached.exists(), "only the next build begins without the cache");
    }
    app.stop().await;
}
