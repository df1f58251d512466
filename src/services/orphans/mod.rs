//! Orphans: resources and binds that a service may still hold for Tancho after Tancho has given them up,
//! because the service hung, crashed or failed during the removal. The orphan reaper repeats the removal with
//! growing pauses until the service confirms it, or an operator gives the orphan up (`operator`). While an
//! orphaned instance is pending, no new instance of its name is created: the repeated removal would destroy
//! it.
//!
//! While the service may still execute a call whose response was not received (`services::calls`), its
//! confirmation is not final. The removal is repeated once that time is over, and until then:
//! - No new *instance* of the name is created: the service could not distinguish it from the old one, and the
//!   removal of the old one would destroy it. This is rare (a process killed during a call, or a timeout,
//!   with a removal soon afterwards), and lasts no longer than `services.timeout_seconds`.
//! - A new *bind* of the same app and instance is created at once, and the pending orphans of earlier ones
//!   are ended: one bind is as good as the other. The new bind inherits the time that is left, so that its
//!   own unbind is sent twice. It has to wait only if the late call may be an *unbind*, which would remove
//!   it.

pub mod modern;
pub mod operator;
mod reaper;
mod store;

use serde_json::json;

pub use operator::PendingOrphan;
pub(in crate::services) use operator::list_pending_orphans_of_instance;
pub use reaper::OrphanReaper;
pub(in crate::services) use store::{
    end_bind_orphans, has_pending_instance, supersede_bind_orphans, wake_instance_orphan,
};

use sqlx::PgConnection;

use crate::db::Db;
use crate::kernel::error::Error;
use crate::kernel::ids::{BindId, ReplicaId, ServiceId};
use crate::services::broker::BoundApp;
use crate::services::model::{Bind, Instance};

/// Releases the claims of a replica that is known to be dead. Services may still execute its calls, so the
/// usual waiting time before the same resources are created again stays in force.
pub async fn release_claims(db: &Db, dead: ReplicaId) -> Result<(), Error> {
    Ok(store::release_claims(db, dead).await?)
}

/// The data of an orphaned bind: what the repeated unbind needs.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(in crate::services) struct BindDetail {
    pub(in crate::services) bind: BindId,
    pub(in crate::services) app: BoundApp,
    /// Hosts of units that the service may know.
    pub(in crate::services) units: Vec<String>,
}

/// An orphan to record.
#[derive(Debug)]
pub(in crate::services) struct NewOrphan {
    service_id: ServiceId,
    instance: String,
    kind: &'static str,
    detail: serde_json::Value,
    reason: String,
}

impl NewOrphan {
    /// Creates the orphan of an instance that may still exist.
    pub(in crate::services) fn for_instance(instance: &Instance, reason: &str) -> Self {
        Self {
            service_id: instance.service_id,
            instance: instance.name.to_string(),
            kind: "instance",
            detail: json!({}),
            reason: reason.to_owned(),
        }
    }

    /// Creates the orphan of a bind that may still exist.
    pub(in crate::services) fn for_bind(
        bind: &Bind,
        app: BoundApp,
        units: Vec<String>,
        reason: &str,
    ) -> Self {
        let detail = BindDetail {
            bind: bind.id,
            app,
            units,
        };
        Self {
            service_id: bind.service_id,
            instance: bind.instance.to_string(),
            kind: "bind",
            detail: json!(detail),
            reason: reason.to_owned(),
        }
    }
}

/// The reason of an orphan whose removal the service has confirmed.
pub(in crate::services) const REASON_CONFIRMED: &str =
    "confirmed; the service may still execute an earlier call";

/// The reason of an orphan that was created by a saga which had lost its lease.
pub(in crate::services) const REASON_LATE_CREATE: &str =
    "a paused process may have created it after another replica had continued its saga";

/// Records that the service has confirmed the removal: the orphan ends. If, according to the row, the service
/// may still execute an earlier call, the orphan is recorded or stays pending instead, and the removal is
/// repeated after that time. The row must still exist.
pub(in crate::services) async fn record_confirmed(
    tx: &mut PgConnection,
    orphan: &NewOrphan,
) -> Result<(), Error> {
    store::insert_orphan_if_uncertain(tx, orphan).await?;
    Ok(store::end_or_defer(tx, orphan).await?)
}

/// Records a call that the present owner of its saga does not know of. If the row of the resource exists,
/// marks it as uncertain, so that its removal is sent twice; otherwise records an orphan.
pub(in crate::services) async fn record_late_create(
    db: &Db,
    orphan: &NewOrphan,
    window: f64,
) -> Result<(), Error> {
    let mut tx = db.begin().await?;
    if !store::mark_row_uncertain(&mut tx, orphan, window).await? {
        record_orphan(&mut tx, orphan).await?;
    }
    Ok(tx.commit().await?)
}

/// Records an orphan, unless it is pending already. The uncertainty noted on the row is copied; the row must
/// still exist.
pub(in crate::services) async fn record_orphan(
    tx: &mut PgConnection,
    orphan: &NewOrphan,
) -> Result<(), Error> {
    tracing::info!(service = %orphan.service_id, instance = orphan.instance, kind = orphan.kind, reason = orphan.reason, "orphan recorded");
    Ok(store::insert_orphan(tx, orphan).await?)
}
