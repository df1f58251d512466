//! Headers of one connection, which whoever passes a message on removes (RFC 9110 §7.6.1).

use http::HeaderMap;
use http::header::{self, HeaderName};

/// Splits a comma-separated header into its parts, trimmed, without empty ones.
pub(crate) fn split_list(value: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    value
        .split(|b| *b == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|token| !token.is_empty())
}

/// The content of `Connection`: keep-alive or close, and the headers for this connection only.
#[derive(Clone, Debug, Default)]
pub(crate) struct ConnectionHeader {
    pub(crate) close: bool,
    pub(crate) keep_alive: bool,
    pub(crate) upgrade: bool,
    listed_headers: Vec<Box<[u8]>>,
}

impl ConnectionHeader {
    pub(crate) fn from_headers(headers: &HeaderMap) -> Self {
        let mut all = Self::default();
        for value in headers.get_all(header::CONNECTION) {
            all.add_value(value.as_bytes());
        }
        all
    }

    pub(crate) fn add_value(&mut self, value: &[u8]) {
        for token in split_list(value) {
            if token.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if token.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if token.eq_ignore_ascii_case(b"upgrade") {
                self.upgrade = true;
            } else {
                self.listed_headers.push(token.into());
            }
        }
    }

    pub(crate) fn lists_header(&self, name: &HeaderName) -> bool {
        self.listed_headers
            .iter()
            .any(|named| named.eq_ignore_ascii_case(name.as_str().as_bytes()))
    }
}

/// Returns true for hop-by-hop headers, which are never forwarded (RFC 9110 §7.6.1).
pub(crate) fn is_hop_by_hop(name: &HeaderName) -> bool {
    is_hop_by_hop_name(name.as_str())
}

/// The same for a name that is no header of a request, such as a spelling that others read as one.
pub(crate) fn is_hop_by_hop_name(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "te"
            | "transfer-encoding"
            | "upgrade"
            | "http2-settings"
    )
}
