//! What is sent, how often, and by whom when processes die.

use std::time::Duration;

use serde_json::{Value, json};
use tancho::config::{AutoFlag, ServerRole};

use super::{HOOKS, SECRET, WebhookFixture, WebhookReceiver, hook_path, wait_until};

#[tokio::test]
async fn ended_event_is_sent_signed_and_shown_with_the_event() {
    let fixture = WebhookFixture::new().await;
    let mut receiver = WebhookReceiver::start().await;
    let more = json!({ "event_filter": { "kind_names": ["team.update"] } });
    fixture
        .create_hook("chat", &format!("{}/in?k=1", receiver.url), more)
        .await;
    fixture.change_tags("first").await;
    let hook = receiver.next().await;
    assert_eq!((hook.method.as_str(), hook.uri.as_str()), ("POST", "/in?k=1"));
    assert_eq!(hook.header("content-type"), "application/json");
    assert!(hook.header("user-agent").starts_with("tancho/"));
    hook.assert_signed(SECRET);
    let sent = hook.json();
    let event = fixture.newest_event(&fixture.ana, "team.update").await;
    assert_eq!(sent["UniqueID"], event["UniqueID"]);
    assert_eq!(sent["Target"], json!({ "Type": "team", "Value": "red" }));
    assert_eq!(
        sent["Kind"],
        json!({ "Type": "permission", "Name": "team.update" })
    );
    assert_eq!(
        sent["Owner"],
        json!({ "Type": "user", "Name": "ana@example.com" })
    );
    assert_eq!((&sent["Error"], &sent["Running"]), (&json!(""), &json!(false)));
    assert_eq!(sent["CustomData"]["Start"]["tags"], json!(["first"]));
    assert_eq!(sent["EndTime"], event["EndTime"]);
    let shown = fixture.wait_for_delivery("team.update", "delivered").await;
    assert_eq!(
        (&shown["Webhook"], &shown["Attempts"][0]["Status"]),
        (&json!("chat"), &json!(200))
    );
    receiver.assert_silent();
    fixture.close().await;
}

#[tokio::test]
async fn template_headers_and_method_make_the_request() {
    let fixture = WebhookFixture::new().await;
    let mut receiver = WebhookReceiver::start().await;
    let filter = json!({ "kind_names": ["team.update"] });
    let more = json!({
        "event_filter": filter, "method": "PUT", "headers": { "X-Two": ["1", "2"], "User-Agent": ["mine"] },
        "body": "{{.Target.Value}} by {{.Owner.Name}}{{if .Error}} failed{{end}}",
    });
    fixture.create_hook("chat", &receiver.url, more).await;
    fixture.change_tags("first").await;
    let hook = receiver.next().await;
    assert_eq!(
        (hook.method.as_str(), hook.body.as_str()),
        ("PUT", "red by ana@example.com")
    );
    let two: Vec<_> = hook.headers.get_all("x-two").iter().collect();
    assert_eq!(
        (two.len(), hook.header("user-agent"), hook.header("content-type")),
        (2, "mine", "")
    );
    hook.assert_signed(SECRET);
    // Without a body, if the method has none.
    let update =
        json!({ "url": receiver.url, "event_filter": filter, "method": "GET", "body": "{{.Error}}" });
    fixture
        .send(&fixture.ana, &hook_path(&reqwest::Method::PUT, "chat"), update)
        .await
        .expect_status(200);
    fixture.change_tags("second").await;
    let hook = receiver.next().await;
    assert_eq!((hook.method.as_str(), hook.body.as_str()), ("GET", ""));
    hook.assert_signed(SECRET);
    fixture.close().await;
}

