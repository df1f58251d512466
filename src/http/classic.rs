//! The classic edition: the routes of each slice, in the order of the 2014 reference.

use crate::web::route_table::RouteTable;
use crate::{apps, healers, lifecycle, platforms, quotas, releases, services, teams, units, users};

/// Returns all classic routes.
pub fn classic_routes() -> RouteTable {
    let slices = [
        apps::classic::routes,
        lifecycle::classic::routes,
        releases::classic::routes,
        healers::classic::routes,
        platforms::classic::routes,
        quotas::classic::routes,
        users::classic::routes,
        teams::classic::routes,
        units::classic::routes,
        services::catalogue::classic::routes,
        services::instances::classic::routes,
        services::binds::classic::routes,
    ];
    slices
        .into_iter()
        .fold(RouteTable::default(), |table, add_routes| add_routes(table))
}
