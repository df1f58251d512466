//! Units on a real database with the fake provisioner.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::StatusCode as Status;
use axum::routing::get;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::Row as _;
use tancho::config::{ServerRole, Settings};
use tancho::core::Core;
use tancho::kernel::artifact::Artifact;
use tancho::kernel::encryption::{AssociatedData, SealedColumn, digest_token};
use tancho::kernel::ids::AppId;
use tancho::kernel::names::{AppName, ProcessName};
use tancho::kernel::public_hosts::PlatformHosts;
use tancho::kernel::secret::Secret;
use tancho::provisioners::fake::{FakeCall, FakeUnitRunner};
use tancho::provisioners::{LogStream, RestartPolicy, UnitApp, UnitId, UnitRunner, UnitSpec};
use tancho::proxy::{BackendSet, HostRoutes};
use tancho::routing;
use tancho::sagas::Reconciler;
use tancho::units::{ReconcileTiming, UnitReconciler, logs};
use tokio::net::TcpListener;

use crate::test_server::TestServer;

mod limits;
mod processes;
mod wanted;

const WEB: &str = r#"[{"name":"web","command":"echo hello;"}]"#;
const BOTH: &str = r#"[{"name":"web","command":"echo hello;"},{"name":"worker","command":"work"}]"#;

/// Waits until a condition holds.
async fn wait_for<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "timed out waiting until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[derive(Clone, Debug, PartialEq)]
struct TestUnit {
    id: String,
    process: String,
    phase: String,
    state: String,
    reason: String,
    ready: bool,
    release: i64,
}

/// A server with one app, and the token of an administrator.
struct UnitFixture {
    tancho: TestServer,
    token: String,
    app: AppId,
}

impl UnitFixture {
    async fn new(change: impl FnOnce(&mut Settings)) -> Self {
        let tancho = TestServer::start_with(|settings| {
            settings.apps.drain_timeout = Duration::from_millis(300);
            change(settings);
        })
        .await;
        let app = AppId::new();
        let token = Secret::random_hex();
        let fixture = Self {
            tancho,
            token: token.expose_secret().to_owned(),
            app,
        };
        let user = uuid::Uuid::now_v7();
        fixture.run(&format!(
            "insert into team (name) values ('red');
             insert into user_account (user_id, email, password_hash) values ('{user}', 'ana@example.com', '');
             insert into user_role (user_id, role) values ('{user}', 'AllowAll');
             insert into access_token (digest, token_id, kind, user_id)
                 values ('\\x{}', '{}', 'session', '{user}');
             insert into app (app_id, name, label, platform, plan, pool, team_owner, owner)
                 values ('{app}', 'crane', 'crane', 'python', 'small', 'local', 'red', 'ana@example.com');
             insert into app_team values ('{app}', 'red')",
            hex::encode(digest_token(&token)),
            uuid::Uuid::new_v4(),
        ))
        .await;
        fixture
    }

    fn core(&self) -> &Core {
        &self.tancho.running.core
    }

    fn fake(&self) -> &FakeUnitRunner {
        &self.tancho.fake
    }

