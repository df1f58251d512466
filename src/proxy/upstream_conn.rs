//! An HTTP/1.1 connection to a unit, and the parsing of response heads.
//!
//! It does not use hyper's client, for two reasons: a request is driven by the task that serves the client
//! (no second task, no channels), and the proxy must know exactly how much of a request was sent, which
//! decides whether it may be retried.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio_util::io::poll_read_buf;

use crate::net::framing::{ChunkParser, parse_content_length};
use crate::net::{self, ConnectionHeader};

/// The maximum size of a response head.
const MAX_HEAD_BYTES: usize = 64 * 1024;
const MAX_HEADERS: usize = 128;
const SMALL_READ: usize = 8 * 1024;
const LARGE_READ: usize = 64 * 1024;

/// A connection to a unit. See the module.
pub(super) struct UpstreamConn {
    stream: TcpStream,
    /// Bytes that were read but not consumed.
    pub(super) input: BytesMut,
    /// Bytes to be written: a head or the framing of a chunk, then data, then the end of the chunk.
    pub(super) output: Vec<u8>,
    written: usize,
    data: Bytes,
    tail: &'static [u8],
    /// An earlier request was answered on it.
    reused: bool,
}

impl UpstreamConn {
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

    /// Prepares the connection for idling: frees the large buffers of a large body.
    pub(super) fn prepare_idle(mut self) -> Self {
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

    /// False if the unit closed the connection or sent unexpected bytes.
    pub(super) fn is_alive(&self) -> bool {
        let mut probe = [0; 1];
        matches!(self.stream.try_read(&mut probe), Err(e) if e.kind() == io::ErrorKind::WouldBlock)
    }

    /// True if nothing remains to be read or written: the next request may follow.
    pub(super) fn is_clean(&self) -> bool {
        self.input.is_empty() && self.is_flushed()
    }

    /// True if nothing remains to be written.
    pub(super) fn is_flushed(&self) -> bool {
        self.output.is_empty() && self.data.is_empty() && self.tail.is_empty()
    }

    /// Queues data after what is in `output`, and a suffix.
    pub(super) fn queue_data(&mut self, data: Bytes, tail: &'static [u8]) {
        self.data = data;
        self.tail = tail;
    }

    /// Writes everything queued. `sent` is increased by the number of bytes written.
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
            self.advance_output(count);
        }
        Poll::Ready(Ok(()))
    }

    fn advance_output(&mut self, mut count: usize) {
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

    /// Reads more into `input`; 0 is the end. `expected` is the number of bytes known to follow.
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

    /// Returns the bare connection and the bytes read beyond the head, for a tunnel.
    pub(super) fn into_tunnel(self) -> (TcpStream, BytesMut) {
        (self.stream, self.input)
    }

    /// Parses a response head from `input`. `None` if it is incomplete.
    pub(super) fn parse_head(&mut self, method: &Method) -> Result<Option<ResponseHead>, MalformedResponse> {
        let mut room = [const { MaybeUninit::uninit() }; MAX_HEADERS];
        let mut parsed = httparse::Response::new(&mut []);
        let parser = httparse::ParserConfig::default();
        let len = match parser.parse_response_with_uninit_headers(&mut parsed, &self.input, &mut room) {
            Ok(httparse::Status::Complete(len)) => len,
            Ok(httparse::Status::Partial) if self.input.len() < MAX_HEAD_BYTES => return Ok(None),
            Ok(httparse::Status::Partial) => return Err(MalformedResponse("its head is too long")),
            Err(_) => return Err(MalformedResponse("its head is malformed")),
        };
        let base = self.input.as_ptr() as usize;
        let span = |part: &[u8]| {
            let start = part.as_ptr() as usize - base;
            start..start + part.len()
        };
        let status = parsed
            .code
            .and_then(|code| StatusCode::from_u16(code).ok())
            .ok_or(MalformedResponse("its status is malformed"))?;
        let mut connection = ConnectionHeader::default();
        for header in parsed
            .headers
            .iter()
            .filter(|h| h.name.eq_ignore_ascii_case("connection"))
        {
            connection.add_value(header.value);
        }
        let keeps_alive = if parsed.version == Some(1) {
            !connection.close
        } else {
            connection.keep_alive
        };
        let switches = status == StatusCode::SWITCHING_PROTOCOLS;
        let mut lines = FramingHeaders::default();
        let mut kept = Vec::with_capacity(parsed.headers.len());
        for header in parsed.headers.iter() {
            let name = HeaderName::from_bytes(header.name.as_bytes()).map_err(|_| BAD_HEADER)?;
            lines.read_header(&name, header.value)?;
            let upgrade = switches && name == http::header::UPGRADE;
            if upgrade || !(net::is_hop_by_hop(&name) || connection.lists_header(&name)) {
                kept.push((name, span(header.value)));
            }
        }
        let head = self.input.split_to(len).freeze();
        let mut map = HeaderMap::with_capacity(kept.len() + 2);
        for (name, span) in kept {
            let value = HeaderValue::from_maybe_shared(head.slice(span)).map_err(|_| BAD_HEADER)?;
            map.append(name, value);
        }
        if lines.has_transfer_coding || switches {
            map.remove(http::header::CONTENT_LENGTH);
        }
        let framing = lines.body_framing(method, status);
        let keeps_alive = keeps_alive && !matches!(framing, BodyFraming::UntilClose) && !lines.is_ambiguous();
        Ok(Some(ResponseHead {
            status,
            headers: map,
            framing,
            keeps_alive,
            connection_header: connection,
        }))
    }
}