#[tokio::test]
async fn failed_delivery_is_repeated_with_the_same_id_until_it_is_accepted() {
    let fixture = WebhookFixture::new().await;
    let mut receiver = WebhookReceiver::start().await;
    let more = json!({ "event_filter": { "kind_names": ["team.update"] } });
    fixture.create_hook("chat", &receiver.url, more).await;
    receiver.plan(500, None);
    receiver.plan(429, Some("300"));
    receiver.plan(302, None);
    fixture.change_tags("first").await;
    let first = receiver.next().await;
    for attempts in 1..=3 {
        wait_until("the attempt is recorded", async || {
            let sql = "select coalesce(max(jsonb_array_length(attempts)), 0)::bigint from webhook_delivery";
            let open = "select count(*) from saga where kind = 'webhook.deliver' and lease_until is null and ended_at is null";
            fixture.count(sql).await == attempts && fixture.count(open).await == 1
        })
        .await;
        let pause =
            "select extract(epoch from wake_at - now())::bigint from saga where kind = 'webhook.deliver'";
        let (pause, usual) = (
            fixture.count(pause).await,
            [10, 300, 90][usize::try_from(attempts - 1).unwrap()],
        );
        assert!(
            (usual - 5..=usual).contains(&pause),
            "attempt {attempts}: {pause} s"
        );
        fixture.skip_pauses().await;
        let again = receiver.next().await;
        assert_eq!(again.header("tancho-delivery"), first.header("tancho-delivery"));
        assert_eq!(again.body, first.body);
        again.assert_signed(SECRET);
    }
    let shown = fixture.wait_for_delivery("team.update", "delivered").await;
    let statuses: Vec<&Value> = shown["Attempts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|a| &a["Status"])
        .collect();
    assert_eq!(statuses, [500, 429, 302, 200]);
    assert!(
        shown["Attempts"][2]["Error"]
            .as_str()
            .unwrap()
            .contains("redirect"),
        "{shown}"
    );
    receiver.assert_silent();
    fixture.close().await;
}

#[tokio::test]
async fn delivery_fails_after_six_attempts() {
    let fixture = WebhookFixture::new().await;
    let mut receiver = WebhookReceiver::start().await;
    (0..7).for_each(|_| receiver.plan(503, None));
    let more = json!({ "event_filter": { "kind_names": ["team.update"] } });
    fixture
        .create_hook("chat", &format!("{}/?k=canary", receiver.url), more)
        .await;
    fixture.change_tags("first").await;
    let mut shown = Value::Null;
    wait_until("the delivery has failed", async || {
        fixture.skip_pauses().await;
        let event = fixture.newest_event(&fixture.ana, "team.update").await;
        shown = event["CustomData"]["Other"]["Webhooks"][0].clone();
        shown["State"] == "failed"
    })
    .await;
    assert_eq!(shown["Attempts"].as_array().unwrap().len(), 6);
    assert!(!shown.to_string().contains("canary"), "{shown}");
    for _ in 0..6 {
        receiver.next().await;
    }
    receiver.assert_silent();
    fixture.close().await;
}

#[tokio::test]
async fn events_that_end_while_no_worker_runs_are_delivered_once_by_the_next() {
    let fixture = WebhookFixture::with(|settings| settings.roles = vec![ServerRole::Api]).await;
    let mut receiver = WebhookReceiver::start().await;
    let more = json!({ "event_filter": { "kind_names": ["team.update"] } });
    fixture.create_hook("chat", &receiver.url, more).await;
    for tag in ["a", "b", "c"] {
        fixture.change_tags(tag).await;
    }
    let waiting = "select count(*) from webhook_delivery where state = 'waiting'";
    assert_eq!(fixture.count(waiting).await, 3);
    // A delivery that a killed process was about to send.
    let (one, other) = (
        fixture.tancho.start_replica(|_| {}).await,
        fixture.tancho.start_replica(|_| {}).await,
    );
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(receiver.next().await.header("tancho-delivery").to_owned());
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 3);
    wait_until("all are delivered", async || {
        fixture
            .count("select count(*) from webhook_delivery where state = 'delivered'")
            .await
            == 3
    })
    .await;
    receiver.assert_silent();
    one.running.drain_and_stop().await;
    other.running.drain_and_stop().await;
    fixture.close().await;
}

