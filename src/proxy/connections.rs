//! Accepts client connections, watches each one, and closes them all when the proxy stops.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Poll, ready};
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::net::{
    ClientIo, ConnState, ConnTimeouts, ConnWatchdog, ConnectionShare, TlsTerminator, detect_protocol,
    reject_connection,
};

use super::forward::{self, ClientConn};
use super::{ProxyInner, ProxySettings, error_pages};

const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// After `accept` failed (no descriptors left): time for other connections to close.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// After `drain` is over: time for tasks to notice the forced close.
const FORCED_CLOSE_GRACE: Duration = Duration::from_secs(2);
const MAX_STREAMS: u32 = 128;

/// All connections of one listener.
#[derive(Default)]
struct ConnSlots {
    next_number: AtomicU64,
    slots: Mutex<HashMap<u64, Weak<ConnSlot>>>,
}

/// The slot of one connection; released when its socket and all its requests are gone.
pub(super) struct ConnSlot {
    pub(super) state: ConnState,
    number: u64,
    slots: Arc<ConnSlots>,
    proxy: Arc<ProxyInner>,
    _share: ConnectionShare,
}

impl ConnSlots {
    fn for_each_conn(&self, act: impl Fn(&ConnState)) {
        let all: Vec<_> = {
            let all = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            all.values().filter_map(Weak::upgrade).collect()
        };
        for slot in all {
            act(&slot.state);
        }
    }

    fn take_slot(self: &Arc<Self>, proxy: &Arc<ProxyInner>, share: ConnectionShare) -> Arc<ConnSlot> {
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        proxy.counters.connections.fetch_add(1, Ordering::Relaxed);
        let slot = Arc::new(ConnSlot {
            state: ConnState::default(),
            number,
            slots: Arc::clone(self),
            proxy: Arc::clone(proxy),
            _share: share,
        });
        let mut all = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(number, Arc::downgrade(&slot));
        slot
    }
}

impl Drop for ConnSlot {
    fn drop(&mut self) {
        self.proxy.counters.connections.fetch_sub(1, Ordering::Relaxed);
        let mut all = self.slots.slots.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(&self.number);
    }
}

/// The socket's share of the slot.
struct SlotHandle(Arc<ConnSlot>);

impl AsRef<ConnState> for SlotHandle {
    fn as_ref(&self) -> &ConnState {
        &self.0.state
    }
}

