//! Every call failing in every way leaves nothing half-done.

use tancho::kernel::ids::AppId;
use tancho::sagas::{Registry, Run, Runner, StepError};

use super::*;

const NEW: &str = r#"{"name":"my-db","service_name":"mysql"}"#;

/// A scene whose services have two seconds, and no breaker in the way.
async fn impatient() -> Scene {
    Scene::with(|settings| {
        settings.services.timeout = Duration::from_secs(2);
        settings.services.breaker_failures = 100_000;
    })
    .await
}

#[tokio::test]
async fn a_failed_create_leaves_nothing_here_and_nothing_there() {
    let flask = Flask::start("today.py");
    let scene = impatient().await;
    scene.service("mysql", &flask).await;
    for (mode, status, words) in [
        ("refuse", 500, "you must be joking  (code: 403)"),
        ("412", 412, "still warming up"),
        ("500", 500, "no space left (code: 500)"),
        (
            "hang",
            500,
            "The service mysql did not answer in time (POST /resources).",
        ),
        ("cut", 500, "The service mysql broke off"),
    ] {
        // What hangs and breaks off has done its work before: the worst case.
        let done = matches!(mode, "hang" | "cut");
        flask
            .fail(json!({"mode": mode, "method": "POST", "do": done}))
            .await;
        let (got, text) = scene.ask("ana", "POST", "/services/instances", NEW).await;
        assert_eq!(got, status, "{mode}: {text}");
        let words = words.trim_end_matches("(code: 403)").trim_end();
        assert!(text.contains(words), "{mode}: {text}");
        assert_eq!(scene.count("service_instance").await, 0, "{mode}");
        scene.settled().await;
        assert_eq!(flask.get("/__state").await["instances"], json!({}), "{mode}");
        let deletes = flask
            .calls()
            .await
            .iter()
            .filter(|c| c.starts_with("DELETE"))
            .count();
        assert_eq!(deletes > 0, done, "{mode}: what was refused is not destroyed");
    }
    flask.fail(json!({})).await;
    scene.ok("POST", "/services/instances", NEW).await;
    scene.end().await;
}

#[tokio::test]
async fn a_dead_service_is_told_about_in_a_sentence_and_nothing_is_left() {
    let flask = Flask::start("today.py");
    let scene = impatient().await;
    scene.app("shop", "red").await;
    scene.service("mysql", &flask).await;
    scene.ok("POST", "/services/instances", NEW).await;
    scene
        .ok("POST", "/services/instances", &*NEW.replace("my-db", "other"))
        .await;
    scene.ok("PUT", "/services/instances/other/shop", "").await;
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
        let (status, text) = scene.ask("ana", verb, path, body).await;
        let dead = format!("The service mysql cannot be reached ({call}).\n");
        assert_eq!((status.as_u16(), text), (500, dead), "{verb} {path}");
    }
    let info = parsed(&scene.ok("GET", "/services/instances/other", "").await);
    assert_eq!((&info["Info"], &info["apps"]), (&json!(null), &json!(["shop"])));
    assert_eq!(scene.count("bind where state = 'bound'").await, 1);
    assert_eq!(scene.count("service_instance where name = 'new-db'").await, 0);
    let status = scene.ok("GET", "/services/instances/my-db/status", "").await;
    assert!(
        status.contains("being removed; so far: The service mysql cannot"),
        "{status}"
    );
    // Forced, both go here; the hunt goes on.
    let base = "/1.0/services/mysql/instances";
    let text = scene
        .ok(
            "DELETE",
            "/1.13/services/mysql/instances/other/apps/shop?force=true",
            "",
        )
        .await;
    assert!(!text.contains("\"Error\""), "{text}");
    let text = scene
        .ok("DELETE", &format!("{base}/other?ignoreerrors=true"), "")
        .await;
    assert!(text.contains("successfully removed"), "{text}");
    assert_eq!(scene.count("bind").await + scene.count("bind_env").await, 0);
    assert_eq!(
        scene
            .count("orphan where ended_at is null and what = 'bind'")
            .await,
        1
    );
    assert_eq!(
        scene
            .count("orphan where ended_at is null and what = 'instance'")
            .await,
        2
    );
    let (status, text) = scene
        .ask(
            "ana",
            "POST",
            "/services/instances",
            NEW.replace("my-db", "other"),
        )
        .await;
    assert_eq!(status, 409, "a hunted name is not given away: {text}");
    scene.end().await;
}

