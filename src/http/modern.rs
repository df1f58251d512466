//! The modern edition: the routes of the server itself and of each slice, by subject.

use crate::http::health;
use crate::web::route_table::RouteTable;
use crate::{
    apps, autoscale, certificates, clusters, deploys, events, exec, forges, jobs, lifecycle, plans,
    platforms, pools, releases, repositories, routers, routing, sagas, services, teams, units, users,
    volumes, webhooks,
};

/// Returns all modern routes, each with its version in the API.
pub fn modern_routes() -> RouteTable {
    let slices = [
        health::routes,
        events::modern::routes,
        events::blocks::modern::routes,
        webhooks::modern::routes,
        users::modern::routes,
        teams::modern::routes,
        teams::roles::modern::routes,
        teams::tokens::modern::routes,
        apps::modern::routes,
        lifecycle::modern::routes,
        repositories::modern::routes,
        releases::modern::routes,
        units::modern::routes,
        autoscale::modern::routes,
        exec::modern::routes,
        deploys::modern::routes,
        forges::modern::routes,
        jobs::modern::routes,
        plans::modern::routes,
        pools::modern::routes,
        platforms::modern::routes,
        clusters::modern::routes,
        certificates::modern::routes,
        routers::modern::routes,
        volumes::modern::routes,
        routing::modern::routes,
        services::instances::modern::routes,
        services::catalogue::modern::routes,
        services::binds::modern::routes,
        services::orphans::modern::routes,
        services::operations::modern::routes,
        services::proxy::modern::routes,
        sagas::modern::routes,
    ];
    slices
        .into_iter()
        .fold(RouteTable::default(), |table, add_routes| add_routes(table))
}
