//! Forwards a request: finds the app, picks a backend, sends the request, and retries where that is safe.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::header::{CONNECTION, HOST, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio_util::task::TaskTracker;
use tracing::{Level, debug, enabled};

use crate::net::close_if_body_is_unread;

use super::backend::{Backend, BackendLease, LiveHost};
use super::connections::ConnSlot;
use super::error_pages::ProxyError;
use super::headers::{self, UpstreamHead, X_REQUEST_ID};
use super::host_table::HostName;
use super::response_body::UpstreamBody;
use super::upstream_conn::{ResponseHead, UpstreamConn};
use super::upstream_request::{UpstreamFailure, UpstreamRequest};
use super::{ProxyInner, https, tunnel};

/// What a request needs of its client connection.
pub(super) struct ClientConn {
    pub(super) proxy: Arc<ProxyInner>,
    pub(super) slot: Arc<ConnSlot>,
    /// The peer's IP address.
    pub(super) peer: String,
    /// The connection is encrypted up to this proxy.
    pub(super) is_tls: bool,
    pub(super) tunnels: TaskTracker,
}

/// The body of any response. Counts the request as in flight until dropped.
pub(super) struct ReplyBody {
    kind: ReplyKind,
    client: Arc<ClientConn>,
}

#[expect(
    clippy::large_enum_variant,
    reason = "nearly every response comes from a unit, and each would pay for a box"
)]
enum ReplyKind {
    Unit(UpstreamBody),
    /// An error page, until it is taken.
    Page(Bytes),
}

/// Handles one request; never fails, because every error has a page.
pub(super) async fn handle_request(
    client: Arc<ClientConn>,
    mut request: Request<Incoming>,
) -> Result<Response<ReplyBody>, Infallible> {
    let proxy = &client.proxy;
    proxy.counters.requests.fetch_add(1, Ordering::Relaxed);
    client.slot.state.begin_request();
    // From here on the request counts as in flight, even if this future is dropped early.
    let mut reply = ReplyBody {
        kind: ReplyKind::Page(Bytes::new()),
        client: Arc::clone(&client),
    };
    let begun = enabled!(Level::DEBUG).then(Instant::now);
    let id = headers::client_request_id(request.headers())
        .cloned()
        .unwrap_or_else(|| proxy.next_request_id());
    let is_http1 = request.version() < Version::HTTP_2;
    let on_upgrade = wants_upgrade(&request, is_http1).then(|| hyper::upgrade::on(&mut request));
    let (parts, body) = request.into_parts();
    let challenge = https::answer_challenge(&client, &parts);
    let routed = match challenge {
        Some(_) => None,
        None => Some(route_request(&client, &parts, body, &id, on_upgrade).await),
    };
    let (app, mut response) = match routed {
        None => {
            let (head, page) = challenge.unwrap_or_default().into_parts();
            reply.kind = ReplyKind::Page(page);
            (Arc::from("-"), Response::from_parts(head, reply))
        }
        Some(Ok((app, response))) => {
            let (head, body) = response.into_parts();
            if let Some(body) = body {
                reply.kind = ReplyKind::Unit(body);
            }
            (app, Response::from_parts(head, reply))
        }
        Some(Err(refusal)) => {
            let (head, page) = refusal.to_response(&parts.headers, &id, is_http1).into_parts();
            reply.kind = ReplyKind::Page(page);
            (Arc::from(refusal.app_name()), Response::from_parts(head, reply))
        }
    };
    let status = response.status();
    if is_http1 && parts.headers.contains_key(UPGRADE) && status != StatusCode::SWITCHING_PROTOCOLS {
        // `ClientIo` does not follow the framing after a head that requests an upgrade.
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if is_http1 && status != StatusCode::SWITCHING_PROTOCOLS {
        let is_chunked = parts.headers.contains_key(TRANSFER_ENCODING);
        close_if_body_is_unread(&client.slot.state, is_chunked, &mut response);
        if client.slot.state.is_ending() {
            response
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("close"));
        }
    }
    https::add_hsts(&client, &parts, &mut response);
    client.proxy.counters.count_response(status);
    if let Some(begun) = begun {
        debug!(
            request_id = id.to_str().unwrap_or_default(),
            host = %String::from_utf8_lossy(request_host(&parts).unwrap_or(b"-")),
            app = &*app,
            status = status.as_u16(),
            ms = begun.elapsed().as_secs_f64() * 1000.0,
            "request completed"
        );
    }
    response.headers_mut().insert(X_REQUEST_ID, id);
    Ok(response)
}

