//! Quotas: how many apps a user or a team may have, how many units an app may have.
//!
//! A quota is a limit and a count; a limit of -1 is none. Apps count against the user who created them
//! and against the team that owns them: the count is kept beside the limit and changes in the very
//! transaction that makes or removes the app, by one conditional statement, so that no number of
//! requests at once gets past the limit. The units of an app are counted from what its processes ask
//! for, so there is no second number that could go wrong.
//!
//! A limit never goes below what is in use.

mod actions;
pub mod classic;
mod model;
mod store;

pub use actions::{
    Subject, change, check_units, find, release_app, release_team_app, reserve_app, reserve_team_app,
};
pub use model::{Quota, parse_limit};
