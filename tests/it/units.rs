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
use tancho::config::{Role, Settings};
use tancho::core::Core;
use tancho::kernel::ids::AppId;
use tancho::kernel::names::{AppName, ProcessName};
use tancho::kernel::seal::{Column, Place, digest};
use tancho::kernel::secret::Secret;
use tancho::provisioners::fake::{Asked, Fake};
use tancho::provisioners::{LogStream, Provisioner, UnitId, UnitSpec};
use tancho::proxy::{Backends, Routes};
use tancho::sagas::Reconciler;
use tancho::units::{Pace, Units, logs, routes};
use tokio::net::TcpListener;

use crate::house::House;

const WEB: &str = r#"[{"name":"web","command":"echo hello;"}]"#;
const BOTH: &str = r#"[{"name":"web","command":"echo hello;"},{"name":"worker","command":"work"}]"#;

/// Waits for something to become true.
async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "it never came to be: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Unit {
    id: String,
    process: String,
    phase: String,
    state: String,
    reason: String,
    ready: bool,
    release: i64,
}

/// One app in a house, and a token of an administrator.
struct Site {
    house: House,
    token: String,
    app: AppId,
}

impl Site {
    async fn new(change: impl FnOnce(&mut Settings)) -> Self {
        let house = House::with(|settings| {
            settings.apps.drain = Duration::from_millis(300);
            change(settings);
        })
        .await;
        let app = AppId::new();
        let token = Secret::random();
        let site = Self {
            house,
            token: token.expose().to_owned(),
            app,
        };
        let user = uuid::Uuid::now_v7();
        site.run(&format!(
            "insert into team (name) values ('red');
             insert into user_account (user_id, email, password_hash) values ('{user}', 'ana@example.com', '');
             insert into user_role (user_id, role) values ('{user}', 'AllowAll');
             insert into bearer (digest, token_id, kind, user_id)
                 values ('\\x{}', '{}', 'session', '{user}');
             insert into app (app_id, name, label, platform, plan, pool, team_owner, owner)
                 values ('{app}', 'crane', 'crane', 'python', 'small', 'local', 'red', 'ana@example.com');
             insert into app_team values ('{app}', 'red')",
            hex::encode(digest(&token)),
            uuid::Uuid::new_v4(),
        ))
        .await;
        site
    }

    fn core(&self) -> &Core {
        &self.house.running.core
    }

    fn fake(&self) -> &Fake {
        &self.house.fake
    }

