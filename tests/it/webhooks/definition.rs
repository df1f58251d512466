//! The routes of webhooks: who may use them, what is refused, what is shown and stored.

use reqwest::Method;
use serde_json::{Value, json};

use super::{HOOKS, SECRET, WebhookFixture, hook_path};
use crate::accounts::grant;

#[tokio::test]
async fn webhook_is_shown_as_it_was_set_until_it_is_deleted() {
    let fixture = WebhookFixture::new().await;
    let (ana, hook) = (
        &fixture.ana,
        json!({
            "name": "chat", "description": "tells the chat", "team_owner": "red", "url": "https://chat.example.com/hook?k=1",
            "event_filter": { "target_types": ["app"], "kind_names": ["app.deploy"], "error_only": true },
            "headers": { "X-Token": ["abc", "def"] }, "method": "PUT", "body": "{{.Kind.Name}}", "insecure": true,
            "proxy_url": "http://proxy.example.com:3128",
        }),
    );
    let made = fixture
        .send(ana, &format!("POST {HOOKS}"), hook.clone())
        .await
        .expect_status(200)
        .json();
    assert_eq!(made["name"], "chat");
    assert_eq!(made["secret"].as_str().unwrap().len(), 64);
    let shown = fixture
        .get(ana, &format!("{HOOKS}/chat"))
        .await
        .expect_status(200)
        .json();
    for (field, value) in hook.as_object().unwrap() {
        if field != "event_filter" {
            assert_eq!(&shown[field], value, "{field}");
        }
    }
    assert_eq!(
        shown["event_filter"],
        json!({ "target_types": ["app"], "target_values": [], "kind_types": [], "kind_names": ["app.deploy"],
                "error_only": true, "success_only": false })
    );
    assert!(shown.get("secret").is_none());
    assert_eq!(
        fixture.get(ana, HOOKS).await.expect_status(200).json(),
        json!([shown])
    );

    // A name is taken in all teams.
    fixture
        .send(&fixture.root, &format!("POST {HOOKS}"), hook)
        .await
        .expect_status(409);
    // What an update leaves out is cleared.
    fixture
        .send(
            ana,
            &hook_path(&Method::PUT, "chat"),
            json!({ "url": "http://other.example.com/" }),
        )
        .await
        .expect_status(200);
    let shown = fixture.get(ana, &format!("{HOOKS}/chat")).await.json();
    assert_eq!(
        (
            &shown["team_owner"],
            &shown["url"],
            &shown["headers"],
            &shown["method"],
            &shown["insecure"]
        ),
        (
            &json!("red"),
            &json!("http://other.example.com/"),
            &Value::Null,
            &json!(""),
            &json!(false)
        )
    );
    fixture
        .send(ana, &hook_path(&Method::DELETE, "chat"), Value::Null)
        .await
        .expect_status(200);
    fixture
        .get(ana, &format!("{HOOKS}/chat"))
        .await
        .expect_status(404);
    assert_eq!(fixture.get(ana, HOOKS).await.json(), json!([]));
    fixture.close().await;
}