#[tokio::test]
async fn a_failed_bind_leaves_no_variable_and_no_bind() {
    let flask = Flask::start("today.py");
    let scene = impatient().await;
    scene.app("shop", "red").await;
    scene.service("mysql", &flask).await;
    scene.ok("POST", "/services/instances", NEW).await;
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
        let (got, text) = scene
            .ask("ana", "PUT", "/services/instances/my-db/shop", "")
            .await;
        assert_eq!(got, status, "{mode}: {text}");
        assert!(!text.contains("canary"), "{text}");
        scene.until("bind", 0).await;
        scene.settled().await;
        let binds = flask.get("/__state").await["binds"]["my-db"].clone();
        assert!(binds.is_null() || binds == json!([]), "{mode}: {binds}");
    }
    let how = json!({"mode": "refuse", "method": "POST", "path": "/bind-app"});
    flask.fail(how).await;
    let path = "/1.13/services/mysql/instances/my-db/apps/shop";
    let (status, text) = scene.ask("ana", "PUT", path, "").await;
    assert_eq!(status, 200, "the stream has begun");
    let last: Value = parsed(text.trim_end().lines().last().unwrap());
    assert!(
        last["Error"].as_str().unwrap().contains("you must be joking"),
        "{text}"
    );
    flask.fail(json!({})).await;
    scene.ok("PUT", "/services/instances/my-db/shop", "").await;
    assert_eq!(scene.count("bind_env").await, 3);
    scene.end().await;
}

#[tokio::test]
async fn a_failed_unbind_is_undone_or_finished_later() {
    let flask = Flask::start("today.py");
    let scene = impatient().await;
    scene.app("shop", "red").await;
    scene.service("mysql", &flask).await;
    scene.ok("POST", "/services/instances", NEW).await;
    for (mode, known) in [
        ("refuse", true),
        ("412", true),
        ("500", true),
        ("hang", false),
        ("cut", false),
    ] {
        scene.ok("PUT", "/services/instances/my-db/shop", "").await;
        let how = json!({"mode": mode, "method": "DELETE", "path": "/bind-app", "do": !known});
        flask.fail(how).await;
        let (status, text) = scene
            .ask("ana", "DELETE", "/services/instances/my-db/shop", "")
            .await;
        assert_eq!(status, if mode == "412" { 412 } else { 500 }, "{mode}: {text}");
        scene.until("event where ended_at is null", 0).await;
        let state = if known { "bound" } else { "unbinding" };
        assert_eq!(
            scene.count(&format!("bind where state = '{state}'")).await,
            1,
            "{mode}"
        );
        flask.fail(json!({})).await;
        if known {
            assert_eq!(scene.count("bind_env").await, 3, "{mode}: as it was");
            scene.ok("DELETE", "/services/instances/my-db/shop", "").await;
        }
        scene.until("bind", 0).await;
        scene.settled().await;
        assert_eq!(flask.get("/__state").await["binds"]["my-db"], json!([]), "{mode}");
    }
    scene.end().await;
}

#[tokio::test]
async fn a_failed_removal_shows_why_and_is_finished_once_the_service_confirms() {
    let flask = Flask::start("today.py");
    let scene = impatient().await;
    scene.service("mysql", &flask).await;
    for (mode, hunted) in [("refuse", false), ("500", true), ("hang", true), ("cut", true)] {
        scene.ok("POST", "/services/instances", NEW).await;
        flask.fail(json!({"mode": mode, "method": "DELETE"})).await;
        let (status, text) = scene.ask("ana", "DELETE", "/services/instances/my-db", "").await;
        assert_eq!(status, 500, "{mode}: {text}");
        let state = if hunted { "removing" } else { "ready" };
        let row = format!("service_instance where state = '{state}' and reason <> ''");
        assert_eq!(scene.count(&row).await, 1, "{mode}");
        flask.fail(json!({})).await;
        if !hunted {
            scene.ok("DELETE", "/services/instances/my-db", "").await;
        }
        scene.until("service_instance", 0).await;
        scene.settled().await;
        assert_eq!(flask.get("/__state").await["instances"], json!({}), "{mode}");
    }
    scene.end().await;
}

