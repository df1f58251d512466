//! The tables over real HTTP, row after row in one house.

use std::collections::BTreeMap;

use reqwest::Method;
use serde_json::Value;
use tancho::config::Registration;

use super::row::{Row, fits, rows};
use super::service::Tiny;
use super::{mailed, secret_line};
use crate::house::House;

const SSH: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAPMNFE7dC/023ABVuTfPoqb7GmqdUnVQ8d2KCp3xDuq ana@laptop";

/// A house with people in it, and what rows may name in braces.
struct Stage {
    house: House,
    _service: Tiny,
    tokens: BTreeMap<&'static str, String>,
    vars: BTreeMap<String, String>,
}

impl Stage {
    async fn new() -> Self {
        let house = House::start().await;
        let service = Tiny::start().await;
        let mut tokens = BTreeMap::from([("root", house.admin().await.token)]);
        for name in ["ana", "bob", "cleo", "dan", "loner", "poor"] {
            tokens.insert(name, house.person(name).await.token);
        }
        let vars = BTreeMap::from([
            ("service".to_owned(), service.url.clone()),
            ("ssh".to_owned(), SSH.to_owned()),
        ]);
        Self {
            house,
            _service: service,
            tokens,
            vars,
        }
    }

    fn filled(&self, text: &str) -> String {
        let fill =
            |text: String, (name, value): (&String, &String)| text.replace(&format!("{{{name}}}"), value);
        self.vars.iter().fold(text.to_owned(), fill)
    }

    /// Holds the lock of `kind:name`, or lets go of it.
    async fn hold(&self, what: &str, hold: bool) {
        let Some((kind, name)) = what.split_once(':') else {
            return;
        };
        let db = &self.house.running.core.db;
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

    /// Sends a row; answers status and text.
    async fn send(&mut self, row: &Row) -> (u16, String) {
        if row.send.contains("{mailed}") {
            let letter = mailed(&self.house, "new@example.com", "24 hours").await;
            self.vars.insert("mailed".into(), secret_line(&letter));
        }
        let line = self.filled(&row.send);
        let (method, path) = line.split_once(' ').unwrap();
        let mut request = self
            .house
            .request(Method::from_bytes(method.as_bytes()).unwrap(), path);
        let who = if row.by.is_empty() { "ana" } else { &row.by };
        if who != "nobody" {
            let token = &self.tokens[who];
            let header = if row.auth.is_empty() {
                "bearer {token}"
            } else {
                &row.auth
            };
            let header = self.filled(&header.replace("{token}", token));
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
            request = request.body(self.filled(&body));
        }
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// Plays a row. Errors: how the answer differs.
    async fn play(&mut self, row: &Row) -> Result<(), String> {
        self.hold(&row.holding, true).await;
        let (status, text) = self.send(row).await;
        self.hold(&row.holding, false).await;
        if status != row.status {
            return Err(format!("{status}, not {}: {text}", row.status));
        }
        if status >= 400 && text.trim().is_empty() {
            return Err("a refusal without a reason".into());
        }
        match row.says.as_ref().map(|says| self.filled(says)) {
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
                .ok_or("nothing to keep")?;
            self.vars.insert(name.clone(), kept.to_owned());
        }
        row.shape.as_ref().map_or(Ok(()), |shape| fits(shape, &found, ""))
    }
}

async fn replay(table: &str) {
    let mut stage = Stage::new().await;
    let mut faults = Vec::new();
    for row in rows(table) {
        if !row.sql.is_empty() {
            sqlx::query(sqlx::AssertSqlSafe(row.sql.clone()))
                .execute(&stage.house.running.core.db)
                .await
                .unwrap();
        } else if !row.closed
            && let Err(fault) = stage.play(&row).await
        {
            faults.push(format!(
                "{} {} {}: {fault}",
                row.send,
                row.body,
                row.json.unwrap_or_default()
            ));
        }
    }
    stage.house.running.stop().await;
    assert!(
        faults.is_empty(),
        "{} faults:\n{}",
        faults.len(),
        faults.join("\n")
    );
}

#[tokio::test]
async fn every_example_of_the_reference_is_answered_as_it_says() {
    replay("examples").await;
}

#[tokio::test]
async fn every_documented_status_can_be_provoked() {
    replay("statuses").await;
}

#[tokio::test]
async fn where_registration_is_closed_the_rows_about_it_hold() {
    let house = House::with(|settings| settings.auth.registration = Registration::Closed).await;
    let closed: Vec<Row> = rows("statuses").into_iter().filter(|row| row.closed).collect();
    assert!(!closed.is_empty());
    for row in closed {
        let (method, path) = row.send.split_once(' ').unwrap();
        let request = house.request(method.parse().unwrap(), path);
        let answer = request.body(row.json.unwrap().to_string()).send().await.unwrap();
        assert_eq!(answer.status(), row.status, "{}", row.send);
    }
    house.running.stop().await;
}
