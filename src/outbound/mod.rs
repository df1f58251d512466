//! Outbound HTTP calls to servers of other operators, which may be slow, dead or hostile.
//!
//! Each call belongs to a *bulkhead*, one for each service. A bulkhead has slots for a few concurrent calls,
//! shared fairly by key (the calling user), short queues, and a circuit breaker that suspends calls to a dead
//! service for a while, so that one failing service does not delay calls to others. Every call has a
//! deadline, every response a size limit. Redirects are not followed, except one that only adds a slash on
//! the same host, which is followed with the same method and body. Addresses of private networks are rejected
//! at connection time, whatever the name resolved to before.
//!
//! An error states whether the request may have reached the other side. This module never repeats a request
//! by itself.

mod addresses;
mod breaker;
mod bulkhead;
mod custom;
mod streaming;

pub use custom::{CustomRequest, CustomResponse};
pub use streaming::{BodyStream, StreamedRequest, StreamedResponse};

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Method, StatusCode, Url};
use tokio::time::Instant;
use uuid::Uuid;

use crate::config::ServicesSettings;
use crate::kernel::error::Error;
use crate::outbound::addresses::PrivateAddressError;
use crate::outbound::bulkhead::Bulkhead;
use crate::outbound::custom::{CustomClients, client_builder};
use crate::telemetry::metrics;

/// How many bulkheads are kept in memory before idle ones are evicted.
const MAX_BULKHEADS: usize = 4096;

/// A request to be sent.
pub struct OutboundRequest {
    pub method: Method,
    pub url: Url,
    /// The value of `Authorization`, marked as sensitive.
    pub authorization: Option<HeaderValue>,
    pub headers: HeaderMap,
    /// A urlencoded form; `None` sends no body at all.
    pub form: Option<String>,
}

/// A response, whatever its status.
#[derive(Debug)]
pub struct OutboundResponse {
    pub status: StatusCode,
    pub body: Vec<u8>,
}

/// Why there is no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutboundErrorKind {
    /// Cannot connect.
    Unreachable,
    /// The address is private and must not be called.
    PrivateAddress,
    /// Too many calls to the service are in progress.
    Busy,
    /// The circuit breaker is open.
    CircuitOpen,
    /// The deadline has passed.
    TimedOut,
    /// The connection was closed before the response was complete.
    ConnectionClosed,
    /// The response is larger than allowed.
    ResponseTooLarge,
    /// The streamed request is larger than allowed.
    RequestTooLarge,
}

impl fmt::Display for OutboundErrorKind {
    /// Writes the predicate of a sentence whose subject is the other side.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            OutboundErrorKind::Unreachable => "cannot be reached",
            OutboundErrorKind::PrivateAddress => "is at a private address, which this server may not call",
            OutboundErrorKind::Busy => "is busy with other requests",
            OutboundErrorKind::CircuitOpen => {
                "has been failing, so requests to it are suspended for a moment"
            }
            OutboundErrorKind::TimedOut => "did not respond in time",
            OutboundErrorKind::ConnectionClosed => "closed the connection before responding",
            OutboundErrorKind::ResponseTooLarge => "sent a larger response than this server accepts",
            OutboundErrorKind::RequestTooLarge => "did not get the request, because it is too large",
        })
    }
}

/// A call without a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutboundError {
    pub kind: OutboundErrorKind,
    /// False if the request certainly did not reach the other side.
    pub sent: bool,
}

impl OutboundError {
    fn not_sent(kind: OutboundErrorKind) -> Self {
        Self { kind, sent: false }
    }
}

/// The client for all outbound calls of a process. Cheap to clone.
#[derive(Clone)]
pub struct OutboundClient(Arc<OutboundClientInner>);

struct OutboundClientInner {
    http: reqwest::Client,
    /// The client for requests to other replicas, without a timeout.
    replicas: reqwest::Client,
    custom: CustomClients,
    settings: ServicesSettings,
    may_call_private: bool,
    bulkheads: Mutex<HashMap<Uuid, Arc<Bulkhead>>>,
}

impl OutboundClient {
    /// Creates a client with the given limits. A TLS provider must have been installed in the process.
    pub fn new(settings: &ServicesSettings, may_call_private: bool) -> Result<Self, Error> {
        let builder = client_builder(settings, may_call_private);
        let replicas = reqwest::Client::builder()
            .connect_timeout(settings.connect_timeout)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .pool_max_idle_per_host(0);
        Ok(Self(Arc::new(OutboundClientInner {
            replicas: replicas.build().map_err(Error::internal)?,
            http: builder.build().map_err(Error::internal)?,
            custom: CustomClients::default(),
            settings: settings.clone(),
            may_call_private,
            bulkheads: Mutex::default(),
        })))
    }

