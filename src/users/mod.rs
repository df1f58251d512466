//! Users: who may come in, and what they hold.
//!
//! A user is an e-mail address and a password; what they may do comes from the roles they hold, each on
//! something (`user_role`). They come in with a bearer token: a *session* from a login, or their one *API
//! key*. An app has tokens too; those open little. A user who is removed takes tokens, keys and roles
//! along; the apps they made stay.
//!
//! Promises: a password is kept as an Argon2id hash and a token as a digest, and neither appears anywhere
//! else (an API key is kept sealed beside its digest, because its owner may look at it again); guessing is
//! bounded by account and by address; what a user may no longer do ends at once on this replica, and on
//! the others as soon as the notice arrives. Nobody gets more than they have by way of somebody else's
//! key. A team with things of its own never loses its last member by the removal of a user.

mod actions;
mod admin;
pub mod classic;
mod keys;
mod login;
mod model;
pub mod modern;
mod password;
mod reset;
mod store;
pub mod tokens;

pub use actions::{Find, create, find};
pub use admin::{Credentials, create_admin, ensure_admin};
pub use keys::admit_key;
pub use login::admit;
pub(crate) use model::beyond;
pub use model::{Holding, User};
pub use reset::SendLetter;
pub use store::{
    assign, assign_defaults, delete_roles_on, delete_roles_on_team, dissociate, find_id, is_last_admin,
    rename_roles_on,
};
