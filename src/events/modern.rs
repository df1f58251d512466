//! Events in the modern edition (contract/modern 7): list, one event, event kinds, cancel.

use axum::Json;

use crate::events::wire::{EventView, NamedTypeView};
use crate::events::{self, EventFilter, EventReadScope};
use crate::kernel::error::Error;
use crate::kernel::ids::EventId;
use crate::kernel::permission;
use crate::web::answers::{EmptyAnswer, NoContentAnswer};
use crate::web::errors::modern::ModernResult;
use crate::web::route_table::AuthPolicy::UserToken;
use crate::web::route_table::{GET, POST, RouteTable};
use crate::web::{Ctx, Params, Path};
use crate::webhooks;

const MAX_EVENTS: i64 = 100;
/// The maximum number of lines of the log of one event that are shown, the last ones, and their maximum size.
const MAX_LOG_LINES: i64 = 20_000;
const MAX_LOG_BYTES: i64 = 2 * 1024 * 1024;

/// Reads the filter of a list. `allowedtargets`, `permissions` and `raw` are ignored: they are the server's
/// own, and clients send them empty.
fn read_filter(params: &Params, read_scope: EventReadScope) -> Result<EventFilter, Error> {
    let target = params.get_object("target")?;
    let string = |params: &Params, key: &str| Ok::<_, Error>(params.get_string(key)?.unwrap_or_default());
    Ok(EventFilter {
        target_kind: string(&target, "type")?,
        target_value: string(&target, "value")?,
        kind_type: string(params, "kindtype")?,
        kinds: params.get_strings("kindname")?,
        owner_kind: string(params, "ownertype")?,
        owner_name: string(params, "ownername")?,
        since: params.get_time("since")?,
        until: params.get_time("until")?,
        running: params
            .get_string("running")?
            .map(|_| params.get_bool("running"))
            .transpose()?,
        errors_only: params.get_bool("erroronly")?,
        id: String::new(),
        read_scope,
        sort: params.parse_field("sort")?.unwrap_or_default(),
        limit: params
            .get_integer("limit")?
            .filter(|n| (1..=MAX_EVENTS).contains(n))
            .unwrap_or(MAX_EVENTS),
        skip: params.get_integer("skip")?.unwrap_or(0).max(0),
    })
}

/// `GET /1.1/events?target.type=…&kindname=…&running=…`
pub async fn list_events(ctx: Ctx, params: Params) -> ModernResult<Json<Vec<EventView>>> {
    let filter = read_filter(&params, EventReadScope::for_caller(&ctx.request))?;
    let found = events::list_events(&ctx.core.db, &filter).await?;
    Ok(Json(found.into_iter().map(EventView::from).collect()))
}

/// `GET /1.1/events/{event}`, with the end of its log and its deliveries to webhooks.
pub async fn get_event(ctx: Ctx, Path(id): Path<EventId>) -> ModernResult<Json<EventView>> {
    let event = events::find_readable_event(&ctx.core.db, &ctx.request, &id).await?;
    let log = events::list_last_log_lines(&ctx.core.db, &event.id, MAX_LOG_LINES, MAX_LOG_BYTES).await?;
    let deliveries = webhooks::list_deliveries(&ctx.core, &ctx.request, &event.id).await?;
    Ok(Json(EventView::with_details(event, log, deliveries)?))
}

/// `POST /1.1/events/{event}/cancel`: for the owner and for users with the permission of its kind.
pub async fn cancel_event(
    ctx: Ctx,
    Path(id): Path<EventId>,
    params: Params,
) -> ModernResult<NoContentAnswer> {
    let reason = params.get_string("reason")?;
    events::cancel_event(&ctx.core.db, &ctx.request, &id, reason.as_deref()).await?;
    Ok(EmptyAnswer)
}

/// `GET /1.1/events/kinds`
pub async fn list_event_kinds() -> Json<Vec<NamedTypeView>> {
    let named = permission::all_permissions().filter(|permission| !permission.as_str().is_empty());
    Json(
        named
            .map(|permission| NamedTypeView::permission(permission.as_str().to_owned()))
            .collect(),
    )
}

/// The modern routes of this slice.
#[rustfmt::skip]
pub fn routes(table: RouteTable) -> RouteTable {
    table
        .add_versioned_route("1.1", GET, "/events", UserToken, list_events)
        .add_versioned_route("1.1", GET, "/events/kinds", UserToken, list_event_kinds)
        .add_versioned_route("1.1", GET, "/events/{event}", UserToken, get_event)
        .add_versioned_route("1.1", POST, "/events/{event}/cancel", UserToken, cancel_event)
}