    /// Forwards a streamed request to another replica and streams the response; without a deadline.
    pub async fn forward_to_replica<E>(
        &self,
        method: reqwest::Method,
        url: &str,
        headers: reqwest::header::HeaderMap,
        body: impl futures_util::Stream<Item = Result<bytes::Bytes, E>> + Send + 'static,
    ) -> reqwest::Result<reqwest::Response>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let request = self.0.replicas.request(method, url).headers(headers);
        request.body(reqwest::Body::wrap_stream(body)).send().await
    }

    /// Sends a request through a bulkhead and reads its response, within one deadline for everything. `key`:
    /// the slots of the bulkhead are shared by it.
    pub async fn send_request(
        &self,
        bulkhead: Uuid,
        key: &str,
        request: &OutboundRequest,
    ) -> Result<OutboundResponse, OutboundError> {
        let began = Instant::now();
        let result = self
            .send_with_deadline(bulkhead, key, request, began + self.0.settings.call_timeout)
            .await;
        let status = result.as_ref().map(|response| response.status);
        metrics::record_service_call(outcome_label(status.map_err(|error| error.kind)), began.elapsed());
        result
    }

    async fn send_with_deadline(
        &self,
        bulkhead: Uuid,
        key: &str,
        request: &OutboundRequest,
        deadline: Instant,
    ) -> Result<OutboundResponse, OutboundError> {
        self.check_literal(&request.url)?;
        self.call_with_permit(bulkhead, key, deadline, self.send_following_slash(request))
            .await
    }

    /// Refuses a URL whose host is a literal private address, where those may not be called.
    fn check_literal(&self, url: &Url) -> Result<(), OutboundError> {
        match !self.0.may_call_private && addresses::is_private_literal(url) {
            true => Err(OutboundError::not_sent(OutboundErrorKind::PrivateAddress)),
            false => Ok(()),
        }
    }

    /// Makes a call in a slot of its bulkhead, until the deadline.
    async fn call_with_permit<T>(
        &self,
        bulkhead: Uuid,
        key: &str,
        deadline: Instant,
        call: impl Future<Output = Result<T, OutboundError>>,
    ) -> Result<T, OutboundError> {
        let bulkhead = self.find_or_add_bulkhead(bulkhead);
        let mut permit = bulkhead
            .acquire_permit(key, deadline)
            .await
            .map_err(OutboundError::not_sent)?;
        let result = match tokio::time::timeout_at(deadline, call).await {
            Ok(result) => result,
            Err(_) => Err(OutboundError {
                kind: OutboundErrorKind::TimedOut,
                sent: true,
            }),
        };
        permit.record_result(match &result {
            Ok(_) => true,
            Err(failure) => matches!(
                failure.kind,
                OutboundErrorKind::PrivateAddress | OutboundErrorKind::ResponseTooLarge
            ),
        });
        result
    }

    /// Resolves the host of a URL to an address that may be called, for callers that connect by other means
    /// and must connect to this address.
    pub async fn resolve_host(&self, url: &Url) -> Result<IpAddr, OutboundErrorKind> {
        let host = url.host_str().ok_or(OutboundErrorKind::Unreachable)?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = url.port_or_known_default().unwrap_or(443);
        let found = tokio::time::timeout(
            self.0.settings.connect_timeout,
            tokio::net::lookup_host((host, port)),
        );
        let found = found.await.map_err(|_| OutboundErrorKind::TimedOut)?;
        let mut found: Vec<IpAddr> = found
            .map_err(|_| OutboundErrorKind::Unreachable)?
            .map(|at| at.ip())
            .collect();
        if !self.0.may_call_private {
            let any = !found.is_empty();
            found.retain(|address| !addresses::is_private(*address));
            if any && found.is_empty() {
                return Err(OutboundErrorKind::PrivateAddress);
            }
        }
        found.first().copied().ok_or(OutboundErrorKind::Unreachable)
    }

    /// Removes a bulkhead, for a service whose address has changed.
    pub fn forget_bulkhead(&self, bulkhead: Uuid) {
        let mut bulkheads = self.0.bulkheads.lock().unwrap_or_else(PoisonError::into_inner);
        bulkheads.remove(&bulkhead);
    }

    fn find_or_add_bulkhead(&self, id: Uuid) -> Arc<Bulkhead> {
        let mut bulkheads = self.0.bulkheads.lock().unwrap_or_else(PoisonError::into_inner);
        if bulkheads.len() >= MAX_BULKHEADS {
            bulkheads.retain(|_, bulkhead| Arc::strong_count(bulkhead) > 1);
        }
        let bulkhead = bulkheads
            .entry(id)
            .or_insert_with(|| Arc::new(Bulkhead::new(&self.0.settings)));
        Arc::clone(bulkhead)
    }

    async fn send_following_slash(
        &self,
        request: &OutboundRequest,
    ) -> Result<OutboundResponse, OutboundError> {
        let answer = self.send_once(request, &request.url).await?;
        match slash_redirect_target(&request.url, &answer) {
            Some(url) => read_response(self.send_once(request, &url).await?, self.max_body_bytes()).await,
            None => read_response(answer, self.max_body_bytes()).await,
        }
    }

    fn max_body_bytes(&self) -> usize {
        usize::try_from(self.0.settings.max_answer_bytes.0).unwrap_or(usize::MAX)
    }

    async fn send_once(
        &self,
        request: &OutboundRequest,
        url: &Url,
    ) -> Result<reqwest::Response, OutboundError> {
        let mut builder = self
            .0
            .http
            .request(request.method.clone(), url.clone())
            .headers(request.headers.clone());
        if let Some(value) = &request.authorization {
            builder = builder.header(AUTHORIZATION, value);
        }
        if let Some(form) = &request.form {
            builder = builder
                .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(form.clone());
        }
        builder.send().await.map_err(|error| classify_error(&error))
    }
}

