//! Teams, who is in them, and the roles that say what their members may do.
//!
//! A team owns apps, services and instances. It has no list of members: a member is a user who holds a
//! role on it, so adding a member is giving the default roles of the occasion `team-create`, and whoever
//! makes a team gets the same. Any user may make a team.
//!
//! Promises: nobody gives away what they do not hold, neither by a role assigned, nor by a permission added
//! to a role, nor by a default role; a team that owns or uses something is not removed, and says by what it
//! is held; a team does not lose its last member by the classic edition. A rename takes along all that
//! names the team. A removed team leaves no role behind for the next one of its name.

mod actions;
pub mod classic;
mod members;
mod model;
pub mod modern;
pub mod roles;
mod store;

pub use actions::{find, list};
pub use model::Team;
pub use store::{exists, names};
