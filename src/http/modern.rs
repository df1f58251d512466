//! THE TABLE of the modern edition: version, method, path, door and handler of every route that today's
//! client asks for.

use axum::http::Method;

use crate::http::table::Door::{May, Open, Token, User, UserOrItsApp};
use crate::http::table::Table;
use crate::http::{events, health};
use crate::kernel::permission::Permission;
use crate::teams::roles;
use crate::{
    apps, deploys, forges, healers, lifecycle, plans, platforms, pools, releases, repositories, services,
    teams, units, users,
};

const GET: Method = Method::GET;
const POST: Method = Method::POST;
const PUT: Method = Method::PUT;
const DELETE: Method = Method::DELETE;

/// All modern routes, by subject.
pub fn table() -> Table {
    let table = server(Table::default());
    let table = people(table);
    let table = apps(table);
    services(table)
}

/// The server itself, and what has happened on it.
#[rustfmt::skip]
fn server(table: Table) -> Table {
    table
        .since("1.0", GET, "/healthcheck", Open, health::healthcheck)
        .since("1.0", GET, "/healthcheck/", Open, health::healthcheck)
        .since("1.2", GET, "/metrics", Open, health::figures)
        .since("1.0", GET, "/info", Token, health::info)
        .since("1.1", GET, "/events", User, events::list)
        .since("1.1", GET, "/events/kinds", User, events::kinds)
        .since("1.1", GET, "/events/{event}", User, events::info)
        .since("1.1", POST, "/events/{event}/cancel", User, events::cancel)
}

/// Users, sessions, teams, roles.
#[rustfmt::skip]
fn people(table: Table) -> Table {
    table
        .since("1.18", GET, "/auth/schemes", Open, users::modern::schemes)
        .since("1.0", GET, "/auth/scheme", Open, users::modern::scheme)
        .since("1.0", POST, "/auth/login", Open, users::modern::login_by_body)
        .since("1.0", POST, "/users", Open, users::modern::create)
        .since("1.0", POST, "/users/{email}/password", Open, users::modern::reset_password)
        .since("1.0", POST, "/users/{email}/tokens", Open, users::modern::login)
        .since("1.0", DELETE, "/users/tokens", Token, users::modern::logout)
        .since("1.0", PUT, "/users/password", User, users::modern::change_password)
        .since("1.0", DELETE, "/users", User, users::modern::remove)
        .since("1.0", GET, "/users", May(Permission::USER_READ), users::modern::list)
        .since("1.0", GET, "/users/info", User, users::modern::info)
        .since("1.0", GET, "/users/api-key", User, users::modern::show_api_key)
        .since("1.0", POST, "/users/api-key", User, users::modern::renew_api_key)
        .since("1.0", GET, "/users/{email}/quota", User, users::modern::quota)
        .since("1.0", PUT, "/users/{email}/quota", May(Permission::USER_UPDATE_QUOTA), users::modern::change_quota)
        .since("1.0", GET, "/teams", User, teams::modern::list)
        .since("1.0", POST, "/teams", User, teams::modern::create)
        .since("1.0", DELETE, "/teams/{team}", User, teams::modern::remove)
        .since("1.4", GET, "/teams/{team}", User, apps::modern::team_info)
        .since("1.4", POST, "/teams/{team}", User, teams::modern::update)
        .since("1.6", PUT, "/teams/{team}", User, teams::modern::update)
        .since("1.12", GET, "/teams/{team}/quota", User, teams::modern::quota)
        .since("1.12", PUT, "/teams/{team}/quota", May(Permission::TEAM_UPDATE_QUOTA), teams::modern::change_quota)
        .since("1.0", GET, "/permissions", User, roles::modern::permissions)
        .since("1.0", GET, "/roles", May(Permission::ROLE_READ), roles::modern::list)
        .since("1.0", POST, "/roles", May(Permission::ROLE_CREATE), roles::modern::create)
        .since("1.4", PUT, "/roles", User, roles::modern::update)
        .since("1.0", GET, "/roles/{role}", May(Permission::ROLE_READ), roles::modern::info)
        .since("1.0", DELETE, "/roles/{role}", May(Permission::ROLE_DELETE), roles::modern::remove)
        .since("1.0", POST, "/roles/{role}/permissions", May(Permission::ROLE_UPDATE_PERMISSION_ADD), roles::modern::add_permissions)
        .since("1.0", DELETE, "/roles/{role}/permissions/{permission}", May(Permission::ROLE_UPDATE_PERMISSION_REMOVE), roles::modern::remove_permission)
        .since("1.0", POST, "/roles/{role}/user", May(Permission::ROLE_UPDATE_ASSIGN), roles::modern::assign)
        .since("1.0", DELETE, "/roles/{role}/user/{email}", May(Permission::ROLE_UPDATE_DISSOCIATE), roles::modern::dissociate)
        .since("1.0", GET, "/role/default", May(Permission::ROLE_READ), roles::modern::list_defaults)
        .since("1.0", POST, "/role/default", May(Permission::ROLE_DEFAULT_CREATE), roles::modern::add_defaults)
        .since("1.0", DELETE, "/role/default", May(Permission::ROLE_DEFAULT_DELETE), roles::modern::remove_defaults)
}

