//! Flows that span slices. Here: the removal of an app with all that hangs on
//! it, and the token that an administrator makes for an app.

pub mod classic;
pub mod modern;
mod remove;
mod store;
mod token;

pub use remove::{RemoveApp, remove_app};
