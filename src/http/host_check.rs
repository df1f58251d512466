//! Decides which requests are meant for this API: those whose host is one of its own and, if they change
//! something, that do not come from a web page of another origin.
//!
//! A browser sends requests on behalf of any page that it shows. A page's host name can be made to resolve to
//! 127.0.0.1 (DNS rebinding), so any page could reach an API that listens on loopback. Such a request still
//! has the page's name in `Host` and, unless it only reads, the page's origin in `Origin`.
//!
//! A WebSocket counts as a change: a browser opens one to any server without asking it first.
//!
//! `Host` is checked where the API's own names are known: on loopback, and where `api.public_url` is set.
//! `/healthcheck` and `/metrics` are served under any name, because load balancers and monitors request them
//! by the address of one replica.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use url::Url;

use crate::config::{ApiSettings, Settings};
use crate::proxy::HostName;
use crate::web::websocket::is_websocket_request;

/// The origin of the reference client.
const CLIENT_ORIGIN: &[u8] = b"ws://localhost";

/// The host names of this API.
#[derive(Clone, Debug)]
pub(super) struct AllowedHosts(Arc<AllowedHostsInner>);

#[derive(Debug)]
struct AllowedHostsInner {
    /// Lower case, without ports. `None`: unknown, so any host is accepted.
    hosts: Option<Vec<String>>,
    /// Named by the operator; requests from their pages are accepted too.
    extra: Vec<String>,
    loopback_only: bool,
    public: Option<WebOrigin>,
}

/// The scheme, host and port of a page.
#[derive(Debug, PartialEq, Eq)]
struct WebOrigin {
    scheme: String,
    host: String,
    port: u16,
}

impl WebOrigin {
    fn parse(text: &str) -> Option<Self> {
        let url = Url::parse(text).ok()?;
        Some(Self {
            scheme: url.scheme().to_owned(),
            host: url.host_str()?.trim_end_matches('.').to_ascii_lowercase(),
            port: url.port_or_known_default()?,
        })
    }
}

impl AllowedHosts {
    pub(super) fn new(settings: &Settings) -> Self {
        let api = &settings.api;
        let loopback_only = api.is_loopback_only();
        let public = WebOrigin::parse(&api.public_url);
        let is_known = loopback_only || public.is_some();
        let extra: Vec<String> = api.hosts.iter().map(|host| host.to_ascii_lowercase()).collect();
        let hosts = is_known.then(|| list_configured_hosts(api, &settings.git.replica_url, &extra));
        Self(Arc::new(AllowedHostsInner {
            hosts,
            extra,
            loopback_only,
            public,
        }))
    }

