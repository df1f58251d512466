//! Orphans, for operators. No tsuru client knows these routes; use `curl`.

use axum::Json;
use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::Serialize;
use uuid::Uuid;

use crate::kernel::permission::Permission;
use crate::services::orphans::{PendingOrphan, operator};
use crate::web::answers::{EmptyAnswer, NoContentAnswer};
use crate::web::errors::modern::ModernResult;
use crate::web::route_table::AuthPolicy::UserWithPermission;
use crate::web::route_table::{GET, POST, RouteTable};
use crate::web::{Ctx, Path};

/// An orphan in the list.
#[derive(JsonSchema, Serialize)]
pub struct OrphanView {
    id: Uuid,
    service: String,
    instance: String,
    kind: String,
    app: String,
    /// The result of the last attempt.
    reason: String,
    tries: i32,
    since: DateTime<Utc>,
    next_try: DateTime<Utc>,
}

impl From<PendingOrphan> for OrphanView {
    fn from(open: PendingOrphan) -> Self {
        Self {
            id: open.id,
            service: open.service,
            instance: open.instance.to_string(),
            kind: open.kind,
            app: open.app,
            reason: open.reason,
            tries: open.attempts,
            since: open.created_at,
            next_try: open.wake_at,
        }
    }
}

/// `GET /1.0/orphans`
pub async fn list_orphans(ctx: Ctx) -> ModernResult<Json<Vec<OrphanView>>> {
    let open = operator::list_orphans(&ctx.core, &ctx.request).await?;
    Ok(Json(open.into_iter().map(OrphanView::from).collect()))
}

/// `POST /1.0/orphans/{orphan}/retry`
pub async fn retry_orphan(ctx: Ctx, Path(orphan): Path<Uuid>) -> ModernResult<NoContentAnswer> {
    operator::retry_orphan(&ctx.core, &ctx.request, orphan).await?;
    Ok(EmptyAnswer)
}

/// `POST /1.0/orphans/{orphan}/give-up`
pub async fn give_up_orphan(ctx: Ctx, Path(orphan): Path<Uuid>) -> ModernResult<NoContentAnswer> {
    operator::give_up_orphan(&ctx.core, &ctx.request, orphan).await?;
    Ok(EmptyAnswer)
}

/// The modern routes of this slice.
#[rustfmt::skip]
pub fn routes(table: RouteTable) -> RouteTable {
    table
        .add_versioned_route("1.0", GET, "/orphans", UserWithPermission(Permission::ORPHAN_READ), list_orphans)
        .add_versioned_route("1.0", POST, "/orphans/{orphan}/retry", UserWithPermission(Permission::ORPHAN_RETRY), retry_orphan)
        .add_versioned_route("1.0", POST, "/orphans/{orphan}/give-up", UserWithPermission(Permission::ORPHAN_GIVE_UP), give_up_orphan)
}
