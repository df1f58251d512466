//! The statuses of the modern edition (contract/modern 1.5).

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use crate::kernel::error::{Error, ErrorKind};

/// An error returned by a modern handler.
#[derive(Debug)]
pub struct ModernError(pub Error);

/// The result of a modern handler.
pub type ModernResult<T = ()> = Result<T, ModernError>;

impl<E: Into<Error>> From<E> for ModernError {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for ModernError {
    fn into_response(self) -> Response {
        super::build_response(status_for(self.0.kind()), &self.0)
    }
}

/// Returns the status for a kind of error.
pub fn status_for(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::Unreadable => StatusCode::BAD_REQUEST,
        ErrorKind::ServiceExists => StatusCode::CONFLICT,
        // Clients expect a held lock and a block as a 500 with this text, and retry on the former.
        ErrorKind::Locked | ErrorKind::Blocked => StatusCode::INTERNAL_SERVER_ERROR,
        kind => super::shared_status(kind),
    }
}
