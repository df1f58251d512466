//! The proxy's own answers: short, in HTML for a browser and in plain text for everybody else. They
//! name the host or the app and say why; they never show where a unit is.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

/// Why the proxy answers by itself.
#[derive(Clone, Debug)]
pub(super) enum Refusal {
    /// No host, or none that could be one.
    NoHost,
    /// CONNECT, or a body that breaks its own framing.
    Malformed(&'static str),
    /// The client's body did not come in time.
    Stalled,
    /// Nobody's host.
    UnknownHost(String),
    /// The app has no ready unit.
    NotReady { app: Arc<str>, reason: String },
    /// No unit took the connection.
    Unreachable { app: Arc<str> },
    /// A unit took the request and did not answer it properly.
    Broken { app: Arc<str>, how: &'static str },
    /// A unit did not answer in time.
    Late { app: Arc<str> },
}

impl Refusal {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::NoHost | Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::Stalled => StatusCode::REQUEST_TIMEOUT,
            Self::UnknownHost(_) => StatusCode::NOT_FOUND,
            Self::NotReady { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::Unreachable { .. } | Self::Broken { .. } => StatusCode::BAD_GATEWAY,
            Self::Late { .. } => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    pub(super) fn app(&self) -> &str {
        match self {
            Self::NoHost | Self::Malformed(_) | Self::Stalled | Self::UnknownHost(_) => "-",
            Self::NotReady { app, .. }
            | Self::Unreachable { app }
            | Self::Broken { app, .. }
            | Self::Late { app } => app,
        }
    }

    fn words(&self) -> String {
        match self {
            Self::NoHost => "The request names no valid host.".into(),
            Self::Malformed(how) => format!("The request is malformed: {how}."),
            Self::Stalled => "The body of the request did not come in time.".into(),
            Self::UnknownHost(host) => format!("There is no app at the host {host}."),
            Self::NotReady { app, reason } => format!("The app {app} cannot answer now: {reason}."),
            Self::Unreachable { app } => format!("No unit of the app {app} accepts connections."),
            Self::Broken { app, how } => format!("A unit of the app {app} gave no proper answer: {how}."),
            Self::Late { app } => format!("No unit of the app {app} answered in time."),
        }
    }

    /// The whole answer; `asked` are the headers of the request.
    pub(super) fn page(&self, asked: &HeaderMap, id: &HeaderValue, is_http1: bool) -> Response<Bytes> {
        let status = self.status();
        let as_html = asked.get(ACCEPT).is_some_and(|accept| {
            accept
                .as_bytes()
                .windows(9)
                .any(|w| w.eq_ignore_ascii_case(b"text/html"))
        });
        let id = id.to_str().unwrap_or_default();
        let (kind, text) = if as_html {
            ("text/html; charset=utf-8", html(status, &self.words(), id))
        } else {
            (
                "text/plain; charset=utf-8",
                format!("{status}\n\n{}\n\nRequest id: {id}\n", self.words()),
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

/// For a client that has no place among the connections; there is no request yet, so no id.
pub(super) const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    content-type: text/plain; charset=utf-8\r\ncontent-length: 46\r\n\
    retry-after: 1\r\nconnection: close\r\n\r\n\
    503\n\nToo many connections; try again shortly.\n";

fn html(status: StatusCode, words: &str, id: &str) -> String {
    let words = words
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{status}</title></head>\n\
         <body style=\"font-family:sans-serif;max-width:40em;margin:4em auto\">\n\
         <h1>{status}</h1>\n<p>{words}</p>\n<p><small>Request id: {id}</small></p>\n</body></html>\n"
    )
}
