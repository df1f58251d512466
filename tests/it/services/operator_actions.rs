//! Orphans and stuck sagas, which operators list and resolve.

use super::*;

const NEW: &str = r#"{"name":"my-db","service_name":"mysql"}"#;

/// Starts a fixture with an administrator, service timeouts of two seconds and no circuit breaker.
async fn start_with_admin() -> ServiceFixture {
    let fixture = ServiceFixture::with(|settings| {
        settings.services.call_timeout = Duration::from_secs(2);
        settings.services.breaker_failures = 100_000;
    })
    .await;
    fixture.user("root", &[("AllowAll", "")]).await;
    fixture
}

impl ServiceFixture {
    /// Returns a list of the operator's API, as JSON.
    async fn list(&self, what: &str) -> Vec<Value> {
        let (status, text) = self
            .send_request("root", "GET", &format!("/1.0/{what}"), "")
            .await;
        assert_eq!(status, 200, "{text}");
        parsed(&text).as_array().unwrap().clone()
    }

    async fn change(&self, what: &str, thing: &Value, verb: &str) -> (StatusCode, String) {
        let path = format!("/1.0/{what}/{}/{verb}", thing["id"].as_str().unwrap());
        let (status, text) = self.send_request("ana", "POST", &path, "").await;
        assert_eq!(status, 403, "only for operators: {text}");
        self.send_request("root", "POST", &path, "").await
    }