fn wants_upgrade(request: &Request<Incoming>, is_http1: bool) -> bool {
    is_http1
        && request.version() == Version::HTTP_11
        && request.headers().contains_key(UPGRADE)
        && headers::requested_upgrade(request.headers()).is_some()
        && request.body().is_end_stream()
}

type RoutedResponse = (Arc<str>, Response<Option<UpstreamBody>>);

async fn route_request(
    client: &Arc<ClientConn>,
    parts: &Parts,
    body: Incoming,
    id: &HeaderValue,
    on_upgrade: Option<hyper::upgrade::OnUpgrade>,
) -> Result<RoutedResponse, ProxyError> {
    if parts.method == Method::CONNECT {
        return Err(ProxyError::MalformedRequest("this is not a forward proxy"));
    }
    let raw_host = request_host(parts)?;
    let host = HostName::parse(raw_host).ok_or(ProxyError::InvalidHost)?;
    if let Some(redirect) = https::redirect_to_https(client, parts, host.as_str()) {
        return Ok((Arc::from("-"), redirect.map(|()| None)));
    }
    let asking = ForwardedRequest {
        client,
        head: UpstreamHead {
            parts,
            host: raw_host,
            peer: &client.peer,
            id,
            upgrade: on_upgrade.as_ref().and_then(|_| parts.headers.get(UPGRADE)),
            is_tls: client.is_tls,
            trusted: client.proxy.settings.trust_forwarded,
        },
        is_retryable: body.is_end_stream() && headers::is_idempotent(&parts.method),
        host: host.as_str(),
    };
    let (app, mut answer, upstream) = asking.send_with_retries(body).await?;
    if answer.status == StatusCode::SWITCHING_PROTOCOLS {
        let Some(on_upgrade) =
            on_upgrade.filter(|_| headers::is_requested_upgrade(&parts.headers, &answer.headers))
        else {
            return Err(ProxyError::BadResponse {
                app,
                how: "it switched to a protocol that was not requested",
            });
        };
        let response = tunnel::accept_upgrade(client, answer, upstream, on_upgrade);
        return Ok((app, response.map(|()| None)));
    }
    let body = upstream.into_response_body(&mut answer);
    let mut response = Response::new(Some(body));
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers;
    Ok((app, response))
}

/// Returns the host as the client sent it: from an absolute target (or HTTP/2), else from the Host header.
pub(super) fn request_host(parts: &Parts) -> Result<&[u8], ProxyError> {
    let mut hosts = parts.headers.get_all(HOST).iter();
    match (parts.uri.authority(), hosts.next(), hosts.next()) {
        // Even with an absolute target: a proxy in front may have used either.
        (_, _, Some(_)) => Err(ProxyError::InvalidHost),
        (Some(authority), _, None) => Ok(authority.as_str().as_bytes()),
        (None, Some(host), None) => Ok(host.as_bytes()),
        (None, None, None) => Err(ProxyError::InvalidHost),
    }
}

fn find_live_host(proxy: &ProxyInner, host: &str) -> Result<Arc<LiveHost>, ProxyError> {
    let table = proxy.table.load();
    let live = table
        .find_host(host)
        .ok_or_else(|| ProxyError::UnknownHost(host.to_owned()))?;
    if live.backends.is_empty() {
        return Err(ProxyError::NotReady {
            app: Arc::clone(&live.app),
            reason: live.unready_reason.clone(),
        });
    }
    Ok(Arc::clone(live))
}

/// A request to be sent to backends until one responds.
struct ForwardedRequest<'a> {
    client: &'a ClientConn,
    head: UpstreamHead<'a>,
    is_retryable: bool,
    host: &'a str,
}

/// How an attempt ended without a response.
enum AttemptFailure {
    /// Another backend may be tried with this body. `sent`: this one may have processed the request.
    Retry {
        body: Option<Incoming>,
        sent: bool,
    },
    Final(ProxyError),
}