#[tokio::test]
async fn a_refused_update_changes_nothing_and_a_missing_route_is_fine() {
    let flask = Flask::start("today.py");
    let old = Flask::start("y2014.py");
    let scene = impatient().await;
    scene.service("mysql", &flask).await;
    scene.service("old", &old).await;
    for service in ["mysql", "old"] {
        let body = format!(r#"{{"name":"{service}-db","service_name":"{service}"}}"#);
        scene.ok("POST", "/services/instances", body).await;
    }
    flask.fail(json!({"mode": "500", "method": "PUT"})).await;
    let patch = r#"{"description":"new"}"#;
    let path = "/1.0/services/mysql/instances/mysql-db";
    let (status, text) = scene.ask("ana", "PUT", path, patch).await;
    assert_eq!(status, 500);
    assert!(text.contains("no space left"), "{text}");
    assert_eq!(scene.count("service_instance where description = 'new'").await, 0);
    scene.ok("PUT", "/1.0/services/old/instances/old-db", patch).await;
    assert_eq!(scene.count("service_instance where description = 'new'").await, 1);
    scene.settled().await;
    scene.end().await;
}

/// A saga as a process leaves it that died after it had written down that it would call.
async fn died(scene: &Scene, kind: &str, data: Value) {
    sqlx::query("insert into saga (saga_id, kind, lane, data) values ($1, $2, 'people', $3)")
        .bind(Uuid::now_v7())
        .bind(kind)
        .bind(data)
        .execute(scene.db())
        .await
        .unwrap();
}

#[tokio::test]
async fn what_died_in_the_middle_is_finished() {
    let flask = Flask::start("today.py");
    let scene = impatient().await;
    let app = scene.app("shop", "red").await;
    scene.service("mysql", &flask).await;
    scene.ok("POST", "/services/instances", NEW).await;
    // The service has the one, and never heard of the other.
    for name in ["my-db", "unheard"] {
        let id = Uuid::now_v7();
        sqlx::query("delete from service_instance where name = $1")
            .bind(name)
            .execute(scene.db())
            .await
            .unwrap();
        sqlx::query(
            "insert into service_instance (instance_id, service_id, name, team_owner)
             select $1, service_id, $2, 'red' from service",
        )
        .bind(id)
        .bind(name)
        .execute(scene.db())
        .await
        .unwrap();
        sqlx::query("insert into service_instance_team (instance_id, team) values ($1, 'red')")
            .bind(id)
            .execute(scene.db())
            .await
            .unwrap();
        died(
            &scene,
            "service-instance.create",
            json!({"instance": id, "heard": "sent"}),
        )
        .await;
        scene
            .until(
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
            .execute(scene.db())
            .await
            .unwrap();
        let rollout = json!({"apps": [app], "proposed": false, "adopted": false, "releases": []});
        died(
            &scene,
            "app.bind",
            json!({"bind": bind, "user": "", "heard": "sent", "rollout": rollout}),
        )
        .await;
        scene.until("bind where state = 'bound'", 1).await;
        scene
            .ok("DELETE", &format!("/services/instances/{name}/shop"), "")
            .await;
    }
    scene.settled().await;
    scene.end().await;
}

/// A saga as the removal of an app is one: its only step unbinds everything.
struct RemoveApp(tancho::core::Core);

#[async_trait::async_trait]
impl tancho::sagas::Saga for RemoveApp {
    fn kind(&self) -> &'static str {
        "test.remove-app"
    }

    fn steps(&self) -> &'static [&'static str] {
        &["unbind"]
    }

    async fn forward(&self, _: &'static str, run: &mut Run) -> Result<(), StepError> {
        let app: Uuid = run.data()?;
        tancho::services::unbind_everything(&self.0, run, AppId(app)).await
    }

    async fn undo(&self, _: &'static str, _: &mut Run) -> Result<(), StepError> {
        Ok(())
    }
}

