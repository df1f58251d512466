//! The filters of the list of apps, and the rebuild of routes.

use reqwest::Method;
use serde_json::{Value, json};

use super::AppFixture;
use crate::accounts::{RequestBody, send_request};

impl AppFixture {
    /// Names of the apps in a list, in its order.
    async fn list(&self, query: &str) -> Vec<String> {
        let list = self.read(&format!("/1.0/apps?{query}")).await;
        let name = |app: &Value| app["name"].as_str().unwrap().to_owned();
        list.as_array().unwrap().iter().map(name).collect()
    }
}

#[tokio::test]
async fn app_list_is_narrowed_by_each_filter_and_all_together() {
    let app = AppFixture::start().await;
    app.deploy_ok("web: serve\n").await;
    let new = json!({ "name": "blog", "platform": "python", "tags": ["front", "cost=42"], "plan": "large" });
    app.send("POST /1.0/apps", RequestBody::Bare(new))
        .await
        .expect_status(201);
    let body = json!({ "tags": ["front"] });
    app.change("PUT /1.0/apps/shop", RequestBody::Bare(body)).await;
    for (query, expected) in [
        ("", "blog shop"),
        ("name=", "blog shop"),
        ("name=^s", "shop"),
        ("name=o", "blog shop"),
        ("name=nothing", ""),
        ("platform=python", "blog"),
        ("teamOwner=red", "blog shop"),
        ("teamowner=blue", ""),
        ("teamOwner=RED", ""),
        ("owner=ana%40example.com", "blog shop"),
        ("owner=Ana%40Example.com", "blog shop"),
        ("owner=bob%40example.com", ""),
        ("pool=local", "blog shop"),
        ("pool=elsewhere", ""),
        ("tag=front", "blog shop"),
        ("tag=%20front%20", "blog shop"),
        ("tag=front&tag=cost%3D42", "blog"),
        ("tag=fro", ""),
        ("status=started", "shop"),
        ("status=error%2Cstarted", "shop"),
        ("status=error&status=started", "shop"),
        ("status=error", ""),
        ("status=,", "blog shop"),
        ("simplified=true", "blog shop"),
        ("simplified=true&status=started", "shop"),
        (
            "name=^s&platform=procfile&teamOwner=red&owner=ana%40example.com&pool=local&tag=front&status=started",
            "shop",
        ),
    ] {
        assert_eq!(app.list(query).await.join(" "), expected, "{query}");
    }
    for bad in ["name=(", "simplified=perhaps", "status=a%00", "name=%ff"] {
        let line = format!("GET /1.0/apps?{bad}");
        app.send(&line, RequestBody::None).await.expect_status(400);
    }
    assert_eq!(
        app.read("/1.0/apps?name=shop").await[0]["units"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    for query in ["name=shop&simplified=true", "simplified=true&status=started"] {
        assert_eq!(
            app.read(&format!("/1.0/apps?{query}")).await[0]["units"],
            json!([]),
            "{query}"
        );
    }
    let (_, text) = app
        .tancho
        .send_json(&app.bob, Method::GET, "/1.0/apps?name=shop", None)
        .await;
    assert_eq!(text, "[]", "apps of other teams are in no list");
    app.stop().await;
}

#[tokio::test]
async fn routes_are_rebuilt_once_every_router_has_read_them() {
    let app = AppFixture::start().await;
    app.deploy_ok("web: serve\nworker: work\n").await;
    app.send(
        "POST /1.0/apps/shop/cname",
        RequestBody::Form(&[("cname", "www.example.com")]),
    )
    .await
    .expect_status(200);
    let line = "POST /1.0/apps/shop/routes";
    let dry = app
        .change(line, RequestBody::Form(&[("dry", "true")]))
        .await
        .json();
    assert_eq!(
        dry["proxy"]["hosts"],
        json!([
            format!("shop.{}", app.tancho.running.core.public.domain),
            "www.example.com"
        ])
    );
    assert_eq!(
        dry["proxy"]["addresses"].as_array().unwrap().len(),
        1,
        "only web gets requests"
    );
    // A router that lags behind is waited for.
    let db = &app.tancho.running.core.db;
    sqlx::query(
        "insert into router_seen (router_id, routes_at, seen_at)
         values (gen_random_uuid(), now() - interval '1 hour', now() + interval '1 hour')",
    )
    .execute(db)
    .await
    .unwrap();
    let version = "select sum(version)::bigint from routes_version";
    let before: i64 = sqlx::query_scalar(version).fetch_one(db).await.unwrap();
    let reading = async {
        loop {
            let now: i64 = sqlx::query_scalar(version).fetch_one(db).await.unwrap();
            if now > before {
                break;
            }
            tokio::task::yield_now().await;
        }
        sqlx::query("update router_seen set routes_at = now() + interval '1 minute'")
            .execute(db)
            .await
            .unwrap();
    };
    let (answer, ()) = tokio::join!(app.change(line, RequestBody::None), reading);
    assert_eq!(answer.json(), dry);
    send_request(&app.tancho, Some(&app.bob), line, RequestBody::None)
        .await
        .expect_status(403);
    app.send("POST /1.0/apps/nobody/routes", RequestBody::None)
        .await
        .expect_status(404);
    app.stop().await;
}
