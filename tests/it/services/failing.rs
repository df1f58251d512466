//! Each call failing in each way leaves no partial state.

use tancho::kernel::ids::AppId;
use tancho::sagas::{Saga, SagaRegistry, SagaRunner, SagaStep, StepContext, StepError};

use super::*;

const NEW: &str = r#"{"name":"my-db","service_name":"mysql"}"#;

/// Starts a fixture with service timeouts of two seconds and no circuit breaker.
async fn start_with_short_timeouts() -> ServiceFixture {
    ServiceFixture::with(|settings| {
        settings.services.call_timeout = Duration::from_secs(2);
        settings.services.breaker_failures = 100_000;
    })
    .await
}

#[tokio::test]
async fn failed_create_leaves_no_instance_on_either_side() {
    let flask = ServiceProcess::start("today.py");
    let fixture = start_with_short_timeouts().await;
    fixture.service("mysql", &flask).await;
    for (mode, status, words) in [
        ("refuse", 500, "you must be joking\u{fffd} (code: 403)"),
        ("412", 412, "still warming up"),
        ("500", 500, "no space left (code: 500)"),
        (
            "hang",
            500,
            "The service mysql did not respond in time (POST /resources).",
        ),
        ("cut", 500, "The service mysql closed the connection"),
    ] {
        // With `hang` and `cut` the service does the work before it fails: the worst case.
        let done = matches!(mode, "hang" | "cut");
        flask
            .fail(json!({"mode": mode, "method": "POST", "do": done}))
            .await;
        let (got, text) = fixture
            .send_request("ana", "POST", "/services/instances", NEW)
            .await;
        assert_eq!(got, status, "{mode}: {text}");
        assert!(text.contains(words), "{mode}: {text}");
        assert_eq!(fixture.count("service_instance").await, 0, "{mode}");
        fixture.wait_until_settled().await;
        assert_eq!(flask.get("/__state").await["instances"], json!({}), "{mode}");
        let deletes = flask
            .calls()
            .await
            .iter()
            .filter(|c| c.starts_with("DELETE"))
            .count();
        assert_eq!(deletes > 0, done, "{mode}: a rejected create is not deleted");
    }
    flask.fail(json!({})).await;
    fixture.request_ok("POST", "/services/instances", NEW).await;
    fixture.end().await;
}

