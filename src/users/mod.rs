//! Users: who may log in, and the roles they hold.
//!
//! A user has an e-mail address and a password; their permissions come from the roles they hold, each in a
//! context (`user_role`). They authenticate with a bearer token: a *session* from a login, or their one *API
//! key*. Apps have tokens too, with few permissions, and teams have tokens for programs (`teams::tokens`), which
//! hold roles as users do. Removing a user removes their tokens, keys and roles;
//! the apps they created stay.
//!
//! A role is held on an object by the object's id: it follows a rename, is removed with the object, and does
//! not apply to a later object of the same name. An e-mail address identifies one user however it is spelled,
//! and is stored as it was first given; past the request edge a user is identified by id.
//!
//! Promises: a password is stored as an Argon2id hash and a token as a digest, and neither appears anywhere
//! else (an API key is also stored encrypted, because its owner may read it again). Login attempts are
//! limited by account and by network, and so are sign-ups. A new password ends the sessions and the API key
//! of the old one. A permission that is taken away ends at once on this replica, and on the others as soon as
//! the notice arrives. Nobody gains permissions by means of another user's key. A team that owns something
//! does not lose its last member when they remove themselves; an administrator may remove them.

mod actions;
mod admin;
pub mod classic;
mod held_roles;
mod keys;
mod login;
mod model;
pub mod modern;
mod password;
mod reset;
mod store;
pub mod tokens;
mod wire;

pub use actions::{UserQuery, create_user, find_users, warn_of_duplicate_emails};
pub use admin::{AdminCredentials, create_admin, ensure_admin};
pub use held_roles::store::{
    assign_role, dissociate_role, find_group_id, find_or_create_group, list_token_grants,
};
pub use keys::authenticate_key;
pub use login::authenticate_basic;
pub(crate) use model::first_missing_grant;
pub use model::{HeldRole, RoleHolder, User};
pub use reset::SendResetMail;
pub use store::{assign_default_roles, delete_roles_on_team, find_user_id, is_last_admin};
pub(crate) use tokens::store::parse_held;
