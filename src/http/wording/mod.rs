//! How a `Problem` is said: status and body, one exhaustive match for each edition. Both editions say
//! it in plain text with a final line end, which their clients show to the user as it is.

pub mod classic;
pub mod modern;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::kernel::problem::{Kind, Problem};

/// The answer's extension that carries what the log should know of a failure.
#[derive(Clone, Debug)]
pub struct Cause(pub String);

fn answer(status: StatusCode, problem: &Problem) -> Response {
    let mut response = (status, format!("{}\n", problem.words())).into_response();
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    match problem.kind() {
        Kind::Unauthenticated => {
            let challenge = HeaderValue::from_static("Bearer realm=\"tsuru\" scope=\"tsuru\"");
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        Kind::Unavailable | Kind::TooMany => {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        _ => {}
    }
    if status.is_server_error() {
        response.extensions_mut().insert(Cause(problem.chain()));
    }
    response
}

/// What both editions agree on.
fn common(kind: Kind) -> StatusCode {
    match kind {
        Kind::Invalid => StatusCode::BAD_REQUEST,
        Kind::Unauthenticated => StatusCode::UNAUTHORIZED,
        Kind::Forbidden | Kind::QuotaExceeded => StatusCode::FORBIDDEN,
        Kind::NotFound => StatusCode::NOT_FOUND,
        Kind::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        Kind::Conflict => StatusCode::CONFLICT,
        Kind::Precondition => StatusCode::PRECONDITION_FAILED,
        Kind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Kind::TooMany => StatusCode::TOO_MANY_REQUESTS,
        Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Kind::Unreadable
        | Kind::ServiceExists
        | Kind::Locked
        | Kind::Failed
        | Kind::Cancelled
        | Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
