//! The API's connections: bounds on their number, on slow clients and on request heads. The layers around the
//! handlers bound the requests; this module handles what comes before a request exists, and clients that do
//! not read.
//!
//! Connections are watched like the router's ([`crate::net::ClientIo`]): a request with ambiguous length is
//! refused with 400, so that no request can be smuggled past a load balancer in front of this server.

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue, TRANSFER_ENCODING};
use hyper::server::conn::{http1, http2};
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::config::{ApiSettings, IpNetwork};
use crate::http::holding::HoldingBody;
use crate::http::local_peers::LocalAddress;
use crate::kernel::drain_plan::DrainPlan;
use crate::net::{
    ClientIo, ConnState, ConnTimeouts, ConnWatchdog, ConnectionShares, TlsTerminator,
    close_if_body_is_unread, detect_protocol, reject_connection,
};

/// For a head from its first byte, and for the first byte of a new connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// Between requests; longer than the idle time-outs of load balancers.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// A response that follows a log may be silent for as long as the log is.
const BUSY_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 3600);
const MAX_HEAD_BYTES: usize = 32 * 1024;
const MAX_STREAMS: u32 = 128;
/// For connections that the kernel has already accepted, and for their first byte, when the server is
/// stopping.
const STOP_GRACE: Duration = Duration::from_secs(1);
/// After `accept` failed (no descriptors left): time for other connections to close.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// For an address over its connection limit.
const ADDRESS_LIMIT_RESPONSE: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    content-type: text/plain; charset=utf-8\r\ncontent-length: 76\r\n\
    retry-after: 1\r\nconnection: close\r\n\r\n\
    There are too many connections from your address; close some and try again.\n";

/// The limits of one server.
#[derive(Clone, Debug)]
pub struct ServerLimits {
    /// The maximum number of concurrent connections; further ones wait.
    pub max_connections: usize,
    /// The maximum from one address; further ones are refused.
    max_per_address: usize,
    trusted_proxies: Vec<IpNetwork>,
    timeouts: ConnTimeouts,
    drain: DrainPlan,
}

impl ServerLimits {
    /// Creates limits with the default time-outs and no limit per address.
    pub fn new(max_connections: usize) -> Self {
        let (head, idle, busy) = (HEAD_TIMEOUT, IDLE_TIMEOUT, BUSY_TIMEOUT);
        Self {
            max_connections,
            max_per_address: max_connections,
            trusted_proxies: Vec::new(),
            timeouts: ConnTimeouts { head, idle, busy },
            drain: DrainPlan::default(),
        }
    }

    /// Creates limits from the settings.
    pub fn from_settings(settings: &ApiSettings) -> Self {
        let trusted = settings.trusted_proxies.clone();
        Self::new(settings.max_connections).with_address_limit(settings.connections_per_address(), trusted)
    }

    /// Sets the limit for each address outside of the trusted networks.
    #[must_use]
    pub fn with_address_limit(mut self, connections: usize, trusted: Vec<IpNetwork>) -> Self {
        (self.max_per_address, self.trusted_proxies) = (connections, trusted);
        self
    }

    /// Sets how connections end when the server stops.
    #[must_use]
    pub fn with_drain_plan(mut self, plan: DrainPlan) -> Self {
        self.drain = plan;
        self
    }

    /// Sets shorter time-outs, for tests.
    #[must_use]
    pub fn with_timeouts(mut self, head: Duration, idle: Duration) -> Self {
        (self.timeouts.head, self.timeouts.idle) = (head, idle);
        self
    }
}

/// Serves a listener until `stop`, then lets requests in flight finish.
pub async fn serve_api(listener: TcpListener, app: Router, bounds: ServerLimits, stop: CancellationToken) {
    serve_listener(listener, None, app, bounds, stop).await;
}

/// The same for a listener whose clients speak TLS.
pub(crate) async fn serve_api_tls(
    listener: TcpListener,
    tls: TlsTerminator,
    app: Router,
    bounds: ServerLimits,
    stop: CancellationToken,
) {
    serve_listener(listener, Some(tls), app, bounds, stop).await;
}

