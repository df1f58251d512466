//! Adds, lists and removes event blocks, and refuses events that they match.

use serde_json::json;
use sqlx::PgConnection;

use crate::db::Db;
use crate::events;
use crate::events::blocks::matching::conditions_hold;
use crate::events::blocks::model::{EventBlock, NewEventBlock};
use crate::events::blocks::store;
use crate::events::model::{EventTarget, EventTargetKind, NewEvent};
use crate::kernel::error::{Error, ErrorKind};
use crate::kernel::ids::EventBlockId;
use crate::kernel::permission::{Permission, PermissionContext};
use crate::kernel::request_context::RequestContext;

/// How many blocks may be active; each event that begins looks at all of them.
const MAX_ACTIVE: i64 = 100;
/// How many of the blocks that have ended are listed.
const MAX_ENDED_LISTED: i64 = 1000;

/// Adds a block, active from now on. Errors: `Forbidden`; `Invalid`; `Conflict` if too many are active.
pub async fn add_block(db: &Db, call: &RequestContext, new: &NewEventBlock) -> Result<EventBlockId, Error> {
    call.authorize(Permission::EVENT_BLOCK_ADD, &[])?;
    new.check()?;
    let id = EventBlockId::new();
    let data = json!({
        "KindName": new.kind_name,
        "OwnerName": new.owner_name,
        "Target": { "Type": new.target_kind, "Value": new.target_value },
        "Conditions": new.conditions,
        "Reason": new.reason,
    });
    // The lock of all blocks, so that blocks added at once are counted.
    let event = block_event(id.as_str(), Permission::EVENT_BLOCK_ADD, data)
        .with_lock(EventTarget::new(EventTargetKind::EventBlock, ""));
    let mut tx = db.begin().await?;
    events::record_event(&mut tx, call, &event).await?;
    if !store::insert_block(&mut tx, &id, new, MAX_ACTIVE).await? {
        return Err(Error::conflict(
            "100 blocks are active: remove one of them before you add another.",
        ));
    }
    tx.commit().await?;
    Ok(id)
}

/// Removes an active block. Errors: `Forbidden`; `NotFound`, also for a block that has ended.
pub async fn remove_block(db: &Db, call: &RequestContext, id: &EventBlockId) -> Result<(), Error> {
    call.authorize(Permission::EVENT_BLOCK_REMOVE, &[])?;
    let data = json!({ "ID": id });
    let mut tx = db.begin().await?;
    events::record_event(
        &mut tx,
        call,
        &block_event(id.as_str(), Permission::EVENT_BLOCK_REMOVE, data),
    )
    .await?;
    if !store::end_block(&mut tx, id).await? {
        return Err(Error::not_found(format!(
            "active event block with id {id} not found"
        )));
    }
    Ok(tx.commit().await?)
}

/// Lists blocks, newest first; only active or only ended ones with `active`. Errors: `Forbidden`.
pub async fn list_blocks(
    db: &Db,
    call: &RequestContext,
    active: Option<bool>,
) -> Result<Vec<EventBlock>, Error> {
    call.authorize(Permission::EVENT_BLOCK_READ, &[])?;
    Ok(store::list_blocks(db, active, MAX_ENDED_LISTED).await?)
}

fn block_event(id: &str, kind: Permission, data: serde_json::Value) -> NewEvent {
    let target = EventTarget::new(EventTargetKind::EventBlock, id);
    NewEvent::new(target, kind, vec![PermissionContext::global()], data).ignore_blocks()
}

/// Refuses an event that an active block matches. Errors: `Blocked`, naming the block and its reason.
pub(in crate::events) async fn refuse_blocked_event(
    tx: &mut PgConnection,
    call: &RequestContext,
    new: &NewEvent,
) -> Result<(), Error> {
    if new.ignores_blocks {
        return Ok(());
    }
    let (_, owner) = call.event_owner();
    let blocks = store::list_matching_blocks(tx, new, &owner).await?;
    let found = blocks
        .iter()
        .find(|block| conditions_hold(&block.rule.conditions, &new.start_data));
    match found {
        None => Ok(()),
        Some(block) => Err(Error::new(
            ErrorKind::Blocked,
            format!(
                "error running \"{}\" on {}({}): {}",
                new.kind,
                new.target.kind.as_str(),
                new.target.value,
                block.describe()
            ),
        )),
    }
}
