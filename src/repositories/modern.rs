//! The repository of an app in the modern edition. Today's client does not ask for it; `curl` does.

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use crate::core::Core;
use crate::http::kit::{Caller, Input};
use crate::http::wording::modern::Refusal;
use crate::kernel::names::AppName;
use crate::kernel::problem::Problem;
use crate::repositories::actions;

fn app_name(text: &str) -> Result<AppName, Problem> {
    AppName::parse(text).map_err(|_| Problem::not_found(format!("App {text} not found.")))
}

/// `GET /1.0/apps/{app}/repository`
pub async fn info(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(app): Path<String>,
) -> Result<Json<Value>, Refusal> {
    let found = actions::describe(&core, &call, &app_name(&app)?).await?;
    Ok(Json(json!({
        "url": found.url, "httpUrl": found.http_url, "branch": found.branch, "host": found.host, "bytes": found.bytes,
        "maxBytes": core.settings.git.max_repository_bytes.0,
    })))
}

/// `PUT /1.0/apps/{app}/repository` (`branch`)
pub async fn update(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(app): Path<String>,
    input: Input,
) -> Result<(), Refusal> {
    let branch = input.required("branch")?.parse()?;
    Ok(actions::choose_branch(&core, &call, &app_name(&app)?, &branch).await?)
}

/// `DELETE /1.0/apps/{app}/repository`
pub async fn give_up(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(app): Path<String>,
) -> Result<(), Refusal> {
    Ok(actions::give_up(&core, &call, &app_name(&app)?).await?)
}