async fn serve_listener(
    listener: TcpListener,
    tls: Option<TlsTerminator>,
    app: Router,
    bounds: ServerLimits,
    stop: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(bounds.max_connections));
    let shares = ConnectionShares::new(
        bounds.max_connections,
        bounds.max_per_address,
        &bounds.trusted_proxies,
    );
    let tasks = TaskTracker::new();
    let grace_over = wait_for_stop_grace(&stop);
    tokio::pin!(grace_over);
    loop {
        let accepted = async {
            let slot = Arc::clone(&slots).acquire_owned().await;
            (listener.accept().await, slot)
        };
        // When stopping, connections that the kernel has already accepted are still served: a load balancer
        // may have sent a request on one, and must not send it again if it changes something. This is limited
        // in time, because `accept` may be ready for ever: connections keep coming, or no descriptors are
        // left.
        let (accepted, slot) = tokio::select! {
            biased;
            () = &mut grace_over => break,
            accepted = accepted => accepted,
            () = stop.cancelled() => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                let Some(share) = shares.try_admit(peer.ip()) else {
                    // A client of TLS would not understand the page.
                    if tls.is_none() {
                        reject_connection(stream, ADDRESS_LIMIT_RESPONSE);
                    }
                    continue;
                };
                let conn = ApiConnection {
                    peer,
                    app: app.clone(),
                    limits: bounds.timeouts,
                    drain: bounds.drain.clone(),
                    stop: stop.clone(),
                };
                let tls = tls.clone();
                tasks.spawn(async move {
                    if let Err(cause) = conn.serve_socket(stream, tls).await {
                        tracing::debug!(error = cause, "client connection ended with an error");
                    }
                    drop((slot, share));
                });
            }
            Err(cause) => {
                tracing::debug!(error = %cause, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    tasks.close();
    tasks.wait().await;
}

/// Returns `STOP_GRACE` after the server began to stop.
async fn wait_for_stop_grace(stop: &CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(STOP_GRACE).await;
}

/// The state that a connection's socket and requests share with the watchdog.
#[derive(Clone, Default)]
struct SharedConnState(Arc<ConnState>);

impl AsRef<ConnState> for SharedConnState {
    fn as_ref(&self) -> &ConnState {
        &self.0
    }
}

/// What the connection of a client needs.
struct ApiConnection {
    peer: SocketAddr,
    app: Router,
    limits: ConnTimeouts,
    drain: DrainPlan,
    stop: CancellationToken,
}

impl ApiConnection {
    async fn serve_socket(self, stream: TcpStream, tls: Option<TlsTerminator>) -> Result<(), String> {
        // Responses are small; delaying them to fill a packet only costs time.
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let local = stream.local_addr().map_err(|error| error.to_string())?;
        let Some(tls) = tls else {
            return self.serve_stream(stream, local).await;
        };
        match self.wait_for_client(tls.accept_stream(stream)).await? {
            Some(Some(stream)) => self.serve_stream(stream, local).await,
            Some(None) | None => Ok(()),
        }
    }

    /// Waits until a client has begun: for its handshake, or for its first bytes. `None`: the server is stopping.
    async fn wait_for_client<T>(
        &self,
        begun: impl Future<Output = std::io::Result<T>>,
    ) -> Result<Option<T>, String> {
        let begun = tokio::select! {
            begun = tokio::time::timeout(self.limits.head, begun) => begun,
            () = wait_for_stop_grace(&self.stop), if !self.drain.is_taken_over() => return Ok(None),
        };
        match begun {
            Err(_) => Err("the client sent nothing".into()),
            Ok(begun) => begun.map(Some).map_err(|error| error.to_string()),
        }
    }

    async fn serve_stream<S>(self, mut stream: S, local: SocketAddr) -> Result<(), String>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let Some((early, is_http2)) = self.wait_for_client(detect_protocol(&mut stream)).await? else {
            return Ok(());
        };
        if early.is_empty() {
            return Ok(());
        }
        let shared = SharedConnState::default();
        let io = TokioIo::new(ClientIo::new(stream, early, !is_http2, shared.clone()));
        let service = self.make_service(local, shared.clone(), is_http2);
        let watch = &shared.0;
        if is_http2 {
            let connection = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .max_concurrent_streams(MAX_STREAMS)
                .max_header_list_size(MAX_HEAD_BYTES as u32)
                .serve_connection(io, service);
            let shut = http2::Connection::graceful_shutdown;
            drive_connection(connection, shut, watch, self.limits, self.stop).await
        } else {
            let connection = http1::Builder::new()
                .header_read_timeout(None)
                .max_header_size(MAX_HEAD_BYTES)
                .serve_connection(io, service)
                .with_upgrades();
            let plan = self.drain.clone();
            // Where another process has taken over, the next response says that the connection ends.
            let shut = |connection: Pin<&mut http1::UpgradeableConnection<_, _>>| match plan.is_taken_over() {
                true => {}
                false => connection.graceful_shutdown(),
            };
            drive_connection(connection, shut, watch, self.limits, self.stop).await
        }
    }

    /// Makes the service of this connection's requests.
    fn make_service(
        &self,
        local: SocketAddr,
        watch: SharedConnState,
        is_http2: bool,
    ) -> impl HttpService<Incoming, ResBody = HoldingBody<ActiveRequest>, Error = Infallible, Future: Send> + use<>
    {
        let (peer, app) = (self.peer, self.app.clone());
        let (stop, drain) = (self.stop.clone(), self.drain.clone());
        service_fn(move |request: hyper::Request<Incoming>| {
            let busy = ActiveRequest::new(watch.clone());
            let is_chunked = request.headers().contains_key(TRANSFER_ENCODING);
            let mut request: Request = request.map(Body::new);
            request.extensions_mut().insert(ConnectInfo(peer));
            request.extensions_mut().insert(LocalAddress(local));
            let answer = app.clone().oneshot(request);
            let conn = watch.clone();
            let (stop, drain) = (stop.clone(), drain.clone());
            async move {
                answer.await.map(|mut answer| {
                    if !is_http2 {
                        close_if_body_is_unread(&conn.0, is_chunked, &mut answer);
                        if stop.is_cancelled() && drain.is_taken_over() {
                            answer
                                .headers_mut()
                                .insert(CONNECTION, HeaderValue::from_static("close"));
                        }
                    }
                    answer.map(|body| HoldingBody::new(body, busy))
                })
            }
        })
    }
}

/// Drives a connection until it ends or its watchdog closes it.
async fn drive_connection<C, E>(
    connection: C,
    shut: impl Fn(Pin<&mut C>),
    watch: &ConnState,
    limits: ConnTimeouts,
    stop: CancellationToken,
) -> Result<(), String>
where
    C: Future<Output = Result<(), E>>,
    E: std::fmt::Display,
{
    let mut watchdog = ConnWatchdog::new(limits);
    let mut stopping = Some(Box::pin(stop.cancelled_owned()));
    tokio::pin!(connection);
    poll_fn(|cx| {
        // First, so that a request that has arrived is accepted before the connection is asked to accept no
        // more.
        if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
            return Poll::Ready(ended.map_err(|error| error.to_string()));
        }
        if let Some(stopped) = &mut stopping
            && stopped.as_mut().poll(cx).is_ready()
        {
            stopping = None;
            shut(connection.as_mut());
            if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                return Poll::Ready(ended.map_err(|error| error.to_string()));
            }
        }
        watchdog
            .poll_expired(cx, watch, false)
            .map(|()| Err("the client was too slow".into()))
    })
    .await
}

