//! THE TABLE of the classic edition: every unversioned route of the 2014 reference, and nothing else.

use axum::http::Method;

use crate::http::table::{Door, Table};
use crate::kernel::permission::Permission;
use crate::{quotas, teams, users};

const GET: Method = Method::GET;
const POST: Method = Method::POST;
const PUT: Method = Method::PUT;
const DELETE: Method = Method::DELETE;

/// All classic routes, in the order of the reference.
pub fn table() -> Table {
    Table::default()
        // People: quotas, users, sessions, keys, teams, tokens.
        .on(GET, "/quota/{email}", Door::User, quotas::classic::show)
        .on(POST, "/users", Door::Open, users::classic::create)
        .on(POST, "/users/{email}/tokens", Door::Open, users::classic::login)
        .on(POST, "/auth/login", Door::Open, users::classic::login_by_body)
        .on(GET, "/auth/scheme", Door::Open, users::classic::scheme)
        .on(DELETE, "/users/tokens", Door::Token, users::classic::logout)
        .on(
            PUT,
            "/users/password",
            Door::User,
            users::classic::change_password,
        )
        .on(DELETE, "/users", Door::User, users::classic::remove)
        .on(POST, "/users/keys", Door::User, users::classic::add_key)
        .on(DELETE, "/users/keys", Door::User, users::classic::remove_key)
        .on(
            DELETE,
            "/users/keys/{key}",
            Door::User,
            users::classic::remove_named_key,
        )
        .on(GET, "/users/{email}/keys", Door::User, users::classic::list_keys)
        .on(GET, "/teams", Door::User, teams::classic::list)
        .on(GET, "/teams/{team}", Door::User, teams::classic::info)
        .on(POST, "/teams", Door::User, teams::classic::create)
        .on(DELETE, "/teams/{team}", Door::User, teams::classic::remove)
        .on(
            PUT,
            "/teams/{team}/{user}",
            Door::User,
            teams::classic::add_member,
        )
        .on(
            DELETE,
            "/teams/{team}/{user}",
            Door::User,
            teams::classic::remove_member,
        )
        .on(
            POST,
            "/tokens",
            Door::May(Permission::ALL),
            users::classic::app_token,
        )
}
