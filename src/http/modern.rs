//! THE TABLE of the modern edition: version, method, path, door and handler of every route that today's
//! client asks for.

use axum::http::Method;

use crate::http::table::{Door, Table};
use crate::units::modern as units;

const GET: Method = Method::GET;
const POST: Method = Method::POST;
const PUT: Method = Method::PUT;
const DELETE: Method = Method::DELETE;

/// All modern routes, by subject.
pub fn table() -> Table {
    Table::default()
        // Units and logs.
        .since("1.0", PUT, "/apps/{app}/units", Door::User, units::add)
        .since("1.0", DELETE, "/apps/{app}/units", Door::User, units::remove)
        .since(
            "1.12",
            DELETE,
            "/apps/{app}/units/{unit}",
            Door::User,
            units::kill,
        )
        .since("1.0", POST, "/apps/{app}/start", Door::User, units::start)
        .since("1.0", POST, "/apps/{app}/stop", Door::User, units::stop)
        .since("1.0", GET, "/apps/{app}/log", Door::User, units::log)
        .since("1.0", POST, "/apps/{app}/log", Door::UserOrItsApp, units::add_log)
}