#[tokio::test]
async fn unreachable_service_is_reported_and_leaves_nothing_behind() {
    let flask = ServiceProcess::start("today.py");
    let fixture = start_with_short_timeouts().await;
    fixture.app("shop", "red").await;
    fixture.service("mysql", &flask).await;
    fixture.request_ok("POST", "/services/instances", NEW).await;
    fixture
        .request_ok("POST", "/services/instances", &*NEW.replace("my-db", "other"))
        .await;
    fixture
        .request_ok("PUT", "/services/instances/other/shop", "")
        .await;
    drop(flask);
    for (verb, path, body, call) in [
        (
            "POST",
            "/services/instances",
            r#"{"name":"new-db","service_name":"mysql"}"#,
            "POST /resources",
        ),
        (
            "PUT",
            "/services/instances/my-db/shop",
            "",
            "POST /resources/my-db/bind-app",
        ),
        (
            "DELETE",
            "/services/instances/other/shop",
            "",
            "DELETE /resources/other/bind-app",
        ),
        (
            "DELETE",
            "/services/instances/my-db",
            "",
            "DELETE /resources/my-db",
        ),
        (
            "GET",
            "/services/instances/other/status",
            "",
            "GET /resources/other/status",
        ),
        ("GET", "/services/mysql/plans", "", "GET /resources/plans"),
    ] {
        let (status, text) = fixture.send_request("ana", verb, path, body).await;
        let dead = format!("The service mysql cannot be reached ({call}).\n");
        assert_eq!((status.as_u16(), text), (500, dead), "{verb} {path}");
    }
    let info = parsed(&fixture.request_ok("GET", "/services/instances/other", "").await);
    assert_eq!((&info["Info"], &info["apps"]), (&json!(null), &json!(["shop"])));
    assert_eq!(fixture.count("bind where state = 'bound'").await, 1);
    assert_eq!(fixture.count("service_instance where name = 'new-db'").await, 0);
    let status = fixture
        .request_ok("GET", "/services/instances/my-db/status", "")
        .await;
    assert!(
        status.contains("being removed; last error: The service mysql cannot"),
        "{status}"
    );
    // Forced, both are removed here; the orphans stay.
    let base = "/1.0/services/mysql/instances";
    let text = fixture
        .request_ok(
            "DELETE",
            "/1.13/services/mysql/instances/other/apps/shop?force=true",
            "",
        )
        .await;
    assert!(!text.contains("\"Error\""), "{text}");
    let text = fixture
        .request_ok("DELETE", &format!("{base}/other?ignoreerrors=true"), "")
        .await;
    assert!(text.contains("successfully removed"), "{text}");
    assert_eq!(fixture.count("bind").await + fixture.count("bind_env").await, 0);
    assert_eq!(
        fixture
            .count("orphan where ended_at is null and kind = 'bind'")
            .await,
        1
    );
    assert_eq!(
        fixture
            .count("orphan where ended_at is null and kind = 'instance'")
            .await,
        2
    );
    let (status, text) = fixture
        .send_request(
            "ana",
            "POST",
            "/services/instances",
            NEW.replace("my-db", "other"),
        )
        .await;
    assert_eq!(status, 409, "the name of an orphan is blocked: {text}");
    fixture.end().await;
}

#[tokio::test]
async fn failed_bind_leaves_no_variables_and_no_bind() {
    let flask = ServiceProcess::start("today.py");
    let fixture = start_with_short_timeouts().await;
    fixture.app("shop", "red").await;
    fixture.service("mysql", &flask).await;
    fixture.request_ok("POST", "/services/instances", NEW).await;
    for (mode, done, status) in [
        ("refuse", false, 500),
        ("412", false, 412),
        ("500", true, 500),
        ("garbage", true, 500),
        ("hang", true, 500),
        ("cut", true, 500),
    ] {
        let how = json!({"mode": mode, "method": "POST", "path": "/bind-app", "do": done});
        flask.fail(how).await;
        let (got, text) = fixture
            .send_request("ana", "PUT", "/services/instances/my-db/shop", "")
            .await;
        assert_eq!(got, status, "{mode}: {text}");
        assert!(!text.contains("canary"), "{text}");
        fixture.wait_for_rows("bind", 0).await;
        fixture.wait_until_settled().await;
        let binds = flask.get("/__state").await["binds"]["my-db"].clone();
        assert!(binds.is_null() || binds == json!([]), "{mode}: {binds}");
    }
    let how = json!({"mode": "refuse", "method": "POST", "path": "/bind-app"});
    flask.fail(how).await;
    let path = "/1.13/services/mysql/instances/my-db/apps/shop";
    let (status, text) = fixture.send_request("ana", "PUT", path, "").await;
    assert_eq!(status, 200, "the stream has begun");
    let last: Value = parsed(text.trim_end().lines().last().unwrap());
    assert!(
        last["Error"].as_str().unwrap().contains("you must be joking"),
        "{text}"
    );
    flask.fail(json!({})).await;
    fixture
        .request_ok("PUT", "/services/instances/my-db/shop", "")
        .await;
    assert_eq!(fixture.count("bind_env").await, 3);
    fixture.end().await;
}

