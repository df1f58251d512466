//! Operations of an operator on sagas that do not end by themselves: list, retry, give up. Each is an event
//! of its own. The event of a retry of a stuck saga also locks the target of the saga, as its first event
//! did.

mod store;

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::PgConnection;

use crate::db::{self, Db, notices::NoticeChannel};
use crate::events::{self, EventTarget, EventTargetKind, NewEvent};
use crate::kernel::error::Error;
use crate::kernel::ids::SagaId;
use crate::kernel::permission::{Permission, PermissionContext};
use crate::kernel::request_context::RequestContext;

/// Maximum number of sagas in a list; the oldest come first.
const LIST_LIMIT: i64 = 500;

/// A saga that is stuck or waits for a retry.
#[derive(Clone, Debug)]
pub struct UnsettledSaga {
    pub id: SagaId,
    pub kind: String,
    /// `stuck`; or `forward` or `undoing`, after a failed attempt or if a replica could not read it.
    pub state: String,
    pub attempts: i32,
    /// Why it is being undone; empty if it is not.
    pub error: String,
    /// The error of the last attempt.
    pub last_error: String,
    /// The target of its event; empty without one.
    pub target_kind: String,
    pub target_value: String,
    pub created_at: DateTime<Utc>,
    /// When it is retried; meaningless if it is stuck.
    pub wake_at: DateTime<Utc>,
    pub queue: String,
    /// A worker is running it.
    pub at_work: bool,
}

impl UnsettledSaga {
    /// Returns whether it waits for an operator.
    pub fn is_stuck(&self) -> bool {
        self.state == "stuck"
    }
}

/// Lists the sagas that are stuck, and those that failed and will be retried. Errors: `Forbidden`.
pub async fn list_unsettled(db: &Db, call: &RequestContext) -> Result<Vec<UnsettledSaga>, Error> {
    call.authorize(Permission::SAGA_READ, &[])?;
    Ok(store::list_unsettled(db, LIST_LIMIT).await?)
}

/// Retries a saga at once. Errors: `Forbidden`, `NotFound`, `Conflict` while a worker is running it, `Locked`
/// while another operation on its target is running.
pub async fn retry_saga(db: &Db, call: &RequestContext, id: SagaId) -> Result<(), Error> {
    let kind = Permission::SAGA_RETRY;
    call.authorize(kind, &[])?;
    let mut tx = db.begin().await?;
    let saga = lock_unsettled(&mut tx, id).await?;
    match saga.is_stuck() {
        true => {
            // The saga ends this event, as it ended its first one.
            let event = events::begin_event(&mut tx, call, &operator_event(&saga, kind)).await?;
            store::restart_stuck(&mut tx, id, &event).await?;
        }
        false => {
            events::record_event(&mut tx, call, &operator_event(&saga, kind)).await?;
            store::wake_saga(&mut tx, id).await?;
        }
    }
    db::send_notice(&mut tx, NoticeChannel::Saga, &saga.queue).await?;
    Ok(tx.commit().await?)
}

/// Gives a saga up. A stuck saga is not reported any more. A saga that waits for a retry gets one more
/// attempt; if that fails, it is undone, or becomes stuck and is not reported. Errors: as `retry_saga`.
pub async fn give_up_saga(db: &Db, call: &RequestContext, id: SagaId) -> Result<(), Error> {
    let kind = Permission::SAGA_GIVE_UP;
    call.authorize(kind, &[])?;
    let mut tx = db.begin().await?;
    let saga = lock_unsettled(&mut tx, id).await?;
    events::record_event(&mut tx, call, &operator_event(&saga, kind)).await?;
    store::mark_given_up(&mut tx, id).await?;
    db::send_notice(&mut tx, NoticeChannel::Saga, &saga.queue).await?;
    Ok(tx.commit().await?)
}

async fn lock_unsettled(tx: &mut PgConnection, id: SagaId) -> Result<UnsettledSaga, Error> {
    let saga = store::lock_unsettled(tx, id)
        .await?
        .ok_or_else(|| Error::not_found("There is no such saga that is stuck or waits for a retry."))?;
    match saga.at_work {
        true => Err(Error::conflict(
            "A worker is running this saga; try again in a moment.",
        )),
        false => Ok(saga),
    }
}

/// A running saga holds the lock of its target itself; for a stuck saga, this event takes it.
fn operator_event(saga: &UnsettledSaga, kind: Permission) -> NewEvent {
    let data = json!({
        "kind": saga.kind, "state": saga.state, "error": saga.error, "last": saga.last_error,
    });
    let target = EventTarget::new(EventTargetKind::Global, format!("saga/{}", saga.id));
    let event = NewEvent::new(target, kind, vec![PermissionContext::global()], data);
    match EventTargetKind::parse(&saga.target_kind) {
        Some(kind) if saga.is_stuck() => event.with_lock(EventTarget::new(kind, &saga.target_value)),
        _ => event,
    }
}
