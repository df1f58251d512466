//! Scaling by load on a real database with the fake provisioner.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::recorded::test_service;
use crate::test_server::{TestServer, TestUser};

const RULES: &str = "/1.9/apps/shop/units/autoscale";

/// A server with the running app `shop` of ana, with one unit of `web` and one of `worker`.
struct ScaleFixture {
    tancho: TestServer,
    ana: TestUser,
    bob: TestUser,
}

impl ScaleFixture {
    async fn start() -> Self {
        let tancho =
            TestServer::start_with(|settings| settings.apps.drain_timeout = Duration::from_millis(50)).await;
        let ana = tancho.create_user("ana").await;
        let bob = tancho.create_user("bob").await;
        tancho.create_team(&ana, "red").await;
        tancho.create_team(&bob, "blue").await;
        test_service::install_platforms(&tancho);
        test_service::listen_for_all_units(&tancho).await;
        let fixture = Self { tancho, ana, bob };
        fixture.deploy("shop").await;
        fixture
    }

    async fn deploy(&self, app: &str) {
        let new = json!({ "name": app, "platform": "procfile", "teamOwner": "red" });
        let (status, text) = self.send(&self.ana, "POST /1.0/apps", new).await;
        assert_eq!(status, 201, "{text}");
        let path = format!("/1.0/apps/{app}/deploy");
        let deploying = self.tancho.request_as(&self.ana, Method::POST, &path);
        let deploying = deploying
            .header("content-type", "application/gzip")
            .body(test_service::archive("web: echo hello;\nworker: work\n"));
        let text = deploying.send().await.unwrap().text().await.unwrap();
        assert!(text.ends_with("\nOK\n"), "{text}");
    }

    async fn send(&self, user: &TestUser, line: &str, body: Value) -> (u16, String) {
        let (method, path) = line.split_once(' ').unwrap();
        let method: Method = method.parse().unwrap();
        self.tancho.send_json(user, method, path, Some(body)).await
    }

    async fn set(&self, app: &str, rule: Value) {
        let line = format!("POST /1.9/apps/{app}/units/autoscale");
        let (status, text) = self.send(&self.ana, &line, rule).await;
        assert_eq!(status, 200, "{text}");
    }

    async fn sql(&self, sql: &'static str) {
        let db = &self.tancho.running.core.db;
        sqlx::raw_sql(sql).execute(db).await.unwrap();
    }

