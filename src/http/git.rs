//! THE TABLE of `git`, which belongs to no edition: the program asks for these by itself, below the URL of a
//! repository.

use axum::http::Method;

use crate::http::table::Door::Basic;
use crate::http::table::Table;
use crate::repositories::wire;

const GET: Method = Method::GET;
const POST: Method = Method::POST;

/// All routes of `git`.
#[rustfmt::skip]
pub fn table() -> Table {
    Table::default()
        .on(GET, "/git/{repository}/info/refs", Basic, wire::advertise)
        .on(POST, "/git/{repository}/git-upload-pack", Basic, wire::upload_pack)
        .uploading()
        .on(POST, "/git/{repository}/git-receive-pack", Basic, wire::receive_pack)
        .uploading()
}
