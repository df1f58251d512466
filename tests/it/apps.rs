//! Apps over HTTP, in both editions: creation, description, changes, environment, addresses, removal.

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use crate::test_server::{TestServer, TestUser};

async fn with_team() -> (TestServer, TestUser) {
    let tancho = TestServer::start().await;
    let ana = tancho.create_user("ana").await;
    tancho.create_team(&ana, "red").await;
    (tancho, ana)
}

async fn new_app(tancho: &TestServer, user: &TestUser, name: &str) {
    let body = json!({ "name": name, "platform": "python" });
    let (status, text) = tancho.send_json(user, Method::POST, "/apps", Some(body)).await;
    assert_eq!(status, 200, "{text}");
    let answer: Value = serde_json::from_str(&text).unwrap();
    let all_texts = answer.as_object().unwrap().values().all(Value::is_string);
    assert!(
        all_texts && answer["status"] == "success" && answer["repository_url"].is_string(),
        "{text}"
    );
}

#[tokio::test]
async fn app_is_described_alike_in_both_editions() {
    let (tancho, ana) = with_team().await;
    new_app(&tancho, &ana, "shop").await;
    let classic = tancho.read_json(&ana, "/apps/shop").await;
    for key in ["Name", "name"] {
        assert_eq!(classic[key], "shop");
    }
    assert_eq!(
        (&classic["Framework"], &classic["platform"]),
        (&json!("python"), &json!("python"))
    );
    assert_eq!(classic["Teams"], json!(["red"]));
    assert_eq!(classic["State"], "pending");
    let modern = tancho.read_json(&ana, "/1.0/apps/shop").await;
    assert_eq!(modern["name"], "shop");
    assert_eq!(modern["teamowner"], "red");
    assert_eq!(modern["routers"][0]["address"], classic["ip"]);
    assert_eq!(modern["units"], json!([]));
    assert_eq!(tancho.read_json(&ana, "/apps").await.as_array().unwrap().len(), 1);
    assert_eq!(
        tancho
            .read_json(&ana, "/1.0/apps?")
            .await
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(tancho.read_json(&ana, "/1.0/apps?name=^no").await, json!([]));
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn invalid_app_creation_is_refused_with_a_reason() {
    let (tancho, ana) = with_team().await;
    new_app(&tancho, &ana, "shop").await;
    let cases = [
        (json!({ "name": "shop", "platform": "python" }), 409),
        (json!({ "name": "Shop", "platform": "python" }), 400),
        (json!({ "name": "../etc", "platform": "python" }), 400),
        (json!({ "name": "tsr", "platform": "python" }), 400),
        (json!({ "name": "python", "platform": "python" }), 400),
        (json!({ "name": "new", "platform": "cobol" }), 400),
        (json!({ "name": "new" }), 400),
        (json!({ "platform": "python" }), 400),
        (json!({ "name": 7, "platform": "python" }), 400),
        (
            json!({ "name": "new", "platform": "python", "teamOwner": "blue" }),
            400,
        ),
        (
            json!({ "name": "new", "platform": "python", "plan": "huge" }),
            400,
        ),
        (
            json!({ "name": "new", "platform": "python", "pool": "mars" }),
            400,
        ),
        (
            json!({ "name": "new", "platform": "python", "description": "x".repeat(2001) }),
            400,
        ),
    ];
    for (body, expected) in cases {
        let (status, text) = tancho
            .send_json(&ana, Method::POST, "/apps", Some(body.clone()))
            .await;
        assert_eq!(status, expected, "{body}: {text}");
        assert!(
            !text.trim().is_empty() && text.trim().lines().count() == 1,
            "{body}: {text}"
        );
    }
    let (status, _) = tancho.send_json(&ana, Method::GET, "/apps/nobody", None).await;
    assert_eq!(status, 404);
    assert_eq!(tancho.read_json(&ana, "/apps").await.as_array().unwrap().len(), 1);
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn other_users_cannot_read_or_change_apps() {
    let (tancho, ana) = with_team().await;
    new_app(&tancho, &ana, "shop").await;
    let bob = tancho.create_user("bob").await;
    assert_eq!(tancho.read_json(&bob, "/apps").await, json!([]));
    for (method, path) in [
        (Method::GET, "/apps/shop"),
        (Method::DELETE, "/apps/shop"),
        (Method::GET, "/apps/shop/env"),
        (Method::POST, "/apps/shop/restart"),
        (Method::GET, "/1.0/apps/shop"),
        (Method::POST, "/1.0/apps/shop/deploy"),
    ] {
        let (status, text) = tancho.send_json(&bob, method.clone(), path, None).await;
        assert_eq!(status, 403, "{method} {path}: {text}");
    }
    let (status, _) = tancho
        .send_json(
            &bob,
            Method::POST,
            "/apps",
            Some(json!({ "name": "x", "platform": "go" })),
        )
        .await;
    assert_eq!(status, 400, "bob is in no team");
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn variables_can_be_set_read_and_removed_in_both_editions() {
    let (tancho, ana) = with_team().await;
    new_app(&tancho, &ana, "shop").await;
    let (status, text) = tancho
        .send_json(
            &ana,
            Method::POST,
            "/apps/shop/env",
            Some(json!({ "A": "1", "B": "x y" })),
        )
        .await;
    assert_eq!((status, text.as_str()), (200, ""));
    let form = [
        ("Envs.0.Name", "C"),
        ("Envs.0.Value", "sec"),
        ("Private", "true"),
        ("NoRestart", ""),
    ];
    let answer = tancho
        .request_as(&ana, Method::POST, "/1.0/apps/shop/env")
        .form(&form)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], "application/x-json-stream");
    // The change has ended when its stream has.
    answer.text().await.unwrap();
    let named = |env: &Value, name: &str| {
        env.as_array()
            .unwrap()
            .iter()
            .find(|v| v["name"] == name)
            .cloned()
    };
    let env = tancho.read_json(&ana, "/apps/shop/env").await;
    assert_eq!(named(&env, "B").unwrap()["value"], "x y");
    assert_eq!(named(&env, "C").unwrap()["public"], false);
    assert_eq!(named(&env, "TSURU_APPNAME").unwrap()["value"], "shop");
    assert_eq!(named(&env, "TSURU_SERVICES").unwrap()["value"], "{}");
    assert_eq!(named(&env, "TSURU_APP_TOKEN").unwrap()["public"], false);
    let one = tancho.read_json(&ana, "/1.0/apps/shop/env?env=A").await;
    assert_eq!(one.as_array().unwrap().len(), 1);
    for (method, path, body, expected) in [
        (
            Method::POST,
            "/apps/shop/env",
            Some(json!({ "TSURU_APPNAME": "x" })),
            400,
        ),
        (Method::POST, "/apps/shop/env", Some(json!({ "1A": "x" })), 400),
        (Method::POST, "/apps/shop/env", Some(json!({ "A": 1 })), 400),
        (Method::POST, "/apps/shop/env", None, 400),
        (Method::POST, "/apps/shop/env", Some(json!({})), 200),
        (Method::DELETE, "/apps/shop/env", Some(json!([])), 400),
        (
            Method::DELETE,
            "/apps/shop/env",
            Some(json!(["A", "TSURU_APPNAME", "NONE"])),
            200,
        ),
        (Method::DELETE, "/1.0/apps/shop/env?env=B&noRestart=", None, 200),
    ] {
        let (status, text) = tancho.send_json(&ana, method.clone(), path, body.clone()).await;
        assert_eq!(status, expected, "{method} {path} {body:?}: {text}");
    }
    let env = tancho.read_json(&ana, "/apps/shop/env").await;
    assert!(named(&env, "A").is_none() && named(&env, "B").is_none() && named(&env, "C").is_some());
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn app_token_can_read_its_own_environment_and_little_else() {
    let (tancho, ana) = with_team().await;
    new_app(&tancho, &ana, "shop").await;
    new_app(&tancho, &ana, "blog").await;
    let env = tancho.read_json(&ana, "/apps/shop/env").await;
    let token = env
        .as_array()
        .unwrap()
        .iter()
        .find(|v| v["name"] == "TSURU_APP_TOKEN")
        .unwrap()["value"]
        .clone();
    let shop = TestUser {
        email: String::new(),
        token: token.as_str().unwrap().to_owned(),
    };
    assert_eq!(
        tancho
            .send_json(&shop, Method::GET, "/apps/shop/env", None)
            .await
            .0,
        200
    );
    assert_eq!(
        tancho
            .send_json(&shop, Method::GET, "/apps/blog/env", None)
            .await
            .0,
        403
    );
    assert_eq!(tancho.send_json(&shop, Method::GET, "/apps", None).await.0, 403);
    assert_eq!(
        tancho
            .send_json(&shop, Method::DELETE, "/apps/shop", None)
            .await
            .0,
        403
    );
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn app_addresses_can_be_swapped_and_swapped_back() {
    let (tancho, ana) = with_team().await;
    new_app(&tancho, &ana, "shop").await;
    new_app(&tancho, &ana, "blog").await;
    let ip = async |app: &str| tancho.read_json(&ana, &format!("/apps/{app}")).await["ip"].clone();
    let cname = Some(json!({ "cname": "www.example.com" }));
    assert_eq!(
        tancho
            .send_json(&ana, Method::POST, "/apps/shop/cname", cname.clone())
            .await
            .0,
        200
    );
    assert_eq!(
        tancho
            .send_json(&ana, Method::POST, "/apps/blog/cname", cname)
            .await
            .0,
        409
    );
    let inside = Some(json!({ "cname": "x.localhost" }));
    assert_eq!(
        tancho
            .send_json(&ana, Method::POST, "/apps/blog/cname", inside)
            .await
            .0,
        400
    );
    let (shop, blog) = (ip("shop").await, ip("blog").await);
    assert_eq!(
        tancho
            .send_json(&ana, Method::PUT, "/swap?app1=shop&app2=blog", None)
            .await
            .0,
        200
    );
    assert_eq!((ip("shop").await, ip("blog").await), (blog.clone(), shop.clone()));
    assert_eq!(
        tancho.read_json(&ana, "/apps/blog").await["cname"],
        "www.example.com"
    );
    assert_eq!(
        tancho
            .send_json(&ana, Method::PUT, "/swap?app1=blog&app2=shop", None)
            .await
            .0,
        200
    );
    assert_eq!((ip("shop").await, ip("blog").await), (shop, blog));
    assert_eq!(
        tancho
            .send_json(&ana, Method::PUT, "/swap?app1=shop&app2=shop", None)
            .await
            .0,
        400
    );
    assert_eq!(
        tancho
            .send_json(&ana, Method::PUT, "/swap?app1=shop", None)
            .await
            .0,
        404
    );
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn team_access_can_be_granted_and_revoked_except_for_the_last_team() {
    let (tancho, ana) = with_team().await;
    tancho.create_team(&ana, "blue").await;
    let body = json!({ "name": "shop", "platform": "go", "teamOwner": "red" });
    assert_eq!(
        tancho.send_json(&ana, Method::POST, "/apps", Some(body)).await.0,
        200
    );
    for (method, path, expected) in [
        (Method::DELETE, "/apps/shop/red", 403),
        (Method::PUT, "/apps/shop/blue", 200),
        (Method::PUT, "/apps/shop/blue", 409),
        (Method::PUT, "/apps/shop/green", 404),
        (Method::DELETE, "/apps/shop/blue", 200),
        (Method::DELETE, "/apps/shop/blue", 404),
        (Method::PUT, "/1.0/apps/shop/teams/blue", 200),
        (Method::DELETE, "/1.0/apps/shop/teams/red", 403),
    ] {
        let (status, text) = tancho.send_json(&ana, method.clone(), path, None).await;
        assert_eq!(status, expected, "{method} {path}: {text}");
    }
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn hundred_concurrent_app_creations_succeed_up_to_the_quota() {
    let tancho = TestServer::start_with(|settings| settings.quota.apps_per_user = 10).await;
    let ana = tancho.create_user("ana").await;
    tancho.create_team(&ana, "red").await;
    let creations = (0..100).map(|n| {
        let body = json!({ "name": format!("app-{n}"), "platform": "go" });
        tancho.send_json(&ana, Method::POST, "/apps", Some(body))
    });
    let answers = join_all(creations).await;
    let count = |status: u16| answers.iter().filter(|(s, _)| *s == status).count();
    assert_eq!((count(200), count(403)), (10, 90), "{answers:?}");
    assert_eq!(
        tancho.read_json(&ana, "/apps").await.as_array().unwrap().len(),
        10
    );
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn removed_app_releases_its_name_and_quota() {
    let tancho = TestServer::start_with(|settings| settings.quota.apps_per_user = 1).await;
    let ana = tancho.create_user("ana").await;
    tancho.create_team(&ana, "red").await;
    new_app(&tancho, &ana, "shop").await;
    assert_eq!(
        tancho.send_json(&ana, Method::DELETE, "/apps/shop", None).await,
        (200, "success".into())
    );
    assert_eq!(
        tancho.send_json(&ana, Method::GET, "/apps/shop", None).await.0,
        404
    );
    new_app(&tancho, &ana, "shop").await;
    let events = tancho
        .read_json(&ana, "/1.1/events?target.type=app&target.value=shop")
        .await;
    let kinds: Vec<&str> = events
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["Kind"]["Name"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["app.create", "app.delete", "app.create"]);
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn change_of_a_concurrently_removed_app_returns_not_found() {
    let (tancho, ana) = with_team().await;
    tancho.create_team(&ana, "blue").await;
    for (method, path, body) in [
        (Method::PUT, "/apps/shop/teams/blue", None),
        (
            Method::POST,
            "/apps/shop/cname",
            Some(json!({ "cname": "www.example.com" })),
        ),
    ] {
        let body_of_app = json!({ "name": "shop", "platform": "python", "teamOwner": "red" });
        let made = tancho
            .send_json(&ana, Method::POST, "/apps", Some(body_of_app))
            .await;
        assert_eq!(made.0, 200, "{}", made.1);
        // Like a removal, holds the app's lock until the app is gone.
        let mut going = tancho.running.core.db.begin().await.unwrap();
        for statement in [
            "insert into event_lock (target_kind, target_value, event_id)
             select 'app', 'shop', event_id from event limit 1",
            "delete from app where name = 'shop'",
            "delete from event_lock where target_kind = 'app' and target_value = 'shop'",
        ] {
            sqlx::query(statement).execute(&mut *going).await.unwrap();
        }
        let changing = tancho.send_json(&ana, method, path, body);
        let leaving = async {
            tancho.wait_for_blocked_query("insert into %").await;
            going.commit().await.unwrap();
        };
        let ((status, text), ()) = tokio::join!(changing, leaving);
        assert_eq!((status, text.as_str()), (404, "App shop not found.\n"), "{path}");
    }
    tancho.running.drain_and_stop().await;
}