    async fn run(&self, sql: &str) {
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned()))
            .execute(&self.core().db)
            .await
            .unwrap();
    }

    /// A version and its release; not current yet.
    async fn release(&self, version: i32, processes: &str, yaml: &str) -> i64 {
        let place = Place::new(Column::RELEASE_ENV, &[&self.app, &version]);
        let env = self.core().keys.seal(&place, &Secret::new(r#"{"COLOUR":"red"}"#));
        self.run(&format!(
            "insert into version (app_id, version, host, state, processes, yaml)
             values ('{}', {version}, 'test', 'ready', '{processes}', '{yaml}')",
            self.app
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

    /// A current release, without waiting for its units.
    async fn deploy(&self, processes: &str, yaml: &str) -> i64 {
        let release = self.release(1, processes, yaml).await;
        self.set(release, None).await;
        release
    }

    async fn scale(&self, process: &str, units: i32) {
        self.run(&format!(
            "insert into app_process values ('{}', '{process}', {units})
             on conflict (app_id, process) do update set units = {units};
             select pg_notify('tancho_units', '{}')",
            self.app, self.app
        ))
        .await;
    }

    async fn units(&self) -> Vec<Unit> {
        let rows = sqlx::query(
            "select unit_id, process, phase, state, reason, ready, release_id from unit order by created_at, unit_id",
        )
        .fetch_all(&self.core().db)
        .await
        .unwrap();
        rows.iter()
            .map(|row| Unit {
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

    /// Waits until there are exactly so many units, all serving and ready.
    async fn settled(&self, count: usize) -> Vec<Unit> {
        until(&format!("{count} units that serve"), async || {
            let units = self.units().await;
            let well = |u: &Unit| u.phase == "serving" && u.ready && u.state == "started";
            (units.len() == count && units.iter().all(well)).then_some(units)
        })
        .await
    }

    /// Gives all units one address, now and later, where somebody listens.
    fn everybody_at(&self, address: SocketAddr) {
        let (fake, stop) = (self.fake().clone(), self.core().stop.clone());
        tokio::spawn(async move {
            while !stop.is_cancelled() {
                for report in fake.observe().await.unwrap() {
                    if report.address != Some(address) {
                        fake.set_address(&report.unit, address);
                    }
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
    }

    /// A listener that does nothing, for all units.
    async fn everybody_listens(&self) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        self.everybody_at(listener.local_addr().unwrap());
        tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    }

    async fn table(&self) -> Routes {
        routes::table(&self.core().db, "localhost").await.unwrap()
    }

    async fn addresses(&self) -> Result<usize, String> {
        match &self.table().await.find("crane.localhost").unwrap().state {
            Backends::Ready(addresses) => Ok(addresses.len()),
            Backends::None { reason } => Err(reason.clone()),
        }
    }

    fn ask(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.house.request(method, path).bearer_auth(&self.token)
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

fn by_hand(settings: &mut Settings) {
    settings.roles = vec![Role::Api];
}

fn ensured(fake: &Fake) -> usize {
    fake.asked()
        .iter()
        .filter(|a| matches!(a, Asked::Ensure(_)))
        .count()
}

#[tokio::test]
async fn units_of_the_current_release_come_up_with_its_environment() {
    let site = Site::new(|_| {}).await;
    site.everybody_listens().await;
    assert_eq!(
        site.addresses().await,
        Err("the app has no version deployed yet".into())
    );
    site.scale("web", 2).await;
    site.deploy(BOTH, r#"{"hooks":{"restart":{"before":["b"],"after":["a"]}}}"#)
        .await;
    let units = site.settled(3).await;
    assert_eq!(site.addresses().await, Ok(2), "workers get no requests");
    let worker = units.iter().find(|u| u.process == "worker").unwrap();
    assert!(worker.id.starts_with("crane-worker-"));
    let spec = site.fake().spec(&UnitId::parse(&worker.id).unwrap()).unwrap();
    let env: BTreeMap<&str, &str> = spec.env.iter().map(|(n, v)| (n.as_str(), v.expose())).collect();
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
    assert!(spec.dir.ends_with(format!("versions/{}/1", site.app)));
    site.house.running.stop().await;
}

#[tokio::test]
async fn a_candidate_gets_no_requests_until_it_is_current_and_the_old_ones_drain() {
    let site = Site::new(|_| {}).await;
    site.everybody_listens().await;
    let old = site.deploy(WEB, "{}").await;
    let first = site.settled(1).await.remove(0);
    let new = site.release(2, WEB, "{}").await;
    site.set(old, Some(new)).await;
    let tried = until("the candidate is ready", async || {
        site.units()
            .await
            .into_iter()
            .find(|u| u.release == new && u.ready)
    })
    .await;
    assert_eq!(tried.phase, "starting");
    assert_eq!(site.addresses().await, Ok(1));
    site.set(new, None).await;
    until("the old one drains", async || {
        let units = site.units().await;
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
    assert_eq!(site.addresses().await, Ok(1));
    let gone = Asked::Remove(UnitId::parse(&first.id).unwrap());
    until("the old one is removed", async || {
        site.fake().asked().contains(&gone).then_some(())
    })
    .await;
    assert!(
        draining.elapsed() >= Duration::from_millis(200),
        "it drained too short"
    );
    assert_eq!(site.settled(1).await[0].id, tried.id);
    site.house.running.stop().await;
}

#[tokio::test]
async fn a_unit_that_was_written_but_not_started_is_started_by_its_name() {
    let site = Site::new(by_hand).await;
    let release = site.deploy(WEB, "{}").await;
    site.run(&format!(
        "insert into unit (unit_id, app_id, release_id, process, version, host)
         values ('crane-web-lost', '{}', {release}, 'web', 1, 'test')",
        site.app
    ))
    .await;
    let units = Units::new(site.core(), Pace::default());
    let lost = UnitId::parse("crane-web-lost").unwrap();
    until("it is started", async || {
        units.round().await.unwrap();
        site.fake().spec(&lost)
    })
    .await;
    assert_eq!(site.units().await.len(), 1);
    site.house.running.stop().await;
}

#[tokio::test]
async fn a_start_that_fails_is_told_and_tried_again() {
    let site = Site::new(|_| {}).await;
    site.everybody_listens().await;
    let error = tancho::provisioners::ProvisionError::Transient("the disk is full".into());
    site.fake().fail_next(error);
    site.deploy(WEB, "{}").await;
    until("the failure is told", async || {
        site.units()
            .await
            .into_iter()
            .find(|u| u.state == "error" && u.reason == "the disk is full")
    })
    .await;
    site.settled(1).await;
    assert_eq!(ensured(site.fake()), 2);
    site.house.running.stop().await;
}

#[tokio::test]
async fn units_that_no_row_knows_are_removed() {
    let site = Site::new(by_hand).await;
    let stray = UnitId::parse("who-web-1").unwrap();
    let spec = UnitSpec {
        unit: stray.clone(),
        app: AppName::parse("who").unwrap(),
        process: ProcessName::parse("web").unwrap(),
        version: 1,
        dir: "/".into(),
        before: vec![],
        command: "x".into(),
        after: vec![],
        env: vec![],
        memory_bytes: 0,
        cpu_milli: 0,
        user: None,
        grace: Duration::ZERO,
    };
    site.fake().ensure(&spec).await.unwrap();
    let patient = Units::new(site.core(), Pace::default());
    patient.round().await.unwrap();
    patient.round().await.unwrap();
    drop(patient);
    assert!(site.fake().spec(&stray).is_some(), "not before its time");
    let quick = Units::new(
        site.core(),
        Pace {
            stray: Duration::ZERO,
        },
    );
    until("it is removed", async || {
        quick.round().await.unwrap();
        site.fake().spec(&stray).is_none().then_some(())
    })
    .await;
    site.house.running.stop().await;
}

#[tokio::test]
async fn a_new_start_adopts_what_runs_and_two_do_not_work_at_once() {
    let site = Site::new(by_hand).await;
    site.everybody_listens().await;
    site.deploy(BOTH, "{}").await;
    let first = Units::new(site.core(), Pace::default());
    let before = until("they run", async || {
        first.round().await.unwrap();
        let units = site.units().await;
        (units.len() == 2 && units.iter().all(|u| u.phase == "serving" && u.ready)).then_some(units)
    })
    .await;
    let second = Units::new(site.core(), Pace::default());
    site.scale("web", 2).await;
    for _ in 0..5 {
        let report = second.round().await.unwrap();
        assert!(report.done.is_empty(), "the first has the lock: {report:?}");
    }
    site.scale("web", 1).await;
    drop(first);
    until("the second has taken over", async || {
        second.round().await.unwrap();
        site.fake().crash(&UnitId::parse(&before[0].id).unwrap(), 1);
        let restarts: i32 = sqlx::query_scalar("select max(restarts) from unit")
            .fetch_one(&site.core().db)
            .await
            .unwrap();
        (restarts > 0).then_some(())
    })
    .await;
    assert_eq!(ensured(site.fake()), 2, "nothing was started again");
    let ids = |units: &[Unit]| units.iter().map(|u| u.id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&site.units().await), ids(&before));
    site.house.running.stop().await;
}

#[tokio::test]
async fn a_settled_app_costs_no_write() {
    let site = Site::new(by_hand).await;
    site.everybody_listens().await;
    site.deploy(WEB, "{}").await;
    let units = Units::new(site.core(), Pace::default());
    until("it runs", async || {
        units.round().await.unwrap();
        let units = site.units().await;
        units
            .iter()
            .any(|u| u.phase == "serving" && u.ready)
            .then_some(())
    })
    .await;
    units.round().await.unwrap();
    let versions = "select array_agg(xmin::text order by unit_id)::text from unit";
    let mark = async || -> String {
        sqlx::query_scalar(versions)
            .fetch_one(&site.core().db)
            .await
            .unwrap()
    };
    let before = mark().await;
    for _ in 0..5 {
        let report = units.round().await.unwrap();
        assert!(report.done.is_empty(), "{report:?}");
    }
    assert_eq!(mark().await, before);
    site.house.running.stop().await;
}

#[tokio::test]
async fn a_lost_unit_comes_back_and_a_removed_app_takes_its_units_along() {
    let site = Site::new(|_| {}).await;
    site.everybody_listens().await;
    site.deploy(WEB, "{}").await;
    let unit = site.settled(1).await.remove(0);
    let id = UnitId::parse(&unit.id).unwrap();
    site.fake().lose(&id);
    until("it is started again", async || {
        (ensured(site.fake()) == 2).then_some(())
    })
    .await;
    assert_eq!(site.settled(1).await[0].id, unit.id);
    site.run("update app set state = 'removing'; select pg_notify('tancho_units', '')")
        .await;
    until("the units are gone", async || {
        (site.units().await.is_empty() && site.fake().spec(&id).is_none()).then_some(())
    })
    .await;
    site.house.running.stop().await;
}

#[tokio::test]
async fn a_unit_whose_check_fails_gets_no_requests_and_is_replaced() {
    let site = Site::new(|_| {}).await;
    let sick = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&sick);
    let check = move || async move {
        match flag.load(Ordering::Relaxed) {
            true => Status::INTERNAL_SERVER_ERROR,
            false => Status::OK,
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    site.everybody_at(listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/up", get(check))).await });
    let yaml =
        r#"{"healthcheck":{"path":"/up","allowed_failures":1,"interval_seconds":1,"force_restart":true}}"#;
    site.deploy(WEB, yaml).await;
    let first = site.settled(1).await.remove(0);
    sick.store(true, Ordering::Relaxed);
    until("no requests", async || site.addresses().await.err()).await;
    until("the next one is told what is wrong", async || {
        let units = site.units().await;
        let told = |u: &Unit| u.id != first.id && u.reason == "its health check /up answered 500";
        units.iter().any(told).then_some(())
    })
    .await;
    sick.store(false, Ordering::Relaxed);
    assert_ne!(site.settled(1).await[0].id, first.id);
    assert_eq!(site.addresses().await, Ok(1));
    site.house.running.stop().await;
}

#[tokio::test]
async fn each_log_line_comes_once_though_two_take_over() {
    let site = Site::new(|_| {}).await;
    site.everybody_listens().await;
    site.deploy(WEB, "{}").await;
    let unit = site.settled(1).await.remove(0);
    let id = UnitId::parse(&unit.id).unwrap();
    until("the first line", async || {
        (site.messages().await == ["hello"]).then_some(())
    })
    .await;
    // Another worker of this host, as after a restart that overlaps: it has no lock, but is made to read.
    let rival = Units::new(site.core(), Pace::default());
    let rival = tokio::spawn(rival.run());
    for n in 0..100 {
        site.fake()
            .write_log(&id, LogStream::Stdout, &format!("line {n}"));
        tokio::task::yield_now().await;
    }
    until("all lines", async || {
        (site.messages().await.len() > 100).then_some(())
    })
    .await;
    let mut expected = vec!["hello".to_owned()];
    expected.extend((0..100).map(|n| format!("line {n}")));
    assert_eq!(site.messages().await, expected);
    site.run("update log_position set position = 0").await;
    site.fake().write_log(&id, LogStream::Stdout, "after");
    until("positions are looked up again", async || {
        site.messages().await.iter().any(|m| m == "after").then_some(())
    })
    .await;
    rival.abort();
    site.house.running.stop().await;
}

#[tokio::test]
async fn logs_are_bounded_in_rate_and_length() {
    let site = Site::new(|settings| settings.apps.log_lines = 500).await;
    site.everybody_listens().await;
    site.deploy(WEB, "{}").await;
    let unit = site.settled(1).await.remove(0);
    let id = UnitId::parse(&unit.id).unwrap();
    for n in 0..8000 {
        site.fake().write_log(&id, LogStream::Stdout, &n.to_string());
    }
    until("the flood is over", async || {
        let position: Option<i64> = sqlx::query_scalar("select position from log_position")
            .fetch_optional(&site.core().db)
            .await
            .unwrap();
        (position == Some(8001)).then_some(())
    })
    .await;
    until("the log is trimmed", async || {
        (site.messages().await.len() <= 650).then_some(())
    })
    .await;
    let dropped = site
        .messages()
        .await
        .iter()
        .any(|m| m.contains("lines were dropped"));
    assert!(dropped, "the reader is told");
    site.house.running.stop().await;
}

#[tokio::test]
async fn the_log_is_read_followed_and_written_over_http() {
    let site = Site::new(|_| {}).await;
    for path in [
        "/apps/crane/log",
        "/1.0/apps/crane/log?lines=x",
        "/1.0/apps/crane/log?lines=-1",
    ] {
        let (status, _) = site.text(site.ask(Method::GET, path)).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{path}");
    }
    for (path, body) in [
        ("/apps/crane/log?source=cron&unit=u1", r#"["one","two"]"#),
        ("/apps/crane/log", "no json"),
        ("/1.0/apps/crane/log?source=cron", r#"["three"]"#),
    ] {
        let (status, text) = site.text(site.ask(Method::POST, path).body(body)).await;
        assert_eq!((status, text.as_str()), (StatusCode::OK, ""), "{path}");
    }
    let (status, text) = site.text(site.ask(Method::GET, "/apps/crane/log?lines=2")).await;
    assert_eq!(status, StatusCode::OK);
    let lines: Vec<Value> = serde_json::from_str(&text).unwrap();
    assert_eq!(lines.len(), 2);
    let mut line = lines[0].clone();
    assert!(line["Date"].as_str().unwrap().ends_with('Z'));
    line["Date"] = json!("");
    let expected = json!({"Date": "", "Message": "two", "Source": "cron", "Name": "crane", "AppName": "crane", "Type": "app", "Unit": "u1"});
    assert_eq!(line, expected);
    let path = "/1.0/apps/crane/log?lines=10&follow=1&unit=u1";
    let mut answer = site.ask(Method::GET, path).send().await.unwrap();
    let read = |chunk: Option<bytes::Bytes>| serde_json::from_slice::<Vec<Value>>(&chunk.unwrap()).unwrap();
    assert_eq!(read(answer.chunk().await.unwrap()).len(), 2);
    let lines = ["four".to_owned(), "zero \0 byte".to_owned()];
    logs::append(site.core(), site.app, "tsuru", "u1", &lines)
        .await
        .unwrap();
    let next = read(answer.chunk().await.unwrap());
    assert_eq!(next[0]["Message"], "four");
    assert_eq!(next[1]["Message"], "zero \u{fffd} byte");
    site.house.running.stop().await;
}

#[tokio::test]
async fn units_are_added_and_removed_over_http_within_the_quota() {
    // Long enough that somebody looks meanwhile.
    let site = Site::new(|settings| settings.apps.drain = Duration::from_secs(2)).await;
    site.everybody_listens().await;
    let add = |body: &'static str| site.ask(Method::PUT, "/apps/crane/units").body(body);
    let (status, text) = site.text(add("1")).await;
    assert_eq!(status, StatusCode::PRECONDITION_FAILED, "{text}");
    site.deploy(BOTH, "{}").await;
    site.settled(2).await;
    for wrong in ["", "0", "-1", "many", "1001"] {
        let (status, text) = site.text(add(wrong)).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{wrong}: {text}");
    }
    let (status, text) = site.text(add("2")).await;
    assert_eq!(status, StatusCode::OK, "{text}");
    assert!(text.contains("3 of 3 units of web are ready"), "{text}");
    assert_eq!(
        site.settled(4)
            .await
            .iter()
            .filter(|u| u.process == "web")
            .count(),
        3
    );
    site.run("update app set quota_limit = 5").await;
    let modern = |method, query: &str| site.ask(method, &format!("/1.0/apps/crane/units?{query}"));
    let (status, text) = site
        .text(modern(Method::PUT, "units=2&process=worker&version="))
        .await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert_eq!(text, "Quota exceeded. Available: 1, Requested: 2.\n");
    let (status, text) = site.text(modern(Method::PUT, "units=1&process=nope")).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{text}");
    let (status, text) = site
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
    site.settled(5).await;
    let (status, text) = site
        .text(modern(Method::DELETE, "units=4&process=web&version="))
        .await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{text}");
    let (status, text) = site
        .text(modern(Method::DELETE, "units=3&process=web&version="))
        .await;
    assert_eq!(status, StatusCode::OK, "{text}");
    assert!(
        text.contains("web has 0 units, 0 are to stay; 3 are leaving"),
        "those that drain are not counted: {text}"
    );
    site.settled(2).await;
    let (status, text) = site.text(modern(Method::DELETE, "units=2&process=worker")).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "not the last ones: {text}");
    site.house.running.stop().await;
}

#[tokio::test]
async fn units_that_do_not_become_ready_are_taken_back() {
    let site = Site::new(|_| {}).await;
    site.deploy(r#"[{"name":"web","command":"x"}]"#, "{}").await;
    until("one is there", async || {
        (site.units().await.len() == 1).then_some(())
    })
    .await;
    let answer = site
        .ask(Method::PUT, "/apps/crane/units")
        .body("1")
        .send()
        .await
        .unwrap();
    let event = answer.headers()["x-tsuru-eventid"].to_str().unwrap().to_owned();
    let (status, text) = site.text(site.ask(Method::POST, "/apps/crane/stop")).await;
    assert_eq!(status, StatusCode::CONFLICT, "one after the other: {text}");
    site.run(&format!(
        "update event set cancel_asked_at = now() where event_id = '{event}';
         select pg_notify('tancho_event', '{event}')"
    ))
    .await;
    let text = answer.text().await.unwrap();
    assert!(text.ends_with("ERROR: canceled by user request\n"), "{text}");
    assert!(text.contains("web has 1 units again"), "{text}");
    until("the second is gone", async || {
        (site.units().await.len() == 1).then_some(())
    })
    .await;
    site.house.running.stop().await;
}

#[tokio::test]
async fn an_app_stops_and_starts_and_one_unit_is_killed() {
    let site = Site::new(|_| {}).await;
    site.everybody_listens().await;
    site.scale("web", 2).await;
    site.deploy(BOTH, "{}").await;
    let before = site.settled(3).await;
    let path = format!("/1.12/apps/crane/units/{}", before[0].id);
    let (status, text) = site.text(site.ask(Method::DELETE, &path)).await;
    assert_eq!(status, StatusCode::OK, "{text}");
    until("it is replaced", async || {
        let units = site.units().await;
        (units.len() == 3 && units.iter().all(|u| u.id != before[0].id && u.ready)).then_some(())
    })
    .await;
    let (status, _) = site.text(site.ask(Method::DELETE, &path)).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let (status, text) = site.text(site.ask(Method::POST, "/1.0/apps/crane/stop")).await;
    assert_eq!(status, StatusCode::OK, "{text}");
    assert_eq!(site.units().await, [], "the answer comes when they are gone");
    assert_eq!(site.addresses().await, Err("the app is stopped".into()));
    let (status, text) = site.text(site.ask(Method::POST, "/apps/crane/start")).await;
    assert_eq!(status, StatusCode::OK, "{text}");
    site.settled(3).await;
    assert_eq!(site.addresses().await, Ok(2));
    site.house.running.stop().await;
}

#[tokio::test]
async fn a_proxy_follows_the_table() {
    let site = Site::new(|_| {}).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    site.everybody_at(listener.local_addr().unwrap());
    let app = Router::new().fallback(async || "it is me");
    tokio::spawn(async move { axum::serve(listener, app).await });
    let proxy = tancho::proxy::Proxy::new(tancho::proxy::ProxySettings::default());
    let core = site.core();
    let follow = routes::follow(
        core.db.clone(),
        tancho::kernel::ids::ReplicaId::new(),
        core.notices.clone(),
        "localhost".into(),
        proxy.clone(),
        core.stop.child_token(),
        core.stop.clone(),
    );
    tokio::spawn(follow);
    let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", front.local_addr().unwrap());
    let stop = core.stop.clone();
    tokio::spawn(async move { proxy.serve(front, stop).await });
    site.run(&format!(
        "insert into app_cname values ('{}', 'www.example.com')",
        site.app
    ))
    .await;
    let ask = async |host: &str| {
        let answer = site
            .house
            .http
            .get(&url)
            .header("host", host)
            .send()
            .await
            .unwrap();
        (answer.status(), answer.text().await.unwrap())
    };
    until("the app is known", async || {
        let (status, text) = ask("crane.localhost").await;
        (status == StatusCode::SERVICE_UNAVAILABLE && text.contains("no version")).then_some(())
    })
    .await;
    site.deploy(WEB, "{}").await;
    for host in ["crane.localhost", "www.example.com"] {
        until(host, async || (ask(host).await.1 == "it is me").then_some(())).await;
    }
    site.house.running.stop().await;
}
