//! `GET /healthcheck`, `GET /info`: whether the server is up, and which it is.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::core::Core;
use crate::http::kit::Input;

/// Exactly `WORKING`, which load balancers and agents compare. With `?check=all` the database is asked too,
/// and a failure is 503 with its text.
pub(super) async fn healthcheck(State(core): State<Core>, input: Input) -> Response {
    if matches!(input.text("check"), Ok(Some(what)) if what == "all")
        && let Err(problem) = crate::db::ping(&core.db).await
    {
        return (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("database: {}\n", problem.words()),
        )
            .into_response();
    }
    "WORKING".into_response()
}

/// `GET /1.0/info`: texts only.
pub(super) async fn info() -> Json<Value> {
    Json(json!({ "version": env!("CARGO_PKG_VERSION"), "name": "tancho" }))
}