/// A request in flight, from its head to the end of its response.
struct ActiveRequest(SharedConnState);

impl ActiveRequest {
    fn new(shared: SharedConnState) -> Self {
        shared.0.begin_request();
        Self(shared)
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.0.0.end_request();
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::OwnedFd;

    use super::*;

    /// Returns a listener that is always ready and whose `accept` always fails, as when no descriptors are
    /// left.
    fn failing_listener() -> TcpListener {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.send_to(b"x", socket.local_addr().unwrap()).unwrap();
        socket.set_nonblocking(true).unwrap();
        let listener = std::net::TcpListener::from(OwnedFd::from(socket));
        TcpListener::from_std(listener).unwrap()
    }

    #[tokio::test]
    async fn server_stops_while_accept_fails() {
        let listener = failing_listener();
        assert!(listener.accept().await.is_err());
        let stop = CancellationToken::new();
        let served = tokio::spawn(serve_api(
            listener,
            Router::new(),
            ServerLimits::new(10),
            stop.clone(),
        ));
        stop.cancel();
        tokio::time::timeout(STOP_GRACE * 10, served)
            .await
            .unwrap()
            .unwrap();
    }

    #[tokio::test]
    async fn server_stops_while_connections_keep_coming() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let served = tokio::spawn(serve_api(
            listener,
            Router::new(),
            ServerLimits::new(10_000),
            stop.clone(),
        ));
        stop.cancel();
        let flood = tokio::spawn(async move {
            while let Ok(connection) = TcpStream::connect(address).await {
                drop(connection);
            }
        });
        tokio::time::timeout(STOP_GRACE * 10, served)
            .await
            .unwrap()
            .unwrap();
        flood.await.unwrap();
    }
}
