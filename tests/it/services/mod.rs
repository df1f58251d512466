//! Both editions against real services, programs written as the documentation of their year shows (three in
//! Flask, one in Node); and their failures.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tancho::kernel::secret::Secret;
use uuid::Uuid;

use crate::test_server::TestServer;

mod cycle;
mod editions;
mod failing;
mod faults;
mod invalid_responses;
mod late_results;
mod operations;
mod operator_actions;
mod programs;
mod proxy;
mod races;
mod rights;
mod unit_hosts;
mod variables;

/// A running service. It stops with the test.
struct ServiceProcess {
    child: Child,
    url: String,
    http: reqwest::Client,
}

impl Drop for ServiceProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns a Python interpreter that has Flask.
fn python() -> &'static str {
    let has_flask = |python: &&&str| {
        Command::new(python)
            .args(["-c", "import flask"])
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    ["python3", "/usr/bin/python3", "/usr/local/bin/python3"]
        .iter()
        .find(has_flask)
        .expect("a python3 that can import flask")
}

impl ServiceProcess {
    /// Starts a program of `tests/services` with its interpreter.
    fn start(script: &str) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut command = match script.ends_with(".js") {
            true => Command::new("node"),
            false => Command::new(python()),
        };
        if script.ends_with(".py") {
            command.arg("-B");
        }
        let mut child = command
            .arg(format!("{}/tests/services/{script}", env!("CARGO_MANIFEST_DIR")))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let url = format!("http://127.0.0.1:{}", line.trim());
        Self {
            child,
            url,
            // Without kept connections: Node ends an idle one after five seconds, and a POST that is being
            // sent on it fails.
            http: reqwest::Client::builder()
                .pool_max_idle_per_host(0)
                .build()
                .unwrap(),
        }
    }

    async fn get(&self, path: &str) -> Value {
        let answer = self.http.get(format!("{}{path}", self.url)).send().await;
        answer.unwrap().json().await.unwrap()
    }

    /// Returns the calls received so far, as "VERB /path".
    async fn calls(&self) -> Vec<String> {
        let log = self.get("/__log").await;
        let calls = log.as_array().unwrap().iter();
        calls.map(|c| c["call"].as_str().unwrap().to_owned()).collect()
    }

    async fn last(&self, call: &str) -> Value {
        let log = self.get("/__log").await;
        let found = log.as_array().unwrap().iter().rev().find(|c| c["call"] == call);
        found.unwrap_or_else(|| panic!("no {call} in {log}")).clone()
    }

    async fn fail(&self, how: Value) {
        let request = self.http.post(format!("{}/__fail", self.url)).json(&how);
        request.send().await.unwrap().error_for_status().unwrap();
    }
}

/// A server with a user in a team.
struct ServiceFixture {
    tancho: TestServer,
}

impl ServiceFixture {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut tancho::config::Settings)) -> Self {
        let tancho = TestServer::start_with(change).await;
        let fixture = Self { tancho };
        fixture.team("red").await;
        fixture.user("ana", &[("team-member", "red")]).await;
        fixture
    }

    fn db(&self) -> &sqlx::PgPool {
        &self.tancho.running.core.db
    }

    async fn team(&self, name: &str) {
        sqlx::query("insert into team (name) values ($1)")
            .bind(name)
            .execute(self.db())
            .await
            .unwrap();
    }

    /// Creates a user whose token is their name.
    async fn user(&self, name: &str, roles: &[(&str, &str)]) {
        let id = Uuid::now_v7();
        sqlx::query(
            "insert into user_account (user_id, email, password_hash, quota_limit) values ($1, $2, 'x', $3)",
        )
        .bind(id)
        .bind(format!("{name}@example.com"))
        .bind(self.tancho.running.core.settings.quota.apps_per_user)
        .execute(self.db())
        .await
        .unwrap();
        for (role, value) in roles {
            sqlx::query(
                "insert into user_role (user_id, role, team_id)
                 values ($1, $2, (select team_id from team where name = $3))",
            )
            .bind(id)
            .bind(role)
            .bind(value)
            .execute(self.db())
            .await
            .unwrap();
        }
        let digest = tancho::kernel::encryption::digest_token(&Secret::new(name));
        sqlx::query(
            "insert into access_token (digest, token_id, kind, user_id) values ($1, $2, 'session', $3)",
        )
        .bind(&digest[..])
        .bind(Uuid::now_v7())
        .bind(id)
        .execute(self.db())
        .await
        .unwrap();
    }

    async fn app(&self, name: &str, team: &str) -> Uuid {
        let id = Uuid::now_v7();
        sqlx::query(
            "insert into app (app_id, name, label, platform, plan, pool, team_owner, owner)
             values ($1, $2, $2, 'python', 'default', 'local', $3, 'ana@example.com')",
        )
        .bind(id)
        .bind(name)
        .bind(team)
        .execute(self.db())
        .await
        .unwrap();
        sqlx::query("insert into app_team (app_id, team) values ($1, $2)")
            .bind(id)
            .bind(team)
            .execute(self.db())
            .await
            .unwrap();
        id
    }

    /// Sends a request as a user; the body is sent unchanged.
    async fn send_request(
        &self,
        who: &str,
        verb: &str,
        path: &str,
        body: impl Into<String>,
    ) -> (StatusCode, String) {
        let method = Method::from_bytes(verb.as_bytes()).unwrap();
        let request = self.tancho.request(method, path).bearer_auth(who);
        let answer = request.body(body.into()).send().await.unwrap();
        (answer.status(), answer.text().await.unwrap())
    }

    async fn send_form(
        &self,
        who: &str,
        verb: &str,
        path: &str,
        form: &[(&str, &str)],
    ) -> (StatusCode, String) {
        let method = Method::from_bytes(verb.as_bytes()).unwrap();
        let request = self.tancho.request(method, path).bearer_auth(who).form(form);
        let answer = request.send().await.unwrap();
        (answer.status(), answer.text().await.unwrap())
    }

    /// Sends a request like `send_request`, as ana; it must succeed.
    async fn request_ok(&self, verb: &str, path: &str, body: impl Into<String>) -> String {
        let (status, text) = self.send_request("ana", verb, path, body).await;
        assert!(status.is_success(), "{verb} {path}: {status} {text}");
        text
    }

    async fn service(&self, name: &str, flask: &ServiceProcess) {
        let manifest = format!(
            "id: {name}\npassword: pw-canary\nendpoint:\n  production: {}\n",
            flask.url
        );
        self.request_ok("POST", "/services", manifest).await;
    }

    async fn count(&self, table: &str) -> i64 {
        let query = format!("select count(*) from {table}");
        sqlx::query_scalar(sqlx::AssertSqlSafe(query))
            .fetch_one(self.db())
            .await
            .unwrap()
    }

    /// Waits until a table with its condition has so many rows.
    async fn wait_for_rows(&self, table: &str, rows: i64) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        loop {
            let found = self.count(table).await;
            if found == rows {
                return;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "{table}: {found} rows, not {rows}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until no saga runs, nothing is locked, and no orphan is open.
    async fn wait_until_settled(&self) {
        self.wait_for_rows("event where ended_at is null", 0).await;
        self.wait_for_rows("saga where ended_at is null", 0).await;
        assert_eq!(self.count("event_lock").await, 0);
        assert_eq!(self.count("saga where state = 'stuck'").await, 0);
        self.wait_for_rows("orphan where ended_at is null", 0).await;
    }

    async fn end(self) {
        self.tancho.running.drain_and_stop().await;
    }
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}
