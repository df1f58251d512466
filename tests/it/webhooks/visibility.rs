//! Which events a webhook gets: those of its filter, and only those that its team may read.

use reqwest::Method;
use serde_json::{Value, json};
use tancho::config::ServerRole;

use super::{HOOKS, WebhookFixture, hook_path};
use crate::accounts::{RequestBody, grant, send_request};

/// A fixture in which nothing is sent, so that the deliveries stay as they are written.
async fn silent_fixture() -> WebhookFixture {
    WebhookFixture::with(|settings| settings.roles = vec![ServerRole::Api]).await
}

impl WebhookFixture {
    /// Returns the deliveries so far as `webhook kind target`, and forgets them.
    async fn take_deliveries(&self) -> Vec<String> {
        sqlx::query_scalar(
            "with gone as (delete from webhook_delivery returning *)
             select webhook_name || ' ' || e.kind || ' ' || e.target_value from gone join event e using (event_id)
             order by 1",
        )
        .fetch_all(&self.tancho.running.core.db)
        .await
        .unwrap()
    }

    async fn create_app(&self, name: &str, team: &str) {
        let app = json!({ "name": name, "platform": "python", "teamOwner": team });
        self.send(&self.root, "POST /1.0/apps", app)
            .await
            .expect_status(201);
    }
}

#[tokio::test]
async fn filter_selects_by_kind_target_and_outcome() {
    let fixture = silent_fixture().await;
    for (name, filter) in [
        ("all", json!({})),
        ("apps", json!({ "target_types": ["app", "service"] })),
        ("shop", json!({ "target_values": ["shop"] })),
        ("created", json!({ "kind_names": ["app.create", "app.delete"] })),
        ("errors", json!({ "error_only": true })),
        ("successes", json!({ "success_only": true })),
        ("internal", json!({ "kind_types": ["internal"] })),
        ("permission", json!({ "kind_types": ["permission", "internal"] })),
        ("prefix", json!({ "kind_names": ["app"] })),
    ] {
        fixture
            .create_hook(name, "http://127.0.0.1:1/", json!({ "event_filter": filter }))
            .await;
    }
    fixture.take_deliveries().await;
    fixture.create_app("shop", "red").await;
    let names = |found: Vec<String>| -> Vec<String> {
        found
            .iter()
            .map(|line| line.split(' ').next().unwrap().to_owned())
            .collect()
    };
    let found = names(fixture.take_deliveries().await);
    assert_eq!(
        found,
        ["all", "apps", "created", "permission", "shop", "successes"]
    );
    fixture.change_tags("x").await;
    let found = names(fixture.take_deliveries().await);
    assert_eq!(found, ["all", "permission", "successes"]);
    // A change that failed.
    fixture
        .sql(
            "insert into event (event_id, target_kind, target_value, kind, owner_kind, owner_name, contexts)
             values ('000000000000000000000001', 'app', 'shop', 'app.deploy', 'user', 'ana@example.com', '{team:red}');
             update event set ended_at = now(), outcome = 'failed' where event_id = '000000000000000000000001'",
        )
        .await;
    let found = names(fixture.take_deliveries().await);
    assert_eq!(found, ["all", "apps", "errors", "permission", "shop"]);
    // Targets that the event locks besides count too.
    fixture
        .sql(
            "insert into event (event_id, target_kind, target_value, kind, owner_kind, owner_name, contexts, extra_targets)
             values ('000000000000000000000002', 'team', 'red', 'team.update', 'user', 'ana@example.com', '{team:red}', '{app:shop}');
             update event set ended_at = now(), outcome = 'done' where event_id = '000000000000000000000002'",
        )
        .await;
    let found = names(fixture.take_deliveries().await);
    assert_eq!(found, ["all", "apps", "permission", "shop", "successes"]);
    fixture.close().await;
}

