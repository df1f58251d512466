//! The limits of an app's environment: an environment that no process can be started with is rejected where
//! it would be created.

use reqwest::Method;
use serde_json::{Map, Value, json};

use crate::test_server::{TestServer, TestUser};

async fn app() -> (TestServer, TestUser) {
    let tancho = TestServer::start().await;
    let ana = tancho.create_user("ana").await;
    tancho.create_team(&ana, "red").await;
    let new = json!({ "name": "shop", "platform": "python", "teamOwner": "red" });
    let (status, text) = tancho.send_json(&ana, Method::POST, "/apps", Some(new)).await;
    assert!(status < 300, "{text}");
    (tancho, ana)
}

async fn set(tancho: &TestServer, ana: &TestUser, vars: Value) -> (u16, String) {
    tancho
        .send_json(ana, Method::POST, "/apps/shop/env", Some(vars))
        .await
}

async fn variable_names(tancho: &TestServer, ana: &TestUser) -> Vec<String> {
    let all = tancho.read_json(ana, "/apps/shop/env").await;
    let own = |name: &&str| !name.starts_with("TSURU_");
    let names = all
        .as_array()
        .unwrap()
        .iter()
        .map(|var| var["name"].as_str().unwrap());
    names.filter(own).map(str::to_owned).collect()
}

fn many_variables(prefix: &str, count: usize, length: usize) -> Value {
    let vars = (0..count).map(|n| (format!("{prefix}{n}"), Value::from("x".repeat(length))));
    Value::Object(Map::from_iter(vars))
}

