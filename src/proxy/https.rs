//! Proofs of hosts for certificate authorities (HTTP-01). Hosts that have a certificate: plain requests are redirected to TLS, and responses over TLS may tell
//! browsers to use nothing else (HSTS).

use std::collections::HashMap;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, LOCATION, STRICT_TRANSPORT_SECURITY};
use http::request::Parts;
use http::{HeaderValue, Response, StatusCode};

use super::forward::{ClientConn, request_host};
use super::headers::X_FORWARDED_PROTO;
use super::host_table::{HostName, HostTable};

/// Where certificate authorities ask for proofs over plain HTTP: never redirected.
const WELL_KNOWN_ACME: &str = "/.well-known/acme-challenge/";

/// The answer to an authority that asks for the proof of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChallengeAnswer {
    /// In lower case.
    pub host: String,
    pub text: String,
}

/// All answers by token, swapped in by [`super::Proxy::set_challenges`].
pub type ChallengeAnswers = HashMap<String, ChallengeAnswer>;

/// Returns the answer to a request of an authority for the proof of a host.
pub(super) fn answer_challenge(client: &ClientConn, parts: &Parts) -> Option<Response<Bytes>> {
    let token = parts.uri.path().strip_prefix(WELL_KNOWN_ACME)?;
    let host = request_host(parts).ok().and_then(HostName::parse)?;
    let answers = client.proxy.challenges.load();
    let answer = answers.get(token).filter(|answer| answer.host == host.as_str())?;
    let mut response = Response::new(Bytes::from(answer.text.clone()));
    let kind = HeaderValue::from_static("application/octet-stream");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    Some(response)
}

/// How a host with a certificate is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpsPolicy {
    /// Redirect plain requests.
    pub redirects: bool,
    /// For how many seconds browsers are to use TLS only; 0: they are not told.
    pub hsts_seconds: u32,
}

impl Default for HttpsPolicy {
    fn default() -> Self {
        Self {
            redirects: true,
            hsts_seconds: 0,
        }
    }
}

/// A complete table, swapped in by [`super::Proxy::set_https_hosts`].
pub type HttpsHosts = HostTable<HttpsPolicy>;

impl FromIterator<(String, HttpsPolicy)> for HttpsHosts {
    /// The first of two policies for the same host counts.
    fn from_iter<I: IntoIterator<Item = (String, HttpsPolicy)>>(policies: I) -> Self {
        let mut hosts = Self::default();
        for (host, policy) in policies {
            hosts.insert(&host, policy);
        }
        hosts
    }
}

/// Returns true if the client's side is encrypted, here or at a trusted proxy in front.
fn is_encrypted(client: &ClientConn, parts: &Parts) -> bool {
    let is_theirs = || {
        let scheme = parts.headers.get(X_FORWARDED_PROTO);
        client.proxy.settings.trust_forwarded && scheme.is_some_and(|scheme| scheme == "https")
    };
    client.is_tls || is_theirs()
}

fn find_policy(client: &ClientConn, host: &str) -> Option<HttpsPolicy> {
    client.proxy.https_hosts.load().find_host(host).copied()
}

/// Returns the redirect for a plain request to a host with a certificate. 308 keeps method and body.
pub(super) fn redirect_to_https(client: &ClientConn, parts: &Parts, host: &str) -> Option<Response<()>> {
    find_policy(client, host).filter(|policy| policy.redirects)?;
    if is_encrypted(client, parts) || parts.uri.path().starts_with(WELL_KNOWN_ACME) {
        return None;
    }
    let target = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let location = match client.proxy.settings.https_port {
        443 => format!("https://{host}{target}"),
        port => format!("https://{host}:{port}{target}"),
    };
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    // The target of a request is a valid header value.
    response
        .headers_mut()
        .insert(LOCATION, HeaderValue::from_str(&location).ok()?);
    Some(response)
}

/// Tells browsers to use TLS only, if the app wants that; a header of the app itself stays.
pub(super) fn add_hsts<B>(client: &ClientConn, parts: &Parts, response: &mut Response<B>) {
    const HSTS: HeaderName = STRICT_TRANSPORT_SECURITY;
    if !is_encrypted(client, parts) || response.headers().contains_key(HSTS) {
        return;
    }
    let host = request_host(parts).ok().and_then(HostName::parse);
    let policy = host.and_then(|host| find_policy(client, host.as_str()));
    if let Some(seconds) = policy.map(|policy| policy.hsts_seconds).filter(|s| *s > 0)
        && let Ok(value) = HeaderValue::from_str(&format!("max-age={seconds}"))
    {
        response.headers_mut().insert(HSTS, value);
    }
}