#[tokio::test]
async fn failed_unbind_is_undone_or_retried() {
    let flask = ServiceProcess::start("today.py");
    let fixture = start_with_short_timeouts().await;
    fixture.app("shop", "red").await;
    fixture.service("mysql", &flask).await;
    fixture.request_ok("POST", "/services/instances", NEW).await;
    for (mode, known) in [
        ("refuse", true),
        ("412", true),
        ("500", true),
        ("hang", false),
        ("cut", false),
    ] {
        fixture
            .request_ok("PUT", "/services/instances/my-db/shop", "")
            .await;
        let how = json!({"mode": mode, "method": "DELETE", "path": "/bind-app", "do": !known});
        flask.fail(how).await;
        let (status, text) = fixture
            .send_request("ana", "DELETE", "/services/instances/my-db/shop", "")
            .await;
        assert_eq!(status, if mode == "412" { 412 } else { 500 }, "{mode}: {text}");
        fixture.wait_for_rows("event where ended_at is null", 0).await;
        let state = if known { "bound" } else { "unbinding" };
        assert_eq!(
            fixture.count(&format!("bind where state = '{state}'")).await,
            1,
            "{mode}"
        );
        flask.fail(json!({})).await;
        if known {
            assert_eq!(fixture.count("bind_env").await, 3, "{mode}: unchanged");
            fixture
                .request_ok("DELETE", "/services/instances/my-db/shop", "")
                .await;
        }
        fixture.wait_for_rows("bind", 0).await;
        fixture.wait_until_settled().await;
        assert_eq!(flask.get("/__state").await["binds"]["my-db"], json!([]), "{mode}");
    }
    fixture.end().await;
}

#[tokio::test]
async fn failed_removal_shows_the_reason_and_finishes_once_the_service_confirms() {
    let flask = ServiceProcess::start("today.py");
    let fixture = start_with_short_timeouts().await;
    fixture.service("mysql", &flask).await;
    for (mode, hunted) in [("refuse", false), ("500", true), ("hang", true), ("cut", true)] {
        fixture.request_ok("POST", "/services/instances", NEW).await;
        flask.fail(json!({"mode": mode, "method": "DELETE"})).await;
        let (status, text) = fixture
            .send_request("ana", "DELETE", "/services/instances/my-db", "")
            .await;
        assert_eq!(status, 500, "{mode}: {text}");
        let state = if hunted { "removing" } else { "ready" };
        let row = format!("service_instance where state = '{state}' and reason <> ''");
        assert_eq!(fixture.count(&row).await, 1, "{mode}");
        flask.fail(json!({})).await;
        if !hunted {
            fixture
                .request_ok("DELETE", "/services/instances/my-db", "")
                .await;
        }
        fixture.wait_for_rows("service_instance", 0).await;
        fixture.wait_until_settled().await;
        assert_eq!(flask.get("/__state").await["instances"], json!({}), "{mode}");
    }
    fixture.end().await;
}

