//! From a request to an answer: find the app, pick a backend, try, try again where that is safe.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::header::{CONNECTION, EXPECT, HOST, UPGRADE};
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio_util::task::TaskTracker;
use tracing::{Level, debug, enabled};

use super::backend::{Backend, Lease, Live};
use super::exchange::{Exchange, Fault};
use super::headers::{self, UnitHead, X_REQUEST_ID};
use super::pages::Refusal;
use super::routes::Host;
use super::serve::Place;
use super::unit_body::UnitBody;
use super::wire::{Answer, Wire};
use super::{Inner, upgrade};

/// What a request needs to know of the connection it came on.
pub(super) struct Client {
    pub(super) proxy: Arc<Inner>,
    pub(super) place: Arc<Place>,
    /// The peer's address without the port.
    pub(super) peer: String,
    pub(super) tunnels: TaskTracker,
}

/// The body of any answer. Counts the request as in flight while it lives.
pub(super) struct ReplyBody {
    kind: ReplyKind,
    client: Arc<Client>,
}

#[expect(
    clippy::large_enum_variant,
    reason = "nearly every answer is a unit's: a box would cost each one"
)]
enum ReplyKind {
    Unit(UnitBody),
    /// Our own page, until it is taken.
    Page(Bytes),
}

/// Answers one request; never fails, because every failure has a page.
pub(super) async fn handle(
    client: Arc<Client>,
    mut request: Request<Incoming>,
) -> Result<Response<ReplyBody>, Infallible> {
    let proxy = &client.proxy;
    proxy.counters.requests.fetch_add(1, Ordering::Relaxed);
    client.place.watch.begin();
    // From here on the request counts as in flight, even if this future is dropped half-way.
    let mut reply = ReplyBody {
        kind: ReplyKind::Page(Bytes::new()),
        client: Arc::clone(&client),
    };
    let begun = enabled!(Level::DEBUG).then(Instant::now);
    let id = headers::sane_id(request.headers())
        .cloned()
        .unwrap_or_else(|| proxy.new_id());
    let is_http1 = request.version() < Version::HTTP_2;
    let on_upgrade = upgrade_wanted(&request, is_http1).then(|| hyper::upgrade::on(&mut request));
    let (parts, body) = request.into_parts();
    let (app, mut response) = match route(&client, &parts, body, &id, on_upgrade).await {
        Ok((app, response)) => {
            let (head, body) = response.into_parts();
            if let Some(body) = body {
                reply.kind = ReplyKind::Unit(body);
            }
            (app, Response::from_parts(head, reply))
        }
        Err(refusal) => {
            let (head, page) = refusal.page(&parts.headers, &id, is_http1).into_parts();
            reply.kind = ReplyKind::Page(page);
            (Arc::from(refusal.app()), Response::from_parts(head, reply))
        }
    };
    let status = response.status();
    if is_http1 && parts.headers.contains_key(UPGRADE) && status != StatusCode::SWITCHING_PROTOCOLS {
        // `Front` follows no framing behind a head that asks for an upgrade.
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
    }
    client.proxy.counters.answered(status);
    if let Some(begun) = begun {
        debug!(
            request_id = id.to_str().unwrap_or_default(),
            host = %String::from_utf8_lossy(host_of(&parts).unwrap_or(b"-")),
            app = &*app,
            status = status.as_u16(),
            ms = begun.elapsed().as_secs_f64() * 1000.0,
            "answered"
        );
    }
    response.headers_mut().insert(X_REQUEST_ID, id);
    Ok(response)
}

fn upgrade_wanted(request: &Request<Incoming>, is_http1: bool) -> bool {
    is_http1
        && request.version() == Version::HTTP_11
        && request.headers().contains_key(UPGRADE)
        && headers::upgrade_of(request.headers()).is_some()
        && request.body().is_end_stream()
}

type Routed = (Arc<str>, Response<Option<UnitBody>>);

async fn route(
    client: &Arc<Client>,
    parts: &Parts,
    body: Incoming,
    id: &HeaderValue,
    on_upgrade: Option<hyper::upgrade::OnUpgrade>,
) -> Result<Routed, Refusal> {
    if parts.method == Method::CONNECT {
        return Err(Refusal::Malformed("this is no forward proxy"));
    }
    let raw_host = host_of(parts)?;
    let host = Host::read(raw_host).ok_or(Refusal::NoHost)?;
    let asking = Asking {
        client,
        head: UnitHead {
            parts,
            host: raw_host,
            peer: &client.peer,
            id,
            upgrade: on_upgrade.as_ref().and_then(|_| parts.headers.get(UPGRADE)),
            trusted: client.proxy.settings.trust_forwarded,
        },
        repeatable: body.is_end_stream() && headers::is_idempotent(&parts.method),
        host: host.as_str(),
    };
    let (app, answer, exchange) = asking.answer(body).await?;
    if answer.status == StatusCode::SWITCHING_PROTOCOLS {
        let Some(on_upgrade) = on_upgrade else {
            return Err(Refusal::Broken {
                app,
                how: "it switched protocols unasked",
            });
        };
        let response = upgrade::accept(client, answer, exchange, on_upgrade);
        return Ok((app, response.map(|()| None)));
    }
    let body = exchange.into_body_of(&answer);
    let mut response = Response::new(Some(body));
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers;
    Ok((app, response))
}

