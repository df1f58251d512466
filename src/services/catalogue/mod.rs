//! The catalogue of services: what a provider does with their own (contract/classic 1.2, contract/modern
//! 2.13). Owner teams may change a service; a restricted one may be used by the teams it is granted to.

mod actions;
pub mod classic;
pub mod modern;
mod store;

pub use actions::{Listed, create, doc, grant, info, list, plans, remove, revoke, set_doc, update};
pub(in crate::services) use actions::{ensure_team, find_open, not_open, pick_team, teams_are_there};
pub use store::{find, find_by_id, learn_dialect};
