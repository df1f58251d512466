//! Which headers are forwarded, which the proxy sets, and the request head that a unit receives.

use http::header::{self, HeaderName, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, Method};
use hyper::body::{Body, Incoming};

use crate::net::{ConnectionHeader, is_hop_by_hop, is_hop_by_hop_name, split_list};

pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(super) const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

const MAX_REQUEST_ID_LEN: usize = 128;

/// Returns true for headers that name the origin of a request: set by the proxy, and taken from the client
/// only if it is trusted.
fn is_forwarding(name: &str) -> bool {
    name.starts_with("x-forwarded-") || matches!(name, "x-real-ip" | "forwarded")
}

/// Returns true for other spellings of proxy headers. CGI-like servers read `x_real_ip`, and some of them
/// `x.real.ip`, as `x-real-ip`: a client's spelling must not override the proxy's headers.
fn is_spoofed_spelling(name: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    if name.bytes().all(is_plain) {
        return false;
    }
    let plain: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    is_proxy_header(&plain) || is_hop_by_hop_name(&plain) || matches!(&*plain, "host" | "content-length")
}

/// Returns true for headers that units attribute to the proxy.
fn is_proxy_header(name: &str) -> bool {
    is_forwarding(name) || name == "x-request-id"
}

/// Returns false for trailers that must not follow a body, in either direction, because the recipient has
/// already acted on the head (RFC 9110 §6.5.1): hop-by-hop headers, and those for framing, routing,
/// authentication or processing of the message.
pub(super) fn is_allowed_trailer(name: &HeaderName, connection: &ConnectionHeader) -> bool {
    let text = name.as_str();
    let decides = matches!(
        text,
        "host"
            | "trailer"
            | "authorization"
            | "cookie"
            | "set-cookie"
            | "www-authenticate"
            | "expect"
            | "range"
            | "max-forwards"
            | "cache-control"
            | "pragma"
            | "age"
            | "date"
            | "expires"
            | "location"
            | "retry-after"
            | "vary"
            | "warning"
            | "origin"
    ) || ["content-", "if-", "sec-", "access-control-"]
        .iter()
        .any(|prefix| text.starts_with(prefix));
    !decides
        && !is_proxy_header(text)
        && !is_hop_by_hop(name)
        && !is_spoofed_spelling(text)
        && !connection.lists_header(name)
}

/// Returns the client's request id if it is valid: short, and only letters, digits, dots, dashes and
/// underscores.
pub(super) fn client_request_id(headers: &HeaderMap) -> Option<&HeaderValue> {
    let id = headers.get(X_REQUEST_ID)?;
    let sane = (1..=MAX_REQUEST_ID_LEN).contains(&id.len())
        && id
            .as_bytes()
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(b));
    sane.then_some(id)
}

/// Returns the protocol that the client requests an upgrade to. `h2c` is not allowed: behind it a client
/// would talk to the unit without any check by the proxy.
pub(super) fn requested_upgrade(headers: &HeaderMap) -> Option<&HeaderValue> {
    let upgrade = headers.get(header::UPGRADE)?;
    let is_requested = ConnectionHeader::from_headers(headers).upgrade
        && headers.get_all(header::UPGRADE).iter().count() == 1
        && !split_list(upgrade.as_bytes()).any(|t| t.to_ascii_lowercase().starts_with(b"h2"));
    is_requested.then_some(upgrade)
}

/// Returns true if a unit switches to a protocol that the client has requested, and to no other.
pub(super) fn is_requested_upgrade(asked: &HeaderMap, answered: &HeaderMap) -> bool {
    let protocols = |headers: &HeaderMap| -> Vec<Vec<u8>> {
        let values = headers.get_all(header::UPGRADE).iter();
        values
            .flat_map(|value| split_list(value.as_bytes()))
            .map(<[u8]>::to_ascii_lowercase)
            .collect()
    };
    let (asked, answered) = (protocols(asked), protocols(answered));
    !answered.is_empty() && answered.iter().all(|protocol| asked.contains(protocol))
}

/// Returns true if the request may be sent twice (RFC 9110 §9.2.2).
pub(super) fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}

/// The input for the request head to a unit.
pub(super) struct UpstreamHead<'a> {
    pub(super) parts: &'a Parts,
    pub(super) host: &'a [u8],
    pub(super) peer: &'a str,
    pub(super) id: &'a HeaderValue,
    pub(super) upgrade: Option<&'a HeaderValue>,
    pub(super) is_tls: bool,
    pub(super) trusted: bool,
}