    /// Returns the response to a request that is not meant for this API; `None` if it is.
    fn reject_request(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Option<Response> {
        let authority = match read_authority(uri, headers) {
            Ok(authority) => authority,
            Err(why) => return Some(plain_text_response(StatusCode::BAD_REQUEST, why)),
        };
        if !is_open_to_monitors(uri.path())
            && let Some(host) = authority
            && !self.is_own_host(host)
        {
            let shown: String = String::from_utf8_lossy(host).chars().take(100).collect();
            return Some(plain_text_response(
                StatusCode::MISDIRECTED_REQUEST,
                &format!(
                    "This API is not served under the host name {shown:?}: use the address that Tancho prints when it \
                     starts, or add the name to `api.hosts`."
                ),
            ));
        }
        let is_websocket = is_websocket_request(headers);
        let is_guarded = is_websocket || changes_state(method, uri.path());
        if is_guarded
            && !(is_websocket && is_client_origin(headers))
            && self.is_cross_origin(authority, headers)
        {
            return Some(plain_text_response(
                StatusCode::FORBIDDEN,
                "This request comes from a web page of another origin, which may not change anything here; if that \
                 page is yours, add its host to `api.hosts`.",
            ));
        }
        None
    }

    fn is_own_host(&self, raw: &[u8]) -> bool {
        let Some(hosts) = &self.0.hosts else { return true };
        let Some(host) = HostName::parse(raw) else {
            return false;
        };
        let host = host.as_str();
        let literal = host.trim_start_matches('[').trim_end_matches(']');
        match literal.parse::<IpAddr>() {
            // Only our own pages can be shown under an address of this host.
            Ok(ip) => {
                !self.0.loopback_only || ip.to_canonical().is_loopback() || hosts.iter().any(|h| h == host)
            }
            Err(_) => hosts.iter().any(|known| known == host),
        }
    }

    fn is_cross_origin(&self, authority: Option<&[u8]>, headers: &HeaderMap) -> bool {
        if let Some(site) = headers.get("sec-fetch-site") {
            // From our own page, or entered by the user.
            let is_own = matches!(site.as_bytes(), b"same-origin" | b"none");
            if !is_own && headers.get(header::ORIGIN).is_none() {
                return true;
            }
        }
        let mut origins = headers.get_all(header::ORIGIN).iter();
        match (origins.next(), origins.next()) {
            (None, _) => false,
            (Some(origin), None) => !self.is_own_origin(origin.as_bytes(), authority),
            (Some(_), Some(_)) => true,
        }
    }

    fn is_own_origin(&self, origin: &[u8], authority: Option<&[u8]>) -> bool {
        let Some(origin) = std::str::from_utf8(origin).ok().and_then(WebOrigin::parse) else {
            return false;
        };
        if self.0.public.as_ref() == Some(&origin) || self.0.extra.contains(&origin.host) {
            return true;
        }
        // A page of this very address: the origin has the requested host and port.
        let asked = authority
            .and_then(|raw| std::str::from_utf8(raw).ok())
            .and_then(|authority| WebOrigin::parse(&format!("{}://{authority}", origin.scheme)));
        asked.as_ref() == Some(&origin)
    }
}

fn list_configured_hosts(api: &ApiSettings, replica_url: &str, extra: &[String]) -> Vec<String> {
    let urls = [api.public_url.as_str(), replica_url];
    let mut hosts: Vec<String> = urls
        .iter()
        .filter_map(|url| Some(WebOrigin::parse(url)?.host))
        .chain(extra.iter().cloned())
        .collect();
    let ip = api.listen.ip();
    if ip.is_loopback() || ip.is_unspecified() {
        hosts.push("localhost".to_owned());
    }
    // Other replicas reach this one by the machine's name, unless `git.replica_url` differs.
    if ip.is_unspecified()
        && let Ok(name) = nix::unistd::gethostname()
    {
        hosts.push(name.to_string_lossy().to_ascii_lowercase());
    }
    hosts
}

/// Returns the host of the request: from an absolute target (or HTTP/2), else from the header.
fn read_authority<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Result<Option<&'a [u8]>, &'static str> {
    let mut hosts = headers.get_all(header::HOST).iter();
    match (uri.authority(), hosts.next(), hosts.next()) {
        (_, _, Some(_)) => Err("The request has two Host headers."),
        (Some(authority), _, None) => Ok(Some(authority.as_str().as_bytes())),
        (None, host, None) => Ok(host.map(|host| host.as_bytes())),
    }
}

fn is_open_to_monitors(path: &str) -> bool {
    matches!(
        path.trim_end_matches('/'),
        "/healthcheck" | "/metrics" | "/1.0/healthcheck" | "/1.2/metrics"
    )
}

/// True for the origin that the reference client sends with a WebSocket. No page has it: the scheme of a page is http or
/// https.
fn is_client_origin(headers: &HeaderMap) -> bool {
    let mut origins = headers.get_all(header::ORIGIN).iter();
    matches!((origins.next(), origins.next()), (Some(origin), None) if origin.as_bytes() == CLIENT_ORIGIN)
}

/// A GET counts too where the classic edition restarts an app by it.
fn changes_state(method: &Method, path: &str) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) || path.ends_with("/restart")
}

fn plain_text_response(status: StatusCode, sentence: &str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (status, headers, format!("{sentence}\n")).into_response()
}

