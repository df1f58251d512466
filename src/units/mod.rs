//! Units: the running processes of apps. The database has the desired state: an app's *current* release, its
//! *candidate* during a rollout, and the number of units of each process. The provisioner of this host
//! reports the observed state. A pure [`planner`] turns the two into steps; a reconciler applies them, round
//! after round.
//!
//! A unit passes through four phases, never backwards: *starting* (it may be running, but gets no requests),
//! *serving* (it gets requests while it is ready), *draining* (it gets no new requests), *stopping*; then its
//! row is deleted. The phase is desired. Beside it the row has the observed *state* (from the provisioner)
//! and *ready* (from the health check).
//!
//! Promises:
//! * A row is written before its unit is started and deleted after the unit is gone, so a crash at any
//!   instant leaves nothing that the next round does not find.
//! * A unit drains before it is stopped.
//! * While a candidate is rolled out, the units of the current release are not touched. After the switch, the
//!   old units stop only when the new ones can take over their work.
//! * One reconciler at a time works for a host, in whichever process.
//!
//! A notice on `NoticeChannel::Units` carries the id of the app whose desired or observed units have changed.
//! A notice without an id causes a full scan.
//!
//! The reconciler never decides which release is current, never reads the output of units, and has no
//! in-memory list of units that must be correct.

pub mod classic;
mod health;
pub mod logs;
mod merge;
pub mod model;
pub mod modern;
pub mod planner;
mod reconcile;
pub mod scale;
mod store;
mod tasks;
mod wire;

pub use health::list_adjustments as health_adjustments;
pub use reconcile::{ReconcileTiming, UnitReconciler};
pub use tasks::set_process_env;

use std::sync::Arc;

use crate::core::Core;
use crate::sagas::Saga;

/// Creates the reconciler of this host. Returns `None` if no units run here.
pub fn create_reconciler(core: &Core) -> Option<Arc<UnitReconciler>> {
    core.provisioners.unit_runners().next()?;
    Some(UnitReconciler::new(core, ReconcileTiming::default()))
}

/// Returns the saga that waits until an app has its desired number of units.
pub fn scale_saga(core: &Core) -> impl Saga {
    scale::ScaleSaga::new(core.clone())
}
