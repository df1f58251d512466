//! The API's connections: how many, how slow, how large a head. What a request may do is for the layers
//! around the handlers; here is what happens before there is one, and when a client does not read.
//!
//! The same watch as the router's ([`crate::proxy::Front`]): a request whose length can be read in two ways
//! is refused with 400, so that nobody smuggles one past a load balancer in front of us.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request};
use http_body::Frame;
use hyper::body::{Body as HttpBody, Incoming, SizeHint};
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::proxy::{Front, Limits, Watch, Watchdog, sniff};

/// For a head from its first byte, and for the first byte of a new connection.
const HEAD: Duration = Duration::from_secs(15);
/// Between requests; longer than load balancers keep theirs.
const IDLE: Duration = Duration::from_secs(75);
/// Answers that follow a log may be silent for as long as the log is.
const BUSY: Duration = Duration::from_secs(365 * 24 * 3600);
const LARGEST_HEAD: usize = 32 * 1024;
const MOST_STREAMS: u32 = 128;
/// For the first byte of a connection when the server is stopping.
const LATE: Duration = Duration::from_secs(1);
/// After `accept` failed (no descriptor left): time for others to close.
const PAUSE: Duration = Duration::from_millis(50);

/// Bounds of one server.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Connections at once; more have to wait.
    pub connections: usize,
    limits: Limits,
}

impl Bounds {
    /// The usual times.
    pub fn new(connections: usize) -> Self {
        let (head, idle, busy) = (HEAD, IDLE, BUSY);
        Self {
            connections,
            limits: Limits { head, idle, busy },
        }
    }

    /// With shorter times, for tests.
    #[must_use]
    pub fn within(mut self, head: Duration, idle: Duration) -> Self {
        (self.limits.head, self.limits.idle) = (head, idle);
        self
    }
}

/// Serves a listener until `stop`, then lets requests under way finish.
pub async fn serve(listener: TcpListener, app: Router, bounds: Bounds, stop: CancellationToken) {
    let room = Arc::new(Semaphore::new(bounds.connections));
    let tasks = TaskTracker::new();
    loop {
        let accepted = async {
            let place = Arc::clone(&room).acquire_owned().await;
            (listener.accept().await, place)
        };
        // When it is told to stop, those whom the kernel has let in already are still served: a load balancer
        // may have sent its request, and must not send one that changes something twice.
        let (accepted, place) = tokio::select! {
            biased;
            accepted = accepted => accepted,
            () = stop.cancelled() => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                let (app, stop) = (app.clone(), stop.clone());
                tasks.spawn(async move {
                    if let Err(cause) = converse(stream, peer, app, bounds.limits, stop).await {
                        tracing::debug!(cause, "a client's connection ended");
                    }
                    drop(place);
                });
            }
            Err(cause) => {
                tracing::debug!(%cause, "cannot accept a connection");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    drop(listener);
    tasks.close();
    tasks.wait().await;
}

/// What a connection's socket and its requests tell the watchdog.
#[derive(Clone, Default)]
struct Shared(Arc<Watch>);

impl AsRef<Watch> for Shared {
    fn as_ref(&self) -> &Watch {
        &self.0
    }
}

async fn converse(
    mut stream: TcpStream,
    peer: SocketAddr,
    app: Router,
    limits: Limits,
    stop: CancellationToken,
) -> Result<(), String> {
    // Answers are small; waiting to fill a packet only costs time.
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let late = async {
        stop.cancelled().await;
        tokio::time::sleep(LATE).await;
    };
    let sniffed = tokio::select! {
        sniffed = tokio::time::timeout(limits.head, sniff(&mut stream)) => sniffed,
        () = late => return Ok(()),
    };
    let (early, is_http2) = match sniffed {
        Err(_) => return Err("the client said nothing".into()),
        Ok(sniffed) => sniffed.map_err(|error| error.to_string())?,
    };
    if early.is_empty() {
        return Ok(());
    }
    let shared = Shared::default();
    let io = TokioIo::new(Front::new(stream, early, !is_http2, shared.clone()));
    let watch = shared.clone();
    let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        let busy = Busy::new(watch.clone());
        let mut request: Request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(peer));
        let answer = app.clone().oneshot(request);
        async move {
            answer
                .await
                .map(|answer| answer.map(|body| Watched { body, _busy: busy }))
        }
    });
    if is_http2 {
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(MOST_STREAMS)
            .max_header_list_size(LARGEST_HEAD as u32)
            .serve_connection(io, service);
        watched(
            connection,
            http2::Connection::graceful_shutdown,
            &shared.0,
            limits,
            stop,
        )
        .await
    } else {
        let connection = http1::Builder::new()
            .header_read_timeout(None)
            .max_header_size(LARGEST_HEAD)
            .serve_connection(io, service)
            .with_upgrades();
        watched(
            connection,
            http1::UpgradeableConnection::graceful_shutdown,
            &shared.0,
            limits,
            stop,
        )
        .await
    }
}

/// Drives a connection until it ends, or its watchdog ends it.
async fn watched<C, E>(
    connection: C,
    shut: impl Fn(Pin<&mut C>),
    watch: &Watch,
    limits: Limits,
    stop: CancellationToken,
) -> Result<(), String>
where
    C: Future<Output = Result<(), E>>,
    E: std::fmt::Display,
{
    let mut watchdog = Watchdog::new(limits);
    let mut stopping = Some(Box::pin(stop.cancelled_owned()));
    tokio::pin!(connection);
    poll_fn(|cx| {
        // First, so that a request that has come is taken before its connection is told to take no more.
        if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
            return Poll::Ready(ended.map_err(|error| error.to_string()));
        }
        if let Some(told) = &mut stopping
            && told.as_mut().poll(cx).is_ready()
        {
            stopping = None;
            shut(connection.as_mut());
            if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                return Poll::Ready(ended.map_err(|error| error.to_string()));
            }
        }
        watchdog
            .poll(cx, watch, false)
            .map(|()| Err("the client was too slow".into()))
    })
    .await
}

/// A request under way, from its head to the end of its answer.
struct Busy(Shared);

impl Busy {
    fn new(shared: Shared) -> Self {
        shared.0.begin();
        Self(shared)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.0.end();
    }
}

/// The body of an answer, which is under way for as long as it lives.
struct Watched {
    body: Body,
    _busy: Busy,
}

impl HttpBody for Watched {
    type Data = bytes::Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
