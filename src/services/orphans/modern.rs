//! Orphans, for operators. No client knows these routes; `curl` does.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

use crate::core::Core;
use crate::http::kit::Caller;
use crate::http::wording::modern::Refusal;
use crate::kernel::problem::Problem;
use crate::services::orphans::{Open, operator};

/// An orphan in the list.
#[derive(Serialize)]
pub struct OrphanView {
    id: Uuid,
    service: String,
    instance: String,
    what: String,
    app: String,
    /// What the last try met.
    reason: String,
    tries: i32,
    since: DateTime<Utc>,
    next_try: DateTime<Utc>,
}

impl From<Open> for OrphanView {
    fn from(open: Open) -> Self {
        Self {
            id: open.id,
            service: open.service,
            instance: open.instance.to_string(),
            what: open.what,
            app: open.app,
            reason: open.reason,
            tries: open.attempts,
            since: open.created_at,
            next_try: open.wake_at,
        }
    }
}

fn id(text: &str) -> Result<Uuid, Problem> {
    Uuid::parse_str(text).map_err(|_| Problem::not_found("There is no such orphan."))
}

/// `GET /1.0/orphans`
pub async fn list(State(core): State<Core>, Caller(call): Caller) -> Result<Json<Vec<OrphanView>>, Refusal> {
    let open = operator::list(&core, &call).await?;
    Ok(Json(open.into_iter().map(OrphanView::from).collect()))
}

/// `POST /1.0/orphans/{orphan}/retry`
pub async fn retry(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(orphan): Path<String>,
) -> Result<StatusCode, Refusal> {
    operator::retry(&core, &call, id(&orphan)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /1.0/orphans/{orphan}/give-up`
pub async fn give_up(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(orphan): Path<String>,
) -> Result<StatusCode, Refusal> {
    operator::give_up(&core, &call, id(&orphan)?).await?;
    Ok(StatusCode::NO_CONTENT)
}
