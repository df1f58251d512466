//! Sagas that do not end by themselves, for operators. No client knows these routes; `curl` does.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::core::Core;
use crate::http::kit::Caller;
use crate::http::wording::modern::Refusal;
use crate::kernel::ids::SagaId;
use crate::kernel::problem::Problem;
use crate::sagas::{Unsettled, operator};

/// A saga in the list.
#[derive(Serialize)]
pub struct SagaView {
    id: SagaId,
    kind: String,
    state: String,
    tries: i32,
    /// Why it is being undone.
    problem: String,
    /// What the last try met.
    last: String,
    target: TargetView,
    since: DateTime<Utc>,
    next_try: Option<DateTime<Utc>>,
}

#[derive(Serialize)]
struct TargetView {
    kind: String,
    value: String,
}

impl From<Unsettled> for SagaView {
    fn from(saga: Unsettled) -> Self {
        Self {
            next_try: (!saga.is_stuck()).then_some(saga.wake_at),
            id: saga.id,
            kind: saga.kind,
            state: saga.state,
            tries: saga.attempts,
            problem: saga.problem,
            last: saga.last_problem,
            target: TargetView {
                kind: saga.target_kind,
                value: saga.target_value,
            },
            since: saga.created_at,
        }
    }
}

fn id(text: &str) -> Result<SagaId, Problem> {
    text.parse()
        .map_err(|_| Problem::not_found("There is no such saga."))
}

/// `GET /1.0/sagas`
pub async fn list(State(core): State<Core>, Caller(call): Caller) -> Result<Json<Vec<SagaView>>, Refusal> {
    let sagas = operator::unsettled(&core.db, &call).await?;
    Ok(Json(sagas.into_iter().map(SagaView::from).collect()))
}

/// `POST /1.0/sagas/{saga}/retry`
pub async fn retry(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(saga): Path<String>,
) -> Result<StatusCode, Refusal> {
    operator::retry(&core.db, &call, id(&saga)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /1.0/sagas/{saga}/give-up`
pub async fn give_up(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(saga): Path<String>,
) -> Result<StatusCode, Refusal> {
    operator::give_up(&core.db, &call, id(&saga)?).await?;
    Ok(StatusCode::NO_CONTENT)
}
