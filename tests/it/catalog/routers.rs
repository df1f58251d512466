//! Routers beside the built-in one, and the routers of apps.

use serde_json::{Value, json};

use crate::pools::PoolFixture;

fn edge(url: &str) -> Value {
    json!({ "name": "edge", "type": "api", "readinessGates": ["ready"],
            "config": { "api-url": url, "headers": { "authorization": "canary-router" } } })
}

#[tokio::test]
async fn router_is_created_changed_and_removed() {
    let fixture = PoolFixture::start().await;
    let (root, ana) = (&fixture.root, &fixture.ana);
    fixture
        .change("POST /1.8/routers", edge("http://127.0.0.1:1"))
        .await;
    let routers = fixture.read(root, "/1.3/routers").await;
    assert_eq!(routers[0]["name"], "proxy");
    let (name, kind, dynamic) = (&routers[1]["name"], &routers[1]["type"], &routers[1]["dynamic"]);
    assert_eq!(
        (name, kind, dynamic),
        (&json!("edge"), &json!("api"), &json!(true))
    );
    assert_eq!(routers[1]["info"]["status"], "not driven by this server yet");
    assert_eq!(routers[1]["config"]["headers"]["authorization"], "canary-router");
    assert_eq!(fixture.read(ana, "/1.3/routers").await[1]["config"], json!({}));
    let allowed = &fixture.read(root, "/pools/local").await["allowed"]["router"];
    assert_eq!(allowed, &json!(["edge", "proxy"]));
    fixture
        .assert_refused(
            root,
            "POST /1.8/routers",
            edge("http://127.0.0.1:1"),
            409,
            "already exists",
        )
        .await;
    let mut proxy = edge("http://127.0.0.1:1");
    proxy["name"] = json!("proxy");
    fixture
        .assert_refused(root, "POST /1.8/routers", proxy, 409, "already exists")
        .await;
    // Only what is given changes.
    let change = json!({ "name": "edge", "config": { "api-url": "http://127.0.0.1:2" } });
    fixture.change("PUT /1.8/routers/edge", change).await;
    let routers = fixture.read(root, "/1.3/routers").await;
    assert_eq!(routers[1]["config"], json!({ "api-url": "http://127.0.0.1:2" }));
    assert_eq!(routers[1]["readinessGates"], json!(["ready"]));
    let constraint = json!({ "PoolExpr": "local", "Field": "router", "Values": ["edge", "proxy"] });
    fixture.change("PUT /1.3/constraints", constraint).await;
    fixture.change("DELETE /1.8/routers/edge", Value::Null).await;
    let constraints = fixture.read(root, "/1.3/constraints").await;
    assert!(!constraints.to_string().contains("edge"), "{constraints}");
    for line in ["DELETE /1.8/routers/edge", "PUT /1.8/routers/edge"] {
        let body = json!({ "type": "api" });
        fixture
            .assert_refused(root, line, body, 404, "Router edge not found")
            .await;
    }
    let said: Vec<String> =
        sqlx::query_scalar("select coalesce(start_data::text, '') from event where target_kind = 'router'")
            .fetch_all(&fixture.tancho.running.core.db)
            .await
            .unwrap();
    assert_eq!(said.len(), 3);
    assert!(said.iter().all(|data| !data.contains("canary")), "{said:?}");
    fixture.end().await;
}

#[tokio::test]
async fn invalid_router_is_refused_with_a_sentence() {
    let fixture = PoolFixture::start().await;
    let config = |config: Value| json!({ "name": "edge", "type": "api", "config": config });
    for (new, text) in [
        (json!({}), "name is missing"),
        (json!({ "name": "edge" }), "type is missing"),
        (json!({ "name": "edge", "type": "galeb" }), "use the type api"),
        (json!({ "name": "edge", "type": "api" }), "must have an api-url"),
        (config(json!("x")), "config must be an object"),
        (
            config(json!({ "api-url": "http://a:b@127.0.0.1" })),
            "without a user",
        ),
        (
            config(json!({ "api-url": "http://127.0.0.1", "x": "a".repeat(20_000) })),
            "at most 16384 bytes",
        ),
    ] {
        fixture
            .assert_refused(&fixture.root, "POST /1.8/routers", new, 400, text)
            .await;
    }
    fixture.end().await;
}

#[tokio::test]
async fn app_keeps_the_built_in_router_and_gets_no_other() {
    let fixture = PoolFixture::start().await;
    let ana = &fixture.ana;
    fixture
        .change("POST /1.8/routers", edge("http://127.0.0.1:1"))
        .await;
    let app = json!({ "name": "shop", "platform": "python" });
    let (status, text) = fixture.send(ana, "POST /1.0/apps", app).await;
    assert_eq!(status, 201, "{text}");
    let routers = "/1.5/apps/shop/routers";
    for (line, body, status, text) in [
        (
            format!("POST {routers}"),
            json!({ "name": "proxy" }),
            409,
            "has the router proxy",
        ),
        (
            format!("POST {routers}"),
            json!({ "name": "edge" }),
            400,
            "does not drive",
        ),
        (
            format!("POST {routers}"),
            json!({ "name": "inner" }),
            404,
            "Router inner not found",
        ),
        (
            format!("PUT {routers}/proxy"),
            json!({ "opts": { "a": "b" } }),
            400,
            "has the options",
        ),
        (
            format!("PUT {routers}/edge"),
            json!({}),
            404,
            "Router edge not found",
        ),
        (
            format!("DELETE {routers}/proxy"),
            Value::Null,
            400,
            "the only router",
        ),
        (
            format!("DELETE {routers}/edge"),
            Value::Null,
            404,
            "Router edge not found",
        ),
    ] {
        fixture.assert_refused(ana, &line, body, status, text).await;
    }
    assert_eq!(fixture.read(ana, routers).await[0]["name"], "proxy");
    fixture.end().await;
}
