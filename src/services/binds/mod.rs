//! Binds of instances to apps (contract/classic 2.4, contract/modern 4.4).
//!
//! Bind: the service is told of the app and answers variables, which are kept sealed; then a new release
//! of the app is rolled out with them. Unbind: the service is told of each unit and of the app, the
//! variables go, and the app is rolled out without them. Units that come and go in between are told to
//! the service by a reconciler, as far as the service wants to know.

mod actions;
pub mod classic;
pub mod modern;
pub mod rollout;
mod saga;
pub(in crate::services) mod store;
mod telling;
mod unbinding;
mod units;

pub use actions::{Wish, bind, unbind, variables};
pub use saga::Bind;
pub use telling::{bound, forget, hush, tell_unbound, unbind_everything};
pub use unbinding::Unbind;
pub(in crate::services) use unbinding::unbind_again;
pub use units::{UnitBinds, repeat_unit_calls};
