//! THE TABLE of the modern edition: version, method, path, door and handler of every route that today's
//! client asks for.

use axum::http::Method;

use crate::http::table::{Door, Table};
use crate::{apps, deploys, lifecycle, plans, platforms, pools, releases};

const GET: Method = Method::GET;
const POST: Method = Method::POST;
const PUT: Method = Method::PUT;
const DELETE: Method = Method::DELETE;

/// All modern routes, by subject.
pub fn table() -> Table {
    use Door::{User, UserOrItsApp};
    Table::default()
        // Apps
        .since("1.0", GET, "/apps", User, apps::modern::list)
        .since("1.0", POST, "/apps", User, apps::modern::create)
        .since("1.0", GET, "/apps/{app}", UserOrItsApp, apps::modern::info)
        .since("1.0", PUT, "/apps/{app}", User, apps::modern::update)
        .since("1.0", DELETE, "/apps/{app}", User, lifecycle::modern::remove_app)
        .since("1.0", PUT, "/apps/{app}/teams/{team}", User, apps::modern::grant)
        .since(
            "1.0",
            DELETE,
            "/apps/{app}/teams/{team}",
            User,
            apps::modern::revoke,
        )
        .since("1.0", POST, "/apps/{app}/cname", User, apps::modern::add_cname)
        .since(
            "1.0",
            DELETE,
            "/apps/{app}/cname",
            User,
            apps::modern::remove_cname,
        )
        .since("1.5", GET, "/apps/{app}/routers", User, apps::modern::routers)
        // Environment and releases
        .since(
            "1.0",
            GET,
            "/apps/{app}/env",
            UserOrItsApp,
            releases::modern::get_env,
        )
        .since("1.0", POST, "/apps/{app}/env", User, releases::modern::set_env)
        .since(
            "1.0",
            DELETE,
            "/apps/{app}/env",
            User,
            releases::modern::unset_env,
        )
        .since(
            "1.0",
            POST,
            "/apps/{app}/restart",
            User,
            releases::modern::restart,
        )
        // Deploys
        .since("1.0", POST, "/apps/{app}/deploy", User, deploys::modern::deploy)
        .uploading()
        .since(
            "1.0",
            POST,
            "/apps/{app}/deploy/rollback",
            User,
            deploys::modern::rollback,
        )
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
