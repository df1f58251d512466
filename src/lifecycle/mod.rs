//! Flows that span slices. Here: the removal of an app with all that hangs on it.

pub mod classic;
pub mod modern;
mod remove;
mod store;

pub use remove::{RemoveApp, remove_app};
