//! Replays the tables over real HTTP, row by row on one server.

use std::collections::BTreeMap;

use reqwest::Method;
use serde_json::Value;
use tancho::config::RegistrationPolicy;

use super::row::{ExampleRow, check_shape, read_rows};
use super::service::FailingService;
use super::{find_mail, secret_line};
use crate::test_server::TestServer;

const SSH: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAPMNFE7dC/023ABVuTfPoqb7GmqdUnVQ8d2KCp3xDuq ana@laptop";

/// A server with users, and the values of the placeholders in rows.
struct ReplayFixture {
    tancho: TestServer,
    _service: FailingService,
    tokens: BTreeMap<&'static str, String>,
    vars: BTreeMap<String, String>,
}

impl ReplayFixture {
    async fn new() -> Self {
        let tancho = TestServer::start().await;
        let service = FailingService::start().await;
        let mut tokens = BTreeMap::from([("root", tancho.login_admin().await.token)]);
        for name in ["ana", "bob", "cleo", "dan", "loner", "poor"] {
            tokens.insert(name, tancho.create_user(name).await.token);
        }
        let vars = BTreeMap::from([
            ("service".to_owned(), service.url.clone()),
            ("ssh".to_owned(), SSH.to_owned()),
        ]);
        Self {
            tancho,
            _service: service,
            tokens,
            vars,
        }
    }

    fn fill_placeholders(&self, text: &str) -> String {
        let fill =
            |text: String, (name, value): (&String, &String)| text.replace(&format!("{{{name}}}"), value);
        self.vars.iter().fold(text.to_owned(), fill)
    }

    /// Takes or releases the lock of `kind:name`.
    async fn set_lock(&self, what: &str, hold: bool) {
        let Some((kind, name)) = what.split_once(':') else {
            return;
        };
        let db = &self.tancho.running.core.db;
        let id = "aaaaaaaaaaaaaaaaaaaaaaaa";
        if hold {
            sqlx::query(
                "insert into event (event_id, target_kind, target_value, kind, owner_kind, owner_name)
                 values ($1, $2, $3, 'app.deploy', 'user', 'somebody@example.com')",
            )
            .bind(id)
            .bind(kind)
            .bind(name)
            .execute(db)
            .await
            .unwrap();
            sqlx::query("insert into event_lock (target_kind, target_value, event_id) values ($1, $2, $3)")
                .bind(kind)
                .bind(name)
                .bind(id)
                .execute(db)
                .await
                .unwrap();
        } else {
            sqlx::query("delete from event where event_id = $1")
                .bind(id)
                .execute(db)
                .await
                .unwrap();
        }
    }

    /// Sends a row; returns status and body.
    async fn send_row(&mut self, row: &ExampleRow) -> (u16, String) {
        if row.send.contains("{mailed}") {
            let letter = find_mail(&self.tancho, "new@example.com", "24 hours").await;
            self.vars.insert("mailed".into(), secret_line(&letter));
        }
        let line = self.fill_placeholders(&row.send);
        let (method, path) = line.split_once(' ').unwrap();
        let mut request = self
            .tancho
            .request(Method::from_bytes(method.as_bytes()).unwrap(), path);
        let who = if row.by.is_empty() { "ana" } else { &row.by };
        if who != "nobody" {
            let token = &self.tokens[who];
            let header = if row.auth.is_empty() {
                "bearer {token}"
            } else {
                &row.auth
            };
            let header = self.fill_placeholders(&header.replace("{token}", token));
            request = request.header("authorization", header);
        }
        if !row.content_type.is_empty() {
            request = request.header("content-type", &row.content_type);
        }
        let body = row
            .json
            .as_ref()
            .map_or_else(|| row.body.clone(), Value::to_string);
        if !body.is_empty() {
            request = request.body(self.fill_placeholders(&body));
        }
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// Replays a row. Errors: how the response differs.
    async fn replay_row(&mut self, row: &ExampleRow) -> Result<(), String> {
        self.set_lock(&row.holding, true).await;
        let (status, text) = self.send_row(row).await;
        self.set_lock(&row.holding, false).await;
        if status != row.status {
            return Err(format!("{status}, not {}: {text}", row.status));
        }
        if status >= 400 && text.trim().is_empty() {
            return Err("an error without a message".into());
        }
        match row.says.as_ref().map(|says| self.fill_placeholders(says)) {
            Some(says) if says.is_empty() && !text.is_empty() => return Err(format!("a body: {text}")),
            Some(says) if !text.contains(&says) => return Err(format!("no {says:?} in {text}")),
            _ => {}
        }
        if row.shape.is_none() && row.keep.is_empty() {
            return Ok(());
        }
        let found: Value = serde_json::from_str(&text).map_err(|e| format!("{e}: {text}"))?;
        for (name, pointer) in &row.keep {
            let kept = found
                .pointer(pointer)
                .and_then(Value::as_str)
                .ok_or("no value to keep")?;
            self.vars.insert(name.clone(), kept.to_owned());
        }
        row.shape
            .as_ref()
            .map_or(Ok(()), |shape| check_shape(shape, &found, ""))
    }
}

async fn replay_table(table: &str) {
    let mut fixture = ReplayFixture::new().await;
    let mut faults = Vec::new();
    for row in read_rows(table) {
        if !row.sql.is_empty() {
            sqlx::query(sqlx::AssertSqlSafe(row.sql.clone()))
                .execute(&fixture.tancho.running.core.db)
                .await
                .unwrap();
        } else if !row.closed
            && let Err(fault) = fixture.replay_row(&row).await
        {
            faults.push(format!(
                "{} {} {}: {fault}",
                row.send,
                row.body,
                row.json.unwrap_or_default()
            ));
        }
    }
    fixture.tancho.running.drain_and_stop().await;
    assert!(
        faults.is_empty(),
        "{} faults:\n{}",
        faults.len(),
        faults.join("\n")
    );
}

#[tokio::test]
async fn reference_examples_get_the_documented_responses() {
    replay_table("examples").await;
}

#[tokio::test]
async fn every_documented_status_is_returned_by_some_request() {
    replay_table("statuses").await;
}

#[tokio::test]
async fn closed_registration_returns_the_documented_statuses() {
    let tancho =
        TestServer::start_with(|settings| settings.auth.registration = RegistrationPolicy::Closed).await;
    let closed: Vec<ExampleRow> = read_rows("statuses")
        .into_iter()
        .filter(|row| row.closed)
        .collect();
    assert!(!closed.is_empty());
    for row in closed {
        let (method, path) = row.send.split_once(' ').unwrap();
        let request = tancho.request(method.parse().unwrap(), path);
        let answer = request.body(row.json.unwrap().to_string()).send().await.unwrap();
        assert_eq!(answer.status(), row.status, "{}", row.send);
    }
    tancho.running.drain_and_stop().await;
}
