//! Binds of instances to apps (contract/classic 2.4, contract/modern 4.4).
//!
//! Bind: the service is called with the app and returns variables, which are stored encrypted; then a new
//! release of the app is rolled out with them. Unbind: the service is called for each unit and for the app,
//! the variables are deleted, and the app is rolled out without them. Units that start and stop in between
//! are announced to the service by a reconciler, if the service has calls for units.

mod actions;
pub mod classic;
pub mod modern;
mod notify;
mod saga;
pub(in crate::services) mod store;
mod unbinding;
mod units;

pub use actions::{BindRequest, bind_instance, load_variables, unbind_instance};
pub use notify::{bound_app, mark_unbinding, remove_bind, send_unbind, unbind_all_instances};
pub use saga::BindSaga;
pub use unbinding::UnbindSaga;
pub(in crate::services) use unbinding::retry_unbind;
pub use units::{UnitBindReconciler, repeat_unit_calls};
