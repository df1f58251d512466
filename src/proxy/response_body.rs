//! The body of a unit's response. It reads only when polled, so that a slow client slows the unit down
//! instead of filling memory; meanwhile it also drives the rest of the client's own body.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::{Body, Frame, SizeHint};

use super::headers;
use super::upstream_conn::{BodyFraming, ResponseHead};
use super::upstream_request::UpstreamRequest;
use crate::net::ConnectionHeader;
use crate::net::framing::ChunkStep;

/// The maximum size of response trailers.
const MAX_TRAILER_BYTES: usize = 16 * 1024;
const MAX_TRAILERS: usize = 32;

/// The body of a unit's response. See the module.
pub(super) struct UpstreamBody {
    framing: BodyFraming,
    keeps_alive: bool,
    connection_header: ConnectionHeader,
    /// `None` once the body is complete.
    request: Option<UpstreamRequest>,
}

impl UpstreamBody {
    pub(super) fn new(upstream: UpstreamRequest, answer: &mut ResponseHead) -> Self {
        let mut body = Self {
            framing: answer.framing,
            keeps_alive: answer.keeps_alive,
            connection_header: std::mem::take(&mut answer.connection_header),
            request: Some(upstream),
        };
        body.finish_if_complete();
        body
    }

    fn finish_if_complete(&mut self) {
        if matches!(self.framing, BodyFraming::Length(0)) {
            self.finish_body();
        }
    }

    fn finish_body(&mut self) {
        self.framing = BodyFraming::Length(0);
        if let Some(upstream) = self.request.take() {
            upstream.release_conn(self.keeps_alive);
        }
    }

    /// Returns the next frame from `input`; `Ok(None)` if more bytes are needed.
    fn next_frame(&mut self) -> io::Result<Option<BodyEvent>> {
        let Some(upstream) = &mut self.request else {
            return Ok(Some(BodyEvent::End));
        };
        let input = &mut upstream.conn.input;
        match &mut self.framing {
            BodyFraming::UntilClose if input.is_empty() => Ok(None),
            BodyFraming::UntilClose => Ok(Some(BodyEvent::Data(input.split().freeze()))),
            BodyFraming::Length(_) if input.is_empty() => Ok(None),
            BodyFraming::Length(left) => {
                let count = input.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= count as u64;
                let data = input.split_to(count).freeze();
                self.finish_if_complete();
                Ok(Some(BodyEvent::Data(data)))
            }
            BodyFraming::Chunked(chunks) => {
                let (skip, next) = chunks
                    .skip_framing(input)
                    .map_err(|_| invalid_data("a malformed chunk"))?;
                input.advance(skip);
                match next {
                    ChunkStep::Incomplete => Ok(None),
                    ChunkStep::Data(left) => {
                        let count = input.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                        chunks.consume_data(count as u64);
                        Ok(Some(BodyEvent::Data(input.split_to(count).freeze())))
                    }
                    ChunkStep::LastChunk => Ok(Some(BodyEvent::LastChunk)),
                }
            }
            BodyFraming::Trailers => {
                Ok(take_trailers(input, &self.connection_header)?.map(BodyEvent::Trailers))
            }
        }
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let expected = match self.framing {
            BodyFraming::Length(left) => left,
            _ => u64::MAX,
        };
        match &mut self.request {
            Some(upstream) => upstream.conn.poll_fill(cx, expected),
            None => Poll::Ready(Ok(0)),
        }
    }
}

enum BodyEvent {
    Data(Bytes),
    LastChunk,
    Trailers(HeaderMap),
    End,
}

/// Takes the trailers after the last chunk; `Ok(None)` if more bytes are needed.
fn take_trailers(input: &mut BytesMut, connection: &ConnectionHeader) -> io::Result<Option<HeaderMap>> {
    let mut room = [httparse::EMPTY_HEADER; MAX_TRAILERS];
    let mut trailers = HeaderMap::new();
    let len = match httparse::parse_headers(input, &mut room) {
        Ok(httparse::Status::Complete((len, lines))) => {
            for line in lines {
                let name = HeaderName::from_bytes(line.name.as_bytes());
                if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(line.value))
                    && headers::is_allowed_trailer(&name, connection)
                {
                    trailers.append(name, value);
                }
            }
            len
        }
        Ok(httparse::Status::Partial) if input.len() < MAX_TRAILER_BYTES => return Ok(None),
        _ => return Err(invalid_data("malformed trailers")),
    };
    input.advance(len);
    Ok(Some(trailers))
}

fn invalid_data(words: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, words)
}

impl UpstreamBody {
    fn poll_next_frame(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Frame<Bytes>>>> {
        if let Some(upstream) = &mut self.request {
            // A client body that fails now also shows in the response: its connection is gone.
            let _ = upstream.poll_upload(cx);
        }
        loop {
            match self.next_frame()? {
                Some(BodyEvent::Data(data)) => return Poll::Ready(Ok(Some(Frame::data(data)))),
                Some(BodyEvent::End) => return Poll::Ready(Ok(None)),
                Some(BodyEvent::LastChunk) => {
                    self.framing = BodyFraming::Trailers;
                    continue;
                }
                Some(BodyEvent::Trailers(trailers)) => {
                    self.finish_body();
                    return Poll::Ready(Ok((!trailers.is_empty()).then(|| Frame::trailers(trailers))));
                }
                None => {}
            }
            if ready!(self.poll_fill(cx))? == 0 {
                return Poll::Ready(match self.framing {
                    BodyFraming::UntilClose => {
                        self.finish_body();
                        Ok(None)
                    }
                    _ => Err(io::ErrorKind::UnexpectedEof.into()),
                });
            }
        }
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.poll_next_frame(cx).map(Result::transpose)
    }

    fn is_end_stream(&self) -> bool {
        self.request.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match self.framing {
            BodyFraming::Length(left) => SizeHint::with_exact(left),
            _ => SizeHint::default(),
        }
    }
}
