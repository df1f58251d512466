//! A connection to a unit, HTTP/1.1, and the reading of an answer's head.
//!
//! Own code rather than hyper's client, for two reasons: a request is driven by the task that serves
//! the client (no second task, no channels between them), and we know exactly how far it came, which is
//! what decides whether it may be sent again.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio_util::io::poll_read_buf;

use super::chunks::Chunks;
use super::headers::{self, ConnectionHeader};

/// Heads of answers beyond this are refused.
const LONGEST_HEAD: usize = 64 * 1024;
const MOST_HEADERS: usize = 128;
const SMALL_READ: usize = 8 * 1024;
const LARGE_READ: usize = 64 * 1024;

/// See the module.
pub(super) struct Wire {
    stream: TcpStream,
    /// Read and not yet taken.
    pub(super) input: BytesMut,
    /// To be written: a head or the framing of a chunk, then data, then what ends the chunk.
    pub(super) output: Vec<u8>,
    written: usize,
    data: Bytes,
    tail: &'static [u8],
    /// An earlier request was answered on it.
    reused: bool,
}

impl Wire {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            input: BytesMut::new(),
            output: Vec::with_capacity(1024),
            written: 0,
            data: Bytes::new(),
            tail: &[],
            reused: false,
        }
    }

    /// Made ready to idle: without the large buffers that one large body asked for.
    pub(super) fn rested(mut self) -> Self {
        self.reused = true;
        if self.input.capacity() > 2 * SMALL_READ {
            self.input = BytesMut::new();
        }
        self.output.shrink_to(2 * SMALL_READ);
        self
    }

    pub(super) fn is_reused(&self) -> bool {
        self.reused
    }

    /// False when the unit closed the connection or sent something that nobody asked for.
    pub(super) fn is_alive(&self) -> bool {
        let mut probe = [0; 1];
        matches!(self.stream.try_read(&mut probe), Err(e) if e.kind() == io::ErrorKind::WouldBlock)
    }

    /// Nothing waits to be read or written: the next request may follow.
    pub(super) fn is_clean(&self) -> bool {
        self.input.is_empty() && self.is_flushed()
    }

    /// Nothing waits to be written.
    pub(super) fn is_flushed(&self) -> bool {
        self.output.is_empty() && self.data.is_empty() && self.tail.is_empty()
    }

    /// Queues data behind what is in `output`, and what ends it.
    pub(super) fn queue(&mut self, data: Bytes, tail: &'static [u8]) {
        self.data = data;
        self.tail = tail;
    }

    /// Writes all that is queued. Returns how many bytes this call has written before it had to wait.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>, sent: &mut u64) -> Poll<io::Result<()>> {
        while !self.is_flushed() {
            let head = &self.output[self.written..];
            let stream = Pin::new(&mut self.stream);
            let count = if self.data.is_empty() && self.tail.is_empty() {
                ready!(stream.poll_write(cx, head))?
            } else {
                let slices = [
                    IoSlice::new(head),
                    IoSlice::new(&self.data),
                    IoSlice::new(self.tail),
                ];
                ready!(stream.poll_write_vectored(cx, &slices))?
            };
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            *sent += count as u64;
            self.advance(count);
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, mut count: usize) {
        let head = count.min(self.output.len() - self.written);
        self.written += head;
        count -= head;
        if self.written == self.output.len() {
            self.output.clear();
            self.written = 0;
        }
        let data = count.min(self.data.len());
        self.data.advance(data);
        self.tail = &self.tail[count - data..];
    }

    /// Reads more into `input`; 0 is the end. `expected` is how many bytes are sure to come.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>, expected: u64) -> Poll<io::Result<usize>> {
        let size = if expected > SMALL_READ as u64 {
            LARGE_READ
        } else {
            SMALL_READ
        };
        if self.input.capacity() - self.input.len() < size / 2 {
            self.input.reserve(size);
        }
        poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.input)
    }

    /// The bare connection, and what was read beyond the head: for a tunnel.
    pub(super) fn into_tunnel(self) -> (TcpStream, BytesMut) {
        (self.stream, self.input)
    }

    /// Takes the head of an answer off `input`. `None` when it is not whole yet.
    pub(super) fn parse_head(&mut self, method: &Method) -> Result<Option<Answer>, Nonsense> {
        let mut room = [const { MaybeUninit::uninit() }; MOST_HEADERS];
        let mut parsed = httparse::Response::new(&mut []);
        let parser = httparse::ParserConfig::default();
        let len = match parser.parse_response_with_uninit_headers(&mut parsed, &self.input, &mut room) {
            Ok(httparse::Status::Complete(len)) => len,
            Ok(httparse::Status::Partial) if self.input.len() < LONGEST_HEAD => return Ok(None),
            Ok(httparse::Status::Partial) => return Err(Nonsense("its head is too long")),
            Err(_) => return Err(Nonsense("its head is malformed")),
        };
        let base = self.input.as_ptr() as usize;
        let span = |part: &[u8]| {
            let start = part.as_ptr() as usize - base;
            start..start + part.len()
        };
        let status = parsed
            .code
            .and_then(|code| StatusCode::from_u16(code).ok())
            .ok_or(Nonsense("its status is malformed"))?;
        let mut connection = ConnectionHeader::default();
        for header in parsed
            .headers
            .iter()
            .filter(|h| h.name.eq_ignore_ascii_case("connection"))
        {
            connection.add(header.value);
        }
        let keeps_alive = if parsed.version == Some(1) {
            !connection.close
        } else {
            connection.keep_alive
        };
        let switches = status == StatusCode::SWITCHING_PROTOCOLS;
        let mut lines = Lines::default();
        let mut kept = Vec::with_capacity(parsed.headers.len());
        for header in parsed.headers.iter() {
            let name = HeaderName::from_bytes(header.name.as_bytes()).map_err(|_| BAD_HEADER)?;
            lines.see(&name, header.value)?;
            let upgrade = switches && name == http::header::UPGRADE;
            if upgrade || !(headers::is_hop_by_hop(&name) || connection.names(&name)) {
                kept.push((name, span(header.value)));
            }
        }
        let head = self.input.split_to(len).freeze();
        let mut map = HeaderMap::with_capacity(kept.len() + 2);
        for (name, span) in kept {
            let value = HeaderValue::from_maybe_shared(head.slice(span)).map_err(|_| BAD_HEADER)?;
            map.append(name, value);
        }
        if lines.coded {
            map.remove(http::header::CONTENT_LENGTH);
        }
        let framing = lines.framing(method, status);
        let keeps_alive = keeps_alive && !matches!(framing, Framing::Close) && !lines.is_doubtful();
        Ok(Some(Answer {
            status,
            headers: map,
            framing,
            keeps_alive,
        }))
    }
}

