//! THE TABLE of the classic edition: every unversioned route of the 2014 reference, and nothing else.

use axum::http::Method;

use crate::http::table::{Door, Table};
use crate::units::classic as units;

const GET: Method = Method::GET;
const POST: Method = Method::POST;
const PUT: Method = Method::PUT;
const DELETE: Method = Method::DELETE;

/// All classic routes, in the order of the reference.
pub fn table() -> Table {
    Table::default()
        // Units and logs.
        .on(PUT, "/apps/{app}/units", Door::User, units::add)
        .on(DELETE, "/apps/{app}/units", Door::User, units::remove)
        .on(POST, "/apps/{app}/start", Door::User, units::start)
        .on(POST, "/apps/{app}/stop", Door::User, units::stop)
        .on(GET, "/apps/{app}/log", Door::User, units::log)
        .on(POST, "/apps/{app}/log", Door::UserOrItsApp, units::add_log)
}
