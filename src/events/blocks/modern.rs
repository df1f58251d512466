//! Event blocks in the modern edition (contract/modern 2.17). Keys are capitalised, as in the client's own
//! types.

use std::collections::BTreeMap;

use axum::Json;
use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::Serialize;

use crate::events::blocks::{self, EventBlock, NewEventBlock};
use crate::events::wire::EventTargetView;
use crate::kernel::error::Error;
use crate::kernel::ids::EventBlockId;
use crate::kernel::permission::Permission;
use crate::web::errors::modern::ModernResult;
use crate::web::route_table::AuthPolicy::UserWithPermission;
use crate::web::route_table::{DELETE, GET, POST, RouteTable};
use crate::web::{Ctx, Params, Path, TimeOrZero};

/// An event block.
#[derive(Debug, JsonSchema, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct EventBlockView {
    active: bool,
    conditions: Option<BTreeMap<String, String>>,
    end_time: TimeOrZero,
    #[serde(rename = "ID")]
    id: EventBlockId,
    kind_name: String,
    owner_name: String,
    reason: String,
    start_time: DateTime<Utc>,
    target: EventTargetView,
}

impl From<EventBlock> for EventBlockView {
    fn from(block: EventBlock) -> Self {
        let rule = block.rule;
        Self {
            active: block.ended_at.is_none(),
            conditions: Some(rule.conditions).filter(|conditions| !conditions.is_empty()),
            end_time: TimeOrZero(block.ended_at),
            id: block.id,
            kind_name: rule.kind_name,
            owner_name: rule.owner_name,
            reason: rule.reason,
            start_time: block.started_at,
            target: EventTargetView {
                r#type: rule.target_kind,
                value: rule.target_value,
            },
        }
    }
}

/// Reads a block. The client sends its whole type; what the server decides (`ID`, times, `Active`) is
/// ignored.
fn read_block(params: &Params) -> Result<NewEventBlock, Error> {
    let string = |params: &Params, key: &str| Ok::<_, Error>(params.get_string(key)?.unwrap_or_default());
    let target = params.get_object("Target")?;
    Ok(NewEventBlock {
        kind_name: string(params, "KindName")?,
        owner_name: string(params, "OwnerName")?,
        target_kind: string(&target, "Type")?,
        target_value: string(&target, "Value")?,
        conditions: params.get_string_map("Conditions")?,
        reason: string(params, "Reason")?,
    })
}

/// `GET /1.3/events/blocks?active=…`
pub async fn list_event_blocks(ctx: Ctx, params: Params) -> ModernResult<Json<Vec<EventBlockView>>> {
    let active = params.get_optional_bool("active")?;
    let found = blocks::list_blocks(&ctx.core.db, &ctx.request, active).await?;
    Ok(Json(found.into_iter().map(EventBlockView::from).collect()))
}

/// `POST /1.3/events/blocks`, `{KindName, OwnerName, Target{Type, Value}, Reason, Conditions}`
pub async fn add_event_block(ctx: Ctx, params: Params) -> ModernResult {
    let new = read_block(&params)?;
    blocks::add_block(&ctx.core.db, &ctx.request, &new).await?;
    Ok(())
}

/// `DELETE /1.3/events/blocks/{block}`
pub async fn remove_event_block(ctx: Ctx, Path(id): Path<EventBlockId>) -> ModernResult {
    Ok(blocks::remove_block(&ctx.core.db, &ctx.request, &id).await?)
}

/// The modern routes of event blocks.
#[rustfmt::skip]
pub fn routes(table: RouteTable) -> RouteTable {
    table
        .add_versioned_route("1.3", GET, "/events/blocks", UserWithPermission(Permission::EVENT_BLOCK_READ), list_event_blocks)
        .add_versioned_route("1.3", POST, "/events/blocks", UserWithPermission(Permission::EVENT_BLOCK_ADD), add_event_block)
        .add_versioned_route("1.3", DELETE, "/events/blocks/{block}", UserWithPermission(Permission::EVENT_BLOCK_REMOVE), remove_event_block)
}