impl UpstreamHead<'_> {
    /// Writes the head for a request with this body. Each attempt writes it again from the client's headers,
    /// so that nothing is copied for a rare second attempt.
    pub(super) fn write_head(&self, body: Option<&Incoming>, out: &mut Vec<u8>) {
        out.extend_from_slice(self.parts.method.as_str().as_bytes());
        out.push(b' ');
        let target = self.parts.uri.path_and_query().map_or("/", |p| p.as_str());
        out.extend_from_slice(target.as_bytes());
        out.extend_from_slice(b" HTTP/1.1\r\n");
        write_header_line(out, "host", self.host);
        self.write_client_headers(body.is_some(), out);
        self.write_forwarding(out);
        write_header_line(out, X_REQUEST_ID.as_str(), self.id.as_bytes());
        self.write_framing(body, out);
        if let Some(upgrade) = self.upgrade {
            write_header_line(out, "connection", b"upgrade");
            write_header_line(out, "upgrade", upgrade.as_bytes());
        } else if self.wants_trailers() {
            out.extend_from_slice(b"connection: te\r\nte: trailers\r\n");
        }
        out.extend_from_slice(b"\r\n");
    }

    fn write_client_headers(&self, has_body: bool, out: &mut Vec<u8>) {
        let connection = ConnectionHeader::from_headers(&self.parts.headers);
        for (name, value) in &self.parts.headers {
            let text = name.as_str();
            let skipped = match text {
                "host" | "content-length" | "cookie" | "x-request-id" => true,
                "expect" => !has_body,
                _ => {
                    is_hop_by_hop(name)
                        || is_forwarding(text)
                        || connection.lists_header(name)
                        || is_spoofed_spelling(text)
                }
            };
            if !skipped {
                write_header_line(out, text, value.as_bytes());
            }
        }
        // HTTP/2 may split cookies, HTTP/1.1 may not (RFC 9113 §8.2.3).
        if !connection.lists_header(&header::COOKIE) {
            write_joined_header_line(
                out,
                "cookie",
                b"; ",
                self.parts.headers.get_all(header::COOKIE).iter(),
                None,
            );
        }
    }

    fn write_forwarding(&self, out: &mut Vec<u8>) {
        let theirs = |name: HeaderName| self.parts.headers.get(name).filter(|_| self.trusted);
        let peer = self.peer.as_bytes();
        if self.trusted {
            let known = self.parts.headers.get_all(X_FORWARDED_FOR);
            write_joined_header_line(out, X_FORWARDED_FOR.as_str(), b", ", known.iter(), Some(peer));
            for (name, value) in &self.parts.headers {
                let ours = [X_FORWARDED_FOR, X_FORWARDED_PROTO, X_FORWARDED_HOST, X_REAL_IP].contains(name);
                if is_forwarding(name.as_str()) && !ours {
                    write_header_line(out, name.as_str(), value.as_bytes());
                }
            }
        } else {
            write_header_line(out, X_FORWARDED_FOR.as_str(), peer);
        }
        let or = |value: Option<&HeaderValue>, other: &[u8], name: HeaderName, out: &mut Vec<u8>| {
            write_header_line(out, name.as_str(), value.map_or(other, HeaderValue::as_bytes));
        };
        let scheme: &[u8] = if self.is_tls { b"https" } else { b"http" };
        or(theirs(X_FORWARDED_PROTO), scheme, X_FORWARDED_PROTO, out);
        or(theirs(X_FORWARDED_HOST), self.host, X_FORWARDED_HOST, out);
        or(theirs(X_REAL_IP), peer, X_REAL_IP, out);
    }

    fn write_framing(&self, body: Option<&Incoming>, out: &mut Vec<u8>) {
        match body.map(|body| body.size_hint().exact()) {
            Some(Some(length)) => write_header_line(out, "content-length", length.to_string().as_bytes()),
            Some(None) => write_header_line(out, "transfer-encoding", b"chunked"),
            None => {
                let empty = self.parts.headers.contains_key(header::CONTENT_LENGTH)
                    || matches!(self.parts.method, Method::POST | Method::PUT | Method::PATCH);
                if empty {
                    write_header_line(out, "content-length", b"0");
                }
            }
        }
    }

    fn wants_trailers(&self) -> bool {
        self.parts
            .headers
            .get(header::TE)
            .is_some_and(|te| split_list(te.as_bytes()).any(|token| token.eq_ignore_ascii_case(b"trailers")))
    }
}

fn write_header_line(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn write_joined_header_line<'a>(
    out: &mut Vec<u8>,
    name: &str,
    between: &[u8],
    values: impl Iterator<Item = &'a HeaderValue>,
    last: Option<&'a [u8]>,
) {
    let mut begun = false;
    for value in values.map(HeaderValue::as_bytes).chain(last) {
        out.extend_from_slice(if begun { between } else { name.as_bytes() });
        if !begun {
            out.extend_from_slice(b": ");
        }
        out.extend_from_slice(value);
        begun = true;
    }
    if begun {
        out.extend_from_slice(b"\r\n");
    }
}

/// Appends request trailers as the end of a chunked body.
pub(super) fn write_trailers(trailers: &HeaderMap, connection: &ConnectionHeader, out: &mut Vec<u8>) {
    for (name, value) in trailers {
        if is_allowed_trailer(name, connection) {
            write_header_line(out, name.as_str(), value.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spoofed_spellings_of_proxy_headers_are_dropped() {
        for name in [
            "x_forwarded_for",
            "x-forwarded_for",
            "x.real.ip",
            "x_request_id",
            "x+request+id",
            "transfer_encoding",
            "content_length",
            "content.length",
            "proxy_authorization",
            "forwarded",
        ] {
            let plain = is_proxy_header(name);
            assert!(plain || is_spoofed_spelling(name), "{name}");
        }
        for name in ["my_header", "x_custom_id", "x-my.thing", "etag", "hostess_name"] {
            assert!(!is_spoofed_spelling(name), "{name}");
        }
    }

    #[test]
    fn trailers_with_head_only_headers_are_refused() {
        let mut connection = ConnectionHeader::default();
        connection.add_value(b"X-Hop");
        for name in [
            "x-hop",
            "x_forwarded_for",
            "x-forwarded-for",
            "authorization",
            "cookie",
            "set-cookie",
            "content-length",
            "content-encoding",
            "transfer-encoding",
            "host",
            "if-match",
            "upgrade",
            "x-request-id",
        ] {
            let name = HeaderName::from_static(name);
            assert!(!is_allowed_trailer(&name, &connection), "{name}");
        }
        for name in [
            "x-sum",
            "grpc-status",
            "grpc-message",
            "server-timing",
            "digest",
            "etag",
        ] {
            let name = HeaderName::from_static(name);
            assert!(is_allowed_trailer(&name, &connection), "{name}");
        }
    }
}