#[tokio::test]
async fn rejected_update_changes_nothing_and_an_unsupported_update_succeeds() {
    let flask = ServiceProcess::start("today.py");
    let old = ServiceProcess::start("y2014.py");
    let fixture = start_with_short_timeouts().await;
    fixture.service("mysql", &flask).await;
    fixture.service("old", &old).await;
    for service in ["mysql", "old"] {
        let body = format!(r#"{{"name":"{service}-db","service_name":"{service}"}}"#);
        fixture.request_ok("POST", "/services/instances", body).await;
    }
    flask.fail(json!({"mode": "500", "method": "PUT"})).await;
    let patch = r#"{"description":"new"}"#;
    let path = "/1.0/services/mysql/instances/mysql-db";
    let (status, text) = fixture.send_request("ana", "PUT", path, patch).await;
    assert_eq!(status, 500);
    assert!(text.contains("no space left"), "{text}");
    assert_eq!(
        fixture.count("service_instance where description = 'new'").await,
        0
    );
    // The path exists for other verbs: 405 is a rejection, too.
    let (status, text) = fixture
        .send_request("ana", "PUT", "/1.0/services/old/instances/old-db", patch)
        .await;
    assert_eq!((status.as_u16(), text.contains("405")), (500, true), "{text}");
    assert_eq!(
        fixture.count("service_instance where description = 'new'").await,
        0
    );
    flask
        .fail(json!({"mode": "answer", "method": "PUT", "status": 404, "body": ""}))
        .await;
    fixture.request_ok("PUT", path, patch).await;
    assert_eq!(
        fixture.count("service_instance where description = 'new'").await,
        1
    );
    fixture.wait_until_settled().await;
    fixture.end().await;
}

/// Inserts a saga as a process leaves it that died after recording that it would call.
async fn insert_crashed_saga(fixture: &ServiceFixture, kind: &str, step: &str, data: Value) {
    sqlx::query("insert into saga (saga_id, kind, queue, step, data) values ($1, $2, 'interactive', $3, $4)")
        .bind(Uuid::now_v7())
        .bind(kind)
        .bind(step)
        .bind(data)
        .execute(fixture.db())
        .await
        .unwrap();
}

#[tokio::test]
async fn interrupted_service_sagas_are_finished() {
    let flask = ServiceProcess::start("today.py");
    let fixture = start_with_short_timeouts().await;
    let app = fixture.app("shop", "red").await;
    fixture.service("mysql", &flask).await;
    fixture.request_ok("POST", "/services/instances", NEW).await;
    // The service has the first, and never received the second.
    for name in ["my-db", "unheard"] {
        let id = Uuid::now_v7();
        sqlx::query("delete from service_instance where name = $1")
            .bind(name)
            .execute(fixture.db())
            .await
            .unwrap();
        sqlx::query(
            "insert into service_instance (instance_id, service_id, name, team_owner)
             select $1, service_id, $2, 'red' from service",
        )
        .bind(id)
        .bind(name)
        .execute(fixture.db())
        .await
        .unwrap();
        sqlx::query("insert into service_instance_team (instance_id, team) values ($1, 'red')")
            .bind(id)
            .execute(fixture.db())
            .await
            .unwrap();
        insert_crashed_saga(
            &fixture,
            "service-instance.create",
            "call-service",
            json!({"instance": id, "heard": "sent"}),
        )
        .await;
        fixture
            .wait_for_rows(
                &format!("service_instance where name = '{name}' and state = 'ready'"),
                1,
            )
            .await;
        assert!(flask.get("/__state").await["instances"].get(name).is_some());

        let bind = Uuid::now_v7();
        sqlx::query("insert into bind (bind_id, instance_id, app_id) values ($1, $2, $3)")
            .bind(bind)
            .bind(id)
            .bind(app)
            .execute(fixture.db())
            .await
            .unwrap();
        let rollout = json!({"apps": [app], "created": false, "promoted": false, "releases": []});
        insert_crashed_saga(
            &fixture,
            "app.bind",
            "call-service",
            json!({"bind": bind, "user": "", "heard": "sent", "rollout": rollout}),
        )
        .await;
        fixture.wait_for_rows("bind where state = 'bound'", 1).await;
        fixture
            .request_ok("DELETE", &format!("/services/instances/{name}/shop"), "")
            .await;
    }
    fixture.wait_until_settled().await;
    fixture.end().await;
}

/// A saga like an app's removal: its only step unbinds everything.
struct RemoveApp(tancho::core::Core);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct UnbindStep;

impl SagaStep for UnbindStep {
    const ALL: &'static [Self] = &[Self];

    fn name(self) -> &'static str {
        "unbind"
    }
}

#[async_trait::async_trait]
impl Saga for RemoveApp {
    const KIND: &'static str = "test.remove-app";
    type Step = UnbindStep;
    type Data = Uuid;

    async fn run_step(&self, _step: UnbindStep, app: &mut Uuid, ctx: &StepContext) -> Result<(), StepError> {
        tancho::services::unbind_all_instances(&self.0, ctx, AppId(*app)).await
    }