pub(super) async fn serve_listener(
    proxy: &Arc<ProxyInner>,
    listener: TcpListener,
    tls: Option<TlsTerminator>,
    cancel: CancellationToken,
) {
    let slots = Arc::new(ConnSlots::default());
    let tasks = TaskTracker::new();
    let admission = ConnAdmission {
        proxy,
        slots: &slots,
        tasks: &tasks,
        tls,
    };
    let mut sweep = tokio::time::interval(SWEEP_EVERY);
    loop {
        tokio::select! {
            () = cancel.cancelled() => break,
            _ = sweep.tick() => proxy.close_idle_conns(),
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => admission.admit_connection(stream, peer),
                Err(cause) if is_client_error(&cause) => debug!(error = %cause, "client disconnected before accept"),
                Err(cause) => {
                    warn!(error = %cause, "cannot accept connections");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    tasks.close();
    let plan = &proxy.settings.drain_plan;
    slots.for_each_conn(match plan.is_taken_over() {
        true => ConnState::end_after_response,
        false => ConnState::start_drain,
    });
    if tokio::time::timeout(plan.limit(proxy.settings.drain), tasks.wait())
        .await
        .is_err()
    {
        slots.for_each_conn(ConnState::force_close);
        if tokio::time::timeout(FORCED_CLOSE_GRACE, tasks.wait())
            .await
            .is_err()
        {
            warn!(
                left = tasks.len(),
                "connections still open after the forced close"
            );
        }
    }
}

fn is_client_error(cause: &io::Error) -> bool {
    matches!(
        cause.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

/// What a new connection of one listener needs.
struct ConnAdmission<'a> {
    proxy: &'a Arc<ProxyInner>,
    slots: &'a Arc<ConnSlots>,
    tasks: &'a TaskTracker,
    /// `None`: clients speak plain HTTP.
    tls: Option<TlsTerminator>,
}

impl ConnAdmission<'_> {
    fn admit_connection(&self, stream: TcpStream, peer: SocketAddr) {
        let proxy = self.proxy;
        if proxy.counters.connections.load(Ordering::Relaxed) >= proxy.settings.max_connections as u64 {
            return self.reject(stream, error_pages::SERVER_FULL_RESPONSE);
        }
        let Some(share) = proxy.shares.try_admit(peer.ip()) else {
            return self.reject(stream, error_pages::ADDRESS_LIMIT_RESPONSE);
        };
        let slot = self.slots.take_slot(proxy, share);
        let client = Arc::new(ClientConn {
            proxy: Arc::clone(proxy),
            slot,
            peer: peer.ip().to_canonical().to_string(),
            is_tls: self.tls.is_some(),
            tunnels: self.tasks.clone(),
        });
        let tls = self.tls.clone();
        self.tasks.spawn(async move {
            if let Err(cause) = serve_socket(client, stream, tls).await {
                debug!(error = %cause, "client connection ended with an error");
            }
        });
    }

    /// Without TLS there is no way to send a page to a client that expects it: then the connection just closes.
    fn reject(&self, stream: TcpStream, page: &'static [u8]) {
        if self.tls.is_none() {
            reject_connection(stream, page);
        }
    }
}

type ConnError = Box<dyn std::error::Error + Send + Sync>;

async fn serve_socket(
    client: Arc<ClientConn>,
    stream: TcpStream,
    tls: Option<TlsTerminator>,
) -> Result<(), ConnError> {
    stream.set_nodelay(true)?;
    let Some(tls) = tls else {
        return serve_connection(client, stream).await;
    };
    match wait_for_client(&client, tls.accept_stream(stream)).await? {
        // Boxed, so that connections without TLS do not pay for its size.
        Some(Some(stream)) => Box::pin(serve_connection(client, stream)).await,
        Some(None) | None => Ok(()),
    }
}

/// Waits until a client has begun: for its handshake, or for its first bytes. `None`: the proxy is stopping.
async fn wait_for_client<T>(
    client: &ClientConn,
    begun: impl Future<Output = io::Result<T>>,
) -> Result<Option<T>, ConnError> {
    let begun = tokio::time::timeout(client.proxy.settings.header_timeout, begun);
    tokio::pin!(begun);
    let watch = &client.slot.state;
    let begun = std::future::poll_fn(|cx| {
        watch.register_waker(cx);
        if watch.is_draining() || watch.is_force_closed() {
            return Poll::Ready(None);
        }
        begun.as_mut().poll(cx).map(Some)
    });
    match begun.await {
        Some(begun) => Ok(Some(begun??)),
        None => Ok(None),
    }
}

async fn serve_connection<S>(client: Arc<ClientConn>, mut stream: S) -> Result<(), ConnError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let Some((early, is_http2)) = wait_for_client(&client, detect_protocol(&mut stream)).await? else {
        return Ok(());
    };
    if early.is_empty() {
        return Ok(());
    }
    let front = ClientIo::new(stream, early, !is_http2, SlotHandle(Arc::clone(&client.slot)));
    let settings = &client.proxy.settings;
    let watched = WatchedConn {
        client: Arc::clone(&client),
        watchdog: ConnWatchdog::new(conn_timeouts(settings)),
        is_http2,
        drain_signalled: false,
    };
    let service = service_fn({
        let client = Arc::clone(&client);
        move |request| forward::handle_request(Arc::clone(&client), request)
    });
    if is_http2 {
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(u32::try_from(settings.max_header_bytes).unwrap_or(u32::MAX))
            .serve_connection(TokioIo::new(front), service);
        watched
            .run_to_end(connection, http2::Connection::graceful_shutdown)
            .await
    } else {
        let connection = http1::Builder::new()
            .header_read_timeout(None)
            .max_header_size(settings.max_header_bytes)
            .max_buf_size(settings.max_header_bytes.max(64 * 1024))
            .serve_connection(TokioIo::new(front), service)
            .with_upgrades();
        watched
            .run_to_end(connection, http1::UpgradeableConnection::graceful_shutdown)
            .await
    }
}

/// A connection with its watchdog.
struct WatchedConn {
    client: Arc<ClientConn>,
    watchdog: ConnWatchdog,
    is_http2: bool,
    drain_signalled: bool,
}

impl WatchedConn {
    async fn run_to_end<C, E>(mut self, connection: C, shut: impl Fn(Pin<&mut C>)) -> Result<(), ConnError>
    where
        C: Future<Output = Result<(), E>>,
        E: Into<ConnError>,
    {
        tokio::pin!(connection);
        std::future::poll_fn(|cx| {
            let slot = &self.client.slot;
            slot.state.register_waker(cx);
            if slot.state.is_force_closed() {
                return Poll::Ready(Err("the drain time-out expired".into()));
            }
            // HTTP/2 has a way to announce the end; HTTP/1 says it in the next response.
            let shuts = slot.state.is_draining() || (self.is_http2 && slot.state.is_ending());
            if shuts && !std::mem::replace(&mut self.drain_signalled, true) {
                shut(connection.as_mut());
            }
            if let Poll::Ready(result) = connection.as_mut().poll(cx) {
                return Poll::Ready(result.map_err(Into::into));
            }
            let crowded = is_crowded(&self.client.proxy);
            ready!(self.watchdog.poll_expired(cx, &slot.state, crowded));
            Poll::Ready(Err("the client was too slow".into()))
        })
        .await
    }
}

fn is_crowded(proxy: &ProxyInner) -> bool {
    let open = proxy.counters.connections.load(Ordering::Relaxed);
    open > proxy.settings.max_connections as u64 / 4 * 3
}

/// Returns the router's time-outs, the same for all clients.
pub(super) fn conn_timeouts(settings: &ProxySettings) -> ConnTimeouts {
    ConnTimeouts {
        head: settings.header_timeout,
        idle: settings.idle_timeout,
        // The time-outs of units expire first, so that the client gets an error page.
        busy: settings
            .idle_timeout
            .max(settings.first_byte_timeout + settings.connect_timeout * 2 + Duration::from_secs(1)),
    }
}
