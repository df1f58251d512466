//! Calls to the outside: HTTP to servers that other people run, who may be slow, dead or hostile.
//!
//! Each call belongs to a *lane*: one lane for each service. A lane has room for a few calls at once, a
//! short queue, and a breaker that leaves a dead service alone for a while, so that one sick neighbour
//! costs the others nothing. Every call has a deadline, every answer a bound in bytes; no redirect is
//! followed but the one that only adds a slash on the same host, and that one with the same verb and body.
//! Addresses of private networks are refused when the connection is made, whatever the name said before.
//!
//! What is promised about a failure: whether the request may have reached the other side. This module
//! never repeats a request by itself.

mod addresses;
mod breaker;
mod lane;

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Method, StatusCode, Url};
use tokio::time::Instant;
use uuid::Uuid;

use crate::config::ServicesSettings;
use crate::kernel::problem::Problem;
use crate::outbound::addresses::{Guarded, Private};
use crate::outbound::lane::Lane;
use crate::telemetry::metrics;

/// Lanes kept in memory before idle ones are forgotten.
const MAX_LANES: usize = 4096;

/// A request to be sent.
pub struct Request {
    pub method: Method,
    pub url: Url,
    /// The value of `Authorization`, marked as sensitive.
    pub authorization: Option<HeaderValue>,
    pub headers: HeaderMap,
    /// A urlencoded form; `None` sends no body at all.
    pub form: Option<String>,
}

/// What came back, whatever its status.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// No connection.
    Unreachable,
    /// The address is one that may not be called.
    Private,
    /// Too many calls to it are under way.
    Busy,
    /// The breaker is open.
    Resting,
    /// The deadline has passed.
    TimedOut,
    /// The connection ended before the answer did.
    Cut,
    /// The answer is longer than allowed.
    TooLong,
}

impl fmt::Display for Why {
    /// What is to be said after the name of the other side.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Why::Unreachable => "cannot be reached",
            Why::Private => "is at a private address, which this server may not call",
            Why::Busy => "is busy with other requests",
            Why::Resting => "has not answered lately and is left alone for a moment",
            Why::TimedOut => "did not answer in time",
            Why::Cut => "broke off before it had answered",
            Why::TooLong => "answered with more than this server accepts",
        })
    }
}

/// A call without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    pub why: Why,
    /// False: the other side knows nothing of the request for sure.
    pub sent: bool,
}

impl Failure {
    fn unsent(why: Why) -> Self {
        Self { why, sent: false }
    }
}

/// The client of all outside calls of a process. Cheap to clone.
#[derive(Clone)]
pub struct Outbound(Arc<Inner>);

struct Inner {
    http: reqwest::Client,
    /// The way to our own replicas, whose answers take as long as they take.
    replicas: reqwest::Client,
    settings: ServicesSettings,
    may_call_private: bool,
    lanes: Mutex<HashMap<Uuid, Arc<Lane>>>,
}

