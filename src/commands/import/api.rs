//! A client of the tsuru API for imports: short requests, bounded answers, no redirects.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::Value;
use url::Url;

use crate::kernel::error::Error;
use crate::kernel::excerpt::quote_excerpt;
use crate::kernel::secret::Secret;

/// Longer than a service may take to create an instance.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(180);
/// The largest answer that is read.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// A server that speaks the tsuru API, with a token.
pub struct TsuruApi {
    url: Url,
    token: Secret,
    http: reqwest::Client,
}

/// A change on a server.
pub(super) struct ApiRequest {
    method: Method,
    /// The segments of the path below the version.
    path: Vec<String>,
    body: Value,
}

impl ApiRequest {
    /// A request with a JSON body.
    pub(super) fn new(method: Method, path: &[&str], body: Value) -> Self {
        Self {
            method,
            path: path.iter().map(|segment| (*segment).to_owned()).collect(),
            body,
        }
    }
}

impl TsuruApi {
    /// Creates a client. Errors: `Invalid` for an address that is no http or https URL.
    pub fn new(target: &str, token: Secret) -> Result<Self, Error> {
        let invalid = || {
            Error::invalid(format!(
                "{} is not the URL of a server: use http://host:port or https://host.",
                quote_excerpt(target)
            ))
        };
        let url: Url = target.parse().map_err(|_| invalid())?;
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            return Err(invalid());
        }
        let http = reqwest::Client::builder()
            .timeout(REQUEST_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .pool_max_idle_per_host(0)
            .build()
            .map_err(|error| Error::internal(error.to_string()))?;
        Ok(Self { url, token, http })
    }

    /// Checks that the server accepts the token. Errors: `Invalid`, with what to do.
    pub(super) async fn check_token(&self, whose: &str) -> Result<(), Error> {
        let (status, _) = self
            .exchange(Method::GET, "1.0", &["users", "info"], None)
            .await?;
        match status.is_success() {
            true => Ok(()),
            false => Err(Error::invalid(format!(
                "The token is not accepted by {whose} ({}, status {status}): log in there and use its token.",
                self.host()
            ))),
        }
    }

    /// Reads a list or an object; an empty answer is the default. Errors: an answer that is none of the tsuru
    /// API.
    pub(super) async fn get<T: DeserializeOwned + Default>(
        &self,
        version: &str,
        path: &[&str],
    ) -> Result<T, Error> {
        let (status, body) = self.exchange(Method::GET, version, path, None).await?;
        if status == StatusCode::NO_CONTENT || status == StatusCode::NOT_FOUND {
            return Ok(T::default());
        }
        let path = path.join("/");
        if !status.is_success() {
            return Err(Error::failed(format!(
                "{} answers {status} to GET /{path}: {}",
                self.host(),
                quote_excerpt(&String::from_utf8_lossy(&body))
            )));
        }
        serde_json::from_slice(&body).map_err(|error| {
            Error::failed(format!(
                "The answer of {} to GET /{path} is not that of the tsuru API: {error}.",
                self.host()
            ))
        })
    }

    /// Sends a change. Returns the server's reason if it refuses. Errors: no answer.
    pub(super) async fn send(&self, request: ApiRequest) -> Result<Result<(), String>, Error> {
        let path: Vec<&str> = request.path.iter().map(String::as_str).collect();
        let (version, path) = path
            .split_first()
            .ok_or_else(|| Error::internal("a path is empty"))?;
        let (status, body) = self
            .exchange(request.method, version, path, Some(&request.body))
            .await?;
        let text = String::from_utf8_lossy(&body);
        if !status.is_success() {
            let reason = text.trim().trim_end_matches('.');
            return Ok(Err(quote_excerpt(reason)));
        }
        Ok(match find_stream_error(&text) {
            Some(reason) => Err(quote_excerpt(&reason)),
            None => Ok(()),
        })
    }

    fn host(&self) -> String {
        let host = self.url.host_str().unwrap_or_default();
        match self.url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        }
    }

    async fn exchange(
        &self,
        method: Method,
        version: &str,
        path: &[&str],
        body: Option<&Value>,
    ) -> Result<(StatusCode, Vec<u8>), Error> {
        let mut url = self.url.clone();
        url.path_segments_mut()
            .map_err(|()| Error::invalid("The URL of a server has no path."))?
            .pop_if_empty()
            .push(version)
            .extend(path);
        let mut request = self.http.request(method, url);
        request = request.bearer_auth(self.token.expose_secret());
        if let Some(body) = body {
            request = request.json(body);
        }
        let no_answer = |error: reqwest::Error| {
            Error::failed(format!(
                "{} does not answer: {}",
                self.host(),
                error.without_url()
            ))
        };
        let mut answer = request.send().await.map_err(no_answer)?;
        let status = answer.status();
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(no_answer)? {
            if bytes.len() + chunk.len() > MAX_ANSWER_BYTES {
                return Err(Error::failed(format!(
                    "An answer of {} is too large.",
                    self.host()
                )));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok((status, bytes))
    }
}

/// Finds the error in a stream of JSON lines, which is sent with status 200.
fn find_stream_error(text: &str) -> Option<String> {
    let mut errors = text.lines().filter_map(|line| {
        let line: Value = serde_json::from_str(line).ok()?;
        let error = line.get("Error")?.as_str()?;
        (!error.is_empty()).then(|| error.trim().to_owned())
    });
    errors.next_back()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_are_no_server_are_refused() {
        // Another test may have installed one first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        for bad in ["", "tsuru.example.com", "ftp://tsuru.example.com", "http://"] {
            let refused = TsuruApi::new(bad, Secret::new("t"));
            assert!(
                refused.err().unwrap().message().contains("http://host:port"),
                "{bad}"
            );
        }
        assert!(TsuruApi::new("https://tsuru.example.com/api/", Secret::new("t")).is_ok());
    }

    #[test]
    fn error_of_a_stream_is_found_among_its_lines() {
        let stream = "{\"Message\":\"a\"}\n{\"Message\":\"\",\"Error\":\"no room\\n\"}\n";
        assert_eq!(find_stream_error(stream).as_deref(), Some("no room"));
        for fine in ["", "{\"Message\":\"a\"}", "{\"Error\":\"\"}", "OK", "[1]"] {
            assert_eq!(find_stream_error(fine), None, "{fine}");
        }
    }
}
