//! How many units: adding, removing, starting, stopping, and killing one.
//!
//! The numbers change in one transaction, with the event; what then happens is the reconciler's doing.
//! The event goes on until it has happened, carried by a saga that only waits and tells. If added units
//! do not become ready in time, or the user cancels, the number goes back to what it was.

mod actions;
mod saga;
mod store;

pub use actions::{Ask, add, kill, remove, start, stop};
pub(super) use saga::Scale;