#[tokio::test]
async fn delivery_is_unique_for_a_webhook_and_an_event() {
    let fixture = WebhookFixture::with(|settings| settings.roles = vec![ServerRole::Api]).await;
    fixture
        .create_hook("chat", "http://127.0.0.1:1/", json!({}))
        .await;
    let total = fixture.count("select count(*) from webhook_delivery").await;
    assert_eq!(total, 1, "the creation of a webhook is its first event");
    let again = sqlx::raw_sql(
        "insert into webhook_delivery (webhook_id, event_id, team_id, webhook_name)
         select webhook_id, event_id, team_id, webhook_name from webhook_delivery",
    );
    let refused = again.execute(&fixture.tancho.running.core.db).await.unwrap_err();
    assert!(
        refused.to_string().contains("webhook_delivery_event_key"),
        "{refused}"
    );
    fixture.close().await;
}

#[tokio::test]
async fn private_addresses_are_never_called_by_webhooks_or_their_proxies() {
    let fixture =
        WebhookFixture::with(|settings| settings.services.allow_private_addresses = AutoFlag::No).await;
    let mut receiver = WebhookReceiver::start().await;
    let port = receiver.url.rsplit(':').next().unwrap().to_owned();
    let filter = json!({ "kind_names": ["team.update"] });
    let (far, named) = ("http://8.8.8.8/", format!("http://localhost:{port}/"));
    let cases: [(&str, &str, &str); 7] = [
        ("literal", &receiver.url, ""),
        ("decimal", &format!("http://2130706433:{port}/"), ""),
        ("named", &named, ""),
        ("mapped", &format!("http://[::ffff:127.0.0.1]:{port}/"), ""),
        ("proxied", far, &receiver.url),
        ("proxied-private", "http://192.0.2.1/", "http://8.8.8.8:3128"),
        ("named-proxy", far, &named),
    ];
    for (name, url, proxy) in cases {
        let more = json!({ "event_filter": filter, "proxy_url": proxy, "insecure": true });
        fixture.create_hook(name, url, more).await;
    }
    fixture.change_tags("first").await;
    wait_until("all have failed", async || {
        fixture
            .count("select count(*) from webhook_delivery where state = 'failed'")
            .await
            == 7
    })
    .await;
    let event = fixture.newest_event(&fixture.ana, "team.update").await;
    for delivery in event["CustomData"]["Other"]["Webhooks"].as_array().unwrap() {
        let attempts = delivery["Attempts"].as_array().unwrap();
        assert_eq!(attempts.len(), 1, "{delivery}");
        assert!(
            attempts[0]["Error"].as_str().unwrap().contains("private address"),
            "{delivery}"
        );
    }
    receiver.assert_silent();
    fixture.close().await;
}

#[tokio::test]
async fn request_is_sent_through_the_proxy_of_the_webhook() {
    let fixture = WebhookFixture::new().await;
    let mut proxy = WebhookReceiver::start().await;
    let more = json!({ "event_filter": { "kind_names": ["team.update"] }, "proxy_url": proxy.url });
    fixture
        .create_hook("chat", "http://receiver.invalid/in", more)
        .await;
    fixture.change_tags("first").await;
    let hook = proxy.next().await;
    assert_eq!(hook.uri, "http://receiver.invalid/in");
    hook.assert_signed(SECRET);
    fixture.wait_for_delivery("team.update", "delivered").await;
    fixture.close().await;
}

#[tokio::test]
async fn hanging_receiver_delays_only_its_own_deliveries() {
    let fixture =
        WebhookFixture::with(|settings| settings.services.call_timeout = Duration::from_secs(120)).await;
    let (hanging, mut healthy) = (WebhookReceiver::start().await, WebhookReceiver::start().await);
    (0..100).for_each(|_| hanging.plan(0, None));
    let filter = json!({ "event_filter": { "kind_names": ["team.update"] } });
    fixture.create_hook("hanging", &hanging.url, filter.clone()).await;
    for n in 0..40 {
        fixture.change_tags(&format!("t{n}")).await;
    }
    wait_until("the hanging receiver has its share", async || {
        fixture
            .count("select count(*) from webhook_delivery where state = 'sending'")
            .await
            == 16
    })
    .await;
    // Of the same user and team, and of others.
    fixture.create_hook("healthy", &healthy.url, filter).await;
    fixture.change_tags("last").await;
    assert_eq!(
        healthy.next().await.json()["CustomData"]["Start"]["tags"],
        json!(["last"])
    );
    let waiting =
        "select count(*) from webhook_delivery where state = 'waiting' and webhook_name = 'hanging'";
    assert_eq!(fixture.count(waiting).await, 25);
    fixture.close().await;
}

