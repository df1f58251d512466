//! Orphans: what a service may still hold for us though we have given it up, because it hung, died or
//! failed when it was told. They are hunted with growing pauses until the service confirms, or an operator gives
//! them up (`operator`). While an instance is hunted, no new one of its name is made: the hunt would hit it.
//!
//! While the service may still carry out a call whose answer nobody heard (`services::sagas`), what it confirms is
//! not the end: it is told once more when that time is over, and before then
//! - no new *instance* of the name is made: the service could not tell it from the old one, and what destroys the old
//!   one would destroy it. That is rare (a kill in the middle of a call, or a time-out, and soon after it a removal),
//!   and no longer than `services.timeout_seconds`.
//! - a new *bind* of the same two is made at once, and the hunt called off: one bind is as good as the other. It takes
//!   over the time that is left, so that its own end is told twice. Only where the late call may be an *unbind* does it
//!   have to wait, or that would hit it.

mod hunt;
pub mod modern;
pub mod operator;
mod store;

use serde_json::json;

pub use hunt::Orphans;
pub use operator::Open;
pub(in crate::services) use operator::list_open_of_instance;
pub(in crate::services) use store::{end_bind, holds_instance, nudge, supersede_bind};

use sqlx::PgConnection;

use crate::db::Db;
use crate::kernel::ids::{BindId, ReplicaId, ServiceId};
use crate::kernel::problem::Problem;
use crate::services::broker::Bound;
use crate::services::model::{Bind, Instance};

/// Ends the claims of a replica that is known to be dead. What it told services may still be carried out, so nobody
/// makes those things anew for a while, as ever.
pub async fn release_claims(db: &Db, dead: ReplicaId) -> Result<(), Problem> {
    Ok(store::release_claims(db, dead).await?)
}

/// What a service must be told once more for a bind.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(in crate::services) struct BindDetail {
    pub(in crate::services) bind: BindId,
    pub(in crate::services) app: Bound,
    /// Addresses of units that it may know.
    pub(in crate::services) units: Vec<String>,
}

/// An orphan to be.
#[derive(Debug)]
pub(in crate::services) struct NewOrphan {
    service_id: ServiceId,
    instance: String,
    what: &'static str,
    detail: serde_json::Value,
    reason: String,
}

impl NewOrphan {
    /// An instance that may still be there.
    pub(in crate::services) fn instance(instance: &Instance, reason: &str) -> Self {
        Self {
            service_id: instance.service_id,
            instance: instance.name.to_string(),
            what: "instance",
            detail: json!({}),
            reason: reason.to_owned(),
        }
    }

    /// A bind that may still be there.
    pub(in crate::services) fn bind(bind: &Bind, app: Bound, units: Vec<String>, reason: &str) -> Self {
        let detail = BindDetail {
            bind: bind.id,
            app,
            units,
        };
        Self {
            service_id: bind.service_id,
            instance: bind.instance.to_string(),
            what: "bind",
            detail: json!(detail),
            reason: reason.to_owned(),
        }
    }
}

/// The reason of an orphan that the service has confirmed.
pub(in crate::services) const CONFIRMED: &str = "confirmed; the service may still carry out an older call";

/// The reason of one that nobody knew of.
pub(in crate::services) const LATE: &str =
    "a process that had been stopped may have had it made when nobody wanted it any more";

/// The service has confirmed: the hunt ends. Where it may still carry out an older call, by what is noted on the row,
/// which must be there yet, it begins or goes on instead, and the service is told again after that.
pub(in crate::services) async fn confirmed(tx: &mut PgConnection, orphan: &NewOrphan) -> Result<(), Problem> {
    store::insert_if_unheard(tx, orphan).await?;
    Ok(store::rest(tx, orphan).await?)
}

/// A call was made of which whoever has its saga now knows nothing. What it was to make is either there, and then its end
/// is told twice, or it is hunted.
pub(in crate::services) async fn made_late(
    db: &Db,
    orphan: &NewOrphan,
    lateness: f64,
) -> Result<(), Problem> {
    let mut tx = db.begin().await?;
    if !store::note_on_row(&mut tx, orphan, lateness).await? {
        leave(&mut tx, orphan).await?;
    }
    Ok(tx.commit().await?)
}

/// Leaves an orphan to the hunt, unless it is hunted already. What is noted on the row, which must be there yet, goes
/// with it.
pub(in crate::services) async fn leave(tx: &mut PgConnection, orphan: &NewOrphan) -> Result<(), Problem> {
    tracing::info!(service = %orphan.service_id, instance = orphan.instance, what = orphan.what, reason = orphan.reason, "left to the hunt");
    Ok(store::insert(tx, orphan).await?)
}
