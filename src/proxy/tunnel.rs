//! Tunnels: after a 101, bytes are copied both ways until either side closes, nothing moves for
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

use super::connections::conn_timeouts;
use super::forward::ClientConn;
use super::upstream_conn::ResponseHead;
use super::upstream_request::UpstreamRequest;
use crate::net::ConnWatchdog;

/// Builds the 101 for the client and starts the tunnel, which waits until the 101 is written.
pub(super) fn accept_upgrade(
    client: &Arc<ClientConn>,
    answer: ResponseHead,
    exchange: UpstreamRequest,
    on_upgrade: OnUpgrade,
) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = answer.headers;
    response
        .headers_mut()
        .insert(CONNECTION, HeaderValue::from_static("upgrade"));
    let tunnel = run_tunnel(Arc::clone(client), exchange, on_upgrade);
    client.tunnels.spawn(tunnel);
    response
}

/// Counts a tunnel as open until dropped.
struct OpenTunnel(Arc<ClientConn>);

impl OpenTunnel {
    fn new(client: Arc<ClientConn>) -> Self {
        client.proxy.counters.tunnels.fetch_add(1, Ordering::Relaxed);
        Self(client)
    }
}

impl Drop for OpenTunnel {
    fn drop(&mut self) {
        self.0.proxy.counters.tunnels.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn run_tunnel(client: Arc<ClientConn>, exchange: UpstreamRequest, on_upgrade: OnUpgrade) {
    // If the 101 cannot be written, the client's connection ends, and this returns an error.
    let Ok(upgraded) = on_upgrade.await else {
        return;
    };
    let open = OpenTunnel::new(client);
    let (unit, early, _lease) = exchange.into_tunnel();
    let copy = copy_tunnel_bytes(upgraded, unit, &early);
    tokio::pin!(copy);
    let watch = &open.0.slot.state;
    let mut watchdog = ConnWatchdog::new(conn_timeouts(&open.0.proxy.settings));
    let end = std::future::poll_fn(|cx| {
        watch.register_waker(cx);
        if watch.is_force_closed() || watchdog.poll_idle(cx, watch).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        copy.as_mut().poll(cx)
    })
    .await;
    if let Err(cause) = end {
        debug!(error = %cause, "tunnel ended with an error");
    }
}

async fn copy_tunnel_bytes(client: Upgraded, mut unit: TcpStream, early: &[u8]) -> io::Result<()> {
    let mut client = TokioIo::new(client);
    client.write_all(early).await?;
    copy_bidirectional(&mut client, &mut unit).await?;
    Ok(())
}
