//! What does not end by itself, in the eyes and hands of an operator.

use super::*;

const NEW: &str = r#"{"name":"my-db","service_name":"mysql"}"#;

/// A scene with an administrator, whose services have two seconds, and no breaker in the way.
async fn scene() -> Scene {
    let scene = Scene::with(|settings| {
        settings.services.timeout = Duration::from_secs(2);
        settings.services.breaker_failures = 100_000;
    })
    .await;
    scene.user("root", &[("AllowAll", "")]).await;
    scene
}

impl Scene {
    /// A list of the operator's, as JSON.
    async fn list(&self, what: &str) -> Vec<Value> {
        let (status, text) = self.ask("root", "GET", &format!("/1.0/{what}"), "").await;
        assert_eq!(status, 200, "{text}");
        parsed(&text).as_array().unwrap().clone()
    }

    async fn change(&self, what: &str, thing: &Value, verb: &str) -> (StatusCode, String) {
        let path = format!("/1.0/{what}/{}/{verb}", thing["id"].as_str().unwrap());
        let (status, text) = self.ask("ana", "POST", &path, "").await;
        assert_eq!(status, 403, "only for operators: {text}");
        self.ask("root", "POST", &path, "").await
    }

    /// As `change`, as soon as nothing else is at work there.
    async fn changed(&self, what: &str, thing: &Value, verb: &str) {
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

    /// Nobody comes by for an hour.
    async fn far_off(&self) {
        self.until("orphan where claimed_until is not null and ended_at is null", 0)
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
async fn what_a_service_has_lost_is_seen_tried_again_and_given_up() {
    let flask = Flask::start("today.py");
    let scene = scene().await;
    scene.app("shop", "red").await;
    scene.service("mysql", &flask).await;
    scene.ok("POST", "/services/instances", NEW).await;
    // Its answers get lost.
    flask.fail(json!({"mode": "cut", "method": "DELETE"})).await;
    let (status, _) = scene.ask("ana", "DELETE", "/services/instances/my-db", "").await;
    assert_eq!(status, 500);
    scene.until("event where ended_at is null", 0).await;
    let list = scene.list("orphans").await;
    assert_eq!(list.len(), 1, "{list:?}");
    assert_eq!(
        (&list[0]["service"], &list[0]["instance"]),
        (&json!("mysql"), &json!("my-db"))
    );
    // Both editions show it, and so does the healer, to the operator only.
    for path in ["/services/instances/my-db", "/1.0/services/mysql/instances/my-db"] {
        let info = parsed(&scene.ok("GET", path, "").await);
        let reason = info["Reason"].as_str().unwrap();
        assert!(
            info["State"] == "error" && reason.contains("The service mysql broke off"),
            "{info}"
        );
        assert_eq!(info["Unconfirmed"][0]["What"], "instance", "{info}");
    }
    let (_, text) = scene.ask("root", "GET", "/healers/orphans", "").await;
    assert!(
        text.contains("mysql may still hold the instance my-db; told"),
        "{text}"
    );
    let text = scene.ok("GET", "/healers/orphans", "").await;
    assert!(!text.contains("my-db"), "{text}");
    // Tried again at once, though its time is far off.
    scene.far_off().await;
    flask.fail(json!({})).await;
    scene.changed("orphans", &list[0], "retry").await;
    scene.until("service_instance", 0).await;
    scene.settled().await;
    assert_eq!(flask.get("/__state").await["instances"], json!({}));
    let (status, text) = scene.change("orphans", &list[0], "retry").await;
    assert_eq!(status, 404, "{text}");
    // Given up: gone here, whatever the service holds.
    scene.ok("POST", "/services/instances", NEW).await;
    flask.fail(json!({"mode": "500", "method": "DELETE"})).await;
    let (status, _) = scene.ask("ana", "DELETE", "/services/instances/my-db", "").await;
    assert_eq!(status, 500);
    scene.far_off().await;
    let list = scene.list("orphans").await;
    scene.changed("orphans", &list[0], "give-up").await;
    assert_eq!(scene.count("service_instance").await, 0);
    scene.settled().await;
    assert!(flask.get("/__state").await["instances"].get("my-db").is_some());
    assert_eq!(scene.list("orphans").await.len(), 0);
    assert_eq!(
        (
            scene.events("orphan.retry").await,
            scene.events("orphan.give-up").await
        ),
        (1, 1)
    );
    scene.end().await;
}

#[tokio::test]
async fn a_bind_whose_end_is_given_up_goes_with_its_variables() {
    let flask = Flask::start("today.py");
    let scene = scene().await;
    scene.app("shop", "red").await;
    scene.service("mysql", &flask).await;
    scene.ok("POST", "/services/instances", NEW).await;
    scene.ok("PUT", "/services/instances/my-db/shop", "").await;
    flask
        .fail(json!({"mode": "cut", "method": "DELETE", "path": "/bind-app"}))
        .await;
    let (status, _) = scene
        .ask("ana", "DELETE", "/services/instances/my-db/shop", "")
        .await;
    assert_eq!(status, 500);
    scene.far_off().await;
    let info = parsed(&scene.ok("GET", "/services/instances/my-db", "").await);
    assert!(
        info["State"] == "pending" && info["Unconfirmed"][0]["App"] == "shop",
        "{info}"
    );
    let list = scene.list("orphans").await;
    scene.changed("orphans", &list[0], "give-up").await;
    scene.until("bind", 0).await;
    scene.settled().await;
    assert_eq!(scene.count("bind_env").await, 0);
    let info = parsed(&scene.ok("GET", "/services/instances/my-db", "").await);
    assert!(
        info["State"] == "ready" && info["Unconfirmed"] == json!([]),
        "{info}"
    );
    scene.end().await;
}

/// A saga as it is when its undo has failed for good; it knows its instance.
async fn stuck(scene: &Scene, instance: &str) -> Value {
    let id = Uuid::now_v7();
    sqlx::query(
        "insert into service_instance (instance_id, service_id, name, team_owner)
         select $1, service_id, $2, 'red' from service",
    )
    .bind(id)
    .bind(instance)
    .execute(scene.db())
    .await
    .unwrap();
    let event = format!("{:024x}", id.as_u128() >> 32);
    sqlx::query(
        "insert into event (event_id, target_kind, target_value, kind, owner_kind, owner_name, ended_at, outcome)
         values ($1, 'service-instance', 'mysql/' || $2, 'service-instance.create', 'user', 'ana@example.com', now(), 'failed')",
    )
    .bind(&event)
    .bind(instance)
    .execute(scene.db())
    .await
    .unwrap();
    sqlx::query(
        "insert into saga (saga_id, kind, lane, event_id, data, state, attempts, problem_kind, problem, last_problem, ended_at)
         values ($1, 'service-instance.create', 'people', $2, $3, 'stuck', 300, 'failed', 'no room', 'call: no answer', now())",
    )
    .bind(id)
    .bind(event)
    .bind(json!({"instance": id, "heard": "never"}))
    .execute(scene.db())
    .await
    .unwrap();
    json!({ "id": id })
}

#[tokio::test]
async fn a_stuck_saga_is_tried_again_and_put_aside() {
    let flask = Flask::start("today.py");
    let scene = scene().await;
    scene.service("mysql", &flask).await;
    let (one, two) = (stuck(&scene, "one").await, stuck(&scene, "two").await);
    let list = scene.list("sagas").await;
    assert_eq!(list.len(), 2, "{list:?}");
    for (key, wanted) in [
        ("state", "stuck"),
        ("problem", "no room"),
        ("last", "call: no answer"),
    ] {
        assert_eq!(list[0][key], wanted, "{list:?}");
    }
    assert_eq!(
        list[0]["target"],
        json!({"kind": "service-instance", "value": "mysql/one"})
    );
    let (_, text) = scene.ask("root", "GET", "/healers/leases", "").await;
    assert!(
        text.contains("of service-instance mysql/one") && text.contains("waits for an operator"),
        "{text}"
    );
    // Not while somebody else is at work on what it is about.
    sqlx::query("insert into event_lock select 'service-instance', 'mysql/one', event_id from event limit 1")
        .execute(scene.db())
        .await
        .unwrap();
    let (status, text) = scene.change("sagas", &one, "retry").await;
    assert!(status == 500 && text.contains("event locked"), "{status} {text}");
    sqlx::query("delete from event_lock")
        .execute(scene.db())
        .await
        .unwrap();
    let (status, text) = scene.change("sagas", &one, "retry").await;
    assert_eq!(status, 204, "{text}");
    scene.until("service_instance where name = 'one'", 0).await;
    scene.until("event where ended_at is null", 0).await;
    assert_eq!(
        scene
            .count("event where kind = 'saga.retry' and owner_name = 'root@example.com'")
            .await,
        1
    );
    let (status, text) = scene.change("sagas", &two, "give-up").await;
    assert_eq!(status, 204, "{text}");
    assert_eq!(scene.list("sagas").await.len(), 0);
    assert_eq!(
        scene.count("service_instance where name = 'two'").await,
        1,
        "nothing is done to it"
    );
    assert_eq!(scene.events("saga.give-up").await, 1);
    let (status, _) = scene.change("sagas", &two, "retry").await;
    assert_eq!(status, 404);
    scene.end().await;
}

#[tokio::test]
async fn an_undo_that_is_given_up_is_tried_once_more() {
    let flask = Flask::start("today.py");
    let scene = scene().await;
    scene.service("mysql", &flask).await;
    let saga = stuck(&scene, "one").await;
    // Its undo goes on failing: what it has written down is no data of its kind.
    sqlx::query(
        "update saga set state = 'undoing', ended_at = null, event_id = null, wake_at = now() + interval '1 hour', data = '{}'",
    )
    .execute(scene.db())
    .await
    .unwrap();
    let list = scene.list("sagas").await;
    assert_eq!(
        (&list[0]["state"], &list[0]["tries"]),
        (&json!("undoing"), &json!(300))
    );
    let (status, text) = scene.change("sagas", &saga, "give-up").await;
    assert_eq!(status, 204, "{text}");
    scene.until("saga where state = 'stuck'", 1).await;
    assert_eq!(scene.list("sagas").await.len(), 0);
    scene.end().await;
}