impl fmt::Debug for OutboundClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Outbound")
    }
}

/// Returns the outcome of a call as a metric label.
fn outcome_label(result: Result<StatusCode, OutboundErrorKind>) -> &'static str {
    match result {
        Ok(status) if status.is_server_error() => "failed",
        Ok(status) if status.is_client_error() => "refused",
        Ok(_) => "done",
        Err(kind) => match kind {
            OutboundErrorKind::Unreachable => "unreachable",
            OutboundErrorKind::PrivateAddress => "private",
            OutboundErrorKind::Busy => "busy",
            OutboundErrorKind::CircuitOpen => "circuit-open",
            OutboundErrorKind::TimedOut => "timed-out",
            OutboundErrorKind::ConnectionClosed => "connection-closed",
            OutboundErrorKind::ResponseTooLarge => "response-too-large",
            OutboundErrorKind::RequestTooLarge => "request-too-large",
        },
    }
}

/// Returns the target of a redirect that adds a slash to the path and changes nothing else.
fn slash_redirect_target(url: &Url, answer: &reqwest::Response) -> Option<Url> {
    if !matches!(answer.status().as_u16(), 301 | 302 | 307 | 308) {
        return None;
    }
    let to = answer.headers().get(LOCATION)?.to_str().ok()?;
    let to = url.join(to).ok()?;
    let mut same = url.clone();
    same.set_path(&format!("{}/", url.path()));
    // Some frameworks omit the query in the redirect.
    let path_only = |u: &Url| {
        let mut u = u.clone();
        u.set_query(None);
        u
    };
    (path_only(&to) == path_only(&same) && (to.query().is_none() || to.query() == url.query()))
        .then_some(same)
}

async fn read_response(
    mut answer: reqwest::Response,
    limit: usize,
) -> Result<OutboundResponse, OutboundError> {
    let status = answer.status();
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|_| OutboundError {
        kind: OutboundErrorKind::ConnectionClosed,
        sent: true,
    })? {
        if body.len() + chunk.len() > limit {
            return Err(OutboundError {
                kind: OutboundErrorKind::ResponseTooLarge,
                sent: true,
            });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(OutboundResponse { status, body })
}

fn classify_error(error: &reqwest::Error) -> OutboundError {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = next {
        if cause.is::<PrivateAddressError>() {
            return OutboundError::not_sent(OutboundErrorKind::PrivateAddress);
        }
        next = cause.source();
    }
    if error.is_connect() || error.is_builder() {
        return OutboundError::not_sent(OutboundErrorKind::Unreachable);
    }
    let why = if error.is_timeout() {
        OutboundErrorKind::TimedOut
    } else {
        OutboundErrorKind::ConnectionClosed
    };
    OutboundError {
        kind: why,
        sent: true,
    }
}

#[cfg(test)]
mod tests;
