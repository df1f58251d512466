//! The client's side of a connection: its state, and the socket that hyper reads from. Requests that must not
//! pass are corrupted on the way (`framing_guard`).
//!
//! A request may be answered before its body has arrived (413, 404). Closing then would reset the connection,
//! and the client, which is still sending, would lose the response. So the rest of the body is read and
//! discarded for a short time first (RFC 9112 §9.6). Such a response says `Connection: close`
//! ([`close_if_body_is_unread`]); otherwise the client would send its next request on a closing connection.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::task::AtomicWaker;
use http::header::CONNECTION;
use http::{HeaderValue, Response};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use crate::net::framing_guard::FramingGuard;

/// How long the rest of a body is read after the response.
const LINGER_TIME: Duration = Duration::from_secs(5);

/// The state shared by the connection's task, its socket and its requests. Counters instead of instants, so
/// that no request reads a clock.
#[derive(Default)]
pub(crate) struct ConnState {
    /// Incremented with every read and write.
    io_count: AtomicU32,
    /// Twice the number of heads begun; odd while one is being read.
    head_counter: AtomicU32,
    in_flight: AtomicU32,
    /// The body of the last request has not arrived completely.
    in_body: AtomicBool,
    /// The last write had to wait for the client to read.
    write_blocked: AtomicBool,
    draining: AtomicBool,
    ending: AtomicBool,
    force_closed: AtomicBool,
    waker: AtomicWaker,
}

impl ConnState {
    pub(crate) fn io_count(&self) -> u32 {
        self.io_count.load(Ordering::Relaxed)
    }

    pub(crate) fn head_counter(&self) -> u32 {
        self.head_counter.load(Ordering::Relaxed)
    }

    pub(crate) fn is_write_blocked(&self) -> bool {
        self.write_blocked.load(Ordering::Relaxed)
    }

    fn is_in_body(&self) -> bool {
        self.in_body.load(Ordering::Relaxed)
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.in_flight.load(Ordering::Relaxed) > 0
    }

    pub(crate) fn begin_request(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn end_request(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// Makes the connection close when its requests are answered.
    pub(crate) fn start_drain(&self) {
        self.draining.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Makes the connection end with its next response, or when it has been idle for too long: a client may be about to
    /// send a request on it.
    pub(crate) fn end_after_response(&self) {
        self.ending.store(true, Ordering::Release);
        self.waker.wake();
    }

    pub(crate) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Acquire)
    }

    /// Closes the connection now.
    pub(crate) fn force_close(&self) {
        self.force_closed.store(true, Ordering::Release);
        self.waker.wake();
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    pub(crate) fn is_force_closed(&self) -> bool {
        self.force_closed.load(Ordering::Acquire)
    }

    /// Registers the task that drives the connection, to be woken by `start_drain` and `force_close`.
    pub(crate) fn register_waker(&self, cx: &Context<'_>) {
        self.waker.register(cx.waker());
    }

    fn record_write(&self, is_ready: bool) {
        self.write_blocked.store(!is_ready, Ordering::Relaxed);
        if is_ready {
            self.record_io();
        }
    }

    fn record_io(&self) {
        self.io_count.fetch_add(1, Ordering::Relaxed);
    }
}

/// Adds `Connection: close` to an HTTP/1 response after which hyper closes the connection: the body of the
/// request has not arrived completely, or it is chunked and was refused without being read.
pub(crate) fn close_if_body_is_unread<B>(conn: &ConnState, is_chunked: bool, response: &mut Response<B>) {
    let is_refused = response.status().is_client_error() || response.status().is_server_error();
    if conn.is_in_body() || (is_chunked && is_refused) {
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
    }
}

/// The socket of a client, or a protocol layer over it. `W` keeps the state (and with it the connection's
/// slot) alive as long as the socket.
pub(crate) struct ClientIo<S, W> {
    stream: S,
    /// Bytes read while the HTTP version was detected.
    early: Bytes,
    framing: FramingGuard,
    state: W,
    /// Set when this side has closed.
    linger_timer: Option<Pin<Box<Sleep>>>,
}

impl<S: AsyncRead + Unpin, W: AsRef<ConnState>> ClientIo<S, W> {
    pub(crate) fn new(stream: S, early: Bytes, is_http1: bool, state: W) -> Self {
        Self {
            stream,
            early,
            framing: FramingGuard::new(is_http1),
            state,
            linger_timer: None,
        }
    }

    /// Reads and discards the rest of the client's body, for a limited time.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let end = self
            .linger_timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER_TIME)));
        let mut scrap = [0; 16 << 10];
        while self.framing.is_in_body() && end.as_mut().poll(cx).is_pending() {
            let mut buf = ReadBuf::new(&mut scrap);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buf) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => {
                    self.framing.inspect_bytes(buf.filled_mut())
                }
                // The client has closed too; errors no longer matter.
                Poll::Ready(_) => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin, W: AsRef<ConnState> + Unpin> AsyncRead for ClientIo<S, W> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        if this.early.is_empty() {
            match Pin::new(&mut this.stream).poll_read(cx, buf) {
                Poll::Ready(Ok(())) => {}
                other => return other,
            }
        } else {
            let count = this.early.len().min(buf.remaining());
            buf.put_slice(&this.early[..count]);
            this.early.advance(count);
        }
        let watch = this.state.as_ref();
        watch.record_io();
        this.framing.inspect_bytes(&mut buf.filled_mut()[before..]);
        watch
            .head_counter
            .store(this.framing.head_counter(), Ordering::Relaxed);
        watch.in_body.store(this.framing.is_in_body(), Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin, W: AsRef<ConnState> + Unpin> AsyncWrite for ClientIo<S, W> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.state.as_ref().record_write(result.is_ready());
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.state.as_ref().record_write(result.is_ready());
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.linger_timer.is_none() {
            std::task::ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        }
        self.poll_linger(cx)
    }
}
