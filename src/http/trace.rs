//! Request ids and the one log line of each request.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use tracing::Instrument;

use crate::core::Core;
use crate::http::wording::Cause;
use crate::telemetry::metrics;

const HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// The id of a request, in its answer, its log lines and its events.
#[derive(Clone, Debug)]
pub(super) struct RequestId(pub(super) Arc<str>);

/// Names the request, runs it, logs how it ended. A failure of ours is an error line with its cause.
pub(super) async fn log(State(_core): State<Core>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = sent_id(request.headers()).unwrap_or_else(|| uuid::Uuid::new_v4().simple().to_string());
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
        response.headers_mut().insert(HEADER, value);
    }
    let _in = span.enter();
    let (status, took) = (response.status().as_u16(), started.elapsed());
    metrics::answered(&method, route.as_deref(), status, took);
    let milliseconds = took.as_millis();
    let cause = response.extensions().get::<Cause>().map(|c| c.0.as_str());
    match (status, cause) {
        (500, Some(cause)) => {
            tracing::error!(%method, path, route, status, milliseconds, cause, "request failed")
        }
        (501.., cause) => {
            tracing::warn!(%method, path, route, status, milliseconds, cause, "request refused")
        }
        _ => tracing::debug!(%method, path, route, status, milliseconds, "request"),
    }
    response
}

/// The caller's own id, if it is a sane one.
fn sent_id(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(HEADER)?.to_str().ok()?;
    let sane = (1..=128).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    sane.then(|| text.to_owned())
}
