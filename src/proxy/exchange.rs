//! One request on one connection to a unit: the head goes out, the client's body follows, the answer
//! comes back, and all of it is driven by whoever polls for the answer or its body.
//!
//! States: *asking* (until the final head of an answer), then *answering* ([`UnitBody`]), which may
//! overlap with a body that is still going out. A connection goes back to its backend only when both
//! sides are through and nobody asked to close.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Method, StatusCode};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep};

use super::backend::Lease;
use super::headers;
use super::unit_body::UnitBody;
use super::wire::{Answer, Nonsense, Wire};

/// How long a unit may take to say `100 Continue` before the body is sent all the same.
const CONTINUE_WAIT: Duration = Duration::from_secs(1);

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
    /// The client's own body did not come in time.
    Stalled,
}

impl From<Nonsense> for Fault {
    fn from(nonsense: Nonsense) -> Self {
        Self::Nonsense(nonsense.0)
    }
}

/// See the module.
pub(super) struct Exchange {
    pub(super) wire: Wire,
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
            late.as_mut().poll(cx).map(|()| Err(self.whose_delay()))
        })
        .await
    }

    fn whose_delay(&self) -> Fault {
        match self.upload {
            Upload::Open { hold: None, .. } if self.wire.is_flushed() => Fault::Stalled,
            _ => Fault::Late,
        }
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
        UnitBody::new(self, answer)
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
    pub(super) fn poll_upload(&mut self, cx: &mut Context<'_>) -> Result<(), Fault> {
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
    pub(super) fn end(self, keeps_alive: bool) {
        if keeps_alive && matches!(self.upload, Upload::Done) && self.wire.is_clean() {
            self.lease.backend().put(self.wire);
        }
    }
}

fn is_interim(status: StatusCode) -> bool {
    status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS
}
