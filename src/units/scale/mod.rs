//! Scaling: adding and removing units, starting and stopping processes, killing one unit.
//!
//! The desired numbers change in one transaction, together with the event; the reconciler applies them. A
//! saga keeps the event running until that has happened; it only waits and reports progress. If added units
//! do not become ready in time, or the user cancels, the number is set back.

mod actions;
mod automatic;
mod saga;
mod store;

pub use actions::{
    ScaleRequest, StartStopRequest, add_units, kill_unit, remove_units, start_processes, stop_processes,
};
pub use automatic::set_scaled_units;
pub(super) use saga::ScaleSaga;
