//! Tunnels: after a 101 the bytes pass both ways until either side closes, nothing moves for
//! `idle_timeout`, or the proxy has drained.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;

use http::header::{CONNECTION, HeaderValue};
use http::{Response, StatusCode};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncWriteExt, copy_bidirectional};
use tokio::net::TcpStream;
use tracing::debug;

use super::exchange::Exchange;
use super::forward::Client;
use super::serve::{Limits, Watchdog};
use super::wire::Answer;

/// Makes the 101 for the client and starts the tunnel, which waits until the 101 is written.
pub(super) fn accept(
    client: &Arc<Client>,
    answer: Answer,
    exchange: Exchange,
    on_upgrade: OnUpgrade,
) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = answer.headers;
    response
        .headers_mut()
        .insert(CONNECTION, HeaderValue::from_static("upgrade"));
    let tunnel = tunnel(Arc::clone(client), exchange, on_upgrade);
    client.tunnels.spawn(tunnel);
    response
}

/// Counts a tunnel as open.
struct Open(Arc<Client>);

impl Open {
    fn new(client: Arc<Client>) -> Self {
        client.proxy.counters.tunnels.fetch_add(1, Ordering::Relaxed);
        Self(client)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.proxy.counters.tunnels.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn tunnel(client: Arc<Client>, exchange: Exchange, on_upgrade: OnUpgrade) {
    // Without the 101 written the client's connection ends, and this with an error.
    let Ok(upgraded) = on_upgrade.await else {
        return;
    };
    let open = Open::new(client);
    let (unit, early, _lease) = exchange.into_tunnel();
    let copy = copy(upgraded, unit, &early);
    tokio::pin!(copy);
    let watch = &open.0.place.watch;
    let mut watchdog = Watchdog::new(Limits::of(&open.0.proxy.settings));
    let end = std::future::poll_fn(|cx| {
        watch.register(cx);
        if watch.is_killed() || watchdog.poll_idle(cx, watch).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        copy.as_mut().poll(cx)
    })
    .await;
    if let Err(cause) = end {
        debug!(%cause, "a tunnel ended");
    }
}

async fn copy(client: Upgraded, mut unit: TcpStream, early: &[u8]) -> io::Result<()> {
    let mut client = TokioIo::new(client);
    client.write_all(early).await?;
    copy_bidirectional(&mut client, &mut unit).await?;
    Ok(())
}
