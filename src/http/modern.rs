//! THE TABLE of the modern edition: version, method, path, door and handler of every route that today's
//! client asks for.

use axum::http::Method;

use crate::http::health;
use crate::http::table::{Door, Table};
use crate::kernel::permission::Permission;
use crate::teams::{modern as teams, roles::modern as roles};
use crate::users::modern as users;

const GET: Method = Method::GET;
const POST: Method = Method::POST;
const PUT: Method = Method::PUT;
const DELETE: Method = Method::DELETE;

/// All modern routes, by subject.
pub fn table() -> Table {
    let table = Table::default()
        // The server itself.
        .since("1.0", GET, "/healthcheck", Door::Open, health::healthcheck)
        .since("1.0", GET, "/healthcheck/", Door::Open, health::healthcheck)
        .since("1.0", GET, "/info", Door::Token, health::info);
    people(table)
}

/// Users, sessions, teams, roles.
fn people(table: Table) -> Table {
    let may = Door::May;
    table
        .since("1.18", GET, "/auth/schemes", Door::Open, users::schemes)
        .since("1.0", GET, "/auth/scheme", Door::Open, users::scheme)
        .since("1.0", POST, "/auth/login", Door::Open, users::login_by_body)
        .since("1.0", POST, "/users", Door::Open, users::create)
        .since("1.0", POST, "/users/{email}/tokens", Door::Open, users::login)
        .since("1.0", DELETE, "/users/tokens", Door::Token, users::logout)
        .since("1.0", PUT, "/users/password", Door::User, users::change_password)
        .since("1.0", DELETE, "/users", Door::User, users::remove)
        .since("1.0", GET, "/users", may(Permission::USER_READ), users::list)
        .since("1.0", GET, "/users/info", Door::User, users::info)
        .since("1.0", GET, "/users/api-key", Door::User, users::show_api_key)
        .since("1.0", POST, "/users/api-key", Door::User, users::renew_api_key)
        .since("1.0", GET, "/users/{email}/quota", Door::User, users::quota)
        .since(
            "1.0",
            PUT,
            "/users/{email}/quota",
            may(Permission::USER_UPDATE_QUOTA),
            users::change_quota,
        )
        .since("1.0", GET, "/teams", Door::User, teams::list)
        .since("1.0", POST, "/teams", Door::User, teams::create)
        .since("1.0", DELETE, "/teams/{team}", Door::User, teams::remove)
        .since("1.4", GET, "/teams/{team}", Door::User, teams::info)
        .since("1.4", POST, "/teams/{team}", Door::User, teams::update)
        .since("1.6", PUT, "/teams/{team}", Door::User, teams::update)
        .since("1.12", GET, "/teams/{team}/quota", Door::User, teams::quota)
        .since(
            "1.12",
            PUT,
            "/teams/{team}/quota",
            may(Permission::TEAM_UPDATE_QUOTA),
            teams::change_quota,
        )
        .since("1.0", GET, "/permissions", Door::User, roles::permissions)
        .since("1.0", GET, "/roles", may(Permission::ROLE_READ), roles::list)
        .since("1.0", POST, "/roles", may(Permission::ROLE_CREATE), roles::create)
        .since("1.4", PUT, "/roles", Door::User, roles::update)
        .since(
            "1.0",
            GET,
            "/roles/{role}",
            may(Permission::ROLE_READ),
            roles::info,
        )
        .since(
            "1.0",
            DELETE,
            "/roles/{role}",
            may(Permission::ROLE_DELETE),
            roles::remove,
        )
        .since(
            "1.0",
            POST,
            "/roles/{role}/permissions",
            may(Permission::ROLE_UPDATE_PERMISSION_ADD),
            roles::add_permissions,
        )
        .since(
            "1.0",
            DELETE,
            "/roles/{role}/permissions/{permission}",
            may(Permission::ROLE_UPDATE_PERMISSION_REMOVE),
            roles::remove_permission,
        )
        .since(
            "1.0",
            POST,
            "/roles/{role}/user",
            may(Permission::ROLE_UPDATE_ASSIGN),
            roles::assign,
        )
        .since(
            "1.0",
            DELETE,
            "/roles/{role}/user/{email}",
            may(Permission::ROLE_UPDATE_DISSOCIATE),
            roles::dissociate,
        )
        .since(
            "1.0",
            GET,
            "/role/default",
            may(Permission::ROLE_READ),
            roles::list_defaults,
        )
        .since(
            "1.0",
            POST,
            "/role/default",
            may(Permission::ROLE_DEFAULT_CREATE),
            roles::add_defaults,
        )
        .since(
            "1.0",
            DELETE,
            "/role/default",
            may(Permission::ROLE_DEFAULT_DELETE),
            roles::remove_defaults,
        )
}
