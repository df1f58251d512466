//! Apps over HTTP, in both editions: create, describe, change, environment, addresses, removal.

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use crate::house::{House, Person};

async fn with_team() -> (House, Person) {
    let house = House::start().await;
    let ana = house.person("ana").await;
    house.team(&ana, "red").await;
    (house, ana)
}

async fn new_app(house: &House, person: &Person, name: &str) {
    let body = json!({ "name": name, "platform": "python" });
    let (status, text) = house.ask(person, Method::POST, "/apps", Some(body)).await;
    assert_eq!(status, 200, "{text}");
    let answer: Value = serde_json::from_str(&text).unwrap();
    let all_texts = answer.as_object().unwrap().values().all(Value::is_string);
    assert!(
        all_texts && answer["status"] == "success" && answer["repository_url"].is_string(),
        "{text}"
    );
}

#[tokio::test]
async fn an_app_shows_in_both_editions_alike() {
    let (house, ana) = with_team().await;
    new_app(&house, &ana, "shop").await;
    let classic = house.read(&ana, "/apps/shop").await;
    for key in ["Name", "name"] {
        assert_eq!(classic[key], "shop");
    }
    assert_eq!(
        (&classic["Framework"], &classic["platform"]),
        (&json!("python"), &json!("python"))
    );
    assert_eq!(classic["Teams"], json!(["red"]));
    assert_eq!(classic["State"], "pending");
    let modern = house.read(&ana, "/1.0/apps/shop").await;
    assert_eq!(modern["name"], "shop");
    assert_eq!(modern["teamowner"], "red");
    assert_eq!(modern["routers"][0]["address"], classic["ip"]);
    assert_eq!(modern["units"], json!([]));
    assert_eq!(house.read(&ana, "/apps").await.as_array().unwrap().len(), 1);
    assert_eq!(house.read(&ana, "/1.0/apps?").await.as_array().unwrap().len(), 1);
    assert_eq!(house.read(&ana, "/1.0/apps?name=^no").await, json!([]));
    house.running.stop().await;
}

#[tokio::test]
async fn what_cannot_be_an_app_is_refused_with_a_reason() {
    let (house, ana) = with_team().await;
    new_app(&house, &ana, "shop").await;
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
        let (status, text) = house.ask(&ana, Method::POST, "/apps", Some(body.clone())).await;
        assert_eq!(status, expected, "{body}: {text}");
        assert!(
            !text.trim().is_empty() && text.trim().lines().count() == 1,
            "{body}: {text}"
        );
    }
    let (status, _) = house.ask(&ana, Method::GET, "/apps/nobody", None).await;
    assert_eq!(status, 404);
    assert_eq!(house.read(&ana, "/apps").await.as_array().unwrap().len(), 1);
    house.running.stop().await;
}

#[tokio::test]
async fn strangers_get_nothing_and_see_nothing() {
    let (house, ana) = with_team().await;
    new_app(&house, &ana, "shop").await;
    let bob = house.person("bob").await;
    assert_eq!(house.read(&bob, "/apps").await, json!([]));
    for (method, path) in [
        (Method::GET, "/apps/shop"),
        (Method::DELETE, "/apps/shop"),
        (Method::GET, "/apps/shop/env"),
        (Method::POST, "/apps/shop/restart"),
        (Method::GET, "/1.0/apps/shop"),
        (Method::POST, "/1.0/apps/shop/deploy"),
    ] {
        let (status, text) = house.ask(&bob, method.clone(), path, None).await;
        assert_eq!(status, 403, "{method} {path}: {text}");
    }
    let (status, _) = house
        .ask(
            &bob,
            Method::POST,
            "/apps",
            Some(json!({ "name": "x", "platform": "go" })),
        )
        .await;
    assert_eq!(status, 400, "bob is in no team");
    house.running.stop().await;
}

#[tokio::test]
async fn variables_are_set_read_and_removed_in_both_forms() {
    let (house, ana) = with_team().await;
    new_app(&house, &ana, "shop").await;
    let (status, text) = house
        .ask(
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
    let answer = house
        .by(&ana, Method::POST, "/1.0/apps/shop/env")
        .form(&form)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], "application/x-json-stream");
    let named = |env: &Value, name: &str| {
        env.as_array()
            .unwrap()
            .iter()
            .find(|v| v["name"] == name)
            .cloned()
    };
    let env = house.read(&ana, "/apps/shop/env").await;
    assert_eq!(named(&env, "B").unwrap()["value"], "x y");
    assert_eq!(named(&env, "C").unwrap()["public"], false);
    assert_eq!(named(&env, "TSURU_APPNAME").unwrap()["value"], "shop");
    assert_eq!(named(&env, "TSURU_SERVICES").unwrap()["value"], "{}");
    assert_eq!(named(&env, "TSURU_APP_TOKEN").unwrap()["public"], false);
    let one = house.read(&ana, "/1.0/apps/shop/env?env=A").await;
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
        let (status, text) = house.ask(&ana, method.clone(), path, body.clone()).await;
        assert_eq!(status, expected, "{method} {path} {body:?}: {text}");
    }
    let env = house.read(&ana, "/apps/shop/env").await;
    assert!(named(&env, "A").is_none() && named(&env, "B").is_none() && named(&env, "C").is_some());
    house.running.stop().await;
}