const BAD_HEADER: MalformedResponse = MalformedResponse("one of its headers is malformed");

/// A unit's response is not valid HTTP; the text states why.
#[derive(Debug)]
pub(super) struct MalformedResponse(pub(super) &'static str);

/// The head of a response, without hop-by-hop headers.
#[derive(Debug)]
pub(super) struct ResponseHead {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) framing: BodyFraming,
    pub(super) keeps_alive: bool,
    /// Lists the headers for this connection only, also among the trailers.
    pub(super) connection_header: ConnectionHeader,
}

/// How the end of a response body is determined.
#[derive(Clone, Copy, Debug)]
pub(super) enum BodyFraming {
    Length(u64),
    Chunked(ChunkParser),
    /// The last chunk has been read, its trailers have not.
    Trailers,
    /// Ends with the connection.
    UntilClose,
}

/// The header values that determine the framing of the body.
#[derive(Default)]
struct FramingHeaders {
    content_length: Option<u64>,
    has_transfer_coding: bool,
    is_chunked: bool,
}

impl FramingHeaders {
    fn read_header(&mut self, name: &HeaderName, value: &[u8]) -> Result<(), MalformedResponse> {
        if *name == http::header::CONTENT_LENGTH {
            let length = parse_content_length(value).ok_or(MalformedResponse("its length is malformed"))?;
            if self.content_length.is_some_and(|earlier| earlier != length) {
                return Err(MalformedResponse("it has two lengths"));
            }
            self.content_length = Some(length);
        } else if *name == http::header::TRANSFER_ENCODING {
            self.has_transfer_coding = true;
            self.is_chunked = net::split_list(value)
                .next_back()
                .is_some_and(|t| t.eq_ignore_ascii_case(b"chunked"));
        }
        Ok(())
    }

    /// Both a length and a transfer coding: the sender may mean either, so the connection is not reused.
    fn is_ambiguous(&self) -> bool {
        self.has_transfer_coding && self.content_length.is_some()
    }

    /// RFC 9112 §6.3.
    fn body_framing(&self, method: &Method, status: StatusCode) -> BodyFraming {
        let bare = *method == Method::HEAD
            || status.is_informational()
            || status == StatusCode::NO_CONTENT
            || status == StatusCode::NOT_MODIFIED;
        match self.content_length {
            _ if bare => BodyFraming::Length(0),
            _ if self.is_chunked => BodyFraming::Chunked(ChunkParser::default()),
            Some(length) if !self.has_transfer_coding => BodyFraming::Length(length),
            _ => BodyFraming::UntilClose,
        }
    }
}
