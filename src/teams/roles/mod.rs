//! Roles: named sets of permissions, each for one kind of thing.
//!
//! A role is *assigned* to a user on one thing of its kind, or globally. Default roles are assigned by
//! themselves, on `user-create` (global roles) and on `team-create` (team roles, on the new team).
//!
//! Promises: a role holds only permissions that its kind of thing can have; nobody assigns, widens or
//! makes a default of more than they hold themselves; a role that is assigned is not removed and keeps its
//! kind; `AllowAll` stays as it is, and somebody always holds it.

mod actions;
mod model;
pub mod modern;
mod store;

pub(super) use actions::{default_grants, may_give};