    /// Waits until so many units of a process are asked for.
    async fn wait_for_units(&self, app: &str, process: &str, units: i32) {
        let deadline = Instant::now() + Duration::from_secs(20);
        let query =
            "select units from app_process p join app a using (app_id) where a.name = $1 and p.process = $2";
        loop {
            let query = sqlx::query_scalar(query).bind(app).bind(process);
            let found: Option<i32> = query.fetch_optional(&self.tancho.running.core.db).await.unwrap();
            if found == Some(units) {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{process} has {found:?} units, not {units}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn cpu_rule(min: i32, max: i32) -> Value {
    json!({ "process": "web", "minUnits": min, "maxUnits": max, "averageCPU": "50%", "behavior": { "scaleDown": {} } })
}

#[tokio::test]
async fn rule_is_set_shown_moved_and_unset() {
    let fixture = ScaleFixture::start().await;
    let rule = json!({ "process": "web", "minUnits": 2, "maxUnits": 6, "averageCPU": "50%",
        "schedules": [{ "name": "day", "minReplicas": 4, "start": "0 6 * * *", "end": "0 18 * * *", "timezone": "UTC" }],
        "prometheus": [{ "name": "queue", "query": "sum(x)", "threshold": 10.5, "prometheusAddress": "http://prometheus.example.com:9090" }],
        "behavior": { "scaleDown": { "stabilizationWindow": 300, "percentagePolicyValue": 10, "unitsPolicyValue": 3 } } });
    fixture.set("shop", rule.clone()).await;
    let mut wanted = rule;
    wanted["averageCPU"] = json!("500m");
    wanted["version"] = json!(1);
    let seen = fixture.tancho.read_json(&fixture.ana, RULES).await;
    assert_eq!(seen, json!([wanted]));
    let app = fixture.tancho.read_json(&fixture.ana, "/1.0/apps/shop").await;
    assert_eq!(app["autoscale"], seen);
    // The number of units has one owner.
    for line in ["PUT /1.0/apps/shop/units", "DELETE /1.0/apps/shop/units"] {
        let body = json!({ "units": "1", "process": "web" });
        let (status, text) = fixture.send(&fixture.ana, line, body).await;
        assert_eq!(
            (status, text.contains("scaled automatically between 2 and 6")),
            (409, true),
            "{text}"
        );
    }
    let (status, text) = fixture
        .send(
            &fixture.ana,
            "PUT /1.0/apps/shop/units",
            json!({ "units": "1", "process": "worker" }),
        )
        .await;
    assert_eq!((status, text.contains("\"Error\"")), (200, false), "{text}");
    for (version, status) in [("1", 200), ("7", 400), ("x", 400)] {
        let line = "POST /1.29/apps/shop/units/autoscale/swap";
        let (found, text) = fixture
            .send(&fixture.ana, line, json!({ "version": version }))
            .await;
        assert_eq!(found, status, "{version}: {text}");
    }
    let line = format!("DELETE {RULES}?process=web");
    for status in [200, 404] {
        let (found, text) = fixture.send(&fixture.ana, &line, json!({})).await;
        assert_eq!(found, status, "{text}");
    }
    assert_eq!(fixture.tancho.read_json(&fixture.ana, RULES).await, json!([]));
    fixture.tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn rules_that_cannot_hold_are_refused_and_change_nothing() {
    let fixture = ScaleFixture::start().await;
    let with = |field: &str, value: Value| {
        let mut rule = cpu_rule(1, 3);
        rule[field] = value;
        rule
    };
    let schedule = |start: &str, zone: &str| json!([{ "minReplicas": 2, "start": start, "end": "0 18 * * *", "timezone": zone }]);
    let query = |threshold: f64, address: &str| json!([{ "name": "q", "query": "x", "threshold": threshold, "prometheusAddress": address }]);
    for (rule, says) in [
        (cpu_rule(6, 2), "greater than the minimum"),
        (cpu_rule(2, 2), "greater than the minimum"),
        (cpu_rule(0, 2), "at least 1"),
        (cpu_rule(-1, 2), "at least 1"),
        (cpu_rule(1, 100_000), "at most 1000"),
        (with("minUnits", json!(9_999_999_999_i64)), "out of range"),
        (with("averageCPU", json!("0%")), "CPU target"),
        (with("averageCPU", json!("much")), "CPU target"),
        (with("averageCPU", json!("")), "by what the process is scaled"),
        (with("process", json!("nothing")), "it has web, worker"),
        (with("version", json!(9)), "not running"),
        (with("schedules", schedule("0 25 * * *", "UTC")), "hour"),
        (with("schedules", schedule("0 0 30 2 *", "UTC")), "never occurs"),
        (with("schedules", schedule("0 6 * * *", "Moon")), "time zone"),
        (
            with("prometheus", query(0.0, "http://p.example.com")),
            "greater than 0",
        ),
        (
            with("prometheus", query(1.0, "file:///etc/passwd")),
            "Prometheus server",
        ),
        (
            with("behavior", json!({ "scaleDown": { "unitsPolicyValue": 0 } })),
            "unitsPolicyValue",
        ),
    ] {
        let (status, text) = fixture
            .send(&fixture.ana, &format!("POST {RULES}"), rule.clone())
            .await;
        assert_eq!((status, text.contains(says)), (400, true), "{rule}: {text}");
    }
    let (status, _) = fixture
        .send(&fixture.bob, &format!("POST {RULES}"), cpu_rule(1, 3))
        .await;
    assert_eq!(status, 403);
    assert_eq!(fixture.tancho.read_json(&fixture.ana, RULES).await, json!([]));
    let new = json!({ "name": "bare", "platform": "procfile", "teamOwner": "red" });
    assert_eq!(fixture.send(&fixture.ana, "POST /1.0/apps", new).await.0, 201);
    let line = "POST /1.9/apps/bare/units/autoscale";
    let (status, text) = fixture.send(&fixture.ana, line, cpu_rule(1, 3)).await;
    assert_eq!((status, text.contains("deploy it first")), (412, true), "{text}");
    fixture.tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn number_of_units_follows_the_load_within_its_bounds() {
    let fixture = ScaleFixture::start().await;
    let replica = fixture.tancho.start_replica(|_| {}).await;
    fixture.set("shop", cpu_rule(2, 5)).await;
    fixture.wait_for_units("shop", "web", 2).await;
    // Each of both uses a whole processor, of which it should use the half.
    let deadline = Instant::now() + Duration::from_secs(20);
    let serving = "select count(*) from unit where process = 'web' and phase = 'serving' and ready";
    let db = &fixture.tancho.running.core.db;
    while sqlx::query_scalar::<_, i64>(serving).fetch_one(db).await.unwrap() < 2 {
        assert!(Instant::now() < deadline, "the second unit does not start");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    fixture
        .sql(
            "insert into unit_usage (unit_id, cpu_milli, measured_at)
             select unit_id, 1000, now() from unit where process = 'web' and phase = 'serving';
             update autoscale set next_at = now()",
        )
        .await;
    fixture.wait_for_units("shop", "web", 4).await;
    // A stopped process stays so, and its number too.
    let (status, _) = fixture
        .send(
            &fixture.ana,
            "POST /1.0/apps/shop/stop",
            json!({ "process": "web" }),
        )
        .await;
    assert_eq!(status, 200);
    let changes: i64 =
        sqlx::query_scalar("select count(*) from event where kind = 'app.update.unit.autoscale'")
            .fetch_one(db)
            .await
            .unwrap();
    assert_eq!(changes, 2, "each change is made once and recorded");
    replica.running.drain_and_stop().await;
    fixture.tancho.running.drain_and_stop().await;
}

/// A server that answers `/text` with text, `/api` with 42, and `/hang` never.
async fn start_prometheus() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answer =
        r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":[1,"42"]}]}}"#;
    let router = Router::new()
        .route("/text/api/v1/query", get(|| async { "it works!" }))
        .route("/hang/api/v1/query", get(std::future::pending::<String>))
        .route("/api/v1/query", get(move || async move { answer }));
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

#[tokio::test]
async fn server_that_hangs_or_answers_text_holds_up_nobody() {
    let fixture = ScaleFixture::start().await;
    let address = start_prometheus().await;
    for app in ["text", "hang"] {
        fixture.deploy(app).await;
    }
    let rule = |path: &str| {
        json!({ "process": "web", "minUnits": 1, "maxUnits": 6, "behavior": { "scaleDown": {} },
            "prometheus": [{ "name": "queue", "query": "sum(x)", "threshold": 10, "prometheusAddress": format!("http://{address}{path}") }] })
    };
    fixture.set("hang", rule("/hang")).await;
    fixture.set("text", rule("/text/")).await;
    fixture.set("shop", rule("")).await;
    // 42 are more than four thresholds.
    fixture.wait_for_units("shop", "web", 5).await;
    let deadline = Instant::now() + Duration::from_secs(20);
    let noted = "select count(*) from autoscale where note like 'The query \"queue\" was%'";
    let db = &fixture.tancho.running.core.db;
    while sqlx::query_scalar::<_, i64>(noted).fetch_one(db).await.unwrap() < 2 {
        assert!(Instant::now() < deadline, "what is wrong is not noted");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    fixture.wait_for_units("hang", "web", 1).await;
    fixture.wait_for_units("text", "web", 1).await;
    fixture.tancho.running.drain_and_stop().await;
}
