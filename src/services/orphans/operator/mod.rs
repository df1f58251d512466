//! What an operator can do about orphans: see them, have the service told at once, give them up.

mod store;

use std::fmt;

use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

pub use store::Open;
pub(in crate::services) use store::list_open_of_instance;

use crate::core::Core;
use crate::events::{self, NewEvent, Target, TargetKind};
use crate::kernel::call::Call;
use crate::kernel::permission::{Context, Permission};
use crate::kernel::problem::{Kind, Problem};
use crate::services::binds;
use crate::services::instances;
use crate::services::orphans::store::find_removing;

/// Orphans in one list, the oldest first.
const LISTED: i64 = 500;

impl fmt::Display for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} may still hold the instance {}",
            self.service, self.instance
        )?;
        if !self.app.is_empty() {
            write!(f, " as bound to {}", self.app)?;
        }
        write!(f, "; told {} times: {}", self.attempts, self.reason)
    }
}

/// What services may still hold for us. Errors: `Forbidden`.
pub async fn list(core: &Core, call: &Call) -> Result<Vec<Open>, Problem> {
    call.allow(Permission::ORPHAN_READ, &[])?;
    Ok(store::list_open(&core.db, LISTED).await?)
}

/// Has the service told at once. Errors: `Forbidden`, `NotFound`, `Conflict` while it is being told, `Locked`
/// while something else is done to the instance.
pub async fn retry(core: &Core, call: &Call, id: Uuid) -> Result<(), Problem> {
    let kind = Permission::ORPHAN_RETRY;
    call.allow(kind, &[])?;
    let mut tx = core.db.begin().await?;
    let open = hold(&mut tx, id).await?;
    events::record(&mut tx, call, &event(&open, kind).locking(target(&open))).await?;
    store::wake(&mut tx, id).await?;
    Ok(tx.commit().await?)
}

/// Has the service told no more: the instance goes, or the bind with its variables, as if it had confirmed.
/// What it holds is its owner's to remove. Errors: as `retry`.
pub async fn give_up(core: &Core, call: &Call, id: Uuid) -> Result<(), Problem> {
    let kind = Permission::ORPHAN_GIVE_UP;
    call.allow(kind, &[])?;
    let mut tx = core.db.begin().await?;
    let open = hold(&mut tx, id).await?;
    let mut event = event(&open, kind);
    let bind = match open.bind.as_deref().and_then(|bind| bind.parse().ok()) {
        Some(bind) => binds::store::find(&mut *tx, bind).await?,
        None => None,
    };
    match bind {
        // Its end is an event with locks of its own.
        Some(bind) => {
            if !binds::unbind_again(core, call, &bind, true).await? {
                return Err(Problem::new(
                    Kind::Locked,
                    "Something else is being done to the app or the instance; try again in a moment.",
                ));
            }
        }
        None => event = event.locking(target(&open)),
    }
    events::record(&mut tx, call, &event).await?;
    if open.what == "instance"
        && let Some(service) = open.service_id
        && let Some(instance) = find_removing(&mut *tx, service, &open.instance).await?
    {
        instances::store::delete(&mut tx, instance).await?;
    }
    store::give_up(&mut tx, id).await?;
    Ok(tx.commit().await?)
}

async fn hold(tx: &mut PgConnection, id: Uuid) -> Result<Open, Problem> {
    let open = store::hold_open(tx, id)
        .await?
        .ok_or_else(|| Problem::not_found("There is no such orphan, or its service has confirmed."))?;
    match open.at_work {
        true => Err(Problem::conflict(
            "The service is being told just now; look again in a moment.",
        )),
        false => Ok(open),
    }
}

fn target(open: &Open) -> Target {
    Target::new(
        TargetKind::ServiceInstance,
        format!("{}/{}", open.service, open.instance),
    )
}

fn event(open: &Open, kind: Permission) -> NewEvent {
    let data = json!({
        "service": open.service, "instance": open.instance, "app": open.app, "tries": open.attempts,
        "reason": open.reason,
    });
    let target = Target::new(TargetKind::Global, format!("orphan/{}", open.id));
    NewEvent::new(target, kind, vec![Context::global()], data)
}
