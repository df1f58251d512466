//! Users, sessions, teams, roles, quotas over HTTP.

mod keys;
mod quotas;
mod roles;
mod secrets;
mod sessions;
mod teams;
mod users;

use reqwest::Method;
use serde_json::Value;
use uuid::Uuid;

use crate::house::{House, Person};

/// A body in one of the forms that clients use.
enum Body<'a> {
    None,
    Form(&'a [(&'a str, &'a str)]),
    /// JSON without a Content-Type, as classic clients send it.
    Bare(Value),
    /// Any text without a Content-Type.
    Text(&'a str),
}

#[derive(Debug)]
struct Answer {
    status: u16,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }

    /// Panics with the whole answer if the status is another one.
    #[track_caller]
    fn is(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        self
    }
}

/// One request: `line` is method and path.
async fn ask(house: &House, who: Option<&Person>, line: &str, body: Body<'_>) -> Answer {
    let (method, path) = line.split_once(' ').unwrap();
    let method: Method = method.parse().unwrap();
    let request = match who {
        Some(person) => house.by(person, method, path),
        None => house.request(method, path),
    };
    let request = match body {
        Body::None => request,
        Body::Form(fields) => request.form(fields),
        Body::Bare(json) => request.body(json.to_string()),
        Body::Text(text) => request.body(text.to_owned()),
    };
    let answer = request.send().await.unwrap();
    Answer {
        status: answer.status().as_u16(),
        body: answer.text().await.unwrap(),
    }
}

/// An app in the database, without what makes one live.
async fn put_app(house: &House, name: &str, team: &str, owner: &str) -> Uuid {
    let id = Uuid::now_v7();
    sqlx::query(
        "insert into app (app_id, name, label, platform, plan, pool, team_owner, owner)
         values ($1, $2, $2, 'python', 'default', 'local', $3, $4)",
    )
    .bind(id)
    .bind(name)
    .bind(team)
    .bind(owner)
    .execute(&house.running.core.db)
    .await
    .unwrap();
    sqlx::query("insert into app_team (app_id, team) values ($1, $2)")
        .bind(id)
        .bind(team)
        .execute(&house.running.core.db)
        .await
        .unwrap();
    id
}

/// Gives somebody a new role with these permissions on a thing.
async fn grant(house: &House, root: &Person, who: &Person, kind: &str, value: &str, permissions: &[&str]) {
    let role = format!("r{}", Uuid::new_v4().simple());
    let fields = [("name", role.as_str()), ("context", kind)];
    ask(house, Some(root), "POST /1.0/roles", Body::Form(&fields))
        .await
        .is(201);
    let fields: Vec<(&str, &str)> = permissions.iter().map(|p| ("permission", *p)).collect();
    let line = format!("POST /1.0/roles/{role}/permissions");
    ask(house, Some(root), &line, Body::Form(&fields)).await.is(200);
    let fields = [("email", who.email.as_str()), ("context", value)];
    let line = format!("POST /1.0/roles/{role}/user");
    ask(house, Some(root), &line, Body::Form(&fields)).await.is(200);
}
