//! Users, sessions, teams, roles, quotas over HTTP.

use reqwest::Method;
use serde_json::{Value, json};

use crate::house::House;

#[tokio::test]
async fn somebody_signs_up_logs_in_and_makes_a_team() {
    let house = House::start().await;
    let ana = house.person("ana").await;
    house.team(&ana, "web team").await;
    let teams: Value = house
        .by(&ana, Method::GET, "/teams")
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(teams, json!([{ "name": "web team" }]));
    let root = house.admin().await;
    let users: Value = house
        .by(&root, Method::GET, "/users")
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(users.as_array().unwrap().len(), 2);
    house.running.stop().await;
}