#[tokio::test]
async fn invalid_webhook_is_refused_with_one_sentence_and_not_created() {
    let fixture = WebhookFixture::new().await;
    let long = "x".repeat(100_000);
    for (field, value) in [
        ("name", json!("")),
        ("name", json!("../x")),
        ("name", json!(["a"])),
        ("url", json!("")),
        ("url", json!("http://user:canary@example.com/")),
        ("url", json!("ftp://example.com/")),
        ("url", json!(long)),
        ("proxy_url", json!("http://user:canary@example.com/")),
        ("proxy_url", json!("socks5://example.com")),
        ("method", json!("TRACE")),
        ("description", json!(long)),
        ("team_owner", json!("blue")),
        ("body", json!("line\n{{.Kind.Nme}}")),
        ("body", json!("{{if .Error}}")),
        ("body", json!(long)),
        ("secret", json!("short")),
        ("headers", json!(["a"])),
        ("headers", json!({ "a": [1] })),
        ("headers", json!({ "a b": ["canary"] })),
        ("headers", json!({ "Host": ["canary"] })),
        ("headers", json!({ "X-A": ["canary\r\nX-B: 1"] })),
        ("headers", json!({ "X-A": vec!["x"; 1000] })),
        ("event_filter", json!([])),
        ("event_filter", json!({ "kind_names": vec!["app.create"; 1000] })),
        ("event_filter", json!({ "kind_names": [1] })),
        ("event_filter", json!({ "kind_types": ["some"] })),
        (
            "event_filter",
            json!({ "error_only": true, "success_only": true }),
        ),
        ("insecure", json!("maybe")),
    ] {
        let mut hook = json!({ "name": "chat", "url": "http://example.com/", "team_owner": "red" });
        hook[field] = value;
        let refused = fixture
            .send(&fixture.ana, &format!("POST {HOOKS}"), hook)
            .await
            .expect_status(400);
        let text = refused.body.trim_end();
        assert!(
            text.len() < 400 && !text.contains('\n') && !text.contains("canary"),
            "{field}: {text}"
        );
    }
    let parse = json!({ "name": "chat", "url": "http://example.com/", "body": "line\n{{.Kind.Nme}}" });
    let refused = fixture.send(&fixture.ana, &format!("POST {HOOKS}"), parse).await;
    assert!(refused.body.contains("line 2, column 3"), "{refused:?}");
    assert_eq!(fixture.count("select count(*) from webhook").await, 0);
    assert_eq!(
        fixture
            .count("select count(*) from event where target_kind = 'webhook'")
            .await,
        0
    );
    fixture.close().await;
}

#[tokio::test]
async fn webhooks_are_changed_with_the_permission_for_their_team_only() {
    let fixture = WebhookFixture::new().await;
    let (bob, rea) = (
        fixture.tancho.create_user("bob").await,
        fixture.tancho.create_user("rea").await,
    );
    fixture.tancho.create_team(&bob, "blue").await;
    grant(
        &fixture.tancho,
        &fixture.root,
        &rea,
        "team",
        "red",
        &["webhook.read"],
    )
    .await;
    fixture
        .create_hook("chat", "http://example.com/", json!({}))
        .await;
    let change = json!({ "url": "http://evil.example.com/" });
    for method in [Method::GET, Method::PUT, Method::DELETE] {
        let hidden = fixture
            .send(&bob, &hook_path(&method, "chat"), change.clone())
            .await
            .expect_status(404);
        assert_eq!(hidden.body, "Webhook chat not found.\n");
    }
    assert_eq!(
        fixture.get(&bob, HOOKS).await.expect_status(200).json(),
        json!([])
    );
    for method in [Method::PUT, Method::DELETE] {
        fixture
            .send(&rea, &hook_path(&method, "chat"), change.clone())
            .await
            .expect_status(403);
    }
    let new = json!({ "name": "spy", "url": "http://example.com/", "team_owner": "red" });
    for who in [&bob, &rea] {
        fixture
            .send(who, &format!("POST {HOOKS}"), new.clone())
            .await
            .expect_status(403);
    }
    // Nor into a team of others.
    let moved = json!({ "url": "http://example.com/", "team_owner": "blue" });
    fixture
        .send(&fixture.ana, &hook_path(&Method::PUT, "chat"), moved)
        .await
        .expect_status(403);
    let shown = fixture.get(&fixture.ana, &format!("{HOOKS}/chat")).await.json();
    assert_eq!(
        (&shown["url"], &shown["team_owner"]),
        (&json!("http://example.com/"), &json!("red"))
    );
    fixture.close().await;
}