const BAD_HEADER: Nonsense = Nonsense("one of its headers is malformed");

/// What a unit answered is no HTTP; the words say what is wrong.
#[derive(Debug)]
pub(super) struct Nonsense(pub(super) &'static str);

/// The head of an answer, without what was meant for this connection only.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) framing: Framing,
    pub(super) keeps_alive: bool,
}

/// How the body of an answer ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum Framing {
    Length(u64),
    Chunked(Chunks),
    /// The last chunk is read, its trailers are not.
    Trailers,
    /// With the connection.
    Close,
}

/// What the lines of a head say about the body.
#[derive(Default)]
struct Lines {
    length: Option<u64>,
    coded: bool,
    chunked: bool,
}

impl Lines {
    fn see(&mut self, name: &HeaderName, value: &[u8]) -> Result<(), Nonsense> {
        if *name == http::header::CONTENT_LENGTH {
            let length = headers::length(value).ok_or(Nonsense("its length is malformed"))?;
            if self.length.is_some_and(|earlier| earlier != length) {
                return Err(Nonsense("it has two lengths"));
            }
            self.length = Some(length);
        } else if *name == http::header::TRANSFER_ENCODING {
            self.coded = true;
            self.chunked = headers::listed(value)
                .next_back()
                .is_some_and(|t| t.eq_ignore_ascii_case(b"chunked"));
        }
        Ok(())
    }

    /// A length and a coding at once: whoever sent that may mean either, so nothing follows on it.
    fn is_doubtful(&self) -> bool {
        self.coded && self.length.is_some()
    }

    /// RFC 9112 §6.3.
    fn framing(&self, method: &Method, status: StatusCode) -> Framing {
        let bare = *method == Method::HEAD
            || status.is_informational()
            || status == StatusCode::NO_CONTENT
            || status == StatusCode::NOT_MODIFIED;
        match self.length {
            _ if bare => Framing::Length(0),
            _ if self.chunked => Framing::Chunked(Chunks::default()),
            Some(length) if !self.coded => Framing::Length(length),
            _ => Framing::Close,
        }
    }
}