#[tokio::test]
async fn the_apps_own_token_reads_its_environment_and_little_else() {
    let (house, ana) = with_team().await;
    new_app(&house, &ana, "shop").await;
    new_app(&house, &ana, "blog").await;
    let env = house.read(&ana, "/apps/shop/env").await;
    let token = env
        .as_array()
        .unwrap()
        .iter()
        .find(|v| v["name"] == "TSURU_APP_TOKEN")
        .unwrap()["value"]
        .clone();
    let shop = Person {
        email: String::new(),
        token: token.as_str().unwrap().to_owned(),
    };
    assert_eq!(house.ask(&shop, Method::GET, "/apps/shop/env", None).await.0, 200);
    assert_eq!(house.ask(&shop, Method::GET, "/apps/blog/env", None).await.0, 403);
    assert_eq!(house.ask(&shop, Method::GET, "/apps", None).await.0, 403);
    assert_eq!(house.ask(&shop, Method::DELETE, "/apps/shop", None).await.0, 403);
    house.running.stop().await;
}

#[tokio::test]
async fn addresses_swap_and_swap_back() {
    let (house, ana) = with_team().await;
    new_app(&house, &ana, "shop").await;
    new_app(&house, &ana, "blog").await;
    let ip = async |app: &str| house.read(&ana, &format!("/apps/{app}")).await["ip"].clone();
    let cname = Some(json!({ "cname": "www.example.com" }));
    assert_eq!(
        house
            .ask(&ana, Method::POST, "/apps/shop/cname", cname.clone())
            .await
            .0,
        200
    );
    assert_eq!(
        house.ask(&ana, Method::POST, "/apps/blog/cname", cname).await.0,
        409
    );
    let inside = Some(json!({ "cname": "x.localhost" }));
    assert_eq!(
        house.ask(&ana, Method::POST, "/apps/blog/cname", inside).await.0,
        400
    );
    let (shop, blog) = (ip("shop").await, ip("blog").await);
    assert_eq!(
        house
            .ask(&ana, Method::PUT, "/swap?app1=shop&app2=blog", None)
            .await
            .0,
        200
    );
    assert_eq!((ip("shop").await, ip("blog").await), (blog.clone(), shop.clone()));
    assert_eq!(house.read(&ana, "/apps/blog").await["cname"], "www.example.com");
    assert_eq!(
        house
            .ask(&ana, Method::PUT, "/swap?app1=blog&app2=shop", None)
            .await
            .0,
        200
    );
    assert_eq!((ip("shop").await, ip("blog").await), (shop, blog));
    assert_eq!(
        house
            .ask(&ana, Method::PUT, "/swap?app1=shop&app2=shop", None)
            .await
            .0,
        400
    );
    assert_eq!(house.ask(&ana, Method::PUT, "/swap?app1=shop", None).await.0, 404);
    house.running.stop().await;
}

#[tokio::test]
async fn teams_are_granted_and_revoked_but_never_the_last() {
    let (house, ana) = with_team().await;
    house.team(&ana, "blue").await;
    let body = json!({ "name": "shop", "platform": "go", "teamOwner": "red" });
    assert_eq!(house.ask(&ana, Method::POST, "/apps", Some(body)).await.0, 200);
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
        let (status, text) = house.ask(&ana, method.clone(), path, None).await;
        assert_eq!(status, expected, "{method} {path}: {text}");
    }
    house.running.stop().await;
}

#[tokio::test]
async fn of_a_hundred_creations_at_once_as_many_succeed_as_the_quota_allows() {
    let house = House::with(|settings| settings.quota.apps_per_user = 10).await;
    let ana = house.person("ana").await;
    house.team(&ana, "red").await;
    let creations = (0..100).map(|n| {
        let body = json!({ "name": format!("app-{n}"), "platform": "go" });
        house.ask(&ana, Method::POST, "/apps", Some(body))
    });
    let answers = join_all(creations).await;
    let count = |status: u16| answers.iter().filter(|(s, _)| *s == status).count();
    assert_eq!((count(200), count(403)), (10, 90), "{answers:?}");
    assert_eq!(house.read(&ana, "/apps").await.as_array().unwrap().len(), 10);
    house.running.stop().await;
}

#[tokio::test]
async fn a_removed_app_frees_its_name_and_its_quota() {
    let house = House::with(|settings| settings.quota.apps_per_user = 1).await;
    let ana = house.person("ana").await;
    house.team(&ana, "red").await;
    new_app(&house, &ana, "shop").await;
    assert_eq!(
        house.ask(&ana, Method::DELETE, "/apps/shop", None).await,
        (200, "success".into())
    );
    assert_eq!(house.ask(&ana, Method::GET, "/apps/shop", None).await.0, 404);
    new_app(&house, &ana, "shop").await;
    let events = house
        .read(&ana, "/1.1/events?target.type=app&target.value=shop")
        .await;
    let kinds: Vec<&str> = events
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["Kind"]["Name"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["app.create", "app.delete", "app.create"]);
    house.running.stop().await;
}
