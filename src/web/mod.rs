//! What the HTTP files of all slices build on: the route table, the caller, the names in a path, the fields
//! of a request, errors as responses, streamed responses, and WebSockets. It knows no slice.

pub mod answers;
mod ctx;
pub mod errors;
pub mod form_parts;
pub mod metadata_items;
pub mod output_stream;
pub mod params;
mod path;
pub mod route_table;
pub mod signature;
pub mod stream;
pub mod terminal;
pub mod text_check;
mod time_or_zero;
pub mod websocket;

pub use ctx::Ctx;
pub use params::Params;
pub use path::{Path, PathParam};
pub use time_or_zero::TimeOrZero;

/// Returns the Content-Type of a request in lower case; empty if it has none.
pub fn content_type(headers: &axum::http::HeaderMap) -> String {
    headers
        .get(axum::http::header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
        .to_ascii_lowercase()
}
