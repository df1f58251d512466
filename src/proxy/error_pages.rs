//! The proxy's own error responses: short, in HTML for browsers and in plain text otherwise. They name the
//! host or the app and the reason; they never disclose the address of a unit.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

/// Why the proxy responds itself.
#[derive(Clone, Debug)]
pub(super) enum ProxyError {
    /// No Host header, or an invalid one.
    InvalidHost,
    /// CONNECT, or a body with invalid framing.
    MalformedRequest(&'static str),
    /// The client's body did not arrive in time.
    BodyTimeout,
    /// No app has the host.
    UnknownHost(String),
    /// The app has no ready unit.
    NotReady { app: Arc<str>, reason: String },
    /// No unit accepted a connection.
    ConnectFailed { app: Arc<str> },
    /// A unit received the request but did not send a valid response.
    BadResponse { app: Arc<str>, how: &'static str },
    /// A unit did not respond in time.
    ResponseTimeout { app: Arc<str> },
}

impl ProxyError {
    pub(super) fn status_code(&self) -> StatusCode {
        match self {
            Self::InvalidHost | Self::MalformedRequest(_) => StatusCode::BAD_REQUEST,
            Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::UnknownHost(_) => StatusCode::NOT_FOUND,
            Self::NotReady { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::ConnectFailed { .. } | Self::BadResponse { .. } => StatusCode::BAD_GATEWAY,
            Self::ResponseTimeout { .. } => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    pub(super) fn app_name(&self) -> &str {
        match self {
            Self::InvalidHost | Self::MalformedRequest(_) | Self::BodyTimeout | Self::UnknownHost(_) => "-",
            Self::NotReady { app, .. }
            | Self::ConnectFailed { app }
            | Self::BadResponse { app, .. }
            | Self::ResponseTimeout { app } => app,
        }
    }

    fn message(&self) -> String {
        match self {
            Self::InvalidHost => "The request has no valid host.".into(),
            Self::MalformedRequest(how) => format!("The request is malformed: {how}."),
            Self::BodyTimeout => "The request body did not arrive in time.".into(),
            Self::UnknownHost(host) => format!("There is no app at the host {host}."),
            Self::NotReady { app, reason } => format!("The app {app} is unavailable: {reason}."),
            Self::ConnectFailed { app } => format!("No unit of the app {app} accepts connections."),
            Self::BadResponse { app, how } => {
                format!("A unit of the app {app} sent an invalid response: {how}.")
            }
            Self::ResponseTimeout { app } => format!("No unit of the app {app} responded in time."),
        }
    }

    /// Builds the whole response; `request_headers` are the headers of the request.
    pub(super) fn to_response(
        &self,
        request_headers: &HeaderMap,
        id: &HeaderValue,
        is_http1: bool,
    ) -> Response<Bytes> {
        let status = self.status_code();
        let as_html = request_headers.get(ACCEPT).is_some_and(|accept| {
            accept
                .as_bytes()
                .windows(9)
                .any(|w| w.eq_ignore_ascii_case(b"text/html"))
        });
        let id = id.to_str().unwrap_or_default();
        let (kind, text) = if as_html {
            (
                "text/html; charset=utf-8",
                render_html(status, &self.message(), id),
            )
        } else {
            (
                "text/plain; charset=utf-8",
                format!("{status}\n\n{}\n\nRequest id: {id}\n", self.message()),
            )
        };
        let mut response = Response::new(Bytes::from(text));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if is_http1 && matches!(status, StatusCode::BAD_REQUEST | StatusCode::REQUEST_TIMEOUT) {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// For a client over the connection limit; there is no request yet, so no id.
pub(super) const SERVER_FULL_RESPONSE: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    content-type: text/plain; charset=utf-8\r\ncontent-length: 46\r\n\
    retry-after: 1\r\nconnection: close\r\n\r\n\
    503\n\nToo many connections; try again shortly.\n";

/// For a client whose address is over its connection limit.
pub(super) const ADDRESS_LIMIT_RESPONSE: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    content-type: text/plain; charset=utf-8\r\ncontent-length: 81\r\n\
    retry-after: 1\r\nconnection: close\r\n\r\n\
    503\n\nThere are too many connections from your address; close some and try again.\n";

fn render_html(status: StatusCode, message: &str, id: &str) -> String {
    let message = message
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{status}</title></head>\n\
         <body style=\"font-family:sans-serif;max-width:40em;margin:4em auto\">\n\
         <h1>{status}</h1>\n<p>{message}</p>\n<p><small>Request id: {id}</small></p>\n</body></html>\n"
    )
}
