//! Operations of an operator on orphans: list, retry, give up.

mod store;

use std::fmt;

use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

pub use store::PendingOrphan;
pub(in crate::services) use store::list_pending_orphans_of_instance;

use crate::core::Core;
use crate::events::{self, EventTarget, EventTargetKind, NewEvent};
use crate::kernel::error::{Error, ErrorKind};
use crate::kernel::permission::{Permission, PermissionContext};
use crate::kernel::request_context::RequestContext;
use crate::services::binds;
use crate::services::instances;
use crate::services::orphans::store::find_removing_instance;

/// Maximum number of orphans in a list; the oldest come first.
const MAX_LISTED_ORPHANS: i64 = 500;

impl fmt::Display for PendingOrphan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} may still hold the instance {}",
            self.service, self.instance
        )?;
        if !self.app.is_empty() {
            write!(f, " as bound to {}", self.app)?;
        }
        write!(f, "; {} attempts: {}", self.attempts, self.reason)
    }
}

/// Lists what services may still hold for Tancho. Errors: `Forbidden`.
pub async fn list_orphans(core: &Core, call: &RequestContext) -> Result<Vec<PendingOrphan>, Error> {
    call.authorize(Permission::ORPHAN_READ, &[])?;
    Ok(store::list_pending_orphans(&core.db, MAX_LISTED_ORPHANS).await?)
}

/// Makes an orphan due at once. Errors: `Forbidden`, `NotFound`, `Conflict` while a call about it is running,
/// `Locked` while another operation on the instance is running.
pub async fn retry_orphan(core: &Core, call: &RequestContext, id: Uuid) -> Result<(), Error> {
    let kind = Permission::ORPHAN_RETRY;
    call.authorize(kind, &[])?;
    let mut tx = core.db.begin().await?;
    let open = lock_orphan(&mut tx, id).await?;
    events::record_event(
        &mut tx,
        call,
        &new_orphan_event(&open, kind).with_lock(instance_target(&open)),
    )
    .await?;
    store::wake_orphan(&mut tx, id).await?;
    Ok(tx.commit().await?)
}

/// Stops the attempts for an orphan: the instance, or the bind with its variables, is removed as if the
/// service had confirmed it. The owner of the service has to remove what it may still hold. Errors: as
/// `retry_orphan`.
pub async fn give_up_orphan(core: &Core, call: &RequestContext, id: Uuid) -> Result<(), Error> {
    let kind = Permission::ORPHAN_GIVE_UP;
    call.authorize(kind, &[])?;
    let mut tx = core.db.begin().await?;
    let open = lock_orphan(&mut tx, id).await?;
    let mut event = new_orphan_event(&open, kind);
    let bind = match open.bind.as_deref().and_then(|bind| bind.parse().ok()) {
        Some(bind) => binds::store::find_bind(&mut *tx, bind).await?,
        None => None,
    };
    match bind {
        // The unbind is an event with locks of its own.
        Some(bind) => {
            if !binds::retry_unbind(&mut tx, call, &bind, true).await? {
                return Err(Error::new(
                    ErrorKind::Locked,
                    "Another operation on the app or the instance is running; try again in a moment.",
                ));
            }
        }
        None => event = event.with_lock(instance_target(&open)),
    }
    events::record_event(&mut tx, call, &event).await?;
    if open.kind == "instance"
        && let Some(service) = open.service_id
        && let Some(instance) = find_removing_instance(&mut *tx, service, &open.instance).await?
    {
        instances::store::delete_instance(&mut tx, instance).await?;
    }
    store::mark_given_up(&mut tx, id).await?;
    Ok(tx.commit().await?)
}

async fn lock_orphan(tx: &mut PgConnection, id: Uuid) -> Result<PendingOrphan, Error> {
    let open = store::lock_pending_orphan(tx, id).await?.ok_or_else(|| {
        Error::not_found("There is no such orphan, or its service has confirmed its removal.")
    })?;
    match open.at_work {
        true => Err(Error::conflict(
            "A call about this orphan is running; try again in a moment.",
        )),
        false => Ok(open),
    }
}

fn instance_target(open: &PendingOrphan) -> EventTarget {
    EventTarget::new(
        EventTargetKind::ServiceInstance,
        format!("{}/{}", open.service, open.instance),
    )
}

fn new_orphan_event(open: &PendingOrphan, kind: Permission) -> NewEvent {
    let data = json!({
        "service": open.service, "instance": open.instance, "app": open.app, "tries": open.attempts,
        "reason": open.reason,
    });
    let target = EventTarget::new(EventTargetKind::Global, format!("orphan/{}", open.id));
    NewEvent::new(target, kind, vec![PermissionContext::global()], data)
}