    async fn undo_step(
        &self,
        _step: UnbindStep,
        _app: &mut Uuid,
        _ctx: &StepContext,
    ) -> Result<(), StepError> {
        Ok(())
    }
}

#[tokio::test]
async fn app_removal_unbinds_every_service_despite_an_unreachable_one() {
    let flask = ServiceProcess::start("today.py");
    let dead = ServiceProcess::start("today.py");
    let fixture = start_with_short_timeouts().await;
    let app = fixture.app("shop", "red").await;
    fixture.service("mysql", &flask).await;
    fixture.service("dead", &dead).await;
    // Two services must not return the same names.
    let other = json!({ "OTHER": "x" }).to_string();
    let rule = json!({"mode": "answer", "method": "POST", "path": "/bind-app", "do": true, "body": other});
    dead.fail(rule).await;
    for (name, service) in [("my-db", "mysql"), ("dead-db", "dead")] {
        let body = format!(r#"{{"name":"{name}","service_name":"{service}"}}"#);
        fixture.request_ok("POST", "/services/instances", body).await;
        fixture
            .request_ok("PUT", &format!("/services/instances/{name}/shop"), "")
            .await;
    }
    drop(dead);
    let core = fixture.tancho.running.core.clone();
    let (db, notices, stop) = (core.db.clone(), core.notices.clone(), core.stop.clone());
    let registry = SagaRegistry::default().with_saga(RemoveApp(core.clone()));
    SagaRunner::new(db, notices, registry, "test", core.replica, stop).start_workers(&core.tasks);
    insert_crashed_saga(&fixture, "test.remove-app", "unbind", json!(app)).await;
    fixture
        .wait_for_rows("saga where kind = 'test.remove-app' and state = 'done'", 1)
        .await;
    assert_eq!(fixture.count("bind").await + fixture.count("bind_env").await, 0);
    assert_eq!(flask.get("/__state").await["binds"]["my-db"], json!([]));
    assert_eq!(
        fixture
            .count("orphan where kind = 'bind' and ended_at is null")
            .await,
        1
    );
    fixture
        .request_ok("PUT", "/services/instances/my-db/shop", "")
        .await;
    fixture.end().await;
}

#[tokio::test]
async fn hanging_service_delays_only_its_own_calls() {
    let sick = ServiceProcess::start("today.py");
    let well = ServiceProcess::start("today.py");
    let fixture = ServiceFixture::with(|settings| {
        settings.services.call_timeout = Duration::from_secs(20);
        settings.services.concurrency_per_service = 2;
    })
    .await;
    fixture.service("sick", &sick).await;
    fixture.service("well", &well).await;
    sick.fail(json!({"mode": "hang"})).await;
    let request = |body: String| {
        let request = fixture.tancho.request(Method::POST, "/services/instances");
        request.bearer_auth("ana").body(body).send()
    };
    let hung: Vec<_> = (0..8)
        .map(|n| tokio::spawn(request(format!(r#"{{"name":"sick-{n}","service_name":"sick"}}"#))))
        .collect();
    fixture
        .wait_for_rows("service_instance where name like 'sick%'", 8)
        .await;
    let start = std::time::Instant::now();
    fixture
        .request_ok(
            "POST",
            "/services/instances",
            r#"{"name":"fine","service_name":"well"}"#,
        )
        .await;
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert!(hung.iter().all(|h| !h.is_finished()));
    sick.fail(json!({})).await;
    for hung in hung {
        hung.abort();
    }
    fixture.end().await;
}

#[tokio::test]
async fn cancelled_bind_is_undone_immediately_and_unbound_at_the_service_later() {
    let flask = ServiceProcess::start("today.py");
    let fixture = ServiceFixture::new().await;
    fixture.app("shop", "red").await;
    fixture.service("mysql", &flask).await;
    fixture.request_ok("POST", "/services/instances", NEW).await;
    flask
        .fail(json!({"mode": "hang", "path": "/bind-app", "method": "POST", "do": true}))
        .await;
    let request = fixture
        .tancho
        .request(Method::PUT, "/services/instances/my-db/shop");
    let bind = tokio::spawn(request.bearer_auth("ana").send());
    fixture
        .wait_for_rows("saga where kind = 'app.bind' and data ->> 'heard' = 'sent'", 1)
        .await;
    let id: String = sqlx::query_scalar("select event_id from event where ended_at is null")
        .fetch_one(fixture.db())
        .await
        .unwrap();
    let mut tx = fixture.db().begin().await.unwrap();
    let asked = tancho::events::request_cancel(&mut tx, &id.parse().unwrap(), "ana", "enough").await;
    assert!(asked.unwrap());
    tx.commit().await.unwrap();
    let answer = bind.await.unwrap().unwrap();
    assert_eq!(answer.status(), 409, "{}", answer.text().await.unwrap());
    fixture.wait_until_settled().await;
    assert_eq!(fixture.count("bind").await, 0);
    let binds = flask.get("/__state").await["binds"]["my-db"].clone();
    assert!(binds.is_null() || binds == json!([]), "{binds}");
    fixture.end().await;
}

#[tokio::test]
async fn info_of_a_hanging_service_takes_one_timeout_and_one_callers_slots() {
    let flask = ServiceProcess::start("today.py");
    let fixture = start_with_short_timeouts().await;
    fixture.service("mysql", &flask).await;
    for n in 0..20 {
        let new = NEW.replace("my-db", &format!("db-{n}"));
        fixture.request_ok("POST", "/services/instances", new).await;
    }
    flask.fail(json!({"mode": "hang", "method": "GET"})).await;
    let start = std::time::Instant::now();
    let info = parsed(&fixture.request_ok("GET", "/services/mysql", "").await);
    let took = start.elapsed();
    let info = info.as_array().unwrap();
    assert_eq!(info.len(), 20);
    assert!(info.iter().all(|i| i["Info"].is_null()), "{info:?}");
    // Two rounds of seven would take two timeouts of two seconds, all in sequence twenty-three.
    assert!(took >= Duration::from_millis(1900), "{took:?}");
    assert!(took < Duration::from_millis(3900), "{took:?}");
    let calls = flask.calls().await;
    let asked = calls
        .iter()
        .filter(|c| c.starts_with("GET /resources/db-"))
        .count();
    // One of the eight slots is left to other callers.
    assert_eq!(asked, 7, "{calls:?}");
    flask.fail(json!({})).await;
    let info = parsed(&fixture.request_ok("GET", "/services/mysql", "").await);
    let told = info
        .as_array()
        .unwrap()
        .iter()
        .filter(|i| i["Info"]["Address"].is_string());
    assert_eq!(told.count(), 20);
    fixture.end().await;
}

#[tokio::test]
async fn removal_rejected_after_an_unconfirmed_one_keeps_the_instance_in_removal() {
    let flask = ServiceProcess::start("today.py");
    let fixture = start_with_short_timeouts().await;
    fixture.service("mysql", &flask).await;
    fixture.request_ok("POST", "/services/instances", NEW).await;
    let removing = "service_instance where state = 'removing' and reason <> ''";
    for mode in ["500", "refuse"] {
        flask.fail(json!({"mode": mode, "method": "DELETE"})).await;
        let (status, text) = fixture
            .send_request("ana", "DELETE", "/services/instances/my-db", "")
            .await;
        assert_eq!(status, 500, "{mode}: {text}");
        assert_eq!(fixture.count(removing).await, 1, "{mode}");
        assert_eq!(fixture.count("orphan where ended_at is null").await, 1, "{mode}");
    }
    flask.fail(json!({})).await;
    fixture.wait_for_rows("service_instance", 0).await;
    fixture.wait_until_settled().await;
    assert_eq!(flask.get("/__state").await["instances"], json!({}));
    fixture.end().await;
}