impl ForwardedRequest<'_> {
    async fn send_with_retries(
        &self,
        body: Incoming,
    ) -> Result<(Arc<str>, ResponseHead, UpstreamRequest), ProxyError> {
        let mut body = (!body.is_end_stream()).then_some(body);
        let mut tried = Vec::new();
        // A kept connection may be dead without notice; then the same backend gets a new one.
        let mut fresh = None;
        let mut first = true;
        // A request that crashes a unit must not crash all of them: after one may have processed it, there is
        // one retry.
        let mut sent_before = false;
        loop {
            // Each attempt reads the current table, and none keeps it while waiting: a removed address must
            // not appear in use (`Proxy::is_drained`).
            let live = find_live_host(&self.client.proxy, self.host)?;
            let app = Arc::clone(&live.app);
            let is_fresh = fresh.is_some();
            let Some(backend) = fresh.take().or_else(|| live.pick_backend(&tried)) else {
                return Err(ProxyError::ConnectFailed { app });
            };
            drop(live);
            if !std::mem::take(&mut first) {
                self.client.proxy.counters.retried.fetch_add(1, Ordering::Relaxed);
            }
            let Some(conn) = self.get_conn(&backend, is_fresh).await else {
                tried.push(backend.address());
                continue;
            };
            let reused = conn.is_reused();
            match self.try_backend(&app, &backend, conn, body, sent_before).await {
                Ok((answer, upstream)) => return Ok((app, answer, upstream)),
                Err(AttemptFailure::Final(refusal)) => return Err(refusal),
                Err(AttemptFailure::Retry { body: unused, sent }) => {
                    body = unused;
                    sent_before |= sent;
                    if reused {
                        fresh = Some(backend);
                    } else {
                        tried.push(backend.address());
                    }
                }
            }
        }
    }

    async fn get_conn(&self, backend: &Backend, fresh: bool) -> Option<UpstreamConn> {
        if !fresh && let Some(conn) = backend.take_idle_conn(self.is_retryable) {
            return Some(conn);
        }
        backend
            .open_conn(self.client.proxy.settings.connect_timeout)
            .await
            .inspect_err(|cause| debug!(error = %cause, host = self.host, "cannot connect to a unit"))
            .ok()
    }

    async fn try_backend(
        &self,
        app: &Arc<str>,
        backend: &Arc<Backend>,
        mut conn: UpstreamConn,
        body: Option<Incoming>,
        sent_before: bool,
    ) -> Result<(ResponseHead, UpstreamRequest), AttemptFailure> {
        self.head.write_head(body.as_ref(), &mut conn.output);
        let lease = BackendLease::new(Arc::clone(backend));
        let mut upstream = UpstreamRequest::new(conn, lease, body, &self.head.parts.headers);
        let within = self.client.proxy.settings.first_byte_timeout;
        let app = || Arc::clone(app);
        let refusal = match upstream.read_response_head(&self.head.parts.method, within).await {
            Ok(answer) => return Ok((answer, upstream)),
            Err(UpstreamFailure::Timeout) => ProxyError::ResponseTimeout { app: app() },
            Err(UpstreamFailure::Malformed(how)) => ProxyError::BadResponse { app: app(), how },
            Err(UpstreamFailure::ClientBody) => {
                ProxyError::MalformedRequest("its body is incomplete or badly framed")
            }
            Err(UpstreamFailure::ClientTimeout) => ProxyError::BodyTimeout,
            Err(UpstreamFailure::NoResponse)
                if upstream.is_unsent() || (self.is_retryable && !sent_before) =>
            {
                let sent = !upstream.is_unsent();
                match upstream.into_unsent_body() {
                    Some(body) => return Err(AttemptFailure::Retry { body, sent }),
                    None => ProxyError::BadResponse {
                        app: app(),
                        how: "it closed the connection",
                    },
                }
            }
            Err(UpstreamFailure::NoResponse) => ProxyError::BadResponse {
                app: app(),
                how: "it closed the connection",
            },
        };
        Err(AttemptFailure::Final(refusal))
    }
}

impl Drop for ReplyBody {
    fn drop(&mut self) {
        self.client.slot.state.end_request();
        self.client
            .proxy
            .counters
            .finished
            .fetch_add(1, Ordering::Relaxed);
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match &mut self.kind {
            ReplyKind::Unit(body) => Pin::new(body).poll_frame(cx),
            ReplyKind::Page(page) if page.is_empty() => Poll::Ready(None),
            ReplyKind::Page(page) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(page))))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            ReplyKind::Unit(body) => body.is_end_stream(),
            ReplyKind::Page(page) => page.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            ReplyKind::Unit(body) => body.size_hint(),
            ReplyKind::Page(page) => SizeHint::with_exact(page.len() as u64),
        }
    }
}
