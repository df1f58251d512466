//! Apps: the thing a developer owns. It has a name for ever, a platform, a plan, a pool, teams that may
//! use it (one of them its owner), cnames, and an address `<label>.<domain>`, which a swap exchanges with
//! another app's.
//!
//! An app begins without a version and without units; the first deploy brings both. It is *live* until it
//! is being *removed*; a removed app is gone with all that hung on it.
//!
//! What it promises: its name and address are unique (the database says so); whoever creates it pays with
//! a quota, counted in the same transaction; an app never loses its last team. What runs for it is the
//! subject of `releases` and `units`, what is in its environment that of `envs`.

mod actions;
mod addresses;
pub mod classic;
mod model;
pub mod modern;
mod rows;
pub(crate) mod store;

pub use actions::{ensure_live, find_for, find_full_for, resolve_team_owner, visible};
pub use model::{App, AppState, Bound, Full, Scale, UnitView};
pub use store::Reach;
