//! Hanging work of one user delays no other user: for each shared resource, more work than it has capacity.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::StatusCode as Status;
use reqwest::Method;
use serde_json::{Value, json};
use tancho::config::Settings;
use tancho::kernel::encryption::{AssociatedData, SealedColumn};
use tancho::kernel::ids::AppId;
use tancho::kernel::secret::Secret;
use tancho::provisioners::{LogStream, UnitRunner};
use tancho::sagas::{Saga, SagaQueue, SagaStep, StepContext, StepError};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::test_server::{TestServer, TestUser};

/// Delays below this are not counted: the machine has other work.
const FLOOR: Duration = Duration::from_secs(1);
/// One process that is ready after running for a second, without a check.
const QUIET: &str = r#"{"processes":[{"name":"worker","ports":[]}]}"#;
/// A health check with the longest timeout that a tsuru.yaml may set.
const SLOW_CHECK: &str = r#"{"healthcheck":{"path":"/","timeout_seconds":86400,"interval_seconds":86400}}"#;

/// Waits until a condition is true.
pub(crate) async fn wait_until(what: &str, mut look: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !look().await {
        assert!(Instant::now() < deadline, "timed out waiting until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A server with two unrelated users: Ana, and Mallory, the attacker.
struct FairnessFixture {
    tancho: TestServer,
    ana: TestUser,
    mallory: TestUser,
    /// Mallory's requests, whose responses nobody awaits.
    hanging: Vec<JoinHandle<()>>,
}

impl FairnessFixture {
    async fn new(change: impl FnOnce(&mut Settings)) -> Self {
        let tancho = TestServer::start_with(|settings| {
            settings.apps.drain_timeout = Duration::from_millis(100);
            // Hanging work hangs for as long as the test.
            settings.apps.health_timeout = Duration::from_secs(600);
            settings.services.call_timeout = Duration::from_secs(120);
            settings.services.breaker_failures = 100_000;
            change(settings);
        })
        .await;
        let (ana, mallory) = (
            tancho.create_user("ana").await,
            tancho.create_user("mallory").await,
        );
        let fixture = Self {
            tancho,
            ana,
            mallory,
            hanging: Vec::new(),
        };
        fixture
            .run(
                "insert into user_role (user_id, role) select user_id, 'AllowAll' from user_account;
                 select pg_notify('tancho_auth', '')",
            )
            .await;
        // Their new roles apply to new sessions.
        let ana = fixture.tancho.login("ana@example.com").await;
        let mallory = fixture.tancho.login("mallory@example.com").await;
        fixture.tancho.create_team(&ana, "red").await;
        let path = "/teams/red/mallory@example.com";
        let (status, text) = fixture.tancho.send_json(&ana, Method::PUT, path, None).await;
        assert_eq!(status, 200, "{text}");
        Self {
            ana,
            mallory,
            ..fixture
        }
    }

    async fn run(&self, sql: &str) {
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned()))
            .execute(&self.tancho.running.core.db)
            .await
            .unwrap();
    }

    async fn count(&self, from: &str) -> i64 {
        sqlx::query_scalar(sqlx::AssertSqlSafe(format!("select count(*) from {from}")))
            .fetch_one(&self.tancho.running.core.db)
            .await
            .unwrap()
    }

    /// Creates an app with nothing deployed.
    async fn app(&self, name: &str, owner: &TestUser) -> AppId {
        let app = AppId::new();
        let (label, email) = (&name[..name.len().min(40)], &owner.email);
        self.run(&format!(
            "insert into app (app_id, name, label, platform, plan, pool, team_owner, owner)
                 values ('{app}', '{name}', '{label}', 'python', 'small', 'local', 'red', '{email}');
             insert into app_team values ('{app}', 'red')"
        ))
        .await;
        app
    }

    /// Makes a release with one process and so many units the current one of an app.
    async fn release(&self, app: AppId, process: &str, yaml: &str, units: u32) {
        let core = &self.tancho.running.core;
        let sealed = core.keys.encrypt(
            &AssociatedData::new(SealedColumn::RELEASE_ENV, &[&app, &1_i32]),
            &Secret::new("{}"),
        );
        self.run(&format!(
            "insert into version (app_id, version, host, state, yaml) values ('{app}', 1, 'test', 'ready', '{yaml}');
             insert into version_process values ('{app}', 1, '{process}', 'work');
             insert into app_process values ('{app}', '{process}', {units})"
        ))
        .await;
        sqlx::query(
            "with made as (insert into release (app_id, version, env, user_env) values ($1, 1, $2, '') returning release_id),
                  set as (update app set current_release = (select release_id from made) where app_id = $1)
             select pg_notify('tancho_units', $1::text)",
        )
        .bind(app.0)
        .bind(sealed)
        .execute(&core.db)
        .await
        .unwrap();
    }

    async fn wait_until_ready(&self, app: AppId, units: i64) {
        let served = format!("unit where app_id = '{app}' and phase = 'serving' and ready");
        wait_until("the units of the app are ready", async || {
            self.count(&served).await == units
        })
        .await;
    }

    /// Starts a request of Mallory's without waiting for its response.
    fn start_attacker_request(&mut self, method: Method, path: &str, body: &Value) {
        let request = self.tancho.request_as(&self.mallory, method, path).json(body);
        self.hanging.push(tokio::spawn(async move {
            if let Ok(answer) = request.send().await {
                let _ = answer.bytes().await;
            }
        }));
    }

    async fn set_env(&self, app: &str) {
        let body = json!({ "envs": [{ "name": "COLOUR", "value": uuid::Uuid::new_v4().to_string() }] });
        let request = self
            .tancho
            .request_as(&self.ana, Method::POST, &format!("/1.0/apps/{app}/env"));
        let answer = request.json(&body).send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert_eq!(status, 200, "{text}");
        assert!(!text.contains("rror"), "{text}");
    }

    /// Registers a listener as a service, with an instance of Ana's if it responds.
    async fn service(&self, name: &str, at: SocketAddr) {
        let manifest =
            format!("id: {name}\npassword: secret\nendpoint:\n  production: http://{at}\nteam: red\n");
        let request = self.tancho.request_as(&self.ana, Method::POST, "/services");
        let answer = request.body(manifest).send().await.unwrap();
        assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
    }

    async fn create_instance(&self, service: &str, name: &str) {
        let body = json!({ "name": name, "service_name": service, "owner": "red" });
        let request = self
            .tancho
            .request_as(&self.ana, Method::POST, "/services/instances");
        let answer = request.json(&body).send().await.unwrap();
        assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
    }

    async fn bind(&self, instance: &str, app: &str) {
        for method in [Method::PUT, Method::DELETE] {
            let path = format!("/services/instances/{instance}/{app}");
            let answer = self
                .tancho
                .request_as(&self.ana, method, &path)
                .send()
                .await
                .unwrap();
            assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
        }
    }

    async fn end(self) {
        for request in self.hanging {
            request.abort();
        }
        self.tancho.running.drain_and_stop().await;
    }
}

/// Returns the median of three.
async fn measure(mut work: impl AsyncFnMut()) -> Duration {
    let mut took = Vec::new();
    for _ in 0..3 {
        let began = Instant::now();
        work().await;
        took.push(began.elapsed());
    }
    took.sort();
    took[1]
}

fn assert_undelayed(what: &str, idle: Duration, busy: Duration) {
    assert!(
        busy < (idle * 2).max(FLOOR),
        "{what} took {busy:?}, and {idle:?} without other work"
    );
}

/// Starts a listener that accepts connections and never responds.
async fn hanging_listener() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            kept.push(stream);
        }
    });
    address
}

