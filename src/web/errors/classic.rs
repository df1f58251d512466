//! The statuses of the classic edition. Those that differ are documented by its reference.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use crate::kernel::error::{Error, ErrorKind};

/// An error returned by a classic handler.
#[derive(Debug)]
pub struct ClassicError(pub Error);

/// The result of a classic handler.
pub type ClassicResult<T = ()> = Result<T, ClassicError>;

impl<E: Into<Error>> From<E> for ClassicError {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for ClassicError {
    fn into_response(self) -> Response {
        super::build_response(status_for(self.0.kind()), &self.0)
    }
}

/// Returns the status for a kind of error.
pub fn status_for(kind: ErrorKind) -> StatusCode {
    match kind {
        // "Returns 500 if the yaml is invalid", "… if the service name already exists".
        ErrorKind::Unreadable | ErrorKind::ServiceExists => StatusCode::INTERNAL_SERVER_ERROR,
        // A held lock (contract/classic 0.2), and a block, which the classic edition does not have.
        ErrorKind::Locked | ErrorKind::Blocked | ErrorKind::Cancelled => StatusCode::CONFLICT,
        kind => super::shared_status(kind),
    }
}