#[tokio::test]
async fn deliveries_beyond_the_limit_are_dropped_with_a_reason() {
    let fixture = WebhookFixture::with(|settings| settings.roles = vec![ServerRole::Api]).await;
    fixture
        .create_hook("chat", "http://127.0.0.1:1/", json!({}))
        .await;
    fixture
        .sql(
            "insert into event (event_id, target_kind, target_value, kind, owner_kind, owner_name)
             select lpad(to_hex(n), 24, '0'), 'team', 'red', 'team.update', 'user', 'nobody' from generate_series(1, 999) n;
             insert into webhook_delivery (webhook_id, event_id, team_id, webhook_name)
             select w.webhook_id, e.event_id, w.team_id, w.name from webhook w, event e where e.owner_name = 'nobody'",
        )
        .await;
    fixture.change_tags("one-more").await;
    let event = fixture
        .get(
            &fixture.ana,
            "/1.1/events?kindname=team.update&running=false&limit=1",
        )
        .await
        .json();
    let path = format!("/1.1/events/{}", event[0]["UniqueID"].as_str().unwrap());
    let shown = fixture.get(&fixture.ana, &path).await.json()["CustomData"]["Other"]["Webhooks"][0].clone();
    assert_eq!(shown["State"], "dropped");
    assert!(shown["Error"].as_str().unwrap().contains("Too many"), "{shown}");
    fixture.close().await;
}

#[tokio::test]
async fn deleted_webhook_leaves_nothing_to_be_delivered() {
    let fixture = WebhookFixture::new().await;
    let mut receiver = WebhookReceiver::start().await;
    receiver.plan(500, None);
    let more = json!({ "event_filter": { "kind_names": ["team.update"] } });
    fixture.create_hook("chat", &receiver.url, more).await;
    fixture.change_tags("first").await;
    receiver.next().await;
    wait_until("the attempt is recorded", async || {
        fixture
            .count("select count(*) from webhook_delivery where attempts <> '[]'")
            .await
            == 1
    })
    .await;
    fixture
        .send(&fixture.ana, &format!("DELETE {HOOKS}/chat"), Value::Null)
        .await
        .expect_status(200);
    assert_eq!(fixture.count("select count(*) from webhook_delivery").await, 0);
    wait_until("the saga has ended", async || {
        fixture.skip_pauses().await;
        fixture
            .count("select count(*) from saga where kind = 'webhook.deliver' and ended_at is null")
            .await
            == 0
    })
    .await;
    receiver.assert_silent();
    fixture.close().await;
}

#[tokio::test]
async fn deliveries_are_deleted_with_their_event() {
    let fixture = WebhookFixture::with(|settings| {
        settings.roles = vec![ServerRole::Api];
        settings.events.keep_days = 40;
    })
    .await;
    fixture
        .create_hook("chat", "http://127.0.0.1:1/", json!({}))
        .await;
    fixture
        .sql(
            "insert into event (event_id, target_kind, target_value, kind, owner_kind, owner_name, started_at, ended_at, outcome)
             values ('000000000000000000000001', 'team', 'red', 'team.update', 'user', 'nobody', now() - interval '50 days',
                     now() - interval '50 days', 'done');
             insert into webhook_delivery (webhook_id, event_id, team_id, webhook_name, state, ended_at)
             select webhook_id, '000000000000000000000001', team_id, name, 'delivered', now() from webhook;
             select event_expire(40, 10)",
        )
        .await;
    assert_eq!(
        fixture
            .count("select count(*) from webhook_delivery where state = 'delivered'")
            .await,
        0
    );
    assert_eq!(fixture.count("select count(*) from webhook_delivery").await, 1);
    fixture.close().await;
}
