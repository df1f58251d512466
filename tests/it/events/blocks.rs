//! Event blocks: what they stop, what they never stop, and who may make them.

use serde_json::{Value, json};

use super::{request, send, sql};
use crate::accounts::grant;
use crate::test_server::{TestServer, TestUser};

const BLOCKS: &str = "/1.3/events/blocks";

async fn add_block(tancho: &TestServer, root: &TestUser, block: Value) {
    send(tancho, root, &format!("POST {BLOCKS}"), block)
        .await
        .expect_status(200);
}

/// Returns the ids of the active blocks, newest first.
async fn active_blocks(tancho: &TestServer, root: &TestUser) -> Vec<String> {
    let list = tancho.read_json(root, &format!("{BLOCKS}?active=true")).await;
    let blocks = list.as_array().unwrap().iter();
    blocks
        .map(|block| block["ID"].as_str().unwrap().to_owned())
        .collect()
}

async fn remove_all_blocks(tancho: &TestServer, root: &TestUser) {
    for id in active_blocks(tancho, root).await {
        request(tancho, root, &format!("DELETE {BLOCKS}/{id}"))
            .await
            .expect_status(200);
    }
}

/// Requests a change of an app; returns the status and the body.
async fn change_app(tancho: &TestServer, who: &TestUser, app: &str) -> (u16, String) {
    let body = json!({ "Envs": [{ "Name": "A", "Value": "b" }], "NoRestart": true });
    let answer = send(tancho, who, &format!("POST /1.0/apps/{app}/env"), body).await;
    (answer.status, answer.body)
}

async fn create_app(tancho: &TestServer, who: &TestUser, name: &str) {
    let body = json!({ "name": name, "platform": "python", "teamOwner": "red" });
    send(tancho, who, "POST /1.0/apps", body).await.expect_status(201);
}

async fn count_events(tancho: &TestServer) -> i64 {
    sqlx::query_scalar("select count(*) from event")
        .fetch_one(&tancho.running.core.db)
        .await
        .unwrap()
}

