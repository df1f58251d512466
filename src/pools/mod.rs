//! Pools: where units run, and on which provisioner. One pool may be the default one.
//!
//! What a pool allows is said by constraints. A constraint has an expression for the names of pools, in which
//! `*` stands for any characters, a field (team, router, service, plan, volume plan or certificate issuer),
//! and the names that it allows or denies, in which `*` means the same. For each pool and field one constraint
//! holds: the one with the longest expression. Without a constraint a pool allows everything, but no team. A
//! pool is public if a constraint of exactly its name allows all teams.
//!
//! Promises: an app, an instance or a bind gets only what its pool allows at that time; a later change of the
//! constraints takes nothing away from what exists. A pool with apps cannot be removed. Constraints that name
//! a pool go with it, and a later team, service or plan of a removed one's name is not allowed in its stead.

mod actions;
mod choice;
mod constraints;
mod model;
pub mod modern;
mod store;
mod views;

pub use actions::list_visible_pools;
pub use choice::{check_all_allowed, check_allowed, choose_plan, choose_pool};
pub use constraints::ConstraintField;
pub use model::{Pool, PoolAllowed};
pub use store::find_provisioner;
pub use views::PoolView;
