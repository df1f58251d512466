//! Instances of services (contract/classic 1.3, contract/modern 2.12). Who shares a team with an instance
//! may use it. Names are unique within a service; the classic edition, whose paths have no service in
//! them, also keeps the names it makes unique among all services.

mod actions;
pub mod classic;
mod lists;
pub mod modern;
mod removal;
mod saga;
pub(in crate::services) mod store;
mod update;

pub use actions::{Told, Wanted, create, find_for, grant, info, revoke, status, tell_of};
pub use lists::{Filter, Group, list, list_names};
pub use removal::{Removal, Remove, remove};
pub use saga::Create;
pub use update::{Update, update};
