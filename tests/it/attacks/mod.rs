//! Attacks of users on others, over HTTP. Each test attacks first, and then does the legitimate request
//! beside it.

mod earlier_data;
mod email_spelling;
mod event_size;
mod event_visibility;
mod inherited_rights;
mod login;
mod quotas;
mod read_rights;
mod sessions;

use serde_json::Value;

use crate::accounts::{ApiResponse, RequestBody, send_request};
use crate::test_server::{TestServer, TestUser};

/// Sends a GET request without a body.
async fn get(tancho: &TestServer, who: &TestUser, path: &str) -> ApiResponse {
    send_request(tancho, Some(who), &format!("GET {path}"), RequestBody::None).await
}

/// Sends a request that must succeed.
async fn request_ok(tancho: &TestServer, who: &TestUser, line: &str, body: Value) {
    let answer = send_request(tancho, Some(who), line, RequestBody::Bare(body)).await;
    assert!(answer.status < 300, "{line}: {answer:?}");
}

/// Runs SQL, for states that requests do not reach quickly.
async fn sql(tancho: &TestServer, text: &str) {
    sqlx::raw_sql(sqlx::AssertSqlSafe(text.to_owned()))
        .execute(&tancho.running.core.db)
        .await
        .unwrap();
}

/// Creates an app of `team` through the API.
async fn app(tancho: &TestServer, who: &TestUser, name: &str, team: &str) {
    let body = serde_json::json!({ "name": name, "platform": "python", "teamOwner": team });
    request_ok(tancho, who, "POST /1.0/apps", body).await;
}

/// Removes an app and waits until it is gone.
async fn remove_app(tancho: &TestServer, who: &TestUser, name: &str) {
    let answer = send_request(
        tancho,
        Some(who),
        &format!("DELETE /1.0/apps/{name}"),
        RequestBody::None,
    )
    .await
    .expect_status(200);
    assert!(!answer.body.contains("\"Error\""), "{answer:?}");
}

/// Inserts a service with an instance into the database only.
async fn service(tancho: &TestServer, name: &str, team: &str, instance: &str) {
    sql(
        tancho,
        &format!(
            "with made as (
                 insert into service (service_id, name, password, endpoint)
                 values (gen_random_uuid(), '{name}', '', 'http://127.0.0.1:9') returning service_id),
             owned as (insert into service_owner (service_id, team) select service_id, '{team}' from made),
             instances as (
                 insert into service_instance (instance_id, service_id, name, team_owner, state)
                 select gen_random_uuid(), service_id, '{instance}', '{team}', 'ready' from made
                 returning instance_id)
             insert into service_instance_team (instance_id, team) select instance_id, '{team}' from instances"
        ),
    )
    .await;
}
