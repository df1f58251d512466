//! What an operator can do about sagas that do not end by themselves: see them, have them tried again, give
//! them up. Each is an event of its own; a stuck saga that is tried again also holds the lock of what it is
//! about, as it did at first.

use serde_json::json;
use sqlx::PgConnection;

use crate::db::{self, Db, listen::Channel};
use crate::events::{self, NewEvent, Target, TargetKind};
use crate::kernel::call::Call;
use crate::kernel::ids::SagaId;
use crate::kernel::permission::{Context, Permission};
use crate::kernel::problem::Problem;
use crate::sagas::store::{self, Unsettled};

/// Sagas in one list, the oldest first.
const LISTED: i64 = 500;

/// Those that are stuck, and those that failed and are to be tried again. Errors: `Forbidden`.
pub async fn unsettled(db: &Db, call: &Call) -> Result<Vec<Unsettled>, Problem> {
    call.allow(Permission::SAGA_READ, &[])?;
    Ok(store::list_unsettled(db, LISTED).await?)
}

/// Tries a saga again at once. Errors: `Forbidden`, `NotFound`, `Conflict` while it is at work, `Locked` while
/// something else is done to what it is about.
pub async fn retry(db: &Db, call: &Call, id: SagaId) -> Result<(), Problem> {
    let kind = Permission::SAGA_RETRY;
    call.allow(kind, &[])?;
    let mut tx = db.begin().await?;
    let saga = hold(&mut tx, id).await?;
    match saga.is_stuck() {
        true => {
            // The saga ends this event, as it ended its first one.
            let event = events::begin(&mut tx, call, &event(&saga, kind)).await?;
            store::revive(&mut tx, id, &event).await?;
        }
        false => {
            events::record(&mut tx, call, &event(&saga, kind)).await?;
            store::wake(&mut tx, id).await?;
        }
    }
    db::notify(&mut tx, Channel::Saga, &saga.lane).await?;
    Ok(tx.commit().await?)
}

/// Gives a saga up: what is stuck is put aside; what goes on gets one more try, and if that fails is undone, or
/// stuck and put aside. Errors: as `retry`.
pub async fn give_up(db: &Db, call: &Call, id: SagaId) -> Result<(), Problem> {
    let kind = Permission::SAGA_GIVE_UP;
    call.allow(kind, &[])?;
    let mut tx = db.begin().await?;
    let saga = hold(&mut tx, id).await?;
    events::record(&mut tx, call, &event(&saga, kind)).await?;
    store::give_up(&mut tx, id).await?;
    db::notify(&mut tx, Channel::Saga, &saga.lane).await?;
    Ok(tx.commit().await?)
}

async fn hold(tx: &mut PgConnection, id: SagaId) -> Result<Unsettled, Problem> {
    let saga = store::hold_unsettled(tx, id)
        .await?
        .ok_or_else(|| Problem::not_found("There is no such saga that is stuck or waits for another try."))?;
    match saga.at_work {
        true => Err(Problem::conflict(
            "A worker is at this saga just now; look again in a moment.",
        )),
        false => Ok(saga),
    }
}

/// One that runs holds the lock of its target itself; for one that is stuck this event takes it.
fn event(saga: &Unsettled, kind: Permission) -> NewEvent {
    let data = json!({
        "kind": saga.kind, "state": saga.state, "problem": saga.problem, "last": saga.last_problem,
    });
    let target = Target::new(TargetKind::Global, format!("saga/{}", saga.id));
    let event = NewEvent::new(target, kind, vec![Context::global()], data);
    match TargetKind::parse(&saga.target_kind) {
        Some(kind) if saga.is_stuck() => event.locking(Target::new(kind, &saga.target_value)),
        _ => event,
    }
}
