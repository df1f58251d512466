//! Teams, their members, and the roles that grant permissions to members.
//!
//! A team owns apps, services and instances. It has no list of members: a member is a user who holds a role
//! on it. Adding a member assigns the default roles of the event `team-create`; the creator of a team gets
//! the same roles. Any user may create a team.
//!
//! Promises: nobody can grant permissions that they do not hold, neither by assigning a role, nor by adding a
//! permission to a role, nor by a default role. A team that owns or uses something cannot be removed; the
//! error lists what references it. The classic edition does not remove the last member of a team. A rename
//! updates everything that names the team. Roles refer to a team by id: after a team is removed, a new team
//! of the same name starts without roles.

mod actions;
pub mod classic;
mod members;
mod model;
pub mod modern;
mod owner;
pub mod roles;
mod store;
pub mod tokens;

pub use actions::{find_team, list_teams};
pub use model::Team;
pub use owner::choose_owner_team;
pub use store::{find_unknown_team, list_team_names, team_exists};
