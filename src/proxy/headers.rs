//! Which headers pass, which are ours, and the head that a unit gets.

use http::header::{self, HeaderName, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, Method};
use hyper::body::{Body, Incoming};

pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

const LONGEST_ID: usize = 128;

/// The parts of a comma-separated header, trimmed, without the empty ones.
pub(super) fn listed(value: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    value
        .split(|b| *b == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|token| !token.is_empty())
}

/// A Content-Length: digits only (or the same digits several times), up to 18 of them.
pub(super) fn length(value: &[u8]) -> Option<u64> {
    let mut parts = value.split(|b| *b == b',').map(<[u8]>::trim_ascii);
    let first = parts.next()?;
    if first.is_empty() || first.len() > 18 || !first.iter().all(u8::is_ascii_digit) {
        return None;
    }
    if parts.any(|other| other != first) {
        return None;
    }
    Some(
        first
            .iter()
            .fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')),
    )
}

/// What `Connection` says: keep or close, and which headers are for this connection only.
#[derive(Default)]
pub(super) struct ConnectionHeader {
    pub(super) close: bool,
    pub(super) keep_alive: bool,
    pub(super) upgrade: bool,
    named: Vec<Box<[u8]>>,
}

impl ConnectionHeader {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let mut all = Self::default();
        for value in headers.get_all(header::CONNECTION) {
            all.add(value.as_bytes());
        }
        all
    }

    pub(super) fn add(&mut self, value: &[u8]) {
        for token in listed(value) {
            if token.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if token.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if token.eq_ignore_ascii_case(b"upgrade") {
                self.upgrade = true;
            } else {
                self.named.push(token.into());
            }
        }
    }

    pub(super) fn names(&self, name: &HeaderName) -> bool {
        self.named
            .iter()
            .any(|named| named.eq_ignore_ascii_case(name.as_str().as_bytes()))
    }
}

/// Headers of one connection that never pass (RFC 9110 §7.6.1).
pub(super) fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
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

/// Headers that say where a request comes from: ours to write, and the client's only when trusted.
fn is_forwarding(name: &str) -> bool {
    name.starts_with("x-forwarded-") || matches!(name, "x-real-ip" | "forwarded")
}

/// CGI-like servers read `x_real_ip` as `x-real-ip`: a client's underscore must not undo the rule above.
fn is_disguised(name: &str) -> bool {
    name.contains('_') && {
        let plain = name.replace('_', "-");
        is_forwarding(&plain) || plain == "x-request-id"
    }
}

/// The client's request id if it is sane: short, and of letters, digits, dot, dash and underscore.
pub(super) fn sane_id(headers: &HeaderMap) -> Option<&HeaderValue> {
    let id = headers.get(X_REQUEST_ID)?;
    let sane = (1..=LONGEST_ID).contains(&id.len())
        && id
            .as_bytes()
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(b));
    sane.then_some(id)
}

/// The protocol that the client asks to switch to. `h2c` is none: behind it a client would speak to
/// the unit past every rule of ours.
pub(super) fn upgrade_of(headers: &HeaderMap) -> Option<&HeaderValue> {
    let upgrade = headers.get(header::UPGRADE)?;
    let wanted = ConnectionHeader::of(headers).upgrade
        && headers.get_all(header::UPGRADE).iter().count() == 1
        && !listed(upgrade.as_bytes()).any(|t| t.to_ascii_lowercase().starts_with(b"h2"));
    wanted.then_some(upgrade)
}

/// May the request be sent twice (RFC 9110 §9.2.2)?
pub(super) fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}

/// Everything that the head for a unit is written from.
pub(super) struct UnitHead<'a> {
    pub(super) parts: &'a Parts,
    pub(super) host: &'a [u8],
    pub(super) peer: &'a str,
    pub(super) id: &'a HeaderValue,
    pub(super) upgrade: Option<&'a HeaderValue>,
    pub(super) trusted: bool,
}

