//! Cancelling a running event.

use crate::db::{self, Db, notices::NoticeChannel};
use crate::events::lists::{EventFilter, list_events};
use crate::events::model::Event;
use crate::events::read_scope::EventReadScope;
use crate::events::store;
use crate::kernel::error::Error;
use crate::kernel::ids::EventId;
use crate::kernel::permission::Permission;
use crate::kernel::request_context::{Actor, RequestContext};

/// Maximum length of the reason of a cancellation, in bytes.
const MAX_REASON_BYTES: usize = 2000;

/// Finds an event that the caller may read. Errors: `NotFound`.
pub async fn find_readable_event(db: &Db, call: &RequestContext, id: &EventId) -> Result<Event, Error> {
    let filter = EventFilter {
        id: id.to_string(),
        read_scope: EventReadScope::for_caller(call),
        limit: 1,
        ..EventFilter::default()
    };
    let found = list_events(db, &filter).await?.pop();
    found.ok_or_else(|| Error::not_found("Event not found."))
}

/// Requests the cancellation of a running event, for its owner and for users with the permission of its kind.
/// Errors: `NotFound`; `Forbidden`; `Invalid` without a reason, and for an event that cannot be cancelled;
/// `Conflict` if it was requested before.
pub async fn cancel_event(
    db: &Db,
    call: &RequestContext,
    id: &EventId,
    reason: Option<&str>,
) -> Result<(), Error> {
    let event = find_readable_event(db, call, id).await?;
    let reason = reason.ok_or_else(|| Error::invalid("reason is mandatory"))?;
    if reason.len() > MAX_REASON_BYTES {
        return Err(Error::invalid("The reason is longer than 2000 bytes."));
    }
    let is_owner = match call.actor {
        Actor::User { id, .. } => store::is_event_owner(db, &event.id, id.0).await?,
        Actor::TeamToken { id, .. } => store::is_event_owner(db, &event.id, id.0).await?,
        _ => false,
    };
    if !is_owner {
        let contexts = store::list_event_contexts(db, &event.id).await?;
        call.authorize(Permission::parse(&event.kind)?, &contexts)?;
    }
    let mut tx = db.begin().await?;
    if !store::request_cancel(&mut tx, &event.id, &call.event_owner().1, reason).await? {
        return Err(cancel_error(&event));
    }
    db::send_notice(&mut tx, NoticeChannel::Event, event.id.as_str()).await?;
    Ok(tx.commit().await?)
}

fn cancel_error(event: &Event) -> Error {
    match event.cancel_asked_at {
        Some(_) if event.ended_at.is_none() => Error::conflict("event cancel already requested"),
        _ => Error::invalid("event is not cancelable"),
    }
}
