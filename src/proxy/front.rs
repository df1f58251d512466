//! The client's side of a connection: who watches it, and the socket that hyper reads from.
//!
//! hyper takes a request with both a length and a transfer coding as chunked and says nothing. That is
//! safe for our units and unsafe for a proxy in front of us, so [`Front`] follows the framing of what
//! hyper reads, and spoils the second of the two lines: hyper then answers 400 and closes, in the right
//! order even when requests are pipelined. A mistake in following can only miss or spoil a request of
//! the same client.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::chunks::{Chunks, Next};
use super::headers;

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
}

impl<W: AsRef<Watch>> Front<W> {
    pub(crate) fn new(stream: TcpStream, early: Bytes, is_http1: bool, watch: W) -> Self {
        let follow = Follow {
            place: if is_http1 { Place::Between } else { Place::Blind },
            ..Follow::default()
        };
        Self {
            stream,
            early,
            follow,
            watch,
        }
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
        let heads = this.follow.heads * 2 + u32::from(this.follow.in_head());
        watch.heads.store(heads, Ordering::Relaxed);
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
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// As much of a line as tells its name and a length; the rest is only counted.
const KEPT: usize = 64;

/// Where in the client's stream of requests we are.
struct Follow {
    place: Place,
    line: [u8; KEPT],
    line_len: usize,
    length: Option<u64>,
    coded: bool,
    upgrade: bool,
    /// Heads begun so far.
    heads: u32,
}

#[derive(Clone, Copy)]
enum Place {
    /// Before the first byte of a head; empty lines may stand here.
    Between,
    Head,
    Skip(u64),
    Chunked(Chunks),
    Trailers,
    /// No longer HTTP/1.1, or hyper will refuse it by itself.
    Blind,
}

impl Default for Follow {
    fn default() -> Self {
        Self {
            place: Place::Between,
            line: [0; KEPT],
            line_len: 0,
            length: None,
            coded: false,
            upgrade: false,
            heads: 0,
        }
    }
}

impl Follow {
    fn in_head(&self) -> bool {
        matches!(self.place, Place::Head)
    }

    /// Follows what was read, and spoils in it what must not pass.
    fn read(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            let taken = match &mut self.place {
                Place::Blind => return,
                Place::Between if matches!(bytes[0], b'\r' | b'\n') => 1,
                Place::Between => {
                    self.begin_head();
                    0
                }
                Place::Head | Place::Trailers => self.read_line(bytes),
                Place::Skip(left) => {
                    let count = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= count as u64;
                    if *left == 0 {
                        self.place = Place::Between;
                    }
                    count
                }
                Place::Chunked(chunks) => match chunks.step(bytes) {
                    Ok((skip, Next::More)) => skip,
                    Ok((skip, Next::Data(left))) => {
                        let here = bytes.len() - skip;
                        let count = here.min(usize::try_from(left).unwrap_or(usize::MAX));
                        chunks.took(count as u64);
                        skip + count
                    }
                    Ok((skip, Next::Last)) => {
                        self.place = Place::Trailers;
                        skip
                    }
                    Err(_) => {
                        self.place = Place::Blind;
                        return;
                    }
                },
            };
            bytes = &mut bytes[taken..];
        }
    }

    fn begin_head(&mut self) {
        self.place = Place::Head;
        self.heads = self.heads.wrapping_add(1) & (u32::MAX >> 1);
        self.line_len = 0;
        self.length = None;
        self.coded = false;
        self.upgrade = false;
    }

    /// Takes bytes up to the end of a line or of all; spoils the line's end if it must not pass.
    fn read_line(&mut self, bytes: &mut [u8]) -> usize {
        let end = bytes.iter().position(|b| *b == b'\n');
        let part = &bytes[..end.unwrap_or(bytes.len())];
        if self.line_len < KEPT {
            let count = part.len().min(KEPT - self.line_len);
            self.line[self.line_len..self.line_len + count].copy_from_slice(&part[..count]);
        }
        self.line_len = self.line_len.saturating_add(part.len());
        let Some(end) = end else {
            return bytes.len();
        };
        if !self.end_line() {
            bytes[end] = 0;
            self.place = Place::Blind;
        }
        self.line_len = 0;
        end + 1
    }

    /// Reads a whole line. False when the head may not pass.
    fn end_line(&mut self) -> bool {
        let kept = self.line;
        let line = &kept[..self.line_len.min(KEPT)];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            self.end_head();
            return true;
        }
        if matches!(self.place, Place::Trailers) {
            return true;
        }
        // Only the two names and `upgrade` matter; none of them begins with another letter.
        if !matches!(line[0], b'c' | b'C' | b't' | b'T' | b'u' | b'U') {
            return true;
        }
        let Some(colon) = line.iter().position(|b| *b == b':') else {
            return true;
        };
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        if name.eq_ignore_ascii_case(b"content-length") {
            self.length = headers::length(value.trim_ascii()).or(self.length).or(Some(0));
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            // One coding, once: everything else is a trick or a thing of the past.
            if self.coded || !value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                return false;
            }
            self.coded = true;
        } else if name.eq_ignore_ascii_case(b"upgrade") {
            self.upgrade = true;
        }
        !(self.coded && self.length.is_some())
    }

    fn end_head(&mut self) {
        self.place = match self.place {
            Place::Trailers => Place::Between,
            // What follows may be another protocol. If it is not, the connection is closed after the
            // answer (`forward`).
            _ if self.upgrade => Place::Blind,
            _ if self.coded => Place::Chunked(Chunks::default()),
            _ => match self.length {
                Some(length) if length > 0 => Place::Skip(length),
                _ => Place::Between,
            },
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes after a head, or `None` when it was spoiled; in pieces of every size.
    fn passes(raw: &str) -> bool {
        let verdicts: Vec<bool> = [1, 2, 3, 7, 1000]
            .into_iter()
            .map(|size| {
                let mut follow = Follow::default();
                let mut bytes = raw.as_bytes().to_vec();
                for piece in bytes.chunks_mut(size) {
                    follow.read(piece);
                }
                bytes == raw.as_bytes()
            })
            .collect();
        assert!(
            verdicts.iter().all(|v| *v == verdicts[0]),
            "pieces matter: {verdicts:?}"
        );
        verdicts[0]
    }

    #[test]
    fn a_length_and_a_coding_together_are_spoiled() {
        assert!(!passes(
            "POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
        ));
        assert!(!passes(
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n"
        ));
        assert!(!passes(
            "POST / HTTP/1.1\ntransfer-encoding: chunked\ncontent-length: 3\n\n"
        ));
    }

    #[test]
    fn a_coding_other_than_chunked_is_spoiled() {
        for coding in [
            "gzip, chunked",
            "identity",
            "xchunked",
            "chunked, chunked",
            "\"chunked\"",
        ] {
            assert!(
                !passes(&format!("POST / HTTP/1.1\r\nTransfer-Encoding: {coding}\r\n\r\n")),
                "{coding}"
            );
        }
        assert!(passes(
            "POST / HTTP/1.1\r\nTransfer-Encoding:  Chunked \r\n\r\n0\r\n\r\n"
        ));
    }

    #[test]
    fn what_stands_in_a_body_is_left_alone() {
        let trick = "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n";
        let sized = format!(
            "POST / HTTP/1.1\r\nContent-Length: {}\r\n\r\n{trick}",
            trick.len()
        );
        assert!(passes(&sized.repeat(2)));
        let chunked = format!(
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{:x};a=b\r\n{trick}\r\n0\r\nContent-Length: 1\r\n\r\n",
            trick.len()
        );
        assert!(passes(&chunked.repeat(2)));
    }

    #[test]
    fn the_second_of_two_requests_is_spoiled_too() {
        let good = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let sized = "POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nab";
        let chunked = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n";
        let bad = "POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n";
        for first in [good, sized, chunked] {
            assert!(passes(&format!("{first}{first}")), "{first}");
            assert!(!passes(&format!("{first}\r\n{bad}")), "{first}");
        }
    }
}