#[tokio::test]
async fn secrets_of_a_webhook_are_shown_only_to_users_who_may_change_it() {
    let fixture = WebhookFixture::new().await;
    let rea = fixture.tancho.create_user("rea").await;
    grant(
        &fixture.tancho,
        &fixture.root,
        &rea,
        "team",
        "red",
        &["webhook.read", "webhook.read.events"],
    )
    .await;
    let more = json!({
        "headers": { "Authorization": ["canary-header"] }, "body": "canary-body", "secret": "canary-secret-0123",
        "proxy_url": "http://proxy.example.com/canary-proxy", "method": "PUT",
    });
    let url = "https://hooks.example.com/services/canary-path?token=canary-query";
    fixture.create_hook("chat", url, more.clone()).await;
    let mut update = more;
    update["url"] = json!(url);
    fixture
        .send(&fixture.ana, &hook_path(&Method::PUT, "chat"), update)
        .await
        .expect_status(200);
    for path in [HOOKS.to_owned(), format!("{HOOKS}/chat")] {
        let shown = fixture.get(&rea, &path).await.expect_status(200).body;
        assert!(
            !shown.contains("canary") && shown.contains("hooks.example.com"),
            "{shown}"
        );
        let own = fixture.get(&fixture.ana, &path).await.expect_status(200).body;
        assert!(
            own.contains("canary-header") && own.contains("canary-query"),
            "{own}"
        );
        assert!(!own.contains("canary-secret"), "{own}");
    }
    // Nor are they anywhere in the database.
    let tables: Vec<String> =
        sqlx::query_scalar("select tablename::text from pg_tables where schemaname = 'public'")
            .fetch_all(&fixture.tancho.running.core.db)
            .await
            .unwrap();
    for table in tables {
        let sql = format!("select count(*) from \"{table}\" t where t::text like '%canary%'");
        assert_eq!(fixture.count(&sql).await, 0, "{table}");
    }
    fixture.close().await;
}

#[tokio::test]
async fn number_of_webhooks_of_a_team_is_limited_also_for_concurrent_requests() {
    let fixture = WebhookFixture::new().await;
    fixture
        .sql(
            "insert into webhook (webhook_id, name, team_id, sealed)
             select gen_random_uuid(), 'h' || n, team_id, '\\x0100000001' from team, generate_series(1, 48) n where name = 'red'",
        )
        .await;
    let attempts = (0..6).map(|n| {
        let hook = json!({ "name": format!("new{n}"), "url": "http://example.com/", "team_owner": "red" });
        fixture.send(&fixture.root, "POST /1.6/events/webhooks", hook)
    });
    let results = futures_util::future::join_all(attempts).await;
    let made = results.iter().filter(|answer| answer.status == 200).count();
    assert!(made <= 2, "{results:?}");
    let total = fixture.count("select count(*) from webhook").await;
    assert_eq!(usize::try_from(total).unwrap(), 48 + made);
    fixture
        .sql("delete from webhook where name like 'new%'; insert into webhook (webhook_id, name, team_id, sealed)
              select gen_random_uuid(), 'i' || n, team_id, '\\x0100000001' from team, generate_series(1, 2) n where name = 'red'")
        .await;
    let hook = json!({ "name": "more", "url": "http://example.com/", "team_owner": "red" });
    let refused = fixture
        .send(&fixture.ana, "POST /1.6/events/webhooks", hook)
        .await
        .expect_status(403);
    assert!(refused.body.contains("at most 50 webhooks"), "{refused:?}");
    fixture.close().await;
}

#[tokio::test]
async fn webhooks_end_with_their_team_and_outlive_their_creator() {
    let fixture = WebhookFixture::new().await;
    fixture
        .create_hook("chat", "http://127.0.0.1:1/", json!({ "secret": SECRET }))
        .await;
    let role = [("email", "root@example.com"), ("context", "red")];
    crate::accounts::send_request(
        &fixture.tancho,
        Some(&fixture.root),
        "POST /1.0/roles/team-member/user",
        crate::accounts::RequestBody::Form(&role),
    )
    .await
    .expect_status(200);
    fixture
        .send(
            &fixture.root,
            "DELETE /1.0/users?user=ana@example.com",
            Value::Null,
        )
        .await
        .expect_status(200);
    fixture
        .get(&fixture.root, &format!("{HOOKS}/chat"))
        .await
        .expect_status(200);
    fixture
        .send(&fixture.root, "DELETE /1.0/teams/red", Value::Null)
        .await
        .expect_status(200);
    fixture
        .get(&fixture.root, &format!("{HOOKS}/chat"))
        .await
        .expect_status(404);
    assert_eq!(fixture.count("select count(*) from webhook").await, 0);
    fixture.close().await;
}
