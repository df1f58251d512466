//! Healers: real reconcilers, run by hand.

use reqwest::Method;
use serde_json::{Value, json};

use crate::house::House;

#[tokio::test]
async fn healers_are_listed_as_objects_of_one_key_and_run_as_often_as_one_likes() {
    let house = House::start().await;
    let ana = house.person("ana").await;
    let list = house.read(&ana, "/healers").await;
    let names: Vec<String> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|item| {
            let item = item.as_object().unwrap();
            let (name, path) = item.iter().next().unwrap();
            assert_eq!((item.len(), path), (1, &json!(format!("/healers/{name}"))));
            name.clone()
        })
        .collect();
    assert_eq!(
        names,
        [
            "units",
            "orphans",
            "unit-binds",
            "repositories",
            "leases",
            "retention",
            "routes"
        ]
    );
    for name in names.iter().chain(&names) {
        let (status, text) = house
            .ask(&ana, Method::GET, &format!("/healers/{name}"), None)
            .await;
        assert_eq!(status, 200, "{text}");
        assert!(text.starts_with(&format!("{name}: ")), "{text}");
    }
    let (status, text) = house.ask(&ana, Method::GET, "/healers/container", None).await;
    assert!(status == 404 && text.contains("unit-binds"), "{text}");
    house.running.stop().await;
}

#[tokio::test]
async fn the_healer_of_leases_finds_work_without_an_owner_and_work_that_is_stuck() {
    let house = House::start().await;
    let ana = house.person("ana").await;
    let put = "insert into saga (saga_id, kind, lane, data, state, wake_at, ended_at)
               values (gen_random_uuid(), 'of another build', 'people', '{}', $1, now() - interval '1 hour',
                       case when $1 = 'stuck' then now() end)";
    for state in ["forward", "stuck"] {
        sqlx::query(put)
            .bind(state)
            .execute(&house.running.core.db)
            .await
            .unwrap();
    }
    let (_, text) = house.ask(&ana, Method::GET, "/healers/leases", None).await;
    for part in [
        "1 operations without an owner",
        "1 operations that could not be undone",
    ] {
        assert!(text.contains(part), "{text}");
    }
    house.running.stop().await;
}

#[tokio::test]
async fn a_healer_that_fails_says_so_with_a_500() {
    let house = House::start().await;
    let ana = house.person("ana").await;
    sqlx::query("alter table saga rename column lease_until to elsewhere")
        .execute(&house.running.core.db)
        .await
        .unwrap();
    let (status, text) = house.ask(&ana, Method::GET, "/healers/leases", None).await;
    assert_eq!(status, 500, "{text}");
    assert!(!text.contains("elsewhere") && !text.is_empty(), "{text}");
    house.running.stop().await;
}

#[tokio::test]
async fn the_token_of_an_app_runs_healers() {
    let house = House::start().await;
    let (root, ana) = (house.admin().await, house.person("ana").await);
    house.team(&ana, "red").await;
    let app = json!({ "name": "agent", "platform": "python" });
    house.ask(&ana, Method::POST, "/apps", Some(app)).await;
    let (status, text) = house
        .ask(&root, Method::POST, "/tokens", Some(json!({ "client": "agent" })))
        .await;
    assert_eq!(status, 200, "{text}");
    let token: Value = serde_json::from_str(&text).unwrap();
    let app = crate::house::Person {
        email: String::new(),
        token: token["token"].as_str().unwrap().to_owned(),
    };
    let (status, _) = house.ask(&app, Method::GET, "/healers/units", None).await;
    assert_eq!(status, 200);
    house.running.stop().await;
}
