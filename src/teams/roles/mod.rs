//! Roles: named sets of permissions, each for one context type.
//!
//! A role is *assigned* to a user, a team token or a group, on one object of its context type, or globally. A group is
//! a name of an outside login; its roles count for users whom that login places in it. Default roles are assigned
//! automatically: at `user-create` (global roles) and at `team-create` (team roles, on the new team).
//!
//! Promises: a role holds only permissions that are allowed with its context type. Nobody assigns a role,
//! adds a permission, or sets a default role that grants more than they hold themselves. An assigned role
//! cannot be removed or change its context type. `AllowAll` cannot be changed, and at least one user always
//! holds it.

mod actions;
mod assign;
mod model;
pub mod modern;
mod store;

pub(super) use actions::{check_grantable, has_default_role, list_role_grants};
