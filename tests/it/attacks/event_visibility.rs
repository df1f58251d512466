//! The new owner of a reused name cannot read the events of its former owner; the owner of a renamed resource
//! keeps reading them.

use serde_json::{Value, json};

use super::{app, get, remove_app, request_ok, sql};
use crate::accounts::{RequestBody, grant, send_request};
use crate::test_server::{PASSWORD, TestServer, TestUser};

/// Returns the ids of the events that a user can see.
async fn visible_events(tancho: &TestServer, who: &TestUser) -> Vec<String> {
    let events = get(tancho, who, "/1.1/events").await.expect_status(200).json();
    let ids = events.as_array().unwrap().iter();
    ids.map(|event| event["UniqueID"].as_str().unwrap().to_owned())
        .collect()
}

/// Returns the events of a target, from the database.
async fn events_of(tancho: &TestServer, kind: &str, name: &str) -> Vec<String> {
    sqlx::query_scalar("select event_id from event where target_kind = $1 and target_value = $2")
        .bind(kind)
        .bind(name)
        .fetch_all(&tancho.running.core.db)
        .await
        .unwrap()
}

/// Asserts that a user sees the events neither in the list nor by id, and can cancel none.
async fn assert_sees_none(tancho: &TestServer, who: &TestUser, ids: &[String]) {
    assert!(!ids.is_empty());
    let seen = visible_events(tancho, who).await;
    for id in ids {
        assert!(!seen.contains(id), "{id} is in the list");
        get(tancho, who, &format!("/1.1/events/{id}"))
            .await
            .expect_status(404);
        let line = format!("POST /1.1/events/{id}/cancel");
        send_request(tancho, Some(who), &line, RequestBody::Form(&[("reason", "mine")]))
            .await
            .expect_status(404);
    }
}

async fn assert_sees_all(tancho: &TestServer, who: &TestUser, ids: &[String]) {
    let seen = visible_events(tancho, who).await;
    for id in ids {
        assert!(seen.contains(id), "{id} is missing");
        get(tancho, who, &format!("/1.1/events/{id}"))
            .await
            .expect_status(200);
    }
}

