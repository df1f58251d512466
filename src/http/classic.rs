//! THE TABLE of the classic edition: every unversioned route of the 2014 reference, and nothing else.

use axum::http::Method;

use crate::http::table::{Door, Table};
use crate::services::{binds, catalogue, instances};

const GET: Method = Method::GET;
const POST: Method = Method::POST;
const PUT: Method = Method::PUT;
const DELETE: Method = Method::DELETE;

/// All classic routes, in the order of the reference.
pub fn table() -> Table {
    Table::default()
        // Services, their instances and binds.
        .on(GET, "/services", Door::User, catalogue::classic::list)
        .on(POST, "/services", Door::User, catalogue::classic::create)
        .on(PUT, "/services", Door::User, catalogue::classic::update)
        .on(
            DELETE,
            "/services/{service}",
            Door::User,
            catalogue::classic::remove,
        )
        .on(GET, "/services/{service}", Door::User, catalogue::classic::info)
        .on(
            GET,
            "/services/{service}/doc",
            Door::User,
            catalogue::classic::doc,
        )
        .on(
            PUT,
            "/services/{service}/doc",
            Door::User,
            catalogue::classic::set_doc,
        )
        .on(
            PUT,
            "/services/{service}/{team}",
            Door::User,
            catalogue::classic::grant,
        )
        .on(
            DELETE,
            "/services/{service}/{team}",
            Door::User,
            catalogue::classic::revoke,
        )
        .on(
            GET,
            "/services/{service}/plans",
            Door::User,
            catalogue::classic::plans,
        )
        .on(
            POST,
            "/services/instances",
            Door::User,
            instances::classic::create,
        )
        .on(
            DELETE,
            "/services/instances/{instance}",
            Door::User,
            instances::classic::remove,
        )
        .on(
            PUT,
            "/services/instances/{instance}/{app}",
            Door::User,
            binds::classic::bind,
        )
        .on(
            DELETE,
            "/services/instances/{instance}/{app}",
            Door::User,
            binds::classic::unbind,
        )
        .on(GET, "/services/instances", Door::User, instances::classic::list)
        .on(
            GET,
            "/services/instances/{instance}",
            Door::User,
            instances::classic::info,
        )
        .on(
            GET,
            "/services/instances/{instance}/status",
            Door::User,
            instances::classic::status,
        )
}
