//! The body of a unit's answer. It reads only when polled, so a slow client slows the unit and not our
//! memory; while it does, it drives what is left of the client's own body.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::{Body, Frame, SizeHint};

use super::chunks::Next;
use super::exchange::Exchange;
use super::wire::{Answer, Framing};

/// Trailers of an answer beyond these bounds are refused.
const LONGEST_TRAILERS: usize = 16 * 1024;
const MOST_TRAILERS: usize = 32;

/// See the module.
pub(super) struct UnitBody {
    framing: Framing,
    keeps_alive: bool,
    /// Gone once the body is through.
    exchange: Option<Exchange>,
}

impl UnitBody {
    pub(super) fn new(exchange: Exchange, answer: &Answer) -> Self {
        let mut body = Self {
            framing: answer.framing,
            keeps_alive: answer.keeps_alive,
            exchange: Some(exchange),
        };
        body.end_if_through();
        body
    }

    fn end_if_through(&mut self) {
        if matches!(self.framing, Framing::Length(0)) {
            self.end();
        }
    }

    fn end(&mut self) {
        self.framing = Framing::Length(0);
        if let Some(exchange) = self.exchange.take() {
            exchange.end(self.keeps_alive);
        }
    }

    /// What `input` holds, if it is enough for a frame; `Ok(None)` asks for more.
    fn next_frame(&mut self) -> io::Result<Option<Taken>> {
        let Some(exchange) = &mut self.exchange else {
            return Ok(Some(Taken::End));
        };
        let input = &mut exchange.wire.input;
        match &mut self.framing {
            Framing::Close if input.is_empty() => Ok(None),
            Framing::Close => Ok(Some(Taken::Data(input.split().freeze()))),
            Framing::Length(_) if input.is_empty() => Ok(None),
            Framing::Length(left) => {
                let count = input.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= count as u64;
                let data = input.split_to(count).freeze();
                self.end_if_through();
                Ok(Some(Taken::Data(data)))
            }
            Framing::Chunked(chunks) => {
                let (skip, next) = chunks.step(input).map_err(|_| broken("a malformed chunk"))?;
                input.advance(skip);
                match next {
                    Next::More => Ok(None),
                    Next::Data(left) => {
                        let count = input.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                        chunks.took(count as u64);
                        Ok(Some(Taken::Data(input.split_to(count).freeze())))
                    }
                    Next::Last => Ok(Some(Taken::Last)),
                }
            }
            Framing::Trailers => Ok(take_trailers(input)?.map(Taken::Trailers)),
        }
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let expected = match self.framing {
            Framing::Length(left) => left,
            _ => u64::MAX,
        };
        match &mut self.exchange {
            Some(exchange) => exchange.wire.poll_fill(cx, expected),
            None => Poll::Ready(Ok(0)),
        }
    }
}

enum Taken {
    Data(Bytes),
    Last,
    Trailers(HeaderMap),
    End,
}

/// The trailers behind the last chunk; `Ok(None)` asks for more.
fn take_trailers(input: &mut BytesMut) -> io::Result<Option<HeaderMap>> {
    let mut room = [httparse::EMPTY_HEADER; MOST_TRAILERS];
    let mut trailers = HeaderMap::new();
    let len = match httparse::parse_headers(input, &mut room) {
        Ok(httparse::Status::Complete((len, lines))) => {
            for line in lines {
                let name = HeaderName::from_bytes(line.name.as_bytes());
                if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(line.value)) {
                    trailers.append(name, value);
                }
            }
            len
        }
        Ok(httparse::Status::Partial) if input.len() < LONGEST_TRAILERS => return Ok(None),
        _ => return Err(broken("malformed trailers")),
    };
    input.advance(len);
    Ok(Some(trailers))
}

fn broken(words: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, words)
}

impl UnitBody {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Frame<Bytes>>>> {
        if let Some(exchange) = &mut self.exchange {
            // The client's body breaking off now shows in the answer as well: its connection is gone.
            let _ = exchange.poll_upload(cx);
        }
        loop {
            match self.next_frame()? {
                Some(Taken::Data(data)) => return Poll::Ready(Ok(Some(Frame::data(data)))),
                Some(Taken::End) => return Poll::Ready(Ok(None)),
                Some(Taken::Last) => {
                    self.framing = Framing::Trailers;
                    continue;
                }
                Some(Taken::Trailers(trailers)) => {
                    self.end();
                    return Poll::Ready(Ok((!trailers.is_empty()).then(|| Frame::trailers(trailers))));
                }
                None => {}
            }
            if ready!(self.poll_fill(cx))? == 0 {
                return Poll::Ready(match self.framing {
                    Framing::Close => {
                        self.end();
                        Ok(None)
                    }
                    _ => Err(io::ErrorKind::UnexpectedEof.into()),
                });
            }
        }
    }
}

impl Body for UnitBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.poll_next(cx).map(Result::transpose)
    }

    fn is_end_stream(&self) -> bool {
        self.exchange.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match self.framing {
            Framing::Length(left) => SizeHint::with_exact(left),
            _ => SizeHint::default(),
        }
    }
}
