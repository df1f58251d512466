//! One request on one connection to a unit: the head goes out, the client's body follows, the answer
//! comes back, and all of it is driven by whoever polls for the answer or its body.
//!
//! States: *asking* (until the final head of an answer), then *answering* ([`UnitBody`]), which may
//! overlap with a body that is still going out. A connection goes back to its backend only when both
//! sides are through and nobody asked to close.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep};

use super::backend::Lease;
use super::chunks::Next;
use super::headers;
use super::wire::{Answer, Framing, Nonsense, Wire};

/// How long a unit may take to say `100 Continue` before the body is sent all the same.
const CONTINUE_WAIT: Duration = Duration::from_secs(1);

/// Trailers of an answer beyond these bounds are refused.
const LONGEST_TRAILERS: usize = 16 * 1024;
const MOST_TRAILERS: usize = 32;

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Fault {
    /// The connection ended before the first byte of an answer.
    Silent,
    /// It ended later, or what came is no HTTP.
    Nonsense(&'static str),
    /// Nothing came in time.
    Late,
    /// The client's own body broke off or is malformed.
    Client,
}

impl From<Nonsense> for Fault {
    fn from(nonsense: Nonsense) -> Self {
        Self::Nonsense(nonsense.0)
    }
}

/// See the module.
pub(super) struct Exchange {
    wire: Wire,
    lease: Lease,
    upload: Upload,
    /// Bytes of the request that the kernel took.
    sent: u64,
    heard: bool,
}

/// The client's body on its way out.
enum Upload {
    Done,
    Open {
        body: Incoming,
        chunked: bool,
        begun: bool,
        /// Set while the unit is asked whether it wants the body.
        hold: Option<Pin<Box<Sleep>>>,
    },
    /// It will never be whole: the connection cannot be used again.
    Broken,
}

impl Exchange {
    /// The head stands in the wire's output already.
    pub(super) fn new(wire: Wire, lease: Lease, body: Option<Incoming>, expects: bool) -> Self {
        let upload = match body {
            None => Upload::Done,
            Some(body) => Upload::Open {
                chunked: body.size_hint().exact().is_none(),
                body,
                begun: false,
                hold: expects.then(|| Box::pin(sleep(CONTINUE_WAIT))),
            },
        };
        Self {
            wire,
            lease,
            upload,
            sent: 0,
            heard: false,
        }
    }

    /// The head of the answer. The time counts from the last byte that the unit took.
    pub(super) async fn answer(&mut self, method: &Method, within: Duration) -> Result<Answer, Fault> {
        let late = sleep(within);
        tokio::pin!(late);
        std::future::poll_fn(|cx| {
            let before = self.sent;
            if let Poll::Ready(result) = self.poll_answer(cx, method) {
                return Poll::Ready(result);
            }
            if before > 0 && self.sent != before {
                late.as_mut().reset(Instant::now() + within);
            }
            late.as_mut().poll(cx).map(|()| Err(Fault::Late))
        })
        .await
    }

    /// Nothing of the request reached the unit's machine.
    pub(super) fn is_unsent(&self) -> bool {
        self.sent == 0
    }

    /// The body, if not a byte of it was taken: for another try. The outer `None` says it is too late.
    pub(super) fn into_body(self) -> Option<Option<Incoming>> {
        match self.upload {
            Upload::Done => Some(None),
            Upload::Open {
                body, begun: false, ..
            } => Some(Some(body)),
            _ => None,
        }
    }

    /// The bare connection behind a 101.
    pub(super) fn into_tunnel(self) -> (tokio::net::TcpStream, BytesMut, Lease) {
        let (stream, early) = self.wire.into_tunnel();
        (stream, early, self.lease)
    }

    /// The body of the answer whose head was just given.
    pub(super) fn into_body_of(self, answer: &Answer) -> UnitBody {
        let mut body = UnitBody {
            framing: answer.framing,
            keeps_alive: answer.keeps_alive,
            exchange: Some(self),
        };
        body.end_if_through();
        body
    }

    fn poll_answer(&mut self, cx: &mut Context<'_>, method: &Method) -> Poll<Result<Answer, Fault>> {
        self.poll_upload(cx)?;
        loop {
            if !self.wire.input.is_empty() {
                self.heard = true;
                match self.wire.parse_head(method)? {
                    Some(answer) if is_interim(answer.status) => {
                        if answer.status == StatusCode::CONTINUE {
                            self.release_upload();
                            self.poll_upload(cx)?;
                        }
                        continue;
                    }
                    Some(answer) => {
                        self.stop_held_upload();
                        return Poll::Ready(Ok(answer));
                    }
                    None => {}
                }
            }
            match ready!(self.wire.poll_fill(cx, 0)) {
                Ok(0) if self.heard => return Poll::Ready(Err(Fault::Nonsense("it closed the connection"))),
                Err(_) if self.heard => return Poll::Ready(Err(Fault::Nonsense("it broke the connection"))),
                Ok(0) | Err(_) => return Poll::Ready(Err(Fault::Silent)),
                Ok(_) => {}
            }
        }
    }

    /// Sends what can be sent now. A unit that takes no more may still answer, so only the client's
    /// failure is one.
    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Result<(), Fault> {
        loop {
            match self.wire.poll_flush(cx, &mut self.sent) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => {
                    if !matches!(self.upload, Upload::Open { begun: false, .. }) {
                        self.upload = Upload::Broken;
                    }
                    return Ok(());
                }
                Poll::Pending => return Ok(()),
            }
            let Upload::Open {
                body,
                chunked,
                begun,
                hold,
            } = &mut self.upload
            else {
                return Ok(());
            };
            if let Some(sleep) = hold {
                if sleep.as_mut().poll(cx).is_pending() {
                    return Ok(());
                }
                *hold = None;
            }
            match Pin::new(body).poll_frame(cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Some(Ok(frame))) => {
                    *begun = true;
                    let chunked = *chunked;
                    self.queue(frame, chunked);
                }
                Poll::Ready(Some(Err(_))) => {
                    self.upload = Upload::Broken;
                    return Err(Fault::Client);
                }
                Poll::Ready(None) => {
                    if *chunked {
                        self.wire.output.extend_from_slice(b"0\r\n\r\n");
                    }
                    self.upload = Upload::Done;
                }
            }
        }
    }

    fn queue(&mut self, frame: Frame<Bytes>, chunked: bool) {
        match frame.into_data() {
            Ok(data) if data.is_empty() => {}
            Ok(data) if chunked => {
                self.wire
                    .output
                    .extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
                self.wire.queue(data, b"\r\n");
            }
            Ok(data) => self.wire.queue(data, b""),
            Err(frame) => {
                if let (Ok(trailers), true) = (frame.into_trailers(), chunked) {
                    self.wire.output.extend_from_slice(b"0\r\n");
                    headers::write_trailers(&trailers, &mut self.wire.output);
                    self.wire.output.extend_from_slice(b"\r\n");
                    self.upload = Upload::Done;
                }
            }
        }
    }

    fn release_upload(&mut self) {
        if let Upload::Open { hold, .. } = &mut self.upload {
            *hold = None;
        }
    }

    /// The unit answered without wanting the body that it was asked about.
    fn stop_held_upload(&mut self) {
        if matches!(self.upload, Upload::Open { hold: Some(_), .. }) {
            self.upload = Upload::Broken;
        }
    }

    /// Gives the connection back, or closes it.
    fn end(self, keeps_alive: bool) {
        if keeps_alive && matches!(self.upload, Upload::Done) && self.wire.is_clean() {
            self.lease.backend().put(self.wire);
        }
    }
}

fn is_interim(status: StatusCode) -> bool {
    status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS
}

/// The body of a unit's answer. Reads only when polled: a slow client slows the unit, not our memory.
pub(super) struct UnitBody {
    framing: Framing,
    keeps_alive: bool,
    /// Gone once the body is through.
    exchange: Option<Exchange>,
}

impl UnitBody {
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