    async fn run(&self, sql: &str) {
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned()))
            .execute(&self.core().db)
            .await
            .unwrap();
    }

    /// Creates a version and its release, not current yet.
    async fn release(&self, version: i32, processes: &str, yaml: &str) -> i64 {
        let place = AssociatedData::new(SealedColumn::RELEASE_ENV, &[&self.app, &version]);
        let env = self
            .core()
            .keys
            .encrypt(&place, &Secret::new(r#"{"COLOUR":"red"}"#));
        self.run(&format!(
            "insert into version (app_id, version, host, state, yaml) values ('{app}', {version}, 'test', 'ready', '{yaml}');
             insert into version_process (app_id, version, process, command)
             select '{app}', {version}, e ->> 'name', e ->> 'command' from jsonb_array_elements('{processes}') e",
            app = self.app
        ))
        .await;
        sqlx::query_scalar("insert into release (app_id, version, env, user_env) values ($1, $2, $3, '') returning release_id")
            .bind(self.app.0)
            .bind(version)
            .bind(env)
            .fetch_one(&self.core().db)
            .await
            .unwrap()
    }

    async fn set(&self, current: i64, candidate: Option<i64>) {
        let candidate = candidate.map_or("null".into(), |c| c.to_string());
        self.run(&format!(
            "update app set current_release = {current}, candidate_release = {candidate};
             select pg_notify('tancho_units', '{}')",
            self.app
        ))
        .await;
    }

    /// Creates a current release, without waiting for its units.
    async fn deploy(&self, processes: &str, yaml: &str) -> i64 {
        let release = self.release(1, processes, yaml).await;
        self.set(release, None).await;
        release
    }

    async fn scale(&self, process: &str, units: i32) {
        self.run(&format!(
            "insert into app_process values ('{}', '{process}', {units})
             on conflict (app_id, side, process) do update set units = {units};
             select pg_notify('tancho_units', '{}')",
            self.app, self.app
        ))
        .await;
    }

    async fn units(&self) -> Vec<TestUnit> {
        let rows = sqlx::query(
            "select unit_id, process, phase, state, reason, ready, release_id from unit order by created_at, unit_id",
        )
        .fetch_all(&self.core().db)
        .await
        .unwrap();
        rows.iter()
            .map(|row| TestUnit {
                id: row.get(0),
                process: row.get(1),
                phase: row.get(2),
                state: row.get(3),
                reason: row.get(4),
                ready: row.get(5),
                release: row.get(6),
            })
            .collect()
    }

    /// Waits until exactly so many units are serving and ready.
    async fn wait_until_ready(&self, count: usize) -> Vec<TestUnit> {
        wait_for(&format!("{count} units are serving"), async || {
            let units = self.units().await;
            let well = |u: &TestUnit| u.phase == "serving" && u.ready && u.state == "started";
            (units.len() == count && units.iter().all(well)).then_some(units)
        })
        .await
    }

    /// Gives all current and future units one address, where a listener accepts.
    fn set_unit_address(&self, address: SocketAddr) {
        let (fake, stop) = (self.fake().clone(), self.core().stop.clone());
        tokio::spawn(async move {
            while !stop.is_cancelled() {
                for report in fake.observe_units().await.unwrap() {
                    if report.address != Some(address) {
                        fake.set_address(&report.unit, address);
                    }
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
    }

    /// Starts a listener that does nothing, for all units.
    async fn listen_for_all_units(&self) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        self.set_unit_address(listener.local_addr().unwrap());
        tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    }

    async fn table(&self) -> HostRoutes {
        routing::load_table(&self.core().db, &PlatformHosts::new("localhost", ""))
            .await
            .unwrap()
    }

    async fn addresses(&self) -> Result<usize, String> {
        match &self.table().await.find_host("crane.localhost").unwrap().backends {
            BackendSet::Ready(addresses) => Ok(addresses.len()),
            BackendSet::None { reason } => Err(reason.clone()),
        }
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.tancho.request(method, path).bearer_auth(&self.token)
    }

    async fn text(&self, request: reqwest::RequestBuilder) -> (StatusCode, String) {
        let answer = request.send().await.unwrap();
        (answer.status(), answer.text().await.unwrap())
    }

    async fn messages(&self) -> Vec<String> {
        sqlx::query_scalar("select message from log_line order by seq")
            .fetch_all(&self.core().db)
            .await
            .unwrap()
    }
}

fn disable_reconciler(settings: &mut Settings) {
    settings.roles = vec![ServerRole::Api];
}

fn count_ensured(fake: &FakeUnitRunner) -> usize {
    fake.recorded_calls()
        .iter()
        .filter(|a| matches!(a, FakeCall::Ensure(_)))
        .count()
}

#[tokio::test]
async fn units_of_the_current_release_start_with_its_environment() {
    let fixture = UnitFixture::new(|_| {}).await;
    fixture.listen_for_all_units().await;
    assert_eq!(
        fixture.addresses().await,
        Err("the app has no version deployed yet".into())
    );
    fixture.scale("web", 2).await;
    fixture
        .deploy(BOTH, r#"{"hooks":{"restart":{"before":["b"],"after":["a"]}}}"#)
        .await;
    let units = fixture.wait_until_ready(3).await;
    assert_eq!(fixture.addresses().await, Ok(2), "workers get no requests");
    let worker = units.iter().find(|u| u.process == "worker").unwrap();
    assert!(worker.id.starts_with("crane-worker-"));
    let spec = fixture
        .fake()
        .unit_spec(&UnitId::parse(&worker.id).unwrap())
        .unwrap();
    let env: BTreeMap<&str, &str> = spec
        .env
        .iter()
        .map(|(n, v)| (n.as_str(), v.expose_secret()))
        .collect();
    let expected = [
        ("COLOUR", "red"),
        ("TSURU_APPVERSION", "1"),
        ("TSURU_PROCESSNAME", "worker"),
    ];
    assert_eq!(env, expected.into());
    assert_eq!((spec.command.as_str(), spec.memory_bytes), ("work", 268_435_456));
    assert_eq!(
        (spec.before, spec.after),
        (vec!["b".to_owned()], vec!["a".to_owned()])
    );
    assert_eq!(
        spec.artifact,
        Artifact::Folder {
            holder: "test".into()
        }
    );
    assert_eq!((spec.app.id, spec.version), (fixture.app, 1));
    fixture.tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn candidate_gets_no_requests_until_promoted_and_old_units_drain() {
    let fixture = UnitFixture::new(|_| {}).await;
    fixture.listen_for_all_units().await;
    let old = fixture.deploy(WEB, "{}").await;
    let first = fixture.wait_until_ready(1).await.remove(0);
    let new = fixture.release(2, WEB, "{}").await;
    fixture.set(old, Some(new)).await;
    let tried = wait_for("the candidate is ready", async || {
        fixture
            .units()
            .await
            .into_iter()
            .find(|u| u.release == new && u.ready)
    })
    .await;
    assert_eq!(tried.phase, "starting");
    assert_eq!(fixture.addresses().await, Ok(1));
    fixture.set(new, None).await;
    wait_for("the old one drains", async || {
        let units = fixture.units().await;
        assert!(
            units.iter().any(|u| u.phase == "serving" && u.ready),
            "a gap: {units:?}"
        );
        units
            .iter()
            .find(|u| u.id == first.id && u.phase == "draining")
            .cloned()
    })
    .await;
    let draining = Instant::now();
    assert_eq!(fixture.addresses().await, Ok(1));
    let gone = FakeCall::Remove(UnitId::parse(&first.id).unwrap());
    wait_for("the old one is removed", async || {
        fixture.fake().recorded_calls().contains(&gone).then_some(())
    })
    .await;
    assert!(
        draining.elapsed() >= Duration::from_millis(200),
        "it was not drained long enough"
    );
    assert_eq!(fixture.wait_until_ready(1).await[0].id, tried.id);
    fixture.tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn recorded_unit_that_was_not_started_is_started_under_its_name() {
    let fixture = UnitFixture::new(disable_reconciler).await;
    let release = fixture.deploy(WEB, "{}").await;
    fixture
        .run(&format!(
            "insert into unit (unit_id, app_id, release_id, process, version, host)
         values ('crane-web-lost', '{}', {release}, 'web', 1, 'test')",
            fixture.app
        ))
        .await;
    let units = UnitReconciler::new(fixture.core(), ReconcileTiming::default());
    let lost = UnitId::parse("crane-web-lost").unwrap();
    wait_for("it is started", async || {
        units.run_round().await.unwrap();
        fixture.fake().unit_spec(&lost)
    })
    .await;
    assert_eq!(fixture.units().await.len(), 1);
    fixture.tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn failed_unit_start_is_reported_and_retried() {
    let fixture = UnitFixture::new(|_| {}).await;
    fixture.listen_for_all_units().await;
    let error = tancho::provisioners::ProvisionError::Transient("the disk is full".into());
    fixture.fake().fail_next(error);
    fixture.deploy(WEB, "{}").await;
    wait_for("the failure is reported", async || {
        fixture
            .units()
            .await
            .into_iter()
            .find(|u| u.state == "error" && u.reason == "the disk is full")
    })
    .await;
    fixture.wait_until_ready(1).await;
    assert_eq!(count_ensured(fixture.fake()), 2);
    fixture.tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn units_without_a_row_are_removed() {
    let fixture = UnitFixture::new(disable_reconciler).await;
    let stray = UnitId::parse("who-web-1").unwrap();
    let one_off = UnitId::parse("who-run-1").unwrap();
    let mut spec = UnitSpec {
        unit: stray.clone(),
        app: UnitApp {
            id: AppId::new(),
            number: 1,
            name: AppName::parse("who").unwrap(),
        },
        process: ProcessName::parse("web").unwrap(),
        version: 1,
        artifact: Artifact::Folder {
            holder: "test".into(),
        },
        before: vec![],
        command: "x".into(),
        after: vec![],
        env: vec![],
        memory_bytes: 0,
        cpu_milli: 0,
        grace: Duration::ZERO,
        restart: RestartPolicy::Always,
        volumes: Vec::new(),
    };
    fixture.fake().ensure_unit(&spec).await.unwrap();
    spec.unit = one_off.clone();
    fixture.fake().ensure_unit(&spec).await.unwrap();
    fixture
        .run(
            "insert into event (event_id, target_kind, target_value, kind, owner_kind, owner_name)
             values ('5f3e8a1b9c4d2e0001a7b3d0', 'app', 'who', 'app.run', 'user', 'ana@example.com');
             insert into exec_session (event_id, app_id, replica_id, host, unit_id, version)
             select '5f3e8a1b9c4d2e0001a7b3d0', app_id, gen_random_uuid(), 'test', 'who-run-1', 1 from app",
        )
        .await;
    let patient = UnitReconciler::new(fixture.core(), ReconcileTiming::default());
    patient.run_round().await.unwrap();
    patient.run_round().await.unwrap();
    drop(patient);
    assert!(
        fixture.fake().unit_spec(&stray).is_some(),
        "not before the grace period"
    );
    let quick = UnitReconciler::new(
        fixture.core(),
        ReconcileTiming {
            unmanaged_after: Duration::ZERO,
        },
    );
    wait_for("it is removed", async || {
        quick.run_round().await.unwrap();
        fixture.fake().unit_spec(&stray).is_none().then_some(())
    })
    .await;
    quick.run_round().await.unwrap();
    let is_there = || fixture.fake().unit_spec(&one_off).is_some();
    assert!(is_there(), "the unit of a running command stays");
    fixture.run("delete from exec_session").await;
    wait_for("it is removed with the session", async || {
        quick.run_round().await.unwrap();
        (!is_there()).then_some(())
    })
    .await;
    fixture.tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn restarted_reconciler_adopts_running_units_and_only_one_runs_at_a_time() {
    let fixture = UnitFixture::new(disable_reconciler).await;
    fixture.listen_for_all_units().await;
    fixture.deploy(BOTH, "{}").await;
    let first = UnitReconciler::new(fixture.core(), ReconcileTiming::default());
    let before = wait_for("they run", async || {
        first.run_round().await.unwrap();
        let units = fixture.units().await;
        (units.len() == 2 && units.iter().all(|u| u.phase == "serving" && u.ready)).then_some(units)
    })
    .await;
    let second = UnitReconciler::new(fixture.core(), ReconcileTiming::default());
    fixture.scale("web", 2).await;
    for _ in 0..5 {
        let report = second.run_round().await.unwrap();
        assert!(report.done.is_empty(), "the first has the lock: {report:?}");
    }
    fixture.scale("web", 1).await;
    drop(first);
    wait_for("the second has taken over", async || {
        second.run_round().await.unwrap();
        fixture
            .fake()
            .crash_unit(&UnitId::parse(&before[0].id).unwrap(), 1);
        let restarts: i32 = sqlx::query_scalar("select max(restarts) from unit")
            .fetch_one(&fixture.core().db)
            .await
            .unwrap();
        (restarts > 0).then_some(())
    })
    .await;
    assert_eq!(count_ensured(fixture.fake()), 2, "nothing was started again");
    let ids = |units: &[TestUnit]| units.iter().map(|u| u.id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&fixture.units().await), ids(&before));
    fixture.tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn reconciling_an_unchanged_app_writes_nothing() {
    let fixture = UnitFixture::new(disable_reconciler).await;
    fixture.listen_for_all_units().await;
    fixture.deploy(WEB, "{}").await;
    let units = UnitReconciler::new(fixture.core(), ReconcileTiming::default());
    wait_for("it runs", async || {
        units.run_round().await.unwrap();
        let units = fixture.units().await;
        units
            .iter()
            .any(|u| u.phase == "serving" && u.ready)
            .then_some(())
    })
    .await;
    units.run_round().await.unwrap();
    let versions = "select array_agg(xmin::text order by unit_id)::text from unit";
    let mark = async || -> String {
        sqlx::query_scalar(versions)
            .fetch_one(&fixture.core().db)
            .await
            .unwrap()
    };
    let before = mark().await;
    for _ in 0..5 {
        let report = units.run_round().await.unwrap();
        assert!(report.done.is_empty(), "{report:?}");
    }
    assert_eq!(mark().await, before);
    fixture.tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn lost_unit_is_replaced_and_a_removed_apps_units_are_removed() {
    let fixture = UnitFixture::new(|_| {}).await;
    fixture.listen_for_all_units().await;
    fixture.deploy(WEB, "{}").await;
    let unit = fixture.wait_until_ready(1).await.remove(0);
    let id = UnitId::parse(&unit.id).unwrap();
    fixture.fake().drop_unit(&id);
    wait_for("it is started again", async || {
        (count_ensured(fixture.fake()) == 2).then_some(())
    })
    .await;
    assert_eq!(fixture.wait_until_ready(1).await[0].id, unit.id);
    fixture
        .run("update app set state = 'removing'; select pg_notify('tancho_units', '')")
        .await;
    wait_for("the units are gone", async || {
        (fixture.units().await.is_empty() && fixture.fake().unit_spec(&id).is_none()).then_some(())
    })
    .await;
    fixture.tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn unit_with_a_failing_health_check_gets_no_requests_and_is_replaced() {
    let fixture = UnitFixture::new(|_| {}).await;
    let sick = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&sick);
    let check = move || async move {
        match flag.load(Ordering::Relaxed) {
            true => Status::INTERNAL_SERVER_ERROR,
            false => Status::OK,
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    fixture.set_unit_address(listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/up", get(check))).await });
    let yaml =
        r#"{"healthcheck":{"path":"/up","allowed_failures":1,"interval_seconds":1,"force_restart":true}}"#;
    fixture.deploy(WEB, yaml).await;
    let first = fixture.wait_until_ready(1).await.remove(0);
    sick.store(true, Ordering::Relaxed);
    wait_for("no requests", async || fixture.addresses().await.err()).await;
    wait_for("the reason is shown", async || {
        let units = fixture.units().await;
        let told = |u: &TestUnit| u.id != first.id && u.reason == "its health check /up returned status 500";
        units.iter().any(told).then_some(())
    })
    .await;
    sick.store(false, Ordering::Relaxed);
    assert_ne!(fixture.wait_until_ready(1).await[0].id, first.id);
    assert_eq!(fixture.addresses().await, Ok(1));
    fixture.tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn log_lines_are_stored_once_despite_two_collectors() {
    let fixture = UnitFixture::new(|_| {}).await;
    fixture.listen_for_all_units().await;
    fixture.deploy(WEB, "{}").await;
    let unit = fixture.wait_until_ready(1).await.remove(0);
    let id = UnitId::parse(&unit.id).unwrap();
    wait_for("the first line", async || {
        (fixture.messages().await == ["hello"]).then_some(())
    })
    .await;
    // Another reconciler of this host, as after an overlapping restart: it does not hold the lock, but is
    // made to read.
    let rival = UnitReconciler::new(fixture.core(), ReconcileTiming::default());
    let rival = tokio::spawn(rival.run());
    for n in 0..100 {
        fixture
            .fake()
            .write_log(&id, LogStream::Stdout, &format!("line {n}"));
        tokio::task::yield_now().await;
    }
    wait_for("all lines", async || {
        (fixture.messages().await.len() > 100).then_some(())
    })
    .await;
    let mut expected = vec!["hello".to_owned()];
    expected.extend((0..100).map(|n| format!("line {n}")));
    assert_eq!(fixture.messages().await, expected);
    fixture.run("update log_position set position = 0").await;
    fixture.fake().write_log(&id, LogStream::Stdout, "after");
    wait_for("positions are read again", async || {
        fixture
            .messages()
            .await
            .iter()
            .any(|m| m == "after")
            .then_some(())
    })
    .await;
    rival.abort();
    fixture.tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn logs_are_bounded_in_rate_and_length() {
    let fixture = UnitFixture::new(|settings| settings.apps.log_lines = 500).await;
    fixture.listen_for_all_units().await;
    fixture.deploy(WEB, "{}").await;
    let unit = fixture.wait_until_ready(1).await.remove(0);
    let id = UnitId::parse(&unit.id).unwrap();
    for n in 0..8000 {
        fixture.fake().write_log(&id, LogStream::Stdout, &n.to_string());
    }
    wait_for("the flood is over", async || {
        let position: Option<i64> = sqlx::query_scalar("select position from log_position")
            .fetch_optional(&fixture.core().db)
            .await
            .unwrap();
        (position == Some(8001)).then_some(())
    })
    .await;
    wait_for("the log is trimmed", async || {
        (fixture.messages().await.len() <= 650).then_some(())
    })
    .await;
    let dropped = fixture
        .messages()
        .await
        .iter()
        .any(|m| m.contains("lines were dropped"));
    assert!(dropped, "the gap is reported");
    fixture.tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn app_log_can_be_read_followed_and_written_over_http() {
    let fixture = UnitFixture::new(|_| {}).await;
    for path in [
        "/apps/crane/log",
        "/1.0/apps/crane/log?lines=x",
        "/1.0/apps/crane/log?lines=-1",
    ] {
        let (status, _) = fixture.text(fixture.request(Method::GET, path)).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{path}");
    }
    for (path, body) in [
        ("/apps/crane/log?source=cron", r#"["one","two"]"#),
        ("/apps/crane/log", "no json"),
        ("/1.0/apps/crane/log?source=cron", r#"["three"]"#),
    ] {
        let (status, text) = fixture.text(fixture.request(Method::POST, path).body(body)).await;
        assert_eq!((status, text.as_str()), (StatusCode::OK, ""), "{path}");
    }
    let (status, text) = fixture
        .text(fixture.request(Method::GET, "/apps/crane/log?lines=2"))
        .await;
    assert_eq!(status, StatusCode::OK);
    let lines: Vec<Value> = serde_json::from_str(&text).unwrap();
    assert_eq!(lines.len(), 2);
    let mut line = lines[0].clone();
    assert!(line["Date"].as_str().unwrap().ends_with('Z'));
    line["Date"] = json!("");
    let expected = json!({"Date": "", "Message": "two", "Source": "cron", "Name": "crane", "AppName": "crane", "Type": "app", "Unit": ""});
    assert_eq!(line, expected);
    let path = "/1.0/apps/crane/log?lines=10&follow=1&unit=u1";
    let mut answer = fixture.request(Method::GET, path).send().await.unwrap();
    let read = |chunk: Option<bytes::Bytes>| serde_json::from_slice::<Vec<Value>>(&chunk.unwrap()).unwrap();
    assert_eq!(read(answer.chunk().await.unwrap()).len(), 0);
    let lines = ["four".to_owned(), "zero \0 byte".to_owned()];
    logs::append_platform_lines(fixture.core(), fixture.app, "u1", &lines)
        .await
        .unwrap();
    let next = read(answer.chunk().await.unwrap());
    assert_eq!(next[0]["Message"], "four");
    assert_eq!(next[0]["Source"], "tsuru");
    assert_eq!(next[1]["Message"], "zero \u{fffd} byte");
    fixture.tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn truncated_unit_log_line_is_marked_and_has_no_control_characters() {
    let fixture = UnitFixture::new(|_| {}).await;
    fixture.listen_for_all_units().await;
    fixture.deploy(WEB, "{}").await;
    let unit = fixture.wait_until_ready(1).await.remove(0);
    let id = UnitId::parse(&unit.id).unwrap();
    for line in [
        "x".repeat(16 * 1024),
        "y".repeat(16 * 1024) + "…",
        "a\u{1b}[2Jb".into(),
    ] {
        fixture.fake().write_log(&id, LogStream::Stdout, &line);
    }
    let messages = wait_for("all lines", async || {
        let messages = fixture.messages().await;
        (messages.len() == 4).then_some(messages)
    })
    .await;
    assert_eq!(
        messages[1],
        "x".repeat(16 * 1024),
        "a line of the maximum length is whole"
    );
    assert!(messages[2].ends_with("y…") && messages[2].len() <= 16 * 1024);
    assert_eq!(messages[3], "a\u{fffd}[2Jb");
    fixture.tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn plan_change_restarts_units_unless_declined() {
    let fixture = UnitFixture::new(|_| {}).await;
    fixture.listen_for_all_units().await;
    fixture.deploy(WEB, "{}").await;
    let first = fixture.wait_until_ready(1).await.remove(0);
    let put = |body: Value| {
        fixture
            .request(Method::PUT, "/1.0/apps/crane")
            .body(body.to_string())
    };
    let memory = |unit: &TestUnit| {
        fixture
            .fake()
            .unit_spec(&UnitId::parse(&unit.id).unwrap())
            .unwrap()
            .memory_bytes
    };
    assert_eq!(memory(&first), 256 << 20);
    for quiet in [
        json!({ "description": "new" }),
        json!({ "plan": "small" }),
        json!({ "plan": "large", "noRestart": true }),
    ] {
        let (status, text) = fixture.text(put(quiet.clone())).await;
        assert_eq!(status, StatusCode::OK, "{quiet}: {text}");
        assert_eq!(
            fixture.wait_until_ready(1).await[0].id,
            first.id,
            "{quiet} restarts nothing"
        );
    }
    let (status, text) = fixture.text(put(json!({ "plan": "small" }))).await;
    assert!(status == StatusCode::OK && !text.contains("\"Error\""), "{text}");
    let answer = put(json!({ "plan": "large", "planoverride": {}, "metadata": {} }))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.headers()["content-type"], "application/x-json-stream");
    let text = answer.text().await.unwrap();
    assert!(
        text.contains("Updating crane") && !text.contains("\"Error\""),
        "{text}"
    );
    let new = wait_for("a unit of the new plan", async || {
        let unit = fixture.wait_until_ready(1).await.remove(0);
        (unit.id != first.id && memory(&unit) == 1 << 30).then_some(unit)
    })
    .await;
    assert_ne!(new.release, first.release);
    let none = put(json!({ "plan": "none" }));
    assert_eq!(fixture.text(none).await.0, StatusCode::BAD_REQUEST);
    fixture.tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn metadata_of_apps_and_processes_is_stored_and_shown() {
    let fixture = UnitFixture::new(|_| {}).await;
    fixture.listen_for_all_units().await;
    fixture.scale("web", 1).await;
    fixture.deploy(WEB, "{}").await;
    let unit = fixture.wait_until_ready(1).await.remove(0);
    let put = |body: Value| {
        fixture.text(
            fixture
                .request(Method::PUT, "/1.0/apps/crane")
                .body(body.to_string()),
        )
    };
    let item = |name: &str, value: &str| json!({ "name": name, "value": value });
    let change = json!({
        "metadata": { "labels": [item("owner", "ana"), item("tier", "1")], "annotations": [item("note", "n")] },
        "processes": [{ "name": "web", "metadata": { "labels": [item("port", "http")] } }],
    });
    let (status, text) = put(change).await;
    assert_eq!(status, StatusCode::OK, "{text}");
    let removal =
        json!({ "metadata": { "labels": [{ "name": "tier", "delete": true }] }, "planoverride": {} });
    let (status, text) = put(removal).await;
    assert_eq!(status, StatusCode::OK, "{text}");
    for refused in [
        json!({ "processes": [{ "name": "none", "metadata": { "labels": [item("a", "b")] } }] }),
        json!({ "planoverride": { "memory": 1 } }),
        json!({ "router": "other" }),
        json!({ "routeropts": { "a": "b" } }),
        json!({ "metadata": { "labels": [item("a b", "c")] } }),
        json!({ "metadata": {}, "planoverride": {} }),
        json!({}),
    ] {
        let (status, text) = put(refused.clone()).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{refused}: {text}");
    }
    let (_, text) = fixture
        .text(fixture.request(Method::GET, "/1.0/apps/crane"))
        .await;
    let app: Value = serde_json::from_str(&text).unwrap();
    let expected = json!({ "labels": [item("owner", "ana")], "annotations": [item("note", "n")] });
    assert_eq!(app["metadata"], expected);
    let web = json!({ "name": "web", "metadata": { "labels": [item("port", "http")], "annotations": [] } });
    assert_eq!(app["processes"], json!([web]));
    assert_eq!(
        fixture.wait_until_ready(1).await[0].id,
        unit.id,
        "metadata restarts nothing"
    );
    fixture.tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn unversioned_paths_serve_the_keys_and_streams_of_later_clients() {
    let fixture = UnitFixture::new(|_| {}).await;
    fixture.listen_for_all_units().await;
    fixture.scale("web", 1).await;
    fixture.deploy(WEB, "{}").await;
    let unit = fixture.wait_until_ready(1).await.remove(0);
    let (_, text) = fixture.text(fixture.request(Method::GET, "/apps/crane")).await;
    let classic: Value = serde_json::from_str(&text).unwrap();
    let (_, text) = fixture
        .text(fixture.request(Method::GET, "/1.0/apps/crane"))
        .await;
    let modern: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(classic["routers"], modern["routers"]);
    for key in [
        "ID",
        "HostAddr",
        "HostPort",
        "Routable",
        "Version",
        "Name",
        "Status",
        "ProcessName",
    ] {
        assert_eq!(classic["units"][0][key], modern["units"][0][key], "{key}");
    }
    assert_eq!(classic["units"][0]["ID"], json!(unit.id));
    for key in ["Ip", "State", "AppName", "Type"] {
        assert!(classic["Units"][0][key].is_string(), "the reference's {key}");
    }
    let form = |path: &str| fixture.request(Method::POST, path).form(&[("process", "web")]);
    for request in [
        form("/apps/crane/restart"),
        fixture.request(Method::POST, "/apps/crane/restart"),
        form("/apps/crane/stop"),
        form("/apps/crane/start"),
        fixture
            .request(Method::PUT, "/apps/crane/units")
            .form(&[("units", "1"), ("process", "web")]),
    ] {
        let answer = request.send().await.unwrap();
        assert_eq!(
            answer.headers()["content-type"],
            "application/x-json-stream",
            "{}",
            answer.url()
        );
        let text = answer.text().await.unwrap();
        for line in text.lines().filter(|line| !line.is_empty()) {
            let line: Value = serde_json::from_str(line).unwrap();
            assert!(line["Message"].is_string() && line["Error"].is_null(), "{text}");
        }
    }
    for request in [
        fixture.request(Method::GET, "/apps/crane/restart"),
        fixture.request(Method::DELETE, "/apps/crane/units").body("1"),
    ] {
        let answer = request.send().await.unwrap();
        assert_eq!(
            answer.headers()["content-type"],
            "text/plain; charset=utf-8",
            "{}",
            answer.url()
        );
        answer.text().await.unwrap();
    }
    fixture.tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn units_can_be_added_and_removed_over_http_within_the_quota() {
    // Long enough to be observed meanwhile.
    let fixture = UnitFixture::new(|settings| settings.apps.drain_timeout = Duration::from_secs(2)).await;
    fixture.listen_for_all_units().await;
    let add = |body: &'static str| fixture.request(Method::PUT, "/apps/crane/units").body(body);
    let (status, text) = fixture.text(add("1")).await;
    assert_eq!(status, StatusCode::PRECONDITION_FAILED, "{text}");
    fixture.deploy(BOTH, "{}").await;
    fixture.wait_until_ready(2).await;
    for wrong in ["", "0", "-1", "many", "1001"] {
        let (status, text) = fixture.text(add(wrong)).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{wrong}: {text}");
    }
    let (status, text) = fixture.text(add("2")).await;
    assert_eq!(status, StatusCode::OK, "{text}");
    assert!(text.contains("3 of 3 units of web are ready"), "{text}");
    assert_eq!(
        fixture
            .wait_until_ready(4)
            .await
            .iter()
            .filter(|u| u.process == "web")
            .count(),
        3
    );
    fixture.run("update app set quota_limit = 5").await;
    let modern = |method, query: &str| fixture.request(method, &format!("/1.0/apps/crane/units?{query}"));
    let (status, text) = fixture
        .text(modern(Method::PUT, "units=2&process=worker&version="))
        .await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert_eq!(text, "Quota exceeded. Available: 1, Requested: 2.\n");
    let (status, text) = fixture.text(modern(Method::PUT, "units=1&process=nope")).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{text}");
    let (status, text) = fixture
        .text(modern(Method::PUT, "units=1&process=worker&version=7"))
        .await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{text}");
    let answer = modern(Method::PUT, "units=1&process=worker")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.headers()["content-type"], "application/x-json-stream");
    assert_eq!(answer.headers()["x-tsuru-eventid"].len(), 24);
    let text = answer.text().await.unwrap();
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        assert!(line["Error"].is_null(), "{line}");
    }
    fixture.wait_until_ready(5).await;
    let (status, text) = fixture
        .text(modern(Method::DELETE, "units=4&process=web&version="))
        .await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{text}");
    let (status, text) = fixture
        .text(modern(Method::DELETE, "units=3&process=web&version="))
        .await;
    assert_eq!(status, StatusCode::OK, "{text}");
    assert!(
        text.contains("web has no units; 3 units are stopping"),
        "draining units are not counted: {text}"
    );
    fixture.wait_until_ready(2).await;
    let (status, text) = fixture
        .text(modern(Method::DELETE, "units=2&process=worker"))
        .await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "the last units stay: {text}");
    fixture.tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn added_units_that_do_not_become_ready_are_removed() {
    let fixture = UnitFixture::new(|_| {}).await;
    fixture.deploy(r#"[{"name":"web","command":"x"}]"#, "{}").await;
    wait_for("one unit is ready", async || {
        (fixture.units().await.len() == 1).then_some(())
    })
    .await;
    let answer = fixture
        .request(Method::PUT, "/apps/crane/units")
        .body("1")
        .send()
        .await
        .unwrap();
    let event = answer.headers()["x-tsuru-eventid"].to_str().unwrap().to_owned();
    let (status, text) = fixture
        .text(fixture.request(Method::POST, "/apps/crane/stop"))
        .await;
    assert_eq!(status, StatusCode::CONFLICT, "one after the other: {text}");
    fixture
        .run(&format!(
            "update event set cancel_asked_at = now() where event_id = '{event}';
         select pg_notify('tancho_event', '{event}')"
        ))
        .await;
    let text = answer.text().await.unwrap();
    assert!(text.ends_with("ERROR: canceled by user request\n"), "{text}");
    assert!(text.contains("web has 1 units again"), "{text}");
    wait_for("the second is gone", async || {
        (fixture.units().await.len() == 1).then_some(())
    })
    .await;
    fixture.tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn app_can_be_stopped_and_started_and_a_unit_killed() {
    let fixture = UnitFixture::new(|_| {}).await;
    fixture.listen_for_all_units().await;
    fixture.scale("web", 2).await;
    fixture.deploy(BOTH, "{}").await;
    let before = fixture.wait_until_ready(3).await;
    let path = format!("/1.12/apps/crane/units/{}", before[0].id);
    let (status, text) = fixture.text(fixture.request(Method::DELETE, &path)).await;
    assert_eq!(status, StatusCode::OK, "{text}");
    wait_for("it is replaced", async || {
        let units = fixture.units().await;
        (units.len() == 3 && units.iter().all(|u| u.id != before[0].id && u.ready)).then_some(())
    })
    .await;
    let (status, _) = fixture.text(fixture.request(Method::DELETE, &path)).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let (status, text) = fixture
        .text(fixture.request(Method::POST, "/1.0/apps/crane/stop"))
        .await;
    assert_eq!(status, StatusCode::OK, "{text}");
    assert_eq!(
        fixture.units().await,
        [],
        "the response ends when they are removed"
    );
    assert_eq!(fixture.addresses().await, Err("the app is stopped".into()));
    let (status, text) = fixture
        .text(fixture.request(Method::POST, "/apps/crane/start"))
        .await;
    assert_eq!(status, StatusCode::OK, "{text}");
    fixture.wait_until_ready(3).await;
    assert_eq!(fixture.addresses().await, Ok(2));
    fixture.tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn proxy_follows_route_changes() {
    let fixture = UnitFixture::new(|_| {}).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    fixture.set_unit_address(listener.local_addr().unwrap());
    let app = Router::new().fallback(async || "it is me");
    tokio::spawn(async move { axum::serve(listener, app).await });
    let proxy = tancho::proxy::Proxy::new(tancho::proxy::ProxySettings::default());
    let core = fixture.core();
    let follow = routing::follow_routes(
        core.db.clone(),
        tancho::kernel::ids::ReplicaId::new(),
        core.notices.clone(),
        PlatformHosts::new("localhost", ""),
        proxy.clone(),
        core.stop.child_token(),
        core.stop.clone(),
    );
    tokio::spawn(follow);
    let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", front.local_addr().unwrap());
    let stop = core.stop.clone();
    tokio::spawn(async move { proxy.serve(front, stop).await });
    fixture
        .run(&format!(
            "insert into app_cname values ('{}', 'www.example.com')",
            fixture.app
        ))
        .await;
    let ask = async |host: &str| {
        let answer = fixture
            .tancho
            .http
            .get(&url)
            .header("host", host)
            .send()
            .await
            .unwrap();
        (answer.status(), answer.text().await.unwrap())
    };
    wait_for("the app is known", async || {
        let (status, text) = ask("crane.localhost").await;
        (status == StatusCode::SERVICE_UNAVAILABLE && text.contains("no version")).then_some(())
    })
    .await;
    fixture.deploy(WEB, "{}").await;
    for host in ["crane.localhost", "www.example.com"] {
        wait_for(host, async || (ask(host).await.1 == "it is me").then_some(())).await;
    }
    fixture.tancho.running.drain_and_stop().await;
}