/// The host as the client wrote it: of the target if that is absolute (or HTTP/2), else of the header.
fn host_of(parts: &Parts) -> Result<&[u8], Refusal> {
    let mut hosts = parts.headers.get_all(HOST).iter();
    match (parts.uri.authority(), hosts.next(), hosts.next()) {
        // Even beside an absolute target: whoever stands before us may have looked at either.
        (_, _, Some(_)) => Err(Refusal::NoHost),
        (Some(authority), _, None) => Ok(authority.as_str().as_bytes()),
        (None, Some(host), None) => Ok(host.as_bytes()),
        (None, None, None) => Err(Refusal::NoHost),
    }
}

fn find(proxy: &Inner, host: &str) -> Result<Arc<Live>, Refusal> {
    let table = proxy.table.load();
    let live = table
        .find(host)
        .ok_or_else(|| Refusal::UnknownHost(host.to_owned()))?;
    if live.backends.is_empty() {
        return Err(Refusal::NotReady {
            app: Arc::clone(&live.app),
            reason: live.reason.clone(),
        });
    }
    Ok(Arc::clone(live))
}

/// A request on its way to the first backend that answers.
struct Asking<'a> {
    client: &'a Client,
    head: UnitHead<'a>,
    repeatable: bool,
    host: &'a str,
}

/// How one try ended without an answer.
enum Missed {
    /// The next may be tried with this body.
    Again(Option<Incoming>),
    Over(Refusal),
}

impl Asking<'_> {
    async fn answer(&self, body: Incoming) -> Result<(Arc<str>, Answer, Exchange), Refusal> {
        let mut body = (!body.is_end_stream()).then_some(body);
        let mut tried = Vec::new();
        // A kept connection may be dead without us knowing; then the same backend gets a new one.
        let mut fresh = None;
        let mut first = true;
        loop {
            // Each try looks into the newest table, and none holds on to one while it waits: what left
            // the table must not seem in use (`Proxy::is_through_with`).
            let live = find(&self.client.proxy, self.host)?;
            let app = Arc::clone(&live.app);
            let is_fresh = fresh.is_some();
            let Some(backend) = fresh.take().or_else(|| live.pick(&tried)) else {
                return Err(Refusal::Unreachable { app });
            };
            drop(live);
            if !std::mem::take(&mut first) {
                self.client.proxy.counters.retried.fetch_add(1, Ordering::Relaxed);
            }
            let Some(wire) = self.wire_to(&backend, is_fresh).await else {
                tried.push(backend.addr());
                continue;
            };
            let reused = wire.is_reused();
            match self.ask(&app, &backend, wire, body).await {
                Ok((answer, exchange)) => return Ok((app, answer, exchange)),
                Err(Missed::Over(refusal)) => return Err(refusal),
                Err(Missed::Again(unused)) => {
                    body = unused;
                    if reused {
                        fresh = Some(backend);
                    } else {
                        tried.push(backend.addr());
                    }
                }
            }
        }
    }

    async fn wire_to(&self, backend: &Backend, fresh: bool) -> Option<Wire> {
        if !fresh && let Some(wire) = backend.take(self.repeatable) {
            return Some(wire);
        }
        backend
            .connect(self.client.proxy.settings.connect_timeout)
            .await
            .inspect_err(|cause| debug!(%cause, host = self.host, "a unit accepts no connection"))
            .ok()
    }

    async fn ask(
        &self,
        app: &Arc<str>,
        backend: &Arc<Backend>,
        mut wire: Wire,
        body: Option<Incoming>,
    ) -> Result<(Answer, Exchange), Missed> {
        self.head.write(body.as_ref(), &mut wire.output);
        let expects = body.is_some() && self.head.parts.headers.contains_key(EXPECT);
        let mut exchange = Exchange::new(wire, Lease::new(Arc::clone(backend)), body, expects);
        let within = self.client.proxy.settings.first_byte_timeout;
        let app = || Arc::clone(app);
        let refusal = match exchange.answer(&self.head.parts.method, within).await {
            Ok(answer) => return Ok((answer, exchange)),
            Err(Fault::Late) => Refusal::Late { app: app() },
            Err(Fault::Nonsense(how)) => Refusal::Broken { app: app(), how },
            Err(Fault::Client) => Refusal::Malformed("its body broke off or is badly framed"),
            Err(Fault::Stalled) => Refusal::Stalled,
            Err(Fault::Silent) if self.repeatable || exchange.is_unsent() => match exchange.into_body() {
                Some(body) => return Err(Missed::Again(body)),
                None => Refusal::Broken {
                    app: app(),
                    how: "it closed the connection",
                },
            },
            Err(Fault::Silent) => Refusal::Broken {
                app: app(),
                how: "it closed the connection",
            },
        };
        Err(Missed::Over(refusal))
    }
}

impl Drop for ReplyBody {
    fn drop(&mut self) {
        self.client.place.watch.end();
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