impl Outbound {
    /// A client with the given limits. The process must have a TLS provider installed by then.
    pub fn new(settings: &ServicesSettings, may_call_private: bool) -> Result<Self, Problem> {
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("tancho/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(settings.connect_timeout)
            .redirect(reqwest::redirect::Policy::none())
            // A proxy would make the connection for us, past the guard of addresses.
            .no_proxy()
            // A connection for each call: a kept one may die unseen, and then nobody knows whether the
            // request had arrived.
            .pool_max_idle_per_host(0);
        if !may_call_private {
            builder = builder.dns_resolver(Guarded);
        }
        let replicas = reqwest::Client::builder()
            .connect_timeout(settings.connect_timeout)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .pool_max_idle_per_host(0);
        Ok(Self(Arc::new(Inner {
            replicas: replicas.build().map_err(Problem::internal)?,
            http: builder.build().map_err(Problem::internal)?,
            settings: settings.clone(),
            may_call_private,
            lanes: Mutex::default(),
        })))
    }

    /// Sends a request to another replica as it comes, and answers as its answer comes; without a deadline.
    pub async fn pass_on<E>(
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

    /// Sends a request in a lane and reads its answer, within one deadline for all of it.
    pub async fn send(&self, lane: Uuid, request: &Request) -> Result<Answer, Failure> {
        let began = Instant::now();
        let result = self.send_by(lane, request, began + self.0.settings.timeout).await;
        metrics::called(outcome(&result), began.elapsed());
        result
    }

    async fn send_by(&self, lane: Uuid, request: &Request, deadline: Instant) -> Result<Answer, Failure> {
        if !self.0.may_call_private && addresses::is_private_literal(&request.url) {
            return Err(Failure::unsent(Why::Private));
        }
        let lane = self.lane(lane);
        let pass = lane.enter(deadline).await.map_err(Failure::unsent)?;
        let result = match tokio::time::timeout_at(deadline, self.exchange(request)).await {
            Ok(result) => result,
            Err(_) => Err(Failure {
                why: Why::TimedOut,
                sent: true,
            }),
        };
        pass.ended(match &result {
            Ok(_) => true,
            Err(failure) => matches!(failure.why, Why::Private | Why::TooLong),
        });
        result
    }

    /// An address of a URL's host that may be called, for who connects by other means and must connect to this one.
    pub async fn resolve(&self, url: &Url) -> Result<IpAddr, Why> {
        let host = url.host_str().ok_or(Why::Unreachable)?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = url.port_or_known_default().unwrap_or(443);
        let found = tokio::time::timeout(
            self.0.settings.connect_timeout,
            tokio::net::lookup_host((host, port)),
        );
        let found = found.await.map_err(|_| Why::TimedOut)?;
        let mut found: Vec<IpAddr> = found.map_err(|_| Why::Unreachable)?.map(|at| at.ip()).collect();
        if !self.0.may_call_private {
            let any = !found.is_empty();
            found.retain(|address| !addresses::is_private(*address));
            if any && found.is_empty() {
                return Err(Why::Private);
            }
        }
        found.first().copied().ok_or(Why::Unreachable)
    }

    /// Forgets what is known of a lane, for a service whose address has changed.
    pub fn forget(&self, lane: Uuid) {
        let mut lanes = self.0.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.remove(&lane);
    }

    fn lane(&self, id: Uuid) -> Arc<Lane> {
        let mut lanes = self.0.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        if lanes.len() >= MAX_LANES {
            lanes.retain(|_, lane| Arc::strong_count(lane) > 1);
        }
        let lane = lanes
            .entry(id)
            .or_insert_with(|| Arc::new(Lane::new(&self.0.settings)));
        Arc::clone(lane)
    }

    async fn exchange(&self, request: &Request) -> Result<Answer, Failure> {
        let answer = self.once(request, &request.url).await?;
        match slash_added(&request.url, &answer) {
            Some(url) => read(self.once(request, &url).await?, self.limit()).await,
            None => read(answer, self.limit()).await,
        }
    }

    fn limit(&self) -> usize {
        usize::try_from(self.0.settings.max_answer_bytes.0).unwrap_or(usize::MAX)
    }

    async fn once(&self, request: &Request, url: &Url) -> Result<reqwest::Response, Failure> {
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
        builder.send().await.map_err(|error| failure(&error))
    }
}

impl fmt::Debug for Outbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Outbound")
    }
}

/// How a call has ended, in one word.
fn outcome(result: &Result<Answer, Failure>) -> &'static str {
    match result {
        Ok(answer) if answer.status.is_server_error() => "failed",
        Ok(answer) if answer.status.is_client_error() => "refused",
        Ok(_) => "done",
        Err(failure) => match failure.why {
            Why::Unreachable => "unreachable",
            Why::Private => "private",
            Why::Busy => "busy",
            Why::Resting => "resting",
            Why::TimedOut => "timed-out",
            Why::Cut => "cut",
            Why::TooLong => "too-long",
        },
    }
}

/// The target of a redirect that adds a slash to the path and changes nothing else.
fn slash_added(url: &Url, answer: &reqwest::Response) -> Option<Url> {
    if !matches!(answer.status().as_u16(), 301 | 302 | 307 | 308) {
        return None;
    }
    let to = answer.headers().get(LOCATION)?.to_str().ok()?;
    let to = url.join(to).ok()?;
    let mut same = url.clone();
    same.set_path(&format!("{}/", url.path()));
    // Some frameworks leave the query out of the redirect.
    let path_only = |u: &Url| {
        let mut u = u.clone();
        u.set_query(None);
        u
    };
    (path_only(&to) == path_only(&same) && (to.query().is_none() || to.query() == url.query()))
        .then_some(same)
}

async fn read(mut answer: reqwest::Response, limit: usize) -> Result<Answer, Failure> {
    let status = answer.status();
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|_| Failure {
        why: Why::Cut,
        sent: true,
    })? {
        if body.len() + chunk.len() > limit {
            return Err(Failure {
                why: Why::TooLong,
                sent: true,
            });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Answer { status, body })
}

fn failure(error: &reqwest::Error) -> Failure {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = next {
        if cause.is::<Private>() {
            return Failure::unsent(Why::Private);
        }
        next = cause.source();
    }
    if error.is_connect() || error.is_builder() {
        return Failure::unsent(Why::Unreachable);
    }
    let why = if error.is_timeout() {
        Why::TimedOut
    } else {
        Why::Cut
    };
    Failure { why, sent: true }
}

#[cfg(test)]
mod tests;