impl UnitHead<'_> {
    /// Writes the head; `body` is what will follow it. Written anew for each try, straight from the
    /// client's headers, so that nothing is copied for a second try that hardly ever comes.
    pub(super) fn write(&self, body: Option<&Incoming>, out: &mut Vec<u8>) {
        out.extend_from_slice(self.parts.method.as_str().as_bytes());
        out.push(b' ');
        let target = self.parts.uri.path_and_query().map_or("/", |p| p.as_str());
        out.extend_from_slice(target.as_bytes());
        out.extend_from_slice(b" HTTP/1.1\r\n");
        line(out, "host", self.host);
        self.write_passed(body.is_some(), out);
        self.write_forwarding(out);
        line(out, X_REQUEST_ID.as_str(), self.id.as_bytes());
        self.write_framing(body, out);
        if let Some(upgrade) = self.upgrade {
            line(out, "connection", b"upgrade");
            line(out, "upgrade", upgrade.as_bytes());
        } else if self.wants_trailers() {
            out.extend_from_slice(b"connection: te\r\nte: trailers\r\n");
        }
        out.extend_from_slice(b"\r\n");
    }

    fn write_passed(&self, has_body: bool, out: &mut Vec<u8>) {
        let connection = ConnectionHeader::of(&self.parts.headers);
        for (name, value) in &self.parts.headers {
            let text = name.as_str();
            let skipped = match text {
                "host" | "content-length" | "cookie" | "x-request-id" => true,
                "expect" => !has_body,
                _ => {
                    is_hop_by_hop(name) || is_forwarding(text) || connection.names(name) || is_disguised(text)
                }
            };
            if !skipped {
                line(out, text, value.as_bytes());
            }
        }
        // HTTP/2 may split the cookies, HTTP/1.1 may not (RFC 9113 §8.2.3).
        if !connection.names(&header::COOKIE) {
            joined(
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
            joined(out, X_FORWARDED_FOR.as_str(), b", ", known.iter(), Some(peer));
            for (name, value) in &self.parts.headers {
                let ours = [X_FORWARDED_FOR, X_FORWARDED_PROTO, X_FORWARDED_HOST, X_REAL_IP].contains(name);
                if is_forwarding(name.as_str()) && !ours {
                    line(out, name.as_str(), value.as_bytes());
                }
            }
        } else {
            line(out, X_FORWARDED_FOR.as_str(), peer);
        }
        let or = |value: Option<&HeaderValue>, other: &[u8], name: HeaderName, out: &mut Vec<u8>| {
            line(out, name.as_str(), value.map_or(other, HeaderValue::as_bytes));
        };
        or(theirs(X_FORWARDED_PROTO), b"http", X_FORWARDED_PROTO, out);
        or(theirs(X_FORWARDED_HOST), self.host, X_FORWARDED_HOST, out);
        or(theirs(X_REAL_IP), peer, X_REAL_IP, out);
    }

    fn write_framing(&self, body: Option<&Incoming>, out: &mut Vec<u8>) {
        match body.map(|body| body.size_hint().exact()) {
            Some(Some(length)) => line(out, "content-length", length.to_string().as_bytes()),
            Some(None) => line(out, "transfer-encoding", b"chunked"),
            None => {
                let empty = self.parts.headers.contains_key(header::CONTENT_LENGTH)
                    || matches!(self.parts.method, Method::POST | Method::PUT | Method::PATCH);
                if empty {
                    line(out, "content-length", b"0");
                }
            }
        }
    }

    fn wants_trailers(&self) -> bool {
        self.parts
            .headers
            .get(header::TE)
            .is_some_and(|te| listed(te.as_bytes()).any(|token| token.eq_ignore_ascii_case(b"trailers")))
    }
}

fn line(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn joined<'a>(
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

/// Appends trailers of a request as the end of a chunked body.
pub(super) fn write_trailers(trailers: &HeaderMap, out: &mut Vec<u8>) {
    for (name, value) in trailers {
        let framing = matches!(name.as_str(), "content-length" | "host" | "trailer");
        if !framing && !is_hop_by_hop(name) && !is_forwarding(name.as_str()) {
            line(out, name.as_str(), value.as_bytes());
        }
    }
}
