//! The modern edition's statuses (contract/modern 1.5).

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use crate::kernel::problem::{Kind, Problem};

/// A problem on its way out of a modern handler.
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
        Kind::Unreadable => StatusCode::BAD_REQUEST,
        Kind::ServiceExists => StatusCode::CONFLICT,
        // Unmodified clients know a held lock as a 500 with its text, and retry on that.
        Kind::Locked => StatusCode::INTERNAL_SERVER_ERROR,
        kind => super::common(kind),
    }
}
