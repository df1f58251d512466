//! Webhooks: their routes, what is delivered to whom, and what happens when a receiver misbehaves.

mod definition;
mod delivery;
mod receiver;
mod visibility;

use reqwest::Method;
use serde_json::{Value, json};
use tancho::config::Settings;

use crate::accounts::{ApiResponse, RequestBody, send_request};
use crate::fairness::wait_until;
use crate::test_server::{TestServer, TestUser};
use receiver::WebhookReceiver;

const HOOKS: &str = "/1.6/events/webhooks";
const SECRET: &str = "a secret of sixteen bytes";

/// A server with an administrator, and Ana with the team `red`.
struct WebhookFixture {
    tancho: TestServer,
    root: TestUser,
    ana: TestUser,
}

impl WebhookFixture {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let tancho = TestServer::start_with(change).await;
        let (root, ana) = (tancho.login_admin().await, tancho.create_user("ana").await);
        tancho.create_team(&ana, "red").await;
        Self { tancho, root, ana }
    }

    /// Sends JSON; `line` is method and path.
    async fn send(&self, who: &TestUser, line: &str, body: Value) -> ApiResponse {
        send_request(&self.tancho, Some(who), line, RequestBody::Bare(body)).await
    }

    async fn get(&self, who: &TestUser, path: &str) -> ApiResponse {
        send_request(&self.tancho, Some(who), &format!("GET {path}"), RequestBody::None).await
    }

    /// Creates a webhook of the team `red` as Ana, with these fields besides.
    async fn create_hook(&self, name: &str, url: &str, more: Value) -> Value {
        let mut hook = json!({ "name": name, "url": url, "team_owner": "red", "secret": SECRET });
        let more = more.as_object().unwrap().clone();
        hook.as_object_mut().unwrap().extend(more);
        self.send(&self.ana, &format!("POST {HOOKS}"), hook)
            .await
            .expect_status(200)
            .json()
    }

    /// Makes an event on the team `red`: its tags change.
    async fn change_tags(&self, tag: &str) {
        self.send(&self.ana, "PUT /1.6/teams/red", json!({ "tags": [tag] }))
            .await
            .expect_status(200);
    }

    /// Returns the newest event of a kind, with its details.
    async fn newest_event(&self, who: &TestUser, kind: &str) -> Value {
        let path = format!("/1.1/events?kindname={kind}&limit=1");
        let list = self.get(who, &path).await.expect_status(200).json();
        let id = list[0]["UniqueID"].as_str().unwrap();
        self.get(who, &format!("/1.1/events/{id}"))
            .await
            .expect_status(200)
            .json()
    }

    /// Waits until the delivery of the newest event of a kind to its first webhook is in a state; returns it.
    async fn wait_for_delivery(&self, kind: &str, state: &str) -> Value {
        let mut found = Value::Null;
        wait_until(&format!("a delivery of {kind} is {state}"), async || {
            let event = self.newest_event(&self.ana, kind).await;
            found = event["CustomData"]["Other"]["Webhooks"][0].clone();
            found["State"] == state
        })
        .await;
        found
    }

    async fn sql(&self, sql: &str) {
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned()))
            .execute(&self.tancho.running.core.db)
            .await
            .unwrap();
    }

    async fn count(&self, sql: &str) -> i64 {
        sqlx::query_scalar(sqlx::AssertSqlSafe(sql.to_owned()))
            .fetch_one(&self.tancho.running.core.db)
            .await
            .unwrap()
    }

    /// Ends the pause before the next attempts, as time would.
    async fn skip_pauses(&self) {
        self.sql(
            "update saga set wake_at = now() where kind = 'webhook.deliver' and ended_at is null and lease_until is null;
             select pg_notify('tancho_saga', 'housekeeping')",
        )
        .await;
    }

    async fn close(self) {
        self.tancho.running.drain_and_stop().await;
    }
}

fn hook_path(method: &Method, name: &str) -> String {
    format!("{method} {HOOKS}/{name}")
}