#[tokio::test]
async fn removing_an_app_tells_every_service_and_a_dead_one_holds_up_nothing() {
    let flask = Flask::start("today.py");
    let dead = Flask::start("today.py");
    let scene = impatient().await;
    let app = scene.app("shop", "red").await;
    scene.service("mysql", &flask).await;
    scene.service("dead", &dead).await;
    for (name, service) in [("my-db", "mysql"), ("dead-db", "dead")] {
        let body = format!(r#"{{"name":"{name}","service_name":"{service}"}}"#);
        scene.ok("POST", "/services/instances", body).await;
        scene
            .ok("PUT", &format!("/services/instances/{name}/shop"), "")
            .await;
    }
    drop(dead);
    let core = scene.house.running.core.clone();
    let (db, notices, stop) = (core.db.clone(), core.notices.clone(), core.stop.clone());
    let registry = Registry::default().with(RemoveApp(core.clone()));
    Runner::new(db, notices, registry, "test", core.replica, stop).start(&core.tasks);
    died(&scene, "test.remove-app", json!(app)).await;
    scene
        .until("saga where kind = 'test.remove-app' and state = 'done'", 1)
        .await;
    assert_eq!(scene.count("bind").await + scene.count("bind_env").await, 0);
    assert_eq!(flask.get("/__state").await["binds"]["my-db"], json!([]));
    assert_eq!(
        scene
            .count("orphan where what = 'bind' and ended_at is null")
            .await,
        1
    );
    scene.ok("PUT", "/services/instances/my-db/shop", "").await;
    scene.end().await;
}

#[tokio::test]
async fn a_hung_service_delays_only_itself() {
    let sick = Flask::start("today.py");
    let well = Flask::start("today.py");
    let scene = Scene::with(|settings| {
        settings.services.timeout = Duration::from_secs(20);
        settings.services.concurrency_per_service = 2;
    })
    .await;
    scene.service("sick", &sick).await;
    scene.service("well", &well).await;
    sick.fail(json!({"mode": "hang"})).await;
    let request = |body: String| {
        let request = scene.house.request(Method::POST, "/services/instances");
        request.bearer_auth("ana").body(body).send()
    };
    let hung: Vec<_> = (0..8)
        .map(|n| tokio::spawn(request(format!(r#"{{"name":"sick-{n}","service_name":"sick"}}"#))))
        .collect();
    scene.until("service_instance where name like 'sick%'", 8).await;
    let start = std::time::Instant::now();
    scene
        .ok(
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
    scene.end().await;
}

#[tokio::test]
async fn a_cancelled_bind_is_undone_at_once_and_the_service_told_later() {
    let flask = Flask::start("today.py");
    let scene = Scene::new().await;
    scene.app("shop", "red").await;
    scene.service("mysql", &flask).await;
    scene.ok("POST", "/services/instances", NEW).await;
    flask
        .fail(json!({"mode": "hang", "path": "/bind-app", "method": "POST", "do": true}))
        .await;
    let request = scene.house.request(Method::PUT, "/services/instances/my-db/shop");
    let bind = tokio::spawn(request.bearer_auth("ana").send());
    scene
        .until("saga where kind = 'app.bind' and data ->> 'heard' = 'sent'", 1)
        .await;
    let id: String = sqlx::query_scalar("select event_id from event where ended_at is null")
        .fetch_one(scene.db())
        .await
        .unwrap();
    let mut tx = scene.db().begin().await.unwrap();
    let asked = tancho::events::ask_cancel(&mut tx, &id.parse().unwrap(), "ana", "enough").await;
    assert!(asked.unwrap());
    tx.commit().await.unwrap();
    let answer = bind.await.unwrap().unwrap();
    assert_eq!(answer.status(), 409, "{}", answer.text().await.unwrap());
    scene.settled().await;
    assert_eq!(scene.count("bind").await, 0);
    let binds = flask.get("/__state").await["binds"]["my-db"].clone();
    assert!(binds.is_null() || binds == json!([]), "{binds}");
    scene.end().await;
}

#[tokio::test]
async fn a_service_that_hangs_costs_its_info_one_deadline_and_is_asked_eight_questions() {
    let flask = Flask::start("today.py");
    let scene = impatient().await;
    scene.service("mysql", &flask).await;
    for n in 0..20 {
        let new = NEW.replace("my-db", &format!("db-{n}"));
        scene.ok("POST", "/services/instances", new).await;
    }
    flask.fail(json!({"mode": "hang", "method": "GET"})).await;
    let start = std::time::Instant::now();
    let info = parsed(&scene.ok("GET", "/services/mysql", "").await);
    let took = start.elapsed();
    let info = info.as_array().unwrap();
    assert_eq!(info.len(), 20);
    assert!(info.iter().all(|i| i["Info"].is_null()), "{info:?}");
    // Two rounds of eight would cost two deadlines of two seconds, all twenty three.
    assert!(took >= Duration::from_millis(1900), "{took:?}");
    assert!(took < Duration::from_millis(3900), "{took:?}");
    let calls = flask.calls().await;
    let asked = calls
        .iter()
        .filter(|c| c.starts_with("GET /resources/db-"))
        .count();
    assert_eq!(asked, 8, "{calls:?}");
    flask.fail(json!({})).await;
    let info = parsed(&scene.ok("GET", "/services/mysql", "").await);
    let told = info
        .as_array()
        .unwrap()
        .iter()
        .filter(|i| i["Info"]["Address"].is_string());
    assert_eq!(told.count(), 20);
    scene.end().await;
}