    /// Like `change`, as soon as nothing else holds the lock.
    async fn change_when_idle(&self, what: &str, thing: &Value, verb: &str) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        loop {
            let (status, text) = self.change(what, thing, verb).await;
            if status == 204 {
                return;
            }
            assert!(
                matches!(status.as_u16(), 409 | 500) && tokio::time::Instant::now() < deadline,
                "{verb}: {status} {text}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Postpones all wake-up times by an hour.
    async fn postpone_wakeups(&self) {
        self.wait_for_rows("orphan where claimed_until is not null and ended_at is null", 0)
            .await;
        sqlx::query("update orphan set wake_at = now() + interval '1 hour' where ended_at is null")
            .execute(self.db())
            .await
            .unwrap();
    }

    async fn events(&self, kind: &str) -> i64 {
        self.count(&format!(
            "event where kind = '{kind}' and owner_name = 'root@example.com' and outcome = 'done'"
        ))
        .await
    }
}

#[tokio::test]
async fn orphans_can_be_listed_retried_and_given_up() {
    let flask = ServiceProcess::start("today.py");
    let fixture = start_with_admin().await;
    fixture.app("shop", "red").await;
    fixture.service("mysql", &flask).await;
    fixture.request_ok("POST", "/services/instances", NEW).await;
    // Its responses get lost.
    flask.fail(json!({"mode": "cut", "method": "DELETE"})).await;
    let (status, _) = fixture
        .send_request("ana", "DELETE", "/services/instances/my-db", "")
        .await;
    assert_eq!(status, 500);
    fixture.wait_for_rows("event where ended_at is null", 0).await;
    let list = fixture.list("orphans").await;
    assert_eq!(list.len(), 1, "{list:?}");
    assert_eq!(
        (&list[0]["service"], &list[0]["instance"]),
        (&json!("mysql"), &json!("my-db"))
    );
    // Both editions show it, and so does the healer, to the operator only.
    for path in ["/services/instances/my-db", "/1.0/services/mysql/instances/my-db"] {
        let info = parsed(&fixture.request_ok("GET", path, "").await);
        let reason = info["Reason"].as_str().unwrap();
        assert!(
            info["State"] == "error" && reason.contains("The service mysql closed the connection"),
            "{info}"
        );
        assert_eq!(info["Unconfirmed"][0]["Kind"], "instance", "{info}");
    }
    let (_, text) = fixture.send_request("root", "GET", "/healers/orphans", "").await;
    assert!(
        text.contains("mysql may still hold the instance my-db; "),
        "{text}"
    );
    let text = fixture.request_ok("GET", "/healers/orphans", "").await;
    assert!(!text.contains("my-db"), "{text}");
    // Retried immediately, though its wake-up time is far off.
    fixture.postpone_wakeups().await;
    flask.fail(json!({})).await;
    fixture.change_when_idle("orphans", &list[0], "retry").await;
    fixture.wait_for_rows("service_instance", 0).await;
    fixture.wait_until_settled().await;
    assert_eq!(flask.get("/__state").await["instances"], json!({}));
    let (status, text) = fixture.change("orphans", &list[0], "retry").await;
    assert_eq!(status, 404, "{text}");
    // Given up: removed here, whatever the service has.
    fixture.request_ok("POST", "/services/instances", NEW).await;
    flask.fail(json!({"mode": "500", "method": "DELETE"})).await;
    let (status, _) = fixture
        .send_request("ana", "DELETE", "/services/instances/my-db", "")
        .await;
    assert_eq!(status, 500);
    fixture.postpone_wakeups().await;
    let list = fixture.list("orphans").await;
    fixture.change_when_idle("orphans", &list[0], "give-up").await;
    assert_eq!(fixture.count("service_instance").await, 0);
    fixture.wait_until_settled().await;
    assert!(flask.get("/__state").await["instances"].get("my-db").is_some());
    assert_eq!(fixture.list("orphans").await.len(), 0);
    assert_eq!(
        (
            fixture.events("orphan.retry").await,
            fixture.events("orphan.give-up").await
        ),
        (1, 1)
    );
    fixture.end().await;
}

#[tokio::test]
async fn giving_up_an_unbind_removes_the_bind_and_its_variables() {
    let flask = ServiceProcess::start("today.py");
    let fixture = start_with_admin().await;
    fixture.app("shop", "red").await;
    fixture.service("mysql", &flask).await;
    fixture.request_ok("POST", "/services/instances", NEW).await;
    fixture
        .request_ok("PUT", "/services/instances/my-db/shop", "")
        .await;
    flask
        .fail(json!({"mode": "cut", "method": "DELETE", "path": "/bind-app"}))
        .await;
    let (status, _) = fixture
        .send_request("ana", "DELETE", "/services/instances/my-db/shop", "")
        .await;
    assert_eq!(status, 500);
    fixture.postpone_wakeups().await;
    let info = parsed(&fixture.request_ok("GET", "/services/instances/my-db", "").await);
    assert!(
        info["State"] == "pending" && info["Unconfirmed"][0]["App"] == "shop",
        "{info}"
    );
    let list = fixture.list("orphans").await;
    fixture.change_when_idle("orphans", &list[0], "give-up").await;
    fixture.wait_for_rows("bind", 0).await;
    fixture.wait_until_settled().await;
    assert_eq!(fixture.count("bind_env").await, 0);
    let info = parsed(&fixture.request_ok("GET", "/services/instances/my-db", "").await);
    assert!(
        info["State"] == "ready" && info["Unconfirmed"] == json!([]),
        "{info}"
    );
    fixture.end().await;
}

/// Inserts a saga whose undo has failed for good; it has its instance.
async fn insert_stuck_saga(fixture: &ServiceFixture, instance: &str) -> Value {
    let id = Uuid::now_v7();
    sqlx::query(
        "insert into service_instance (instance_id, service_id, name, team_owner)
         select $1, service_id, $2, 'red' from service",
    )
    .bind(id)
    .bind(instance)
    .execute(fixture.db())
    .await
    .unwrap();
    let event = format!("{:024x}", id.as_u128() >> 32);
    sqlx::query(
        "insert into event (event_id, target_kind, target_value, kind, owner_kind, owner_name, ended_at, outcome)
         values ($1, 'service-instance', 'mysql/' || $2, 'service-instance.create', 'user', 'ana@example.com', now(), 'failed')",
    )
    .bind(&event)
    .bind(instance)
    .execute(fixture.db())
    .await
    .unwrap();
    sqlx::query(
        "insert into saga (saga_id, kind, queue, step, event_id, data, state, attempts, error_kind, error, last_error, ended_at)
         values ($1, 'service-instance.create', 'interactive', 'call-service', $2, $3, 'stuck', 300, 'failed', 'no room', 'call: no answer', now())",
    )
    .bind(id)
    .bind(event)
    .bind(json!({"instance": id, "heard": "never"}))
    .execute(fixture.db())
    .await
    .unwrap();
    json!({ "id": id })
}

#[tokio::test]
async fn stuck_saga_can_be_retried_and_given_up() {
    let flask = ServiceProcess::start("today.py");
    let fixture = start_with_admin().await;
    fixture.service("mysql", &flask).await;
    let (one, two) = (
        insert_stuck_saga(&fixture, "one").await,
        insert_stuck_saga(&fixture, "two").await,
    );
    let list = fixture.list("sagas").await;
    assert_eq!(list.len(), 2, "{list:?}");
    for (key, wanted) in [
        ("state", "stuck"),
        ("error", "no room"),
        ("last", "call: no answer"),
    ] {
        assert_eq!(list[0][key], wanted, "{list:?}");
    }
    assert_eq!(
        list[0]["target"],
        json!({"kind": "service-instance", "value": "mysql/one"})
    );
    let (_, text) = fixture.send_request("root", "GET", "/healers/leases", "").await;
    assert!(
        text.contains("of service-instance mysql/one") && text.contains("waits for an operator"),
        "{text}"
    );
    // Refused while another event holds the lock of its target.
    sqlx::query("insert into event_lock select 'service-instance', 'mysql/one', event_id from event limit 1")
        .execute(fixture.db())
        .await
        .unwrap();
    let (status, text) = fixture.change("sagas", &one, "retry").await;
    assert!(status == 500 && text.contains("event locked"), "{status} {text}");
    sqlx::query("delete from event_lock")
        .execute(fixture.db())
        .await
        .unwrap();
    let (status, text) = fixture.change("sagas", &one, "retry").await;
    assert_eq!(status, 204, "{text}");
    fixture
        .wait_for_rows("service_instance where name = 'one'", 0)
        .await;
    fixture.wait_for_rows("event where ended_at is null", 0).await;
    assert_eq!(
        fixture
            .count("event where kind = 'saga.retry' and owner_name = 'root@example.com'")
            .await,
        1
    );
    let (status, text) = fixture.change("sagas", &two, "give-up").await;
    assert_eq!(status, 204, "{text}");
    assert_eq!(fixture.list("sagas").await.len(), 0);
    assert_eq!(
        fixture.count("service_instance where name = 'two'").await,
        1,
        "it is unchanged"
    );
    assert_eq!(fixture.events("saga.give-up").await, 1);
    let (status, _) = fixture.change("sagas", &two, "retry").await;
    assert_eq!(status, 404);
    fixture.end().await;
}

#[tokio::test]
async fn given_up_undo_is_attempted_once_more() {
    let flask = ServiceProcess::start("today.py");
    let fixture = start_with_admin().await;
    fixture.service("mysql", &flask).await;
    let saga = insert_stuck_saga(&fixture, "one").await;
    // Its undo keeps failing: its stored data cannot be decoded as this kind's.
    sqlx::query(
        "update saga set state = 'undoing', ended_at = null, event_id = null, wake_at = now() + interval '1 hour', data = '{}'",
    )
    .execute(fixture.db())
    .await
    .unwrap();
    let list = fixture.list("sagas").await;
    assert_eq!(
        (&list[0]["state"], &list[0]["tries"]),
        (&json!("undoing"), &json!(300))
    );
    let (status, text) = fixture.change("sagas", &saga, "give-up").await;
    assert_eq!(status, 204, "{text}");
    fixture.wait_for_rows("saga where state = 'stuck'", 1).await;
    assert_eq!(fixture.list("sagas").await.len(), 0);
    fixture.end().await;
}