#[tokio::test]
async fn blocked_change_names_the_block_and_its_reason_and_changes_nothing() {
    let tancho = TestServer::start().await;
    let (root, ana) = (tancho.login_admin().await, tancho.create_user("ana").await);
    tancho.create_team(&ana, "red").await;
    create_app(&tancho, &ana, "shop").await;
    add_block(
        &tancho,
        &root,
        json!({ "KindName": "app.update", "Target": { "Type": "app", "Value": "shop" }, "Reason": "moving the pool" }),
    )
    .await;
    let id = active_blocks(&tancho, &root).await.remove(0);
    let before = count_events(&tancho).await;
    let (status, text) = change_app(&tancho, &ana, "shop").await;
    assert_eq!(status, 500, "{text}");
    assert_eq!(
        text.trim(),
        format!(
            "error running \"app.update.env.set\" on app(shop): block {id} app.update by all users on app(shop): \
             moving the pool"
        )
    );
    assert_eq!(count_events(&tancho).await, before);
    let vars = tancho.read_json(&ana, "/1.0/apps/shop/env?env=A").await;
    assert_eq!(vars, json!([]));
    // The classic edition refuses the same, as a conflict.
    let answer = send(&tancho, &ana, "POST /apps/shop/env", json!({ "A": "b" })).await;
    assert_eq!(
        (answer.status, answer.body.contains("moving the pool")),
        (409, true),
        "{answer:?}"
    );
    remove_all_blocks(&tancho, &root).await;
    let (status, text) = change_app(&tancho, &ana, "shop").await;
    assert_eq!(status, 200, "{text}");
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn block_stops_only_the_kind_owner_target_and_conditions_that_it_names() {
    let tancho = TestServer::start().await;
    let (root, ana) = (tancho.login_admin().await, tancho.create_user("ana").await);
    tancho.create_team(&ana, "red").await;
    create_app(&tancho, &ana, "shop").await;
    for (block, is_blocked) in [
        (json!({}), true),
        (json!({ "KindName": "app" }), true),
        (json!({ "KindName": "app.update.env.set" }), true),
        (json!({ "KindName": "app.update.env.unset" }), false),
        (json!({ "KindName": "team" }), false),
        (json!({ "OwnerName": "Ana@example.com" }), true),
        (json!({ "OwnerName": "root@example.com" }), false),
        (json!({ "Target": { "Type": "app" } }), true),
        (json!({ "Target": { "Type": "team" } }), false),
        (json!({ "Target": { "Type": "app", "Value": "shop" } }), true),
        (json!({ "Target": { "Type": "app", "Value": "shop2" } }), false),
        (json!({ "Conditions": { "names": "A" } }), true),
        (
            json!({ "Conditions": { "names": "A", "noRestart": "true" } }),
            true,
        ),
        (
            json!({ "Conditions": { "names": "A", "noRestart": "false" } }),
            false,
        ),
        (json!({ "Conditions": { "other": "A" } }), false),
        (
            json!({ "KindName": "app", "OwnerName": "root@example.com" }),
            false,
        ),
    ] {
        let mut whole = block.clone();
        whole["Reason"] = json!("test");
        add_block(&tancho, &root, whole).await;
        let (status, text) = change_app(&tancho, &ana, "shop").await;
        assert_eq!(status == 500, is_blocked, "{block}: {status} {text}");
        remove_all_blocks(&tancho, &root).await;
    }
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn block_of_everything_can_be_removed_and_does_not_stop_login_or_administrators_of_the_host() {
    let tancho = TestServer::start().await;
    let root = tancho.login_admin().await;
    add_block(&tancho, &root, json!({ "Reason": "holiday" })).await;
    let answer = send(&tancho, &root, "POST /1.0/teams", json!({ "name": "red" })).await;
    assert_eq!(
        (answer.status, answer.body.contains("holiday")),
        (500, true),
        "{answer:?}"
    );
    // The account of an administrator can be made on the host, and whoever logs in can remove the block.
    let root = tancho.login_admin().await;
    add_block(
        &tancho,
        &root,
        json!({ "OwnerName": root.email, "Reason": "another" }),
    )
    .await;
    remove_all_blocks(&tancho, &root).await;
    tancho.create_team(&root, "red").await;
    let list = tancho.read_json(&root, BLOCKS).await;
    let reasons: Vec<&str> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|block| block["Reason"].as_str().unwrap())
        .collect();
    assert_eq!(
        reasons,
        ["another", "holiday"],
        "removed blocks stay in the list, newest first"
    );
    assert!(
        list[0]["Active"] == false && list[0]["EndTime"] != "0001-01-01T00:00:00Z",
        "{list}"
    );
    let none = tancho.read_json(&root, &format!("{BLOCKS}?active=true")).await;
    assert_eq!(none, json!([]));
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn invalid_block_is_refused_with_one_sentence_and_nothing_is_added() {
    let tancho = TestServer::start().await;
    let root = tancho.login_admin().await;
    let add = format!("POST {BLOCKS}");
    for (block, part) in [
        (json!({}), "reason is required"),
        (json!({ "Reason": "" }), "reason is required"),
        (json!({ "Reason": 3 }), "must be a string"),
        (json!({ "Reason": "a\u{0}b" }), "NUL"),
        (json!({ "Reason": "x".repeat(1 << 20) }), ""),
        (
            json!({ "Reason": "x", "KindName": "app.deplay" }),
            "No kind of event",
        ),
        (
            json!({ "Reason": "x", "KindName": "event-block.remove" }),
            "cannot block the adding",
        ),
        (
            json!({ "Reason": "x", "Target": { "Type": "event-block" } }),
            "cannot block the adding",
        ),
        (
            json!({ "Reason": "x", "Target": { "Type": "boat" } }),
            "not the type of a target",
        ),
        (
            json!({ "Reason": "x", "Target": { "Value": "shop" } }),
            "needs Target.Type",
        ),
        (json!({ "Reason": "x", "Target": "shop" }), "must be an object"),
        (json!({ "Reason": "x", "Conditions": ["a"] }), "object of strings"),
        (json!({ "Reason": "x", "Conditions": { "a": 1 } }), "Conditions"),
    ] {
        let answer = send(&tancho, &root, &add, block.clone()).await;
        assert!((400..500).contains(&answer.status), "{answer:?}");
        assert!(answer.body.contains(part), "{part}: {answer:?}");
    }
    for (line, status) in [
        (format!("DELETE {BLOCKS}/xyz"), 400),
        (format!("DELETE {BLOCKS}/5f3e8a1b9c4d2e0001a7b4ff"), 404),
        (format!("GET {BLOCKS}?active=maybe"), 400),
    ] {
        request(&tancho, &root, &line).await.expect_status(status);
    }
    assert_eq!(tancho.read_json(&root, BLOCKS).await, json!([]));
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn only_holders_of_the_permission_add_list_and_remove_blocks() {
    let tancho = TestServer::start().await;
    let (root, ana) = (tancho.login_admin().await, tancho.create_user("ana").await);
    add_block(&tancho, &root, json!({ "KindName": "plan", "Reason": "x" })).await;
    let id = active_blocks(&tancho, &root).await.remove(0);
    let lines = [
        format!("GET {BLOCKS}"),
        format!("POST {BLOCKS}"),
        format!("DELETE {BLOCKS}/{id}"),
    ];
    for line in &lines {
        send(&tancho, &ana, line, json!({ "Reason": "mine" }))
            .await
            .expect_status(403);
    }
    assert_eq!(active_blocks(&tancho, &root).await, [id]);
    grant(&tancho, &root, &ana, "global", "", &["event-block"]).await;
    for line in &lines {
        send(&tancho, &ana, line, json!({ "Reason": "ours" }))
            .await
            .expect_status(200);
    }
    // Removed by one of two at once, the other finds none.
    let id = active_blocks(&tancho, &root).await.remove(0);
    let line = format!("DELETE {BLOCKS}/{id}");
    let (a, b) = tokio::join!(request(&tancho, &root, &line), request(&tancho, &ana, &line));
    let mut statuses = [a.status, b.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 404]);
    let kinds = ["event-block.add", "event-block.remove"];
    for kind in kinds {
        let list = tancho
            .read_json(
                &ana,
                &format!("/1.1/events?kindname={kind}&target.type=event-block"),
            )
            .await;
        assert_eq!(list.as_array().unwrap().len(), 2, "{kind}: {list}");
    }
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn number_of_active_blocks_is_bounded() {
    let tancho = TestServer::start().await;
    let root = tancho.login_admin().await;
    sql(
        &tancho,
        "insert into event_block (block_id, owner_name, reason)
         select lpad(to_hex(n), 24, '0'), 'nobody', 'many' from generate_series(1, 99) n",
    )
    .await;
    let add = format!("POST {BLOCKS}");
    let block = json!({ "OwnerName": "nobody", "Reason": "one more" });
    let (a, b) = tokio::join!(
        send(&tancho, &root, &add, block.clone()),
        send(&tancho, &root, &add, block.clone())
    );
    let mut statuses = [a.status, b.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 409], "{a:?} {b:?}");
    assert!(active_blocks(&tancho, &root).await.len() == 100);
    tancho.running.drain_and_stop().await;
}
