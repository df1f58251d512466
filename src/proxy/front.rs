//! The client's side of a connection: who watches it, and the socket that hyper reads from. What may not
//! pass is spoiled on the way ([`super::follow`]).
//!
//! A request may be answered before its body has come (413, 404). To close then would reset the connection,
//! and the client, still sending, would lose the answer; so the rest is taken and thrown away for a moment
//! first (RFC 9112, 9.6).

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use super::follow::Follow;

/// How long the rest of a body is taken after its answer.
const LINGER: Duration = Duration::from_secs(5);

/// What the connection's task, its socket and its requests tell each other. Counters instead of
/// instants: nobody reads a clock per request.
#[derive(Default)]
pub(crate) struct Watch {
    /// Goes up with every read and write.
    moves: AtomicU32,
    /// Twice the number of heads begun; odd while one is being read.
    heads: AtomicU32,
    in_flight: AtomicU32,
    /// The last write had to wait for the client to read.
    stuck: AtomicBool,
    draining: AtomicBool,
    killed: AtomicBool,
    waker: AtomicWaker,
}

impl Watch {
    pub(super) fn moves(&self) -> u32 {
        self.moves.load(Ordering::Relaxed)
    }

    pub(super) fn heads(&self) -> u32 {
        self.heads.load(Ordering::Relaxed)
    }

    pub(super) fn is_stuck(&self) -> bool {
        self.stuck.load(Ordering::Relaxed)
    }

    pub(super) fn is_busy(&self) -> bool {
        self.in_flight.load(Ordering::Relaxed) > 0
    }

    pub(crate) fn begin(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn end(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// Asks the connection to close once its requests are answered.
    pub(super) fn drain(&self) {
        self.draining.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Closes the connection now.
    pub(super) fn kill(&self) {
        self.killed.store(true, Ordering::Release);
        self.waker.wake();
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    pub(super) fn is_killed(&self) -> bool {
        self.killed.load(Ordering::Acquire)
    }

    /// Whoever drives the connection is to be woken by `drain` and `kill`.
    pub(super) fn register(&self, cx: &Context<'_>) {
        self.waker.register(cx.waker());
    }

    fn wrote(&self, is_ready: bool) {
        self.stuck.store(!is_ready, Ordering::Relaxed);
        if is_ready {
            self.moved();
        }
    }

    fn moved(&self) {
        self.moves.fetch_add(1, Ordering::Relaxed);
    }
}

/// The socket of a client. `W` is what keeps the watch (and with it the connection's place among all)
/// alive for as long as the socket is.
pub(crate) struct Front<W> {
    stream: TcpStream,
    /// Read while it was found out which HTTP is spoken.
    early: Bytes,
    follow: Follow,
    watch: W,
    /// Set when this side has closed.
    lingering: Option<Pin<Box<Sleep>>>,
}

impl<W: AsRef<Watch>> Front<W> {
    pub(crate) fn new(stream: TcpStream, early: Bytes, is_http1: bool, watch: W) -> Self {
        Self {
            stream,
            early,
            follow: Follow::new(is_http1),
            watch,
            lingering: None,
        }
    }

    /// Throws away what the client still sends of a body, for a while.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let end = self
            .lingering
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER)));
        let mut scrap = [0; 16 << 10];
        while self.follow.owes_body() && end.as_mut().poll(cx).is_pending() {
            let mut buf = ReadBuf::new(&mut scrap);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buf) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => self.follow.read(buf.filled_mut()),
                // The client has closed too; what went wrong with it is no matter any more.
                Poll::Ready(_) => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<W: AsRef<Watch> + Unpin> AsyncRead for Front<W> {
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
        let watch = this.watch.as_ref();
        watch.moved();
        this.follow.read(&mut buf.filled_mut()[before..]);
        watch.heads.store(this.follow.heads(), Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl<W: AsRef<Watch> + Unpin> AsyncWrite for Front<W> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.watch.as_ref().wrote(result.is_ready());
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.watch.as_ref().wrote(result.is_ready());
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingering.is_none() {
            std::task::ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        }
        self.poll_linger(cx)
    }
}
