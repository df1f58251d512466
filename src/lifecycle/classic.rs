//! `DELETE /apps/{app}` and `POST /tokens` of the classic edition.

use axum::Json;
use axum::extract::{Path, State};
use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;

use crate::core::Core;
use crate::events;
use crate::http::kit::{Caller, Input};
use crate::http::wording::classic::Refusal;
use crate::kernel::names::AppName;
use crate::kernel::problem::Problem;
use crate::kernel::secret::Secret;
use crate::lifecycle::{self, token};
use crate::users::tokens;

/// Answers once the app is gone, so that its name is free when the caller reads `success`.
pub async fn remove_app(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(app): Path<String>,
) -> Result<&'static str, Refusal> {
    let name = AppName::parse(&app).map_err(|_| Problem::not_found(format!("App {app} not found.")))?;
    let event = lifecycle::remove_app(&core, &call, &name).await?;
    events::follow(&core.db, &core.notices, &event)
        .outcome()
        .await?
        .into_result()?;
    Ok("success")
}

/// Both spellings of each member: the reference's and its server's (contract/classic D11).
#[derive(Debug, Serialize)]
pub struct AppToken {
    token: String,
    #[serde(rename = "Token")]
    token_too: String,
    creation: String,
    #[serde(rename = "Creation")]
    creation_too: String,
    /// Nanoseconds.
    expires: i64,
    #[serde(rename = "Expires")]
    expires_too: i64,
    email: String,
    app: String,
    #[serde(rename = "AppName")]
    app_too: String,
}

/// `POST /tokens`; with `export` the token is put into the app's environment as well.
pub async fn app_token(
    State(core): State<Core>,
    Caller(call): Caller,
    input: Input,
) -> Result<Json<AppToken>, Refusal> {
    let app = AppName::parse(&input.required("client")?)?;
    let (token, made_at) = token::app_token(&core, &call, &app, input.flag("export")?).await?;
    Ok(Json(view(token, &app, made_at)))
}

fn view(token: Secret, app: &AppName, made_at: DateTime<Utc>) -> AppToken {
    let creation = made_at.to_rfc3339_opts(SecondsFormat::Nanos, true);
    let expires = i64::from(tokens::APP_TOKEN_DAYS) * 24 * 3600 * 1_000_000_000;
    AppToken {
        token: token.expose().to_owned(),
        token_too: token.expose().to_owned(),
        creation: creation.clone(),
        creation_too: creation,
        expires,
        expires_too: expires,
        email: String::new(),
        app: app.to_string(),
        app_too: app.to_string(),
    }
}
