//! Accepting connections, watching each, and ending them all.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::forward::{self, Client};
use super::front::{Front, Watch};
use super::{Inner, ProxySettings, pages};

const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// After `accept` failed (no descriptor left): time for others to close.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// After `drain` is over: for tasks to see that they are to end.
const LAST_GRACE: Duration = Duration::from_secs(2);
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const MOST_STREAMS: u32 = 128;

/// All connections of one listener.
#[derive(Default)]
struct Places {
    next: AtomicU64,
    all: Mutex<HashMap<u64, Weak<Place>>>,
}

/// One client's place among them; given back when the last of its socket and requests is gone.
pub(super) struct Place {
    pub(super) watch: Watch,
    number: u64,
    places: Arc<Places>,
    proxy: Arc<Inner>,
}

impl Places {
    fn each(&self, act: impl Fn(&Watch)) {
        let all: Vec<_> = {
            let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
            all.values().filter_map(Weak::upgrade).collect()
        };
        for place in all {
            act(&place.watch);
        }
    }

    fn take(self: &Arc<Self>, proxy: &Arc<Inner>) -> Arc<Place> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        proxy.counters.connections.fetch_add(1, Ordering::Relaxed);
        let place = Arc::new(Place {
            watch: Watch::default(),
            number,
            places: Arc::clone(self),
            proxy: Arc::clone(proxy),
        });
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(number, Arc::downgrade(&place));
        place
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.proxy.counters.connections.fetch_sub(1, Ordering::Relaxed);
        let mut all = self.places.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(&self.number);
    }
}

/// The socket's share in its place.
struct Held(Arc<Place>);

impl AsRef<Watch> for Held {
    fn as_ref(&self) -> &Watch {
        &self.0.watch
    }
}

