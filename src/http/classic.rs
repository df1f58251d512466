//! THE TABLE of the classic edition: every unversioned route of the 2014 reference, and nothing else.

use axum::http::Method;

use crate::http::table::{Door, Table};
use crate::{apps, lifecycle, platforms, releases};

const GET: Method = Method::GET;
const POST: Method = Method::POST;
const PUT: Method = Method::PUT;
const DELETE: Method = Method::DELETE;

/// All classic routes, in the order of the reference.
pub fn table() -> Table {
    use Door::{User, UserOrItsApp};
    Table::default()
        // Apps
        .on(GET, "/apps", User, apps::classic::list)
        .on(POST, "/apps", User, apps::classic::create)
        .on(GET, "/apps/{app}", User, apps::classic::info)
        .on(DELETE, "/apps/{app}", User, lifecycle::classic::remove_app)
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
        // Platforms
        .on(GET, "/platforms", User, platforms::classic::list)
}
