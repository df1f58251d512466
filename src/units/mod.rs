//! Units: the running processes of apps. What should run is in the database (an app's *current* release,
//! its *candidate* while one is being tried, how many units of each process); what does run is what the
//! provisioner of this host reports. A [`planner`] without input or output turns the two into steps, and
//! a reconciler takes them, round after round.
//!
//! A unit goes through four phases, and never back: *starting* (it may be up, but gets no requests),
//! *serving* (gets requests as long as it is ready), *draining* (gets no new ones), *stopping*; then its
//! row is gone. Beside the phase, which is what we want, stand its *state* (what the provisioner sees)
//! and *ready* (what its health check says).
//!
//! Promises: a row is written before its unit is started, and deleted after it is gone, so a crash at
//! any instant leaves nothing that the next round does not find; a unit gets no requests for a while
//! before it is asked to end; while a candidate is tried, the current release is left alone, and after
//! the switch the old units go only once the new ones can do their work. One reconciler works for a
//! host at a time, whoever it is.
//!
//! A notice on `Channel::Units` carries the id of the app whose desired units, or units, have changed;
//! without one it costs a look at everything.
//!
//! It never decides which release is current, never reads what a unit says, and keeps no list of units
//! in memory that must be right.

pub mod classic;
mod health;
pub mod logs;
mod merge;
pub mod model;
pub mod modern;
pub mod planner;
mod reconcile;
pub mod routes;
pub mod scale;
mod store;
mod wire;
mod work;

pub use reconcile::{Pace, Units};
pub use work::{user, version_dir};

use std::sync::Arc;

use crate::core::Core;
use crate::sagas::Saga;

/// Starts what keeps the units of this host true, if units run here.
pub fn start(core: &Core) -> Option<Arc<Units>> {
    if core.provisioners.is_empty() {
        return None;
    }
    let units = Units::new(core, Pace::default());
    core.tasks.spawn(Arc::clone(&units).run());
    Some(units)
}

/// The saga that waits until an app has as many units as it should.
pub fn scale_saga(core: &Core) -> impl Saga {
    scale::Scale::new(core.clone())
}