#[tokio::test]
async fn variables_too_large_for_a_process_are_rejected_as_a_whole() {
    let (tancho, ana) = app().await;
    let (status, text) = set(
        &tancho,
        &ana,
        json!({ "SMALL": "x", "HUGE": "x".repeat(131_072) }),
    )
    .await;
    assert_eq!(status, 400, "{text}");
    assert!(text.contains("The variable HUGE has 129 KiB"), "{text}");
    assert_eq!(variable_names(&tancho, &ana).await, Vec::<String>::new());
    // A request has a limit of its own, so there are two.
    let (status, text) = set(&tancho, &ana, many_variables("V", 15, 60_000)).await;
    assert_eq!(status, 200, "{text}");
    let mut vars = many_variables("W", 15, 60_000);
    vars["W7"] = Value::from("x".repeat(61_000));
    let (status, text) = set(&tancho, &ana, vars).await;
    assert_eq!(status, 400, "{text}");
    assert!(text.contains("The largest is W7 with 60 KiB"), "{text}");
    assert_eq!(variable_names(&tancho, &ana).await.len(), 15);
    let restart = tancho
        .send_json(&ana, Method::POST, "/apps/shop/restart", None)
        .await;
    assert_eq!(restart.0, 200, "{}", restart.1);
    // Small steps lead to the same limit, and what fits is stored.
    assert_eq!(set(&tancho, &ana, many_variables("W", 10, 60_000)).await.0, 200);
    let (status, text) = set(&tancho, &ana, json!({ "MORE": "x".repeat(100_000) })).await;
    assert_eq!(status, 400, "{text}");
    let (status, text) = set(&tancho, &ana, json!({ "LESS": "x".repeat(10_000) })).await;
    assert_eq!(status, 200, "{text}");
    assert_eq!(variable_names(&tancho, &ana).await.len(), 26);
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn variable_removal_that_makes_the_environment_too_large_is_rejected() {
    let (tancho, ana) = app().await;
    let set_aliases = async |prefix: &str, length: usize| {
        let vars: Vec<Value> = (0..15)
            .map(|n| json!({ "name": format!("{prefix}{n}"), "alias": "SHORT", "value": "x".repeat(length) }))
            .collect();
        let body = json!({ "envs": vars, "noRestart": true });
        tancho
            .send_json(&ana, Method::POST, "/1.0/apps/shop/env", Some(body))
            .await
    };
    assert_eq!(set(&tancho, &ana, json!({ "SHORT": "x" })).await.0, 200);
    // Each value is now one letter; without SHORT the environment would have 1.7 MiB.
    let (status, text) = set_aliases("A", 60_000).await;
    assert_eq!(status, 200, "{text}");
    let (status, text) = set_aliases("B", 60_000).await;
    assert_eq!(status, 400, "{text}");
    assert!(text.contains("The variables of the app have"), "{text}");
    let (status, text) = set_aliases("B", 30_000).await;
    assert_eq!(status, 200, "{text}");
    let gone = tancho
        .send_json(&ana, Method::DELETE, "/apps/shop/env", Some(json!(["SHORT"])))
        .await;
    assert_eq!(gone.0, 200, "{}", gone.1);
    let all = tancho.read_json(&ana, "/apps/shop/env").await;
    let of_a = all
        .as_array()
        .unwrap()
        .iter()
        .find(|var| var["name"] == "A0")
        .unwrap();
    assert_eq!(of_a["value"].as_str().unwrap().len(), 60_000);
    let restart = tancho
        .send_json(&ana, Method::POST, "/apps/shop/restart", None)
        .await;
    assert_eq!(restart.0, 200, "{}", restart.1);
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn variable_set_repeatedly_counts_once_toward_the_limit() {
    let (tancho, ana) = app().await;
    for _ in 0..2 {
        let (status, text) = set(&tancho, &ana, many_variables("V", 600, 1)).await;
        assert_eq!(status, 200, "{text}");
    }
    let (status, text) = set(&tancho, &ana, many_variables("W", 500, 1)).await;
    assert_eq!(
        (status, text.contains("at most 1000 variables")),
        (400, true),
        "{text}"
    );
    assert_eq!(variable_names(&tancho, &ana).await.len(), 600);
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn variable_names_follow_the_rules_of_tsuru() {
    let (tancho, ana) = app().await;
    let longest = "N".repeat(255);
    let good = json!({ "A-B": "1", "x": "2", "_A": "3", longest.as_str(): "4" });
    let (status, text) = set(&tancho, &ana, good).await;
    assert_eq!(status, 200, "{text}");
    for bad in ["-A", "1A", "A.B", "A B", "A=B", "", &"N".repeat(256)] {
        assert_eq!(set(&tancho, &ana, json!({ bad: "x" })).await.0, 400, "{bad}");
    }
    assert_eq!(
        variable_names(&tancho, &ana).await,
        ["A-B", longest.as_str(), "_A", "x"]
    );
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn variables_managed_by_tsuru_are_refused_and_others_can_be_unset() {
    let (tancho, ana) = app().await;
    let path = "/1.0/apps/shop/env";
    let managed_by = |manager: &str| json!({ "Envs": [{ "Name": "A", "Value": "1" }], "ManagedBy": manager, "NoRestart": true });
    for bad in ["tsuru", "TSURU", "a\u{7}", &"m".repeat(256)] {
        let (status, text) = tancho
            .send_json(&ana, Method::POST, path, Some(managed_by(bad)))
            .await;
        assert!(
            status == 400 && text.contains("managedBy"),
            "{bad}: {status} {text}"
        );
    }
    assert_eq!(variable_names(&tancho, &ana).await, Vec::<String>::new());
    for good in ["", "terraform", "tsuru-operator"] {
        let (status, text) = tancho
            .send_json(&ana, Method::POST, path, Some(managed_by(good)))
            .await;
        assert_eq!(status, 200, "{good}: {text}");
        let unset = format!("{path}?env=A&noRestart=true");
        let (status, text) = tancho.send_json(&ana, Method::DELETE, &unset, None).await;
        assert_eq!(status, 200, "{good}: {text}");
        assert_eq!(
            variable_names(&tancho, &ana).await,
            Vec::<String>::new(),
            "{good}"
        );
    }
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn migration_returns_variables_managed_by_tsuru_to_users() {
    let (tancho, ana) = app().await;
    assert_eq!(set(&tancho, &ana, json!({ "A": "1" })).await.0, 200);
    let db = &tancho.running.core.db;
    sqlx::query("update env_var set managed_by = 'tsuru'")
        .execute(db)
        .await
        .unwrap();
    let migration = include_str!("../../migrations/0170_env_managers.sql");
    sqlx::raw_sql(migration).execute(db).await.unwrap();
    let managers = "select name || '=' || managed_by from env_var order by name";
    let managers: Vec<String> = sqlx::query_scalar(managers).fetch_all(db).await.unwrap();
    assert!(managers.contains(&"A=".to_owned()), "{managers:?}");
    let platform = managers.iter().filter(|line| line.starts_with("TSURU_"));
    assert!(
        platform.into_iter().all(|line| line.ends_with("=tsuru")),
        "{managers:?}"
    );
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn each_variable_of_a_request_may_be_private_by_itself() {
    let (tancho, ana) = app().await;
    let envs = json!([
        { "name": "SHOWN", "value": "1", "private": false },
        { "name": "HIDDEN", "value": "2", "private": true },
        { "name": "TOO", "value": "3" },
    ]);
    for (private, wanted) in [(false, [true, false, true]), (true, [false, false, false])] {
        let body = json!({ "envs": envs, "private": private, "managedBy": "terraform", "norestart": true });
        let (status, text) = tancho
            .send_json(&ana, Method::POST, "/1.0/apps/shop/env", Some(body))
            .await;
        assert!(status == 200 && !text.contains("Error"), "{status} {text}");
        let path = "/1.0/apps/shop/env?env=SHOWN&env=HIDDEN&env=TOO";
        let vars = tancho.read_json(&ana, path).await;
        let public = |name: &str| {
            let mut all = vars.as_array().unwrap().iter();
            all.find(|var| var["name"] == name).unwrap()["public"] == json!(true)
        };
        assert_eq!(["SHOWN", "HIDDEN", "TOO"].map(public), wanted, "{private}");
    }
    // A program may manage none, and then the variables stay; nobody else may set none.
    for (body, wanted) in [(json!({ "managedBy": "terraform" }), 200), (json!({}), 400)] {
        let (status, text) = tancho
            .send_json(&ana, Method::POST, "/1.0/apps/shop/env", Some(body))
            .await;
        assert!(status == wanted && !text.contains("Error"), "{status} {text}");
    }
    assert_eq!(variable_names(&tancho, &ana).await.len(), 3);
    tancho.running.drain_and_stop().await;
}
