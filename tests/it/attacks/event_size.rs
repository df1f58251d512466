//! Nobody fills the database with events, which cannot be deleted for a month.

use serde_json::{Value, json};

use super::{get, request_ok};
use crate::test_server::{TestServer, TestUser};

/// Returns the data of the newest event of a kind, and its size in the database.
async fn newest(tancho: &TestServer, kind: &str) -> (Value, i32) {
    sqlx::query_as(
        "select start_data, octet_length(start_data::text) from event where kind = $1
         order by started_at desc, event_id desc limit 1",
    )
    .bind(kind)
    .fetch_one(&tancho.running.core.db)
    .await
    .unwrap()
}

async fn set_tags(tancho: &TestServer, who: &TestUser, tags: usize) {
    let tags: Vec<String> = (0..tags).map(|n| format!("{n}{}", "x".repeat(200))).collect();
    request_ok(tancho, who, "PUT /1.6/teams/red", json!({ "tags": tags })).await;
}

#[tokio::test]
async fn event_stores_a_bounded_part_of_a_long_request() {
    let tancho = TestServer::start().await;
    let ana = tancho.create_user("ana").await;
    tancho.create_team(&ana, "red").await;
    set_tags(&tancho, &ana, 2).await;
    let (data, _) = newest(&tancho, "team.update").await;
    assert_eq!(
        data["tags"].as_array().unwrap().len(),
        2,
        "a short request is stored whole"
    );
    set_tags(&tancho, &ana, 100).await;
    let (data, size) = newest(&tancho, "team.update").await;
    assert!(size <= 17_000, "{size}");
    assert_eq!(data["tags"]["count"], 100, "{data}");
    assert!(!data["tags"]["first"].as_array().unwrap().is_empty());
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn many_large_events_of_one_user_are_truncated() {
    let tancho = TestServer::start().await;
    let (ana, bob) = (tancho.create_user("ana").await, tancho.create_user("bob").await);
    tancho.create_team(&ana, "red").await;
    set_tags(&tancho, &ana, 50).await;
    let (_, size) = newest(&tancho, "team.update").await;
    assert!(size > 2048, "{size}");
    sqlx::raw_sql(
        "insert into event (event_id, target_kind, target_value, kind, owner_kind, owner_name, start_data)
         select to_char(n, 'FM000000000000000000000000'), 'team', 'red', 'team.update', 'user', 'ana@example.com',
                to_jsonb(repeat('x', 3000))
         from generate_series(1, 60) as n",
    )
    .execute(&tancho.running.core.db)
    .await
    .unwrap();
    set_tags(&tancho, &ana, 50).await;
    let (_, size) = newest(&tancho, "team.update").await;
    assert!(size <= 2300, "{size}");
    // Events of other users are not truncated.
    let line = "PUT /teams/red/bob@example.com";
    crate::accounts::send_request(&tancho, Some(&ana), line, crate::accounts::RequestBody::None)
        .await
        .expect_status(200);
    set_tags(&tancho, &bob, 50).await;
    let (_, size) = newest(&tancho, "team.update").await;
    assert!(size > 2300, "{size}");
    get(&tancho, &bob, "/1.4/teams/red").await.expect_status(200);
    tancho.running.drain_and_stop().await;
}
