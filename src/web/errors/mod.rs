//! Errors as responses: status and body, one exhaustive match for each edition. Both editions use plain text
//! with a final newline, which their clients show to the user unchanged.

pub mod classic;
pub mod modern;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::kernel::error::{Error, ErrorKind};

/// A response extension with the details of a status of 500 or more, for the log.
#[derive(Clone, Debug)]
pub struct ErrorCause {
    pub kind: ErrorKind,
    /// The error with its chain of causes.
    pub report: String,
}

impl ErrorCause {
    /// Creates the cause of an internal error.
    pub fn internal(report: String) -> Self {
        Self {
            kind: ErrorKind::Internal,
            report,
        }
    }
}

fn build_response(status: StatusCode, error: &Error) -> Response {
    let mut response = (status, format!("{}\n", error.message())).into_response();
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    match error.kind() {
        ErrorKind::Unauthenticated => {
            let challenge = HeaderValue::from_static("Bearer realm=\"tsuru\" scope=\"tsuru\"");
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        ErrorKind::Unavailable | ErrorKind::TooMany => {
            let seconds = error.retry_seconds().unwrap_or(1);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        _ => {}
    }
    if status.is_server_error() {
        response.extensions_mut().insert(ErrorCause {
            kind: error.kind(),
            report: error.report(),
        });
    }
    response
}

/// Returns the statuses that both editions share.
fn shared_status(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::Invalid => StatusCode::BAD_REQUEST,
        ErrorKind::Unauthenticated => StatusCode::UNAUTHORIZED,
        ErrorKind::Forbidden | ErrorKind::QuotaExceeded => StatusCode::FORBIDDEN,
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::Gone => StatusCode::GONE,
        ErrorKind::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        ErrorKind::Conflict => StatusCode::CONFLICT,
        ErrorKind::Precondition => StatusCode::PRECONDITION_FAILED,
        ErrorKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorKind::TooMany => StatusCode::TOO_MANY_REQUESTS,
        ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::Unreadable
        | ErrorKind::ServiceExists
        | ErrorKind::Locked
        | ErrorKind::Blocked
        | ErrorKind::Failed
        | ErrorKind::Cancelled
        | ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
