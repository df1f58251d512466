//! Users, sessions, teams, roles and quotas over HTTP.

mod keys;
mod quotas;
mod roles;
mod secrets;
mod sessions;
mod team_tokens;
mod teams;
mod users;

use reqwest::Method;
use serde_json::Value;
use uuid::Uuid;

use crate::test_server::{TestServer, TestUser};

/// A request body in one of the formats that clients use.
pub(crate) enum RequestBody<'a> {
    None,
    Form(&'a [(&'a str, &'a str)]),
    /// JSON without a Content-Type, as classic clients send it.
    Bare(Value),
    /// Text without a Content-Type.
    Text(&'a str),
}

#[derive(Debug)]
pub(crate) struct ApiResponse {
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl ApiResponse {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }

    /// Panics with the whole response if the status is another one.
    #[track_caller]
    pub(crate) fn expect_status(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        self
    }
}

/// Sends one request; `line` is method and path.
pub(crate) async fn send_request(
    tancho: &TestServer,
    who: Option<&TestUser>,
    line: &str,
    body: RequestBody<'_>,
) -> ApiResponse {
    let (method, path) = line.split_once(' ').unwrap();
    let method: Method = method.parse().unwrap();
    let request = match who {
        Some(user) => tancho.request_as(user, method, path),
        None => tancho.request(method, path),
    };
    let request = match body {
        RequestBody::None => request,
        RequestBody::Form(fields) => request.form(fields),
        RequestBody::Bare(json) => request.body(json.to_string()),
        RequestBody::Text(text) => request.body(text.to_owned()),
    };
    let answer = request.send().await.unwrap();
    ApiResponse {
        status: answer.status().as_u16(),
        body: answer.text().await.unwrap(),
    }
}

/// Inserts an app into the database, without anything that makes it run.
pub(crate) async fn insert_app(tancho: &TestServer, name: &str, team: &str, owner: &str) -> Uuid {
    let id = Uuid::now_v7();
    sqlx::query(
        "insert into app (app_id, name, label, platform, plan, pool, team_owner, owner)
         values ($1, $2, $2, 'python', 'default', 'local', $3, $4)",
    )
    .bind(id)
    .bind(name)
    .bind(team)
    .bind(owner)
    .execute(&tancho.running.core.db)
    .await
    .unwrap();
    sqlx::query("insert into app_team (app_id, team) values ($1, $2)")
        .bind(id)
        .bind(team)
        .execute(&tancho.running.core.db)
        .await
        .unwrap();
    id
}

/// Assigns a user a new role with these permissions on a resource.
pub(crate) async fn grant(
    tancho: &TestServer,
    root: &TestUser,
    who: &TestUser,
    kind: &str,
    value: &str,
    permissions: &[&str],
) {
    let role = format!("r{}", Uuid::new_v4().simple());
    let fields = [("name", role.as_str()), ("context", kind)];
    send_request(tancho, Some(root), "POST /1.0/roles", RequestBody::Form(&fields))
        .await
        .expect_status(201);
    let fields: Vec<(&str, &str)> = permissions.iter().map(|p| ("permission", *p)).collect();
    let line = format!("POST /1.0/roles/{role}/permissions");
    send_request(tancho, Some(root), &line, RequestBody::Form(&fields))
        .await
        .expect_status(200);
    let fields = [("email", who.email.as_str()), ("context", value)];
    let line = format!("POST /1.0/roles/{role}/user");
    send_request(tancho, Some(root), &line, RequestBody::Form(&fields))
        .await
        .expect_status(200);
}