/// Passes on a request that is meant for this API.
pub(super) async fn check_host_and_origin(
    State(names): State<AllowedHosts>,
    request: Request,
    next: Next,
) -> Response {
    match names.reject_request(request.method(), request.uri(), request.headers()) {
        Some(refusal) => refusal,
        None => next.run(request).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(change: impl FnOnce(&mut Settings)) -> AllowedHosts {
        let mut settings = Settings::defaults();
        change(&mut settings);
        AllowedHosts::new(&settings)
    }

    /// Returns the status of a refusal, or 200.
    fn asked(names: &AllowedHosts, request: &str) -> u16 {
        let mut words = request.split_whitespace();
        let method: Method = words.next().unwrap().parse().unwrap();
        let uri: Uri = words.next().unwrap().parse().unwrap();
        let mut headers = HeaderMap::new();
        for word in words {
            let (name, value) = word.split_once('=').unwrap();
            headers.append(
                header::HeaderName::from_bytes(name.as_bytes()).unwrap(),
                value.parse().unwrap(),
            );
        }
        names
            .reject_request(&method, &uri, &headers)
            .map_or(200, |response| response.status().as_u16())
    }

    #[test]
    fn loopback_api_refuses_unknown_host_names() {
        let names = names(|settings| settings.api.public_url = "https://paas.example.com".into());
        for host in [
            "localhost",
            "LOCALHOST:8080",
            "localhost.",
            "127.0.0.1:1",
            "127.0.0.2",
            "[::1]:8080",
            "[::ffff:127.0.0.1]",
            "paas.example.com",
            "paas.example.com:443",
        ] {
            assert_eq!(asked(&names, &format!("GET /apps host={host}")), 200, "{host}");
        }
        for host in [
            "rebind.evil.example",
            "localhost.evil.example",
            "evil.localhost",
            "10.1.2.3",
            "127.0.0.1.evil.example",
            "",
            "a@localhost",
        ] {
            assert_eq!(asked(&names, &format!("GET /apps host={host}")), 421, "{host}");
            assert_eq!(
                asked(&names, &format!("GET /healthcheck/ host={host}")),
                200,
                "{host}"
            );
        }
        assert_eq!(asked(&names, "GET http://evil.example/apps host=localhost"), 421);
        assert_eq!(asked(&names, "GET /apps host=localhost host=evil.example"), 400);
        assert_eq!(asked(&names, "GET /apps"), 200, "HTTP/1.0");
    }

    #[test]
    fn public_api_refuses_unknown_host_names() {
        let open = |settings: &mut Settings| settings.api.listen = "0.0.0.0:80".parse().unwrap();
        let unknown = names(open);
        assert_eq!(asked(&unknown, "GET /apps host=whatever.example"), 200);
        let known = names(|settings| {
            open(settings);
            settings.api.public_url = "https://paas.example.com".into();
            settings.git.replica_url = "http://one.internal:8080".into();
            settings.api.hosts = vec!["Other.example.com".into()];
        });
        for host in [
            "paas.example.com",
            "10.1.2.3:80",
            "one.internal:8080",
            "other.example.com",
            "[2001:db8::1]",
        ] {
            assert_eq!(asked(&known, &format!("GET /apps host={host}")), 200, "{host}");
        }
        assert_eq!(asked(&known, "GET /apps host=evil.example"), 421);
    }

    #[test]
    fn cross_origin_requests_cannot_change_state() {
        let names = names(|settings| {
            settings.api.public_url = "https://paas.example.com".into();
            settings.api.hosts = vec!["board.example.com".into()];
        });
        for origin in [
            "http://evil.example",
            "http://evil.localhost:8888",
            "http://localhost:3000",
            "http://127.0.0.1:8080",
            "http://paas.example.com",
            "https://paas.example.com:8443",
            "https://paas.example.com.evil.example",
            "null",
            "file://",
        ] {
            for method in ["POST", "PUT", "DELETE", "PATCH"] {
                let request = format!("{method} /users host=localhost:8080 origin={origin}");
                assert_eq!(asked(&names, &request), 403, "{request}");
            }
            let restart = format!("GET /apps/shop/restart host=localhost:8080 origin={origin}");
            assert_eq!(asked(&names, &restart), 403);
            let read = format!("GET /apps host=localhost:8080 origin={origin}");
            assert_eq!(asked(&names, &read), 200);
        }
        for site in ["cross-site", "same-site", "Same-Origin"] {
            let request = format!("POST /users host=localhost sec-fetch-site={site}");
            assert_eq!(asked(&names, &request), 403, "{site}");
        }
        let twice = "POST /users host=localhost origin=http://localhost origin=http://evil.example";
        assert_eq!(asked(&names, twice), 403);
        for request in [
            "POST /users host=localhost:8080",
            "POST /users host=localhost:8080 origin=http://localhost:8080",
            "POST /users host=127.0.0.1:8080 origin=http://127.0.0.1:8080 sec-fetch-site=same-origin",
            "POST /users host=localhost:8080 origin=https://paas.example.com",
            "POST /users host=paas.example.com origin=https://paas.example.com",
            "POST /users host=localhost:8080 origin=http://board.example.com:3000 sec-fetch-site=cross-site",
            "POST /users host=localhost:8080 sec-fetch-site=none",
        ] {
            assert_eq!(asked(&names, request), 200, "{request}");
        }
    }
}
