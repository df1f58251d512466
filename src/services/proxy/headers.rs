//! Which headers a proxy passes on.

use reqwest::header::{
    ALT_SVC, AUTHORIZATION, CONTENT_SECURITY_POLICY, COOKIE, EXPECT, HOST, HeaderMap, HeaderName,
    HeaderValue, SET_COOKIE, STRICT_TRANSPORT_SECURITY, TRAILER, X_CONTENT_TYPE_OPTIONS,
};

use crate::net::{ConnectionHeader, is_hop_by_hop};

/// Headers of the caller that are for this server.
const CALLER_ONLY: [HeaderName; 4] = [AUTHORIZATION, COOKIE, EXPECT, HOST];
/// Headers of a service that would change what a browser does with this server.
const SERVICE_ONLY: [HeaderName; 4] = [
    ALT_SVC,
    HeaderName::from_static("clear-site-data"),
    SET_COOKIE,
    STRICT_TRANSPORT_SECURITY,
];

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let connection = ConnectionHeader::from_headers(headers);
    let dropped: Vec<HeaderName> = headers
        .keys()
        // No trailers are passed on.
        .filter(|name| is_hop_by_hop(name) || **name == TRAILER || connection.lists_header(name))
        .cloned()
        .collect();
    for name in &dropped {
        headers.remove(name);
    }
}

/// Returns the headers of a request as the service gets them: without those of the connection, of this server,
/// and those by which this server tells a service who calls (`x-tsuru-…`).
pub(super) fn request_headers(mut headers: HeaderMap) -> HeaderMap {
    remove_hop_by_hop(&mut headers);
    let own: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().starts_with("x-tsuru-"))
        .cloned()
        .collect();
    for name in own.iter().chain(&CALLER_ONLY) {
        headers.remove(name);
    }
    headers
}

/// Returns the headers of a response as the caller gets them. A browser treats the body as a document without
/// rights, because it comes from a stranger under the name of this server.
pub(super) fn response_headers(mut headers: HeaderMap) -> HeaderMap {
    remove_hop_by_hop(&mut headers);
    for name in &SERVICE_ONLY {
        headers.remove(name);
    }
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        let mut headers = HeaderMap::new();
        for (name, value) in pairs.iter().map(pair) {
            headers.append(name, value);
        }
        headers
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn request_headers_of_the_connection_and_of_this_server_are_removed() {
        let sent = map(&[
            ("accept", "*/*"),
            ("authorization", "bearer secret"),
            ("connection", "close, X-One"),
            ("connection", "x-two"),
            ("content-length", "3"),
            ("content-type", "text/plain"),
            ("cookie", "a=b"),
            ("host", "api"),
            ("keep-alive", "5"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("x-one", "1"),
            ("x-three", "3"),
            ("x-tsuru-eventid", "forged"),
            ("x-tsuru-user", "root@example.com"),
            ("x-two", "2"),
        ]);
        assert_eq!(
            names(&request_headers(sent)),
            ["accept", "content-length", "content-type", "x-three"]
        );
    }

    #[test]
    fn response_headers_that_change_this_servers_origin_are_removed() {
        let sent = map(&[
            ("alt-svc", "h2"),
            ("clear-site-data", "*"),
            ("connection", "x-one"),
            ("content-security-policy", "default-src *"),
            ("content-type", "text/html"),
            ("location", "/elsewhere"),
            ("set-cookie", "a=b"),
            ("strict-transport-security", "max-age=1"),
            ("x-one", "1"),
        ]);
        let passed = response_headers(sent);
        assert_eq!(
            names(&passed),
            [
                "content-security-policy",
                "content-type",
                "location",
                "x-content-type-options"
            ]
        );
        assert_eq!(passed["content-security-policy"], "sandbox");
    }
}