/// Apps, their environment and deploys, and what they choose from.
#[rustfmt::skip]
fn apps(table: Table) -> Table {
    table
        // Apps
        .since("1.0", GET, "/apps", User, apps::modern::list)
        .since("1.0", POST, "/apps", User, apps::modern::create)
        .since("1.0", GET, "/apps/{app}", UserOrItsApp, apps::modern::info)
        .since("1.0", PUT, "/apps/{app}", User, apps::modern::update)
        .since("1.0", DELETE, "/apps/{app}", User, lifecycle::modern::remove_app)
        .since("1.0", PUT, "/apps/{app}/teams/{team}", User, apps::modern::grant)
        .since("1.0", DELETE, "/apps/{app}/teams/{team}", User, apps::modern::revoke)
        .since("1.0", POST, "/apps/{app}/cname", User, apps::modern::add_cname)
        .since("1.0", DELETE, "/apps/{app}/cname", User, apps::modern::remove_cname)
        .since("1.5", GET, "/apps/{app}/routers", User, apps::modern::routers)
        .since("1.0", GET, "/apps/{app}/repository", User, repositories::modern::info)
        .since("1.0", PUT, "/apps/{app}/repository", User, repositories::modern::update)
        .since("1.0", DELETE, "/apps/{app}/repository", User, repositories::modern::give_up)
        // Environment and releases
        .since("1.0", GET, "/apps/{app}/env", UserOrItsApp, releases::modern::get_env)
        .since("1.0", POST, "/apps/{app}/env", User, releases::modern::set_env)
        .since("1.0", DELETE, "/apps/{app}/env", User, releases::modern::unset_env)
        .since("1.0", POST, "/apps/{app}/restart", User, releases::modern::restart)
        // Units and logs
        .since("1.0", PUT, "/apps/{app}/units", User, units::modern::add)
        .since("1.0", DELETE, "/apps/{app}/units", User, units::modern::remove)
        .since("1.12", DELETE, "/apps/{app}/units/{unit}", User, units::modern::kill)
        .since("1.0", POST, "/apps/{app}/start", User, units::modern::start)
        .since("1.0", POST, "/apps/{app}/stop", User, units::modern::stop)
        .since("1.0", GET, "/apps/{app}/log", User, units::modern::log)
        .since("1.0", POST, "/apps/{app}/log", UserOrItsApp, units::modern::add_log)
        // Deploys
        .since("1.0", POST, "/apps/{app}/deploy", User, deploys::modern::deploy)
        .uploading()
        .since("1.0", POST, "/apps/{app}/deploy/rollback", User, deploys::modern::rollback)
        .since("1.0", GET, "/forges/{app}", User, forges::modern::show)
        .since("1.0", PUT, "/forges/{app}", User, forges::modern::set)
        .since("1.0", DELETE, "/forges/{app}", User, forges::modern::remove)
        .since("1.0", POST, "/forges/{app}", Open, forges::modern::deliver)
        .since("1.0", GET, "/deploys", User, deploys::modern::list)
        .since("1.0", GET, "/deploys/{event}", User, deploys::modern::info)
        // Plans, pools, platforms, routers
        .since("1.0", GET, "/plans", User, plans::modern::list)
        .since("1.0", GET, "/pools", User, pools::modern::list)
        .since("1.8", GET, "/pools/{pool}", User, pools::modern::info)
        .since("1.0", GET, "/platforms", User, platforms::modern::list)
        .since("1.6", GET, "/platforms/{platform}", User, platforms::modern::info)
        .since("1.3", GET, "/routers", User, apps::modern::all_routers)
}