#[tokio::test]
async fn events_that_the_team_may_not_read_are_never_delivered() {
    let fixture = silent_fixture().await;
    fixture.tancho.create_team(&fixture.root, "blue").await;
    fixture.create_hook("spy", "http://127.0.0.1:1/", json!({})).await;
    fixture.create_app("shop", "red").await;
    fixture.create_app("theirs", "blue").await;
    fixture.take_deliveries().await;
    // Of another team's app, of a user, of a role, of a pool.
    let change = json!({ "description": "new" });
    fixture
        .send(&fixture.root, "PUT /1.0/apps/theirs", change.clone())
        .await
        .expect_status(200);
    fixture.tancho.create_user("bob").await;
    let bob = [("email", "bob@example.com"), ("context", "red")];
    send_request(
        &fixture.tancho,
        Some(&fixture.root),
        "POST /1.0/roles/team-member/user",
        RequestBody::Form(&bob),
    )
    .await
    .expect_status(200);
    fixture
        .send(&fixture.root, "POST /1.0/pools", json!({ "name": "private" }))
        .await
        .expect_status(201);
    let team = [("team", "red")];
    send_request(
        &fixture.tancho,
        Some(&fixture.root),
        "POST /1.0/pools/private/team",
        RequestBody::Form(&team),
    )
    .await
    .expect_status(200);
    let found = fixture.take_deliveries().await;
    assert!(
        found.iter().all(|line| line == "spy team.update red"),
        "{found:?}"
    );
    // Of an app to which the team has access.
    fixture
        .send(&fixture.root, "PUT /1.0/apps/theirs/teams/red", Value::Null)
        .await
        .expect_status(200);
    fixture.take_deliveries().await;
    fixture
        .send(&fixture.root, "PUT /1.0/apps/theirs", change)
        .await
        .expect_status(200);
    assert_eq!(fixture.take_deliveries().await, ["spy app.update theirs"]);
    fixture.close().await;
}

#[tokio::test]
async fn webhook_that_moves_to_another_team_gets_no_events_of_the_former() {
    let fixture = silent_fixture().await;
    fixture.tancho.create_team(&fixture.root, "blue").await;
    fixture
        .create_hook("chat", "http://127.0.0.1:1/", json!({}))
        .await;
    fixture.take_deliveries().await;
    fixture.change_tags("secret-plan").await;
    let moved = json!({ "url": "http://127.0.0.1:1/", "team_owner": "blue" });
    fixture
        .send(&fixture.root, &hook_path(&Method::PUT, "chat"), moved)
        .await
        .expect_status(200);
    let worker = fixture.tancho.start_replica(|_| {}).await;
    super::wait_until("the delivery is dropped", async || {
        fixture
            .count("select count(*) from webhook_delivery where state = 'dropped'")
            .await
            == 1
    })
    .await;
    let dropped = "select count(*) from webhook_delivery d join event e using (event_id)
                   where d.state = 'dropped' and e.kind = 'team.update' and d.attempts = '[]'";
    assert_eq!(fixture.count(dropped).await, 1);
    worker.running.drain_and_stop().await;
    fixture.close().await;
}

#[tokio::test]
async fn deliveries_are_shown_to_users_who_may_read_events_of_the_webhook() {
    let fixture = silent_fixture().await;
    let rea = fixture.tancho.create_user("rea").await;
    grant(
        &fixture.tancho,
        &fixture.root,
        &rea,
        "team",
        "red",
        &["team.read.events"],
    )
    .await;
    fixture
        .create_hook("chat", "http://127.0.0.1:1/", json!({}))
        .await;
    fixture.change_tags("x").await;
    let own = fixture.newest_event(&fixture.ana, "team.update").await;
    assert_eq!(own["CustomData"]["Other"]["Webhooks"][0]["State"], "waiting");
    assert_eq!(own["OtherCustomData"]["Kind"], 3);
    let other = fixture.newest_event(&rea, "team.update").await;
    assert_eq!(other["CustomData"]["Other"], Value::Null);
    fixture.get(&rea, HOOKS).await.expect_status(403);
    fixture.close().await;
}
