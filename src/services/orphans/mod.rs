//! Orphans: what a service may still hold for us though we have given it up, because it hung, died or
//! failed when it was told. They are hunted with growing pauses until the service confirms, or an operator gives
//! them up (`operator`). While an instance is hunted, no new one of its name is made: the hunt would hit it.

mod hunt;
pub mod modern;
pub mod operator;
mod store;

use serde_json::json;

pub use hunt::Orphans;
pub use store::Open;
pub(in crate::services) use store::{
    end_bind, end_instance, holds_instance, list_open_of_instance, nudge, supersede_bind,
};

use sqlx::PgConnection;

use crate::kernel::ids::{BindId, ServiceId};
use crate::kernel::problem::Problem;
use crate::services::broker::Bound;
use crate::services::model::{Bind, Instance};

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

/// Leaves an orphan to the hunt, unless it is hunted already.
pub(in crate::services) async fn leave(tx: &mut PgConnection, orphan: &NewOrphan) -> Result<(), Problem> {
    tracing::info!(service = %orphan.service_id, instance = orphan.instance, what = orphan.what, reason = orphan.reason, "left to the hunt");
    Ok(store::insert(tx, orphan).await?)
}
