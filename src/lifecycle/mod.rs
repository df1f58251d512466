//! Flows that span slices: the removal of an app with everything that belongs to it, the update of an app,
//! and the token that an administrator creates for an app.

pub mod classic;
pub mod modern;
mod remove;
mod store;
mod token;
mod update;

pub use remove::{RemoveAppSaga, remove_app, remove_app_of};
pub use update::update_app;
