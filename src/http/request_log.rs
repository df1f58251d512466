//! Request ids, and the one log line of each request.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use tracing::{Instrument, Level};

use crate::core::Core;
use crate::kernel::error::ErrorKind;
use crate::telemetry::metrics;
use crate::web::errors::ErrorCause;

const REQUEST_ID_HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// The id of a request, in its response, its log lines and its events.
#[derive(Clone, Debug)]
pub(super) struct RequestId(pub(super) Arc<str>);

/// Assigns the request id, runs the request and logs the result.
pub(super) async fn log_request(State(_core): State<Core>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id =
        client_request_id(request.headers()).unwrap_or_else(|| uuid::Uuid::new_v4().simple().to_string());
    let id: Arc<str> = Arc::from(id);
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map(|m| m.as_str().to_owned());
    request.extensions_mut().insert(RequestId(Arc::clone(&id)));
    let span = tracing::info_span!("request", id = %id);
    let mut response = next.run(request).instrument(span.clone()).await;
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID_HEADER, value);
    }
    let _in = span.enter();
    let (status, took) = (response.status().as_u16(), started.elapsed());
    metrics::record_api_request(&method, route.as_deref(), status, took);
    let milliseconds = took.as_millis();
    let cause = response.extensions().get::<ErrorCause>();
    let report = cause.map(|cause| cause.report.as_str());
    match level_for(status, cause.map(|cause| cause.kind)) {
        Level::ERROR => {
            tracing::error!(%method, path, route, status, milliseconds, error = report, "request failed")
        }
        Level::WARN => {
            tracing::warn!(%method, path, route, status, milliseconds, error = report, "request refused")
        }
        _ => tracing::debug!(%method, path, route, status, milliseconds, error = report, "request"),
    }
    response
}

/// Returns the log level: an error is our bug, a warning is something that an operator may fix. A status of
/// 500 that the editions give to user errors (a held lock, an unreadable document) is neither, or users could
/// fill the log with errors.
fn level_for(status: u16, kind: Option<ErrorKind>) -> Level {
    match (status, kind) {
        (..=499, _) => Level::DEBUG,
        (_, Some(ErrorKind::Internal)) | (500, None) => Level::ERROR,
        (_, Some(ErrorKind::Failed | ErrorKind::Unavailable) | None) => Level::WARN,
        (500.., Some(_)) => Level::DEBUG,
    }
}

/// Returns the client's own request id, if it is valid.
fn client_request_id(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(REQUEST_ID_HEADER)?.to_str().ok()?;
    let sane = (1..=128).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    sane.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;

    use super::*;
    use crate::kernel::error::Error;
    use crate::web::errors::{classic::ClassicError, modern::ModernError};

    fn level_of(response: &Response) -> Level {
        let kind = response.extensions().get::<ErrorCause>().map(|cause| cause.kind);
        level_for(response.status().as_u16(), kind)
    }

    #[test]
    fn only_internal_errors_are_logged_as_errors() {
        for (kind, level) in [
            (ErrorKind::Internal, Level::ERROR),
            (ErrorKind::Unavailable, Level::WARN),
            (ErrorKind::Failed, Level::WARN),
            (ErrorKind::Locked, Level::DEBUG),
            (ErrorKind::Blocked, Level::DEBUG),
            (ErrorKind::Cancelled, Level::DEBUG),
            (ErrorKind::Unreadable, Level::DEBUG),
            (ErrorKind::ServiceExists, Level::DEBUG),
            (ErrorKind::Invalid, Level::DEBUG),
            (ErrorKind::NotFound, Level::DEBUG),
        ] {
            let error = || Error::new(kind, "words");
            assert_eq!(level_of(&ModernError(error()).into_response()), level, "{kind:?}");
            assert_eq!(
                level_of(&ClassicError(error()).into_response()),
                level,
                "{kind:?}"
            );
        }
        let status = |status: u16| {
            let mut response = Response::new(axum::body::Body::empty());
            *response.status_mut() = axum::http::StatusCode::from_u16(status).unwrap();
            response
        };
        assert_eq!(level_of(&status(500)), Level::ERROR);
        assert_eq!(level_of(&status(200)), Level::DEBUG);
    }
}