#[tokio::test]
async fn new_owner_of_a_reused_team_or_app_name_cannot_read_old_events() {
    let tancho = TestServer::start().await;
    let (root, alice, mallory) = (
        tancho.login_admin().await,
        tancho.create_user("alice").await,
        tancho.create_user("mallory").await,
    );
    tancho.create_team(&alice, "finance").await;
    app(&tancho, &alice, "ledger", "finance").await;
    let env = json!({ "Envs": [{ "Name": "DB_PASSWORD", "Value": "x" }], "NoRestart": true });
    request_ok(&tancho, &alice, "POST /1.0/apps/ledger/env", env).await;
    remove_app(&tancho, &alice, "ledger").await;
    send_request(
        &tancho,
        Some(&alice),
        "DELETE /1.0/teams/finance",
        RequestBody::None,
    )
    .await
    .expect_status(200);
    let mut past = events_of(&tancho, "app", "ledger").await;
    past.extend(events_of(&tancho, "team", "finance").await);
    tancho.create_team(&mallory, "finance").await;
    app(&tancho, &mallory, "ledger", "finance").await;
    assert_sees_none(&tancho, &mallory, &past).await;
    // Those who caused the events, and users who can read everything, still see them; the new owner sees the
    // new events.
    assert_sees_all(&tancho, &alice, &past).await;
    assert_sees_all(&tancho, &root, &past).await;
    let made: Vec<String> = events_of(&tancho, "app", "ledger")
        .await
        .into_iter()
        .filter(|id| !past.contains(id))
        .collect();
    assert_eq!(made.len(), 1);
    assert_sees_all(&tancho, &mallory, &made).await;
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn events_of_a_renamed_resource_stay_with_its_owners() {
    let tancho = TestServer::start().await;
    let (alice, bob, mallory) = (
        tancho.create_user("alice").await,
        tancho.create_user("bob").await,
        tancho.create_user("mallory").await,
    );
    tancho.create_team(&alice, "payroll").await;
    app(&tancho, &alice, "wages", "payroll").await;
    send_request(
        &tancho,
        Some(&alice),
        "PUT /teams/payroll/bob@example.com",
        RequestBody::None,
    )
    .await
    .expect_status(200);
    request_ok(
        &tancho,
        &alice,
        "PUT /1.6/teams/payroll",
        json!({ "newname": "payroll-hr" }),
    )
    .await;
    let mut past = events_of(&tancho, "team", "payroll").await;
    past.extend(events_of(&tancho, "app", "wages").await);
    tancho.create_team(&mallory, "payroll").await;
    assert_sees_none(&tancho, &mallory, &past).await;
    // Bob has caused none of them.
    assert_sees_all(&tancho, &bob, &past).await;
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn new_user_with_a_removed_users_email_cannot_read_old_events() {
    let tancho = TestServer::start().await;
    let (root, carol) = (tancho.login_admin().await, tancho.create_user("carol").await);
    tancho.create_team(&carol, "mine").await;
    send_request(&tancho, Some(&carol), "DELETE /1.0/teams/mine", RequestBody::None)
        .await
        .expect_status(200);
    let key = json!({ "old": PASSWORD, "new": "othersecret" });
    send_request(
        &tancho,
        Some(&carol),
        "PUT /users/password",
        RequestBody::Bare(key),
    )
    .await
    .expect_status(200);
    send_request(&tancho, Some(&carol), "DELETE /users", RequestBody::None)
        .await
        .expect_status(200);
    let mut past = events_of(&tancho, "user", "carol@example.com").await;
    past.extend(events_of(&tancho, "team", "mine").await);
    let again = tancho.create_user("carol").await;
    let new: Vec<String> = events_of(&tancho, "user", "carol@example.com")
        .await
        .into_iter()
        .filter(|id| !past.contains(id))
        .collect();
    assert_sees_none(&tancho, &again, &past).await;
    assert_sees_all(&tancho, &again, &new).await;
    assert_sees_all(&tancho, &root, &past).await;
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn events_are_read_with_the_permission_for_events_of_their_target() {
    let tancho = TestServer::start().await;
    let (root, alice, eve) = (
        tancho.login_admin().await,
        tancho.create_user("alice").await,
        tancho.create_user("eve").await,
    );
    tancho.create_team(&alice, "red").await;
    app(&tancho, &alice, "shop", "red").await;
    let (of_team, of_app) = (
        events_of(&tancho, "team", "red").await,
        events_of(&tancho, "app", "shop").await,
    );
    grant(
        &tancho,
        &root,
        &eve,
        "team",
        "red",
        &["app.read.info", "team.update", "service"],
    )
    .await;
    assert_sees_none(&tancho, &eve, &of_team).await;
    assert_sees_none(&tancho, &eve, &of_app).await;
    grant(&tancho, &root, &eve, "team", "red", &["team.read.events"]).await;
    assert_sees_all(&tancho, &eve, &of_team).await;
    assert_sees_none(&tancho, &eve, &of_app).await;
    grant(&tancho, &root, &eve, "app", "shop", &["app.read"]).await;
    assert_sees_all(&tancho, &eve, &of_app).await;
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn permission_to_read_events_does_not_allow_cancelling() {
    let tancho = TestServer::start().await;
    let (root, alice, eve) = (
        tancho.login_admin().await,
        tancho.create_user("alice").await,
        tancho.create_user("eve").await,
    );
    tancho.create_team(&alice, "red").await;
    app(&tancho, &alice, "shop", "red").await;
    grant(&tancho, &root, &eve, "team", "red", &["app.read"]).await;
    sql(
        &tancho,
        "insert into event (event_id, target_kind, target_value, kind, owner_kind, owner_name, contexts, cancelable)
         values ('5f3e8a1b9c4d2e0001a7b3d9', 'app', 'shop', 'app.deploy', 'user', 'nobody', '{app:shop,team:red}', true)",
    )
    .await;
    let line = "POST /1.1/events/5f3e8a1b9c4d2e0001a7b3d9/cancel";
    let reason = || RequestBody::Form(&[("reason", "enough")]);
    send_request(&tancho, Some(&eve), line, reason())
        .await
        .expect_status(403);
    let long = "x".repeat(5000);
    send_request(
        &tancho,
        Some(&alice),
        line,
        RequestBody::Form(&[("reason", &long)]),
    )
    .await
    .expect_status(400);
    send_request(&tancho, Some(&alice), line, reason())
        .await
        .expect_status(204);
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn event_data_is_returned_in_both_formats() {
    let tancho = TestServer::start().await;
    let alice = tancho.create_user("alice").await;
    tancho.create_team(&alice, "red").await;
    let id = &events_of(&tancho, "team", "red").await[0];
    let event: Value = get(&tancho, &alice, &format!("/1.1/events/{id}"))
        .await
        .expect_status(200)
        .json();
    assert_eq!(event["CustomData"]["Start"]["name"], "red");
    assert_eq!(event["StartCustomData"]["Kind"], 3);
    assert!(event["StartCustomData"]["Data"].as_str().unwrap().len() > 8);
    assert_eq!(event["OtherCustomData"], json!({ "Kind": 0, "Data": null }));
    assert!(event.get("EndCustomData").is_some());
    tancho.running.drain_and_stop().await;
}
