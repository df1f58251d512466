//! Unsettled sagas, for operators. No tsuru client knows these routes; use `curl`.

use axum::Json;
use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::Serialize;

use crate::kernel::ids::SagaId;
use crate::kernel::permission::Permission;
use crate::sagas::{UnsettledSaga, operator};
use crate::web::answers::{EmptyAnswer, NoContentAnswer};
use crate::web::errors::modern::ModernResult;
use crate::web::route_table::AuthPolicy::UserWithPermission;
use crate::web::route_table::{GET, POST, RouteTable};
use crate::web::{Ctx, Path};

/// A saga in the list.
#[derive(JsonSchema, Serialize)]
pub struct SagaView {
    id: SagaId,
    kind: String,
    state: String,
    tries: i32,
    /// Why it is being undone.
    error: String,
    /// The error of the last attempt.
    last: String,
    target: SagaTargetView,
    since: DateTime<Utc>,
    next_try: Option<DateTime<Utc>>,
}

#[derive(JsonSchema, Serialize)]
struct SagaTargetView {
    kind: String,
    value: String,
}

impl From<UnsettledSaga> for SagaView {
    fn from(saga: UnsettledSaga) -> Self {
        Self {
            next_try: (!saga.is_stuck()).then_some(saga.wake_at),
            id: saga.id,
            kind: saga.kind,
            state: saga.state,
            tries: saga.attempts,
            error: saga.error,
            last: saga.last_error,
            target: SagaTargetView {
                kind: saga.target_kind,
                value: saga.target_value,
            },
            since: saga.created_at,
        }
    }
}

/// `GET /1.0/sagas`
pub async fn list_sagas(ctx: Ctx) -> ModernResult<Json<Vec<SagaView>>> {
    let sagas = operator::list_unsettled(&ctx.core.db, &ctx.request).await?;
    Ok(Json(sagas.into_iter().map(SagaView::from).collect()))
}

/// `POST /1.0/sagas/{saga}/retry`
pub async fn retry_saga(ctx: Ctx, Path(saga): Path<SagaId>) -> ModernResult<NoContentAnswer> {
    operator::retry_saga(&ctx.core.db, &ctx.request, saga).await?;
    Ok(EmptyAnswer)
}

/// `POST /1.0/sagas/{saga}/give-up`
pub async fn give_up_saga(ctx: Ctx, Path(saga): Path<SagaId>) -> ModernResult<NoContentAnswer> {
    operator::give_up_saga(&ctx.core.db, &ctx.request, saga).await?;
    Ok(EmptyAnswer)
}

/// The modern routes of this slice.
#[rustfmt::skip]
pub fn routes(table: RouteTable) -> RouteTable {
    table
        .add_versioned_route("1.0", GET, "/sagas", UserWithPermission(Permission::SAGA_READ), list_sagas)
        .add_versioned_route("1.0", POST, "/sagas/{saga}/retry", UserWithPermission(Permission::SAGA_RETRY), retry_saga)
        .add_versioned_route("1.0", POST, "/sagas/{saga}/give-up", UserWithPermission(Permission::SAGA_GIVE_UP), give_up_saga)
}
