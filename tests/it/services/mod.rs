//! Services from both editions to real programs that are written as the documents of their year show (Flask
//! three times, Node once), and back; and what is left when they fail.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tancho::kernel::secret::Secret;
use uuid::Uuid;

use crate::house::House;

mod cycle;
mod failing;
mod faults;
mod late;
mod programs;
mod races;
mod rights;
mod unsettled;
mod whole;

/// A service at work. It ends with the test.
struct Flask {
    child: Child,
    url: String,
    http: reqwest::Client,
}

impl Drop for Flask {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An interpreter that has Flask.
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

impl Flask {
    /// Starts a program of `tests/services` by the interpreter of its kind.
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
            http: reqwest::Client::new(),
        }
    }

    async fn get(&self, path: &str) -> Value {
        let answer = self.http.get(format!("{}{path}", self.url)).send().await;
        answer.unwrap().json().await.unwrap()
    }

    /// The calls received so far, as "VERB /path".
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

/// A house with a person in a team.
struct Scene {
    house: House,
}

impl Scene {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut tancho::config::Settings)) -> Self {
        let house = House::with(change).await;
        let scene = Self { house };
        scene.team("red").await;
        scene.user("ana", &[("team-member", "red")]).await;
        scene
    }

    fn db(&self) -> &sqlx::PgPool {
        &self.house.running.core.db
    }

    async fn team(&self, name: &str) {
        sqlx::query("insert into team (name) values ($1)")
            .bind(name)
            .execute(self.db())
            .await
            .unwrap();
    }

    /// A user whose token is their name.
    async fn user(&self, name: &str, roles: &[(&str, &str)]) {
        let id = Uuid::now_v7();
        sqlx::query(
            "insert into user_account (user_id, email, password_hash, quota_limit) values ($1, $2, 'x', $3)",
        )
        .bind(id)
        .bind(format!("{name}@example.com"))
        .bind(self.house.running.core.settings.quota.apps_per_user)
        .execute(self.db())
        .await
        .unwrap();
        for (role, value) in roles {
            sqlx::query("insert into user_role (user_id, role, context_value) values ($1, $2, $3)")
                .bind(id)
                .bind(role)
                .bind(value)
                .execute(self.db())
                .await
                .unwrap();
        }
        let digest = tancho::kernel::seal::digest(&Secret::new(name));
        sqlx::query("insert into bearer (digest, token_id, kind, user_id) values ($1, $2, 'session', $3)")
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

    /// A request as somebody; the body goes out as it is.
    async fn ask(&self, who: &str, verb: &str, path: &str, body: impl Into<String>) -> (StatusCode, String) {
        let method = Method::from_bytes(verb.as_bytes()).unwrap();
        let request = self.house.request(method, path).bearer_auth(who);
        let answer = request.body(body.into()).send().await.unwrap();
        (answer.status(), answer.text().await.unwrap())
    }

    async fn form(&self, who: &str, verb: &str, path: &str, form: &[(&str, &str)]) -> (StatusCode, String) {
        let method = Method::from_bytes(verb.as_bytes()).unwrap();
        let request = self.house.request(method, path).bearer_auth(who).form(form);
        let answer = request.send().await.unwrap();
        (answer.status(), answer.text().await.unwrap())
    }

    /// As `ask`, by ana, and it must succeed.
    async fn ok(&self, verb: &str, path: &str, body: impl Into<String>) -> String {
        let (status, text) = self.ask("ana", verb, path, body).await;
        assert!(status.is_success(), "{verb} {path}: {status} {text}");
        text
    }

    async fn service(&self, name: &str, flask: &Flask) {
        let manifest = format!(
            "id: {name}\npassword: pw-canary\nendpoint:\n  production: {}\n",
            flask.url
        );
        self.ok("POST", "/services", manifest).await;
    }

    async fn count(&self, table: &str) -> i64 {
        let query = format!("select count(*) from {table}");
        sqlx::query_scalar(sqlx::AssertSqlSafe(query))
            .fetch_one(self.db())
            .await
            .unwrap()
    }

    /// Waits until a table with its condition has so many rows.
    async fn until(&self, table: &str, rows: i64) {
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

    /// Nothing runs, nothing is locked, nothing is left to be hunted.
    async fn settled(&self) {
        self.until("event where ended_at is null", 0).await;
        self.until("saga where ended_at is null", 0).await;
        assert_eq!(self.count("event_lock").await, 0);
        assert_eq!(self.count("saga where state = 'stuck'").await, 0);
        self.until("orphan where ended_at is null", 0).await;
    }

    async fn end(self) {
        self.house.running.stop().await;
    }
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}