/// Starts a service that accepts every call.
async fn ok_service() -> SocketAddr {
    let answer = axum::routing::any(async || (Status::CREATED, r#"{"DATABASE":"db"}"#));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = Router::new().fallback(answer);
    tokio::spawn(async move { axum::serve(listener, service).await });
    address
}

#[tokio::test]
async fn instance_creations_at_a_hanging_service_do_not_delay_other_users() {
    let mut fixture = FairnessFixture::new(|_| {}).await;
    let app = fixture.app("shop", &fixture.ana).await;
    fixture.release(app, "worker", QUIET, 1).await;
    fixture.wait_until_ready(app, 1).await;
    fixture.app("plain", &fixture.ana).await;
    fixture.service("good", ok_service().await).await;
    fixture.service("bad", hanging_listener().await).await;
    fixture.create_instance("good", "db").await;
    let rollout = measure(async || fixture.set_env("shop").await).await;
    let change = measure(async || fixture.set_env("plain").await).await;
    let bind = measure(async || fixture.bind("db", "plain").await).await;
    let login = measure(async || drop(fixture.tancho.login("ana@example.com").await)).await;
    for n in 0..40 {
        let body = json!({ "name": format!("i{n}"), "service_name": "bad", "owner": "red" });
        fixture.start_attacker_request(Method::POST, "/services/instances", &body);
    }
    wait_until("all creations are running", async || {
        fixture
            .count("saga where ended_at is null and lease_until is not null")
            .await
            == 40
    })
    .await;
    let busy = measure(async || fixture.set_env("plain").await).await;
    assert_undelayed("a change of variables", change, busy);
    let busy = measure(async || fixture.set_env("shop").await).await;
    assert_undelayed("a change of variables with a rollout", rollout, busy);
    let busy = measure(async || fixture.bind("db", "plain").await).await;
    assert_undelayed("a bind at another service", bind, busy);
    let busy = measure(async || drop(fixture.tancho.login("ana@example.com").await)).await;
    assert_undelayed("a login", login, busy);
    fixture.end().await;
}

#[tokio::test]
async fn rollouts_that_never_become_ready_do_not_delay_other_users() {
    let mut fixture = FairnessFixture::new(|_| {}).await;
    let app = fixture.app("shop", &fixture.ana).await;
    fixture.release(app, "worker", QUIET, 1).await;
    fixture.wait_until_ready(app, 1).await;
    let idle = measure(async || fixture.set_env("shop").await).await;
    // More than there are workers, and more than the sagas of one user that may wait in a replica.
    for n in 0..80 {
        let name = format!("m{n}");
        let app = fixture.app(&name, &fixture.mallory).await;
        fixture.release(app, "web", "{}", 1).await;
        fixture.start_attacker_request(Method::POST, &format!("/1.0/apps/{name}/restart"), &json!({}));
    }
    wait_until("they wait", async || {
        fixture
            .count("saga where ended_at is null and lease_until is not null and step = 'wait-for-units'")
            .await
            >= 64
    })
    .await;
    let busy = measure(async || fixture.set_env("shop").await).await;
    assert_undelayed("a rollout", idle, busy);
    let mine = "saga where ended_at is null and share_key = 'user/mallory@example.com'";
    assert_eq!(fixture.count(mine).await, 80, "all of them are still running");
    fixture.end().await;
}

#[tokio::test]
async fn concurrent_requests_per_user_are_limited() {
    // A quarter of the connections: ten.
    let mut fixture = FairnessFixture::new(|settings| settings.api.max_connections = 40).await;
    let app = fixture.app("shop", &fixture.ana).await;
    fixture.release(app, "worker", QUIET, 1).await;
    fixture.wait_until_ready(app, 1).await;
    for n in 0..10 {
        let name = format!("m{n}");
        let app = fixture.app(&name, &fixture.mallory).await;
        fixture.release(app, "web", "{}", 1).await;
        fixture.start_attacker_request(Method::POST, &format!("/1.0/apps/{name}/restart"), &json!({}));
    }
    let restarts = "event where kind = 'app.update.restart' and ended_at is null";
    wait_until("all restarts are followed", async || {
        fixture.count(restarts).await == 10
    })
    .await;
    fixture.app("m10", &fixture.mallory).await;
    // Another session counts for the same user.
    let again = fixture.tancho.login(&fixture.mallory.email).await;
    for (method, path) in [
        (Method::POST, "/1.0/apps/m10/restart"),
        (Method::POST, "/apps/m10/restart"),
        (Method::GET, "/1.0/apps/m0/log?lines=1&follow=1"),
        (Method::GET, "/apps"),
    ] {
        let refused = fixture
            .tancho
            .request_as(&again, method, path)
            .send()
            .await
            .unwrap();
        assert_eq!(refused.status(), 429, "{path}");
        assert_eq!(refused.headers()["retry-after"], "1", "{path}");
        let words = refused.text().await.unwrap();
        assert!(words.contains("nothing was changed"), "{path}: {words}");
    }
    assert_eq!(fixture.count("event where target_value = 'm10'").await, 0);
    fixture.set_env("shop").await;
    // A client disconnects; its restart continues.
    fixture.hanging.pop().unwrap().abort();
    wait_until("the slot is free again", async || {
        let answer = fixture
            .tancho
            .request_as(&again, Method::GET, "/1.0/apps/m10")
            .send()
            .await;
        answer.unwrap().status() == 200
    })
    .await;
    assert_eq!(fixture.count(restarts).await, 10);
    fixture.end().await;
}

#[tokio::test]
async fn hanging_health_checks_do_not_delay_other_apps() {
    let fixture = FairnessFixture::new(|_| {}).await;
    let hanging = hanging_listener().await;
    let listening = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let good = listening.local_addr().unwrap();
    tokio::spawn(async move { while listening.accept().await.is_ok() {} });
    let (fake, stop) = (
        fixture.tancho.fake.clone(),
        fixture.tancho.running.core.stop.clone(),
    );
    tokio::spawn(async move {
        while !stop.is_cancelled() {
            for report in fake.observe_units().await.unwrap() {
                let is_bad = report.unit.as_str().starts_with("bad-");
                let address = if is_bad { hanging } else { good };
                if report.address != Some(address) {
                    fake.set_address(&report.unit, address);
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let came_up = async |name: &str| {
        let app = fixture.app(name, &fixture.ana).await;
        let began = Instant::now();
        fixture.release(app, "web", "{}", 1).await;
        fixture.wait_until_ready(app, 1).await;
        began.elapsed()
    };
    let idle = came_up("before").await;
    let bad = fixture.app("bad", &fixture.mallory).await;
    fixture.release(bad, "web", SLOW_CHECK, 140).await;
    wait_until("all of them are checked", async || {
        fixture
            .count(&format!("unit where app_id = '{bad}' and state = 'started'"))
            .await
            == 140
    })
    .await;
    let busy = came_up("after").await;
    assert_undelayed("a new unit", idle, busy);
    fixture.tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn app_with_the_longest_names_runs_beside_other_apps() {
    let fixture = FairnessFixture::new(|_| {}).await;
    let (long, process) = ("a".repeat(63), "p".repeat(60));
    let app = fixture.app(&long, &fixture.mallory).await;
    let yaml = QUIET.replace("worker", &process);
    fixture.release(app, &process, &yaml, 2).await;
    let other = fixture.app("shop", &fixture.ana).await;
    fixture.release(other, "worker", QUIET, 1).await;
    fixture.wait_until_ready(other, 1).await;
    fixture.wait_until_ready(app, 2).await;
    let longest: i32 = sqlx::query_scalar("select max(length(unit_id)) from unit")
        .fetch_one(&fixture.tancho.running.core.db)
        .await
        .unwrap();
    assert_eq!(longest, 63);
    fixture.tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn app_with_undecodable_rows_does_not_block_other_apps() {
    let fixture = FairnessFixture::new(|_| {}).await;
    // Before and after the other apps by name, and with a unit whose name cannot be decoded.
    for name in ["abroken", "zbroken"] {
        let app = fixture.app(name, &fixture.mallory).await;
        fixture.release(app, "no name of a process!", "{}", 1).await;
    }
    let third = fixture.app("unreadable", &fixture.mallory).await;
    fixture.release(third, "worker", QUIET, 1).await;
    fixture.wait_until_ready(third, 1).await;
    fixture
        .run(&format!(
            "insert into unit (unit_id, app_id, release_id, process, version, host)
         select '/', app_id, release_id, process, version, host from unit where app_id = '{third}';
         select pg_notify('tancho_units', '')"
        ))
        .await;
    let app = fixture.app("shop", &fixture.ana).await;
    fixture.release(app, "worker", QUIET, 2).await;
    fixture.wait_until_ready(app, 2).await;
    fixture.run(&format!(
        "update app_process set units = 3 where app_id = '{app}'; select pg_notify('tancho_units', '{app}')"
    ))
    .await;
    fixture.wait_until_ready(app, 3).await;
    fixture.tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn undeliverable_mails_hold_no_worker() {
    let smtp = hanging_listener().await;
    let fixture = FairnessFixture::new(|settings| {
        settings.mail.smtp_url = Secret::new(format!("smtp://{smtp}"));
        settings.auth.login_attempts_per_address = 1000;
    })
    .await;
    // More than all workers and the sagas that wait for one.
    for n in 0..24 {
        let user = fixture.tancho.create_user(&format!("forgetful{n}")).await;
        let path = format!("/users/{}/password", user.email);
        let answer = fixture.tancho.request(Method::POST, &path).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
    }
    let sent = "saga where kind = 'mail.send' and ended_at is null and lease_until > now()";
    wait_until("all mails are being sent", async || {
        fixture.count(sent).await == 24
    })
    .await;
    fixture.tancho.running.drain_and_stop().await;
}

/// Creates two apps with a unit each, of Ana and of Mallory, whose logs are collected at the same time.
async fn with_two_logs(fixture: &FairnessFixture) -> (AppId, AppId) {
    let ana = fixture.app("shop", &fixture.ana).await;
    let mallory = fixture.app("evil", &fixture.mallory).await;
    for app in [ana, mallory] {
        fixture.release(app, "worker", QUIET, 1).await;
        fixture.wait_until_ready(app, 1).await;
    }
    // With a new connection the reconciler takes all units over at once.
    fixture
        .run(
            "select pg_terminate_backend(l.pid) from pg_locks l join pg_database d on d.oid = l.database
         where l.locktype = 'advisory' and d.datname = current_database() and l.pid <> pg_backend_pid()",
        )
        .await;
    wait_until("the reconciler has its lock again", async || {
        fixture.count("pg_locks l join pg_database d on d.oid = l.database where l.locktype = 'advisory' and d.datname = current_database()")
            .await
            > 0
    })
    .await;
    (ana, mallory)
}

/// Makes the units of all apps write a line, and waits until one app has as many as expected.
async fn write_until_stored(fixture: &FairnessFixture, app: AppId, lines: i64) {
    for report in fixture.tancho.fake.observe_units().await.unwrap() {
        fixture
            .tancho
            .fake
            .write_log(&report.unit, LogStream::Stdout, "hello");
    }
    wait_until("the lines are stored", async || {
        fixture
            .count(&format!("log_line where app_id = '{app}' and message = 'hello'"))
            .await
            == lines
    })
    .await;
}

#[tokio::test]
async fn failing_log_writes_of_one_app_do_not_block_other_logs() {
    let fixture = FairnessFixture::new(|_| {}).await;
    let (ana, mallory) = with_two_logs(&fixture).await;
    fixture.run(&format!(
        "create function refuse_line() returns trigger language plpgsql as $$ begin raise 'not this one'; end $$;
         create trigger refuse_line before insert on log_line for each row
             when (new.app_id = '{mallory}') execute function refuse_line()"
    ))
    .await;
    write_until_stored(&fixture, ana, 1).await;
    fixture.run("drop trigger refuse_line on log_line").await;
    // The line that was refused is not lost.
    write_until_stored(&fixture, mallory, 2).await;
    fixture.tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn locked_log_of_one_app_does_not_block_other_logs() {
    let fixture = FairnessFixture::new(|_| {}).await;
    let (ana, mallory) = with_two_logs(&fixture).await;
    let mut writing = fixture.tancho.running.core.db.begin().await.unwrap();
    sqlx::query("select pg_advisory_xact_lock(hashtextextended('tancho.log.' || $1::text, 0))")
        .bind(mallory.0)
        .execute(&mut *writing)
        .await
        .unwrap();
    let began = Instant::now();
    write_until_stored(&fixture, ana, 1).await;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let of_mallory = format!("log_line where app_id = '{mallory}' and message = 'hello'");
    assert_eq!(fixture.count(&of_mallory).await, 0);
    writing.rollback().await.unwrap();
    wait_until("the other app is collected", async || {
        fixture.count(&of_mallory).await == 1
    })
    .await;
    fixture.tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn repositories_that_cannot_be_packed_do_not_delay_other_users() {
    let fixture = FairnessFixture::new(|_| {}).await;
    let root = fixture.tancho.login_admin().await;
    let mut held = Vec::new();
    // More than are maintained concurrently, and pushed to earlier.
    for n in 0..6 {
        let app = fixture.app(&format!("m{n}"), &fixture.mallory).await;
        let id = uuid::Uuid::new_v4();
        fixture
            .run(&format!(
                "insert into repository (repository_id, app_id, host, pushed_at)
             values ('{id}', '{app}', 'test', now() - interval '1 hour')"
            ))
            .await;
        let folder = fixture.tancho.running.core.data_dir.repository_dir(id);
        std::fs::create_dir_all(&folder).unwrap();
        // As during a fetch into it.
        let file = std::fs::File::create(folder.join("tancho.pack")).unwrap();
        file.lock().unwrap();
        held.push(file);
    }
    let (app, id) = (fixture.app("shop", &fixture.ana).await, uuid::Uuid::new_v4());
    let gone = uuid::Uuid::new_v4();
    fixture
        .run(&format!(
            "insert into repository (repository_id, app_id, host, pushed_at)
         values ('{id}', '{app}', 'test', now()), ('{gone}', null, 'test', now())"
        ))
        .await;
    let asked = fixture
        .tancho
        .request_as(&root, Method::GET, "/healers/repositories");
    let asked = tokio::spawn(async move { drop(asked.send().await) });
    wait_until("the other repositories are packed", async || {
        fixture
            .count(&format!(
                "repository where repository_id = '{gone}' or repository_id = '{id}' and tidied_at is null"
            ))
            .await
            == 0
    })
    .await;
    let waiting = "repository where app_id is not null and tidied_at is null";
    assert_eq!(fixture.count(waiting).await, 6, "they are still waiting");
    drop(held);
    asked.abort();
    fixture.tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn caller_of_a_hanging_service_gets_the_error() {
    let fixture = FairnessFixture::new(|settings| {
        settings.api.request_timeout = Duration::from_secs(2);
        settings.services.call_timeout = Duration::from_secs(2);
    })
    .await;
    fixture.service("bad", hanging_listener().await).await;
    fixture.app("plain", &fixture.ana).await;
    for (path, body) in [
        (
            "/services/instances",
            json!({ "name": "one", "service_name": "bad", "owner": "red" }),
        ),
        (
            "/1.0/services/bad/instances",
            json!({ "name": "two", "owner": "red" }),
        ),
    ] {
        let request = fixture
            .tancho
            .request_as(&fixture.ana, Method::POST, path)
            .json(&body);
        let answer = request.send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert_eq!(status, 500, "{path}: {text}");
        assert!(text.contains("did not respond in time"), "{path}: {text}");
    }
    fixture.tancho.running.drain_and_stop().await;
}

/// A kind of saga that no server runs.
struct QuietSaga;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct QuietStep;

impl SagaStep for QuietStep {
    const ALL: &'static [Self] = &[Self];

    fn name(self) -> &'static str {
        "only"
    }
}

#[async_trait::async_trait]
impl Saga for QuietSaga {
    const KIND: &'static str = "nobody.runs.it";
    type Step = QuietStep;
    type Data = uuid::Uuid;

    fn queue(_app: &uuid::Uuid) -> SagaQueue {
        SagaQueue::Background
    }

    fn app(app: &uuid::Uuid) -> Option<AppId> {
        Some(AppId(*app))
    }

    async fn run_step(&self, _: QuietStep, _: &mut uuid::Uuid, _: &StepContext) -> Result<(), StepError> {
        Ok(())
    }

    async fn undo_step(&self, _: QuietStep, _: &mut uuid::Uuid, _: &StepContext) -> Result<(), StepError> {
        Ok(())
    }
}

#[tokio::test]
async fn saga_share_key_is_the_requesting_user_or_app_owner() {
    let fixture = FairnessFixture::new(|_| {}).await;
    let app = fixture.app("shop", &fixture.ana).await;
    fixture.set_env("shop").await;
    let core = &fixture.tancho.running.core;
    let mut tx = core.db.begin().await.unwrap();
    tancho::sagas::enqueue_saga::<QuietSaga>(&mut tx, None, &app.0)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let keys: Vec<String> = sqlx::query_scalar("select distinct share_key from saga")
        .fetch_all(&core.db)
        .await
        .unwrap();
    assert_eq!(keys, ["user/ana@example.com"]);
    fixture.tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn log_lines_written_after_a_failure_count_once_toward_the_rate_limit() {
    let fixture = FairnessFixture::new(|_| {}).await;
    let app = fixture.app("shop", &fixture.ana).await;
    fixture.release(app, "worker", QUIET, 2).await;
    fixture.wait_until_ready(app, 2).await;
    fixture
        .run(
            "create sequence attempt;
             create function refuse_lines() returns trigger language plpgsql
                 as $$ begin perform nextval('attempt'); raise 'not now'; end $$;
             create trigger refuse_lines before insert on log_line execute function refuse_lines()",
        )
        .await;
    // Together as many as an app may write at once.
    for report in fixture.tancho.fake.observe_units().await.unwrap() {
        for n in 0..1000 {
            let line = format!("line {n}");
            fixture
                .tancho
                .fake
                .write_log(&report.unit, LogStream::Stdout, &line);
        }
    }
    let attempts = || async {
        let last = "select case when is_called then last_value else 0 end from attempt";
        let count: i64 = sqlx::query_scalar(last)
            .fetch_one(&fixture.tancho.running.core.db)
            .await
            .unwrap();
        count
    };
    wait_until("both units were collected", async || attempts().await >= 2).await;
    let before = attempts().await;
    // With a new connection the reconciler takes over all units at once.
    fixture
        .run(
            "select pg_terminate_backend(l.pid) from pg_locks l join pg_database d on d.oid = l.database
             where l.locktype = 'advisory' and d.datname = current_database() and l.pid <> pg_backend_pid()",
        )
        .await;
    wait_until("all lines were refused", async || attempts().await > before).await;
    fixture.run("drop trigger refuse_lines on log_line").await;
    let lines = "log_line where message like 'line %'";
    wait_until("all lines are stored", async || {
        let dropped = fixture
            .count("log_line where message like '%were dropped%'")
            .await;
        assert_eq!(dropped, 0, "lines count more than once");
        fixture.count(lines).await == 2000
    })
    .await;
    fixture.tancho.running.drain_and_stop().await;
}