pub(super) async fn serve(proxy: &Arc<Inner>, listener: TcpListener, cancel: CancellationToken) {
    let places = Arc::new(Places::default());
    let tasks = TaskTracker::new();
    let mut sweep = tokio::time::interval(SWEEP_EVERY);
    loop {
        tokio::select! {
            () = cancel.cancelled() => break,
            _ = sweep.tick() => proxy.sweep(),
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => admit(proxy, &places, &tasks, stream, peer),
                Err(cause) if is_of_one_client(&cause) => debug!(%cause, "a client left before it was accepted"),
                Err(cause) => {
                    warn!(%cause, "cannot accept connections");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    tasks.close();
    places.each(Watch::drain);
    if tokio::time::timeout(proxy.settings.drain, tasks.wait())
        .await
        .is_err()
    {
        places.each(Watch::kill);
        if tokio::time::timeout(LAST_GRACE, tasks.wait()).await.is_err() {
            warn!(left = tasks.len(), "connections outlive the proxy");
        }
    }
}

fn is_of_one_client(cause: &io::Error) -> bool {
    matches!(
        cause.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

fn admit(proxy: &Arc<Inner>, places: &Arc<Places>, tasks: &TaskTracker, stream: TcpStream, peer: SocketAddr) {
    if proxy.counters.connections.load(Ordering::Relaxed) >= proxy.settings.max_connections as u64 {
        // A courtesy; a socket just accepted has room for it.
        let _ = stream.try_write(pages::FULL);
        return;
    }
    let place = places.take(proxy);
    let client = Arc::new(Client {
        proxy: Arc::clone(proxy),
        place,
        peer: peer.ip().to_canonical().to_string(),
        tunnels: tasks.clone(),
    });
    tasks.spawn(async move {
        if let Err(cause) = converse(client, stream).await {
            debug!(%cause, "a client's connection ended");
        }
    });
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn converse(client: Arc<Client>, mut stream: TcpStream) -> Result<(), Failure> {
    stream.set_nodelay(true)?;
    let (early, is_http2) = {
        let spoken = tokio::time::timeout(client.proxy.settings.header_timeout, sniff(&mut stream));
        tokio::pin!(spoken);
        let watch = &client.place.watch;
        let spoken = std::future::poll_fn(|cx| {
            watch.register(cx);
            if watch.is_draining() || watch.is_killed() {
                return Poll::Ready(None);
            }
            spoken.as_mut().poll(cx).map(Some)
        });
        match spoken.await {
            Some(spoken) => spoken??,
            None => return Ok(()),
        }
    };
    if early.is_empty() {
        return Ok(());
    }
    let front = Front::new(stream, early, !is_http2, Held(Arc::clone(&client.place)));
    let settings = &client.proxy.settings;
    let watched = Watched {
        client: Arc::clone(&client),
        watchdog: Watchdog::new(Limits::of(settings)),
        told: false,
    };
    let service = service_fn({
        let client = Arc::clone(&client);
        move |request| forward::handle(Arc::clone(&client), request)
    });
    if is_http2 {
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(MOST_STREAMS)
            .max_header_list_size(u32::try_from(settings.max_header_bytes).unwrap_or(u32::MAX))
            .serve_connection(TokioIo::new(front), service);
        watched
            .run(connection, http2::Connection::graceful_shutdown)
            .await
    } else {
        let connection = http1::Builder::new()
            .header_read_timeout(None)
            .max_header_size(settings.max_header_bytes)
            .max_buf_size(settings.max_header_bytes.max(64 * 1024))
            .serve_connection(TokioIo::new(front), service)
            .with_upgrades();
        watched
            .run(connection, http1::UpgradeableConnection::graceful_shutdown)
            .await
    }
}

/// Reads until it is clear which HTTP is spoken. No bytes: the client left.
pub(crate) async fn sniff(stream: &mut TcpStream) -> io::Result<(Bytes, bool)> {
    let mut first = [0; PREFACE.len()];
    let mut len = 0;
    loop {
        let count = stream.read(&mut first[len..]).await?;
        len += count;
        let read = &first[..len];
        let is_http2 = len == PREFACE.len() && read == PREFACE;
        if count == 0 || is_http2 || !PREFACE.starts_with(read) {
            return Ok((Bytes::copy_from_slice(read), is_http2));
        }
    }
}

/// A connection with its watchdog.
struct Watched {
    client: Arc<Client>,
    watchdog: Watchdog,
    told: bool,
}

impl Watched {
    async fn run<C, E>(mut self, connection: C, shut: impl Fn(Pin<&mut C>)) -> Result<(), Failure>
    where
        C: Future<Output = Result<(), E>>,
        E: Into<Failure>,
    {
        tokio::pin!(connection);
        std::future::poll_fn(|cx| {
            let place = &self.client.place;
            place.watch.register(cx);
            if place.watch.is_killed() {
                return Poll::Ready(Err("the time to drain is over".into()));
            }
            if place.watch.is_draining() && !std::mem::replace(&mut self.told, true) {
                shut(connection.as_mut());
            }
            if let Poll::Ready(result) = connection.as_mut().poll(cx) {
                return Poll::Ready(result.map_err(Into::into));
            }
            let crowded = is_crowded(&self.client.proxy);
            ready!(self.watchdog.poll(cx, &place.watch, crowded));
            Poll::Ready(Err("the client was too slow".into()))
        })
        .await
    }
}

fn is_crowded(proxy: &Inner) -> bool {
    let open = proxy.counters.connections.load(Ordering::Relaxed);
    open > proxy.settings.max_connections as u64 / 4 * 3
}

/// How long a connection may do too little.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// For a head, from its first byte.
    pub(crate) head: Duration,
    /// Without a byte, between requests or while the client does not read its answer.
    pub(crate) idle: Duration,
    /// Without a byte in a request.
    pub(crate) busy: Duration,
}

impl Limits {
    pub(super) fn of(settings: &ProxySettings) -> Self {
        Self {
            head: settings.header_timeout,
            idle: settings.idle_timeout,
            // The units' own deadlines strike first, so that the client gets a page.
            busy: settings
                .idle_timeout
                .max(settings.first_byte_timeout + settings.connect_timeout * 2 + Duration::from_secs(1)),
        }
    }
}

/// Ends a connection on which too little happens. It wakes a few times per deadline and looks whether
/// the counters have moved, so that requests themselves touch no timer.
pub(crate) struct Watchdog {
    sleep: Pin<Box<Sleep>>,
    tick: Duration,
    limits: Limits,
    moves: (u32, Instant),
    heads: (u32, Instant),
}

impl Watchdog {
    pub(crate) fn new(limits: Limits) -> Self {
        let tick = (limits.head.min(limits.idle) / 4).clamp(Duration::from_millis(5), Duration::from_secs(5));
        let now = Instant::now();
        Self {
            sleep: Box::pin(sleep(tick)),
            tick,
            limits,
            moves: (0, now),
            heads: (0, now),
        }
    }

    /// Ready when a head takes too long or nothing moves.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, watch: &Watch, crowded: bool) -> Poll<()> {
        ready!(self.poll_tick(cx, |this, now| {
            let heads = watch.heads();
            if this.heads.0 != heads {
                this.heads = (heads, now);
            }
            let idle = this.idle_for(now, watch);
            let in_head = heads % 2 == 1;
            (in_head && now - this.heads.1 >= this.limits.head)
                || idle
                    >= if watch.is_busy() && !watch.is_stuck() {
                        this.limits.busy
                    } else {
                        this.limits.idle
                    }
                || (crowded && !watch.is_busy() && idle >= this.limits.head)
        }));
        Poll::Ready(())
    }

    /// Ready when nothing moves in a tunnel.
    pub(super) fn poll_idle(&mut self, cx: &mut Context<'_>, watch: &Watch) -> Poll<()> {
        self.poll_tick(cx, |this, now| this.idle_for(now, watch) >= this.limits.idle)
    }

    fn idle_for(&mut self, now: Instant, watch: &Watch) -> Duration {
        let moves = watch.moves();
        if self.moves.0 != moves {
            self.moves = (moves, now);
        }
        now - self.moves.1
    }

    fn poll_tick(
        &mut self,
        cx: &mut Context<'_>,
        mut is_over: impl FnMut(&mut Self, Instant) -> bool,
    ) -> Poll<()> {
        loop {
            ready!(self.sleep.as_mut().poll(cx));
            let now = Instant::now();
            if is_over(self, now) {
                return Poll::Ready(());
            }
            self.sleep.as_mut().reset(now + self.tick);
        }
    }
}
