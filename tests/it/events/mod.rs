//! Events: blocks and lists.

mod blocks;
mod lists;

use serde_json::Value;

use crate::accounts::{ApiResponse, RequestBody, send_request};
use crate::test_server::{TestServer, TestUser};

/// Sends JSON; `line` is method and path.
async fn send(tancho: &TestServer, who: &TestUser, line: &str, body: Value) -> ApiResponse {
    send_request(tancho, Some(who), line, RequestBody::Bare(body)).await
}

/// Sends a request without a body.
async fn request(tancho: &TestServer, who: &TestUser, line: &str) -> ApiResponse {
    send_request(tancho, Some(who), line, RequestBody::None).await
}

/// Runs SQL, for states that requests do not reach quickly.
async fn sql(tancho: &TestServer, text: &str) {
    sqlx::raw_sql(sqlx::AssertSqlSafe(text.to_owned()))
        .execute(&tancho.running.core.db)
        .await
        .unwrap();
}