/// Services, their instances and binds.
#[rustfmt::skip]
fn services(table: Table) -> Table {
    table
        .since("1.0", GET, "/services", User, services::instances::modern::list)
        .since("1.0", POST, "/services", May(Permission::SERVICE_CREATE), services::catalogue::modern::create)
        .since("1.0", GET, "/services/{service}", User, services::catalogue::modern::info)
        .since("1.0", PUT, "/services/{service}", May(Permission::SERVICE_UPDATE), services::catalogue::modern::update)
        .since("1.0", DELETE, "/services/{service}", May(Permission::SERVICE_DELETE), services::catalogue::modern::remove)
        .since("1.0", GET, "/services/{service}/plans", User, services::catalogue::modern::plans)
        .since("1.0", GET, "/services/{service}/doc", User, services::catalogue::modern::doc)
        .since("1.0", PUT, "/services/{service}/doc", May(Permission::SERVICE_UPDATE_DOC), services::catalogue::modern::set_doc)
        .since("1.0", PUT, "/services/{service}/team/{team}", May(Permission::SERVICE_UPDATE_GRANT_ACCESS), services::catalogue::modern::grant)
        .since("1.0", DELETE, "/services/{service}/team/{team}", May(Permission::SERVICE_UPDATE_REVOKE_ACCESS), services::catalogue::modern::revoke)
        .since("1.0", GET, "/services/instances", User, services::instances::modern::list)
        .since("1.0", POST, "/services/{service}/instances", May(Permission::SERVICE_INSTANCE_CREATE), services::instances::modern::create)
        .since("1.0", GET, "/services/{service}/instances/{instance}", User, services::instances::modern::info)
        .since("1.0", PUT, "/services/{service}/instances/{instance}", User, services::instances::modern::update)
        .since("1.0", DELETE, "/services/{service}/instances/{instance}", May(Permission::SERVICE_INSTANCE_DELETE), services::instances::modern::remove)
        .since("1.0", GET, "/services/{service}/instances/{instance}/status", User, services::instances::modern::status)
        .since("1.0", PUT, "/services/{service}/instances/permission/{instance}/{team}", May(Permission::SERVICE_INSTANCE_UPDATE_GRANT), services::instances::modern::grant)
        .since("1.0", DELETE, "/services/{service}/instances/permission/{instance}/{team}", May(Permission::SERVICE_INSTANCE_UPDATE_REVOKE), services::instances::modern::revoke)
        .since("1.0", PUT, "/services/{service}/instances/{instance}/{app}", May(Permission::SERVICE_INSTANCE_UPDATE_BIND), services::binds::modern::bind)
        .since("1.0", DELETE, "/services/{service}/instances/{instance}/{app}", May(Permission::SERVICE_INSTANCE_UPDATE_UNBIND), services::binds::modern::unbind)
        .since("1.13", PUT, "/services/{service}/instances/{instance}/apps/{app}", May(Permission::SERVICE_INSTANCE_UPDATE_BIND), services::binds::modern::bind)
        .since("1.13", DELETE, "/services/{service}/instances/{instance}/apps/{app}", May(Permission::SERVICE_INSTANCE_UPDATE_UNBIND), services::binds::modern::unbind)
        // For operators: what does not end by itself
        .since("1.0", GET, "/orphans", May(Permission::ORPHAN_READ), services::orphans::modern::list)
        .since("1.0", POST, "/orphans/{orphan}/retry", May(Permission::ORPHAN_RETRY), services::orphans::modern::retry)
        .since("1.0", POST, "/orphans/{orphan}/give-up", May(Permission::ORPHAN_GIVE_UP), services::orphans::modern::give_up)
        .since("1.0", GET, "/sagas", May(Permission::SAGA_READ), healers::modern::list)
        .since("1.0", POST, "/sagas/{saga}/retry", May(Permission::SAGA_RETRY), healers::modern::retry)
        .since("1.0", POST, "/sagas/{saga}/give-up", May(Permission::SAGA_GIVE_UP), healers::modern::give_up)
}
