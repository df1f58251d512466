//! THE TABLE of the classic edition: every unversioned route of the 2014 reference, and nothing else.

use axum::http::Method;

use crate::http::table::Door::{May, Open, Token, User, UserOrItsApp};
use crate::http::table::Table;
use crate::kernel::permission::Permission;
use crate::{apps, healers, lifecycle, platforms, quotas, releases, services, teams, units, users};

const GET: Method = Method::GET;
const POST: Method = Method::POST;
const PUT: Method = Method::PUT;
const DELETE: Method = Method::DELETE;

/// All classic routes, in the order of the reference.
#[rustfmt::skip]
pub fn table() -> Table {
    Table::default()
        // Apps
        .on(GET, "/apps", User, apps::classic::list)
        .on(POST, "/apps", User, apps::classic::create)
        .on(GET, "/apps/{app}", User, apps::classic::info)
        .on(DELETE, "/apps/{app}", User, lifecycle::classic::remove_app)
        .on(GET, "/apps/{app}/available", UserOrItsApp, apps::classic::available)
        .on(GET, "/apps/{app}/restart", User, releases::classic::restart)
        .on(POST, "/apps/{app}/restart", User, releases::classic::restart)
        .on(GET, "/apps/{app}/env", UserOrItsApp, releases::classic::get_env)
        .on(POST, "/apps/{app}/env", User, releases::classic::set_env)
        .on(DELETE, "/apps/{app}/env", User, releases::classic::unset_env)
        .on(PUT, "/swap", User, apps::classic::swap)
        .on(POST, "/swap", User, apps::classic::swap)
        .on(PUT, "/apps/{app}/{team}", User, apps::classic::grant)
        .on(DELETE, "/apps/{app}/{team}", User, apps::classic::revoke)
        .on(POST, "/apps/{app}/cname", User, apps::classic::add_cname)
        .on(DELETE, "/apps/{app}/cname", User, apps::classic::remove_cname)
        // Healers
        .on(GET, "/healers", Token, healers::classic::list)
        .on(GET, "/healers/{healer}", Token, healers::classic::run)
        // Platforms
        .on(GET, "/platforms", User, platforms::classic::list)
        // People: quotas, users, sessions, keys, teams, tokens.
        .on(GET, "/quota/{email}", User, quotas::classic::show)
        .on(POST, "/users", Open, users::classic::create)
        .on(POST, "/users/{email}/password", Open, users::classic::reset_password)
        .on(POST, "/users/{email}/tokens", Open, users::classic::login)
        .on(POST, "/auth/login", Open, users::classic::login_by_body)
        .on(GET, "/auth/scheme", Open, users::classic::scheme)
        .on(DELETE, "/users/tokens", Token, users::classic::logout)
        .on(PUT, "/users/password", User, users::classic::change_password)
        .on(DELETE, "/users", User, users::classic::remove)
        .on(POST, "/users/keys", User, users::classic::add_key)
        .on(DELETE, "/users/keys", User, users::classic::remove_key)
        .on(DELETE, "/users/keys/{key}", User, users::classic::remove_named_key)
        .on(GET, "/users/{email}/keys", User, users::classic::list_keys)
        .on(GET, "/teams", User, teams::classic::list)
        .on(GET, "/teams/{team}", User, teams::classic::info)
        .on(POST, "/teams", User, teams::classic::create)
        .on(DELETE, "/teams/{team}", User, teams::classic::remove)
        .on(PUT, "/teams/{team}/{user}", User, teams::classic::add_member)
        .on(DELETE, "/teams/{team}/{user}", User, teams::classic::remove_member)
        .on(POST, "/tokens", May(Permission::ALL), lifecycle::classic::app_token)
        // Units and logs
        .on(PUT, "/apps/{app}/units", User, units::classic::add)
        .on(DELETE, "/apps/{app}/units", User, units::classic::remove)
        .on(POST, "/apps/{app}/start", User, units::classic::start)
        .on(POST, "/apps/{app}/stop", User, units::classic::stop)
        .on(GET, "/apps/{app}/log", User, units::classic::log)
        .on(POST, "/apps/{app}/log", UserOrItsApp, units::classic::add_log)
        // Services, their instances and binds
        .on(GET, "/services", User, services::catalogue::classic::list)
        .on(POST, "/services", User, services::catalogue::classic::create)
        .on(PUT, "/services", User, services::catalogue::classic::update)
        .on(DELETE, "/services/{service}", User, services::catalogue::classic::remove)
        .on(GET, "/services/{service}", User, services::catalogue::classic::info)
        .on(GET, "/services/{service}/doc", User, services::catalogue::classic::doc)
        .on(PUT, "/services/{service}/doc", User, services::catalogue::classic::set_doc)
        .on(PUT, "/services/{service}/{team}", User, services::catalogue::classic::grant)
        .on(DELETE, "/services/{service}/{team}", User, services::catalogue::classic::revoke)
        .on(GET, "/services/{service}/plans", User, services::catalogue::classic::plans)
        .on(POST, "/services/instances", User, services::instances::classic::create)
        .on(DELETE, "/services/instances/{instance}", User, services::instances::classic::remove)
        .on(PUT, "/services/instances/{instance}/{app}", User, services::binds::classic::bind)
        .on(DELETE, "/services/instances/{instance}/{app}", User, services::binds::classic::unbind)
        .on(GET, "/services/instances", User, services::instances::classic::list)
        .on(GET, "/services/instances/{instance}", User, services::instances::classic::info)
        .on(GET, "/services/instances/{instance}/status", User, services::instances::classic::status)
}
