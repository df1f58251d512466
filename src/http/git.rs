//! The routes that `git` itself requests, below the URL of a repository. They belong to no edition.

use crate::repositories;
use crate::web::route_table::RouteTable;

/// Returns all routes of `git`.
pub fn git_routes() -> RouteTable {
    repositories::wire::routes(RouteTable::default())
}
