//! THE TABLE of the modern edition: version, method, path, door and handler of every route that today's
//! client asks for.

use axum::http::Method;

use crate::http::table::{Door, Table};

const GET: Method = Method::GET;
const POST: Method = Method::POST;
const PUT: Method = Method::PUT;
const DELETE: Method = Method::DELETE;

/// All modern routes, by subject.
pub fn table() -> Table {
    Table::default()
}
