//! Team tokens: for programs, such as those that deploy from CI.
//!
//! A token has an id that its creator chooses, belongs to a team, and may expire. Its rights are the roles that
//! are assigned to it, as to a user; a new token has none. Its value is shown once, at creation and at
//! regeneration, and is accepted wherever the session of a user is: as a bearer token, and as the password of
//! `git`. What only a user can do, such as changing a password or creating a team, a token cannot.
//!
//! States: valid, expired (listed until it is deleted, and may get a new expiry), deleted. A token ends with its
//! team. It outlives the user who created it, so that nothing stops working when somebody leaves.
//!
//! Promises: the value is stored as a digest only. A changed, expired or deleted token ends at once on this
//! replica, and on the others as soon as the notice arrives. Nobody gains permissions by means of a token: who
//! regenerates it or changes its expiry must hold what it holds. A token uses the shares and the quota of the
//! user who created it, so that many tokens give no larger share.

mod actions;
mod model;
pub mod modern;
mod store;

pub(super) use store::find_token_id;
