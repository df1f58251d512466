//! The classic edition's statuses. Those that differ are documented so by its reference.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use crate::kernel::problem::{Kind, Problem};

/// A problem on its way out of a classic handler.
#[derive(Debug)]
pub struct Refusal(pub Problem);

impl<E: Into<Problem>> From<E> for Refusal {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        super::answer(status(self.0.kind()), &self.0)
    }
}

/// The status of a kind of problem.
pub fn status(kind: Kind) -> StatusCode {
    match kind {
        // "Returns 500 if the yaml is invalid", "… if the service name already exists".
        Kind::Unreadable | Kind::ServiceExists => StatusCode::INTERNAL_SERVER_ERROR,
        // A held lock (contract/classic 0.2).
        Kind::Locked | Kind::Cancelled => StatusCode::CONFLICT,
        kind => super::common(kind),
    }
}
