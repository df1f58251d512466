//! One request on one connection to a unit: sends the head and the client's body and receives the response,
//! driven by whichever task polls the response or its body.
//!
//! States: *requesting* (until the final head of a response), then *responding* ([`UpstreamBody`]), which may
//! overlap with sending the request body. A connection returns to its backend only when both directions are
//! complete and neither side asked to close it.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Method, StatusCode};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep};

use super::backend::BackendLease;
use super::headers;
use super::response_body::UpstreamBody;
use super::upstream_conn::{MalformedResponse, ResponseHead, UpstreamConn};
use crate::net::ConnectionHeader;

/// How long to wait for `100 Continue` before the body is sent anyway.
const CONTINUE_WAIT: Duration = Duration::from_secs(1);

/// Why there is no response.
#[derive(Debug)]
pub(super) enum UpstreamFailure {
    /// The connection ended before the first byte of a response.
    NoResponse,
    /// It ended later, or the response is not valid HTTP.
    Malformed(&'static str),
    /// The unit did not respond in time.
    Timeout,
    /// The client's body is incomplete or malformed.
    ClientBody,
    /// The client's body did not arrive in time.
    ClientTimeout,
}

impl From<MalformedResponse> for UpstreamFailure {
    fn from(nonsense: MalformedResponse) -> Self {
        Self::Malformed(nonsense.0)
    }
}

/// A request to a unit. See the module.
pub(super) struct UpstreamRequest {
    pub(super) conn: UpstreamConn,
    lease: BackendLease,
    upload: UploadState,
    /// The client's `Connection` header, for filtering trailers.
    connection_header: ConnectionHeader,
    /// Bytes of the request that the kernel accepted.
    bytes_sent: u64,
    response_started: bool,
}

/// The state of sending the client's body.
enum UploadState {
    Done,
    Open {
        body: Incoming,
        chunked: bool,
        started: bool,
        /// Set while waiting for `100 Continue`.
        continue_timer: Option<Pin<Box<Sleep>>>,
    },
    /// It cannot be completed: the connection cannot be reused.
    Broken,
}

impl UpstreamRequest {
    /// The head must already be in the connection's output.
    pub(super) fn new(
        conn: UpstreamConn,
        lease: BackendLease,
        body: Option<Incoming>,
        client_headers: &http::HeaderMap,
    ) -> Self {
        let expects = body.is_some() && client_headers.contains_key(http::header::EXPECT);
        let connection_header = match body {
            Some(_) => ConnectionHeader::from_headers(client_headers),
            None => ConnectionHeader::default(),
        };
        let upload = match body {
            None => UploadState::Done,
            Some(body) => UploadState::Open {
                chunked: body.size_hint().exact().is_none(),
                body,
                started: false,
                continue_timer: expects.then(|| Box::pin(sleep(CONTINUE_WAIT))),
            },
        };
        Self {
            conn,
            lease,
            upload,
            connection_header,
            bytes_sent: 0,
            response_started: false,
        }
    }

    /// Waits for the response head. The timeout counts from the last byte that the unit accepted.
    pub(super) async fn read_response_head(
        &mut self,
        method: &Method,
        within: Duration,
    ) -> Result<ResponseHead, UpstreamFailure> {
        let late = sleep(within);
        tokio::pin!(late);
        std::future::poll_fn(|cx| {
            let before = self.bytes_sent;
            if let Poll::Ready(result) = self.poll_response_head(cx, method) {
                return Poll::Ready(result);
            }
            if before > 0 && self.bytes_sent != before {
                late.as_mut().reset(Instant::now() + within);
            }
            late.as_mut().poll(cx).map(|()| Err(self.timeout_failure()))
        })
        .await
    }

    fn timeout_failure(&self) -> UpstreamFailure {
        match self.upload {
            UploadState::Open {
                continue_timer: None, ..
            } if self.conn.is_flushed() => UpstreamFailure::ClientTimeout,
            _ => UpstreamFailure::Timeout,
        }
    }

    /// True if nothing of the request reached the unit's machine.
    pub(super) fn is_unsent(&self) -> bool {
        self.bytes_sent == 0
    }

    /// Returns the body for a retry, if no byte of it was taken. The outer `None`: it is too late.
    pub(super) fn into_unsent_body(self) -> Option<Option<Incoming>> {
        match self.upload {
            UploadState::Done => Some(None),
            UploadState::Open {
                body, started: false, ..
            } => Some(Some(body)),
            _ => None,
        }
    }

    /// Returns the bare connection after a 101.
    pub(super) fn into_tunnel(self) -> (tokio::net::TcpStream, BytesMut, BackendLease) {
        let (stream, early) = self.conn.into_tunnel();
        (stream, early, self.lease)
    }

    /// Returns the body of the response whose head was read last.
    pub(super) fn into_response_body(self, answer: &mut ResponseHead) -> UpstreamBody {
        UpstreamBody::new(self, answer)
    }

    fn poll_response_head(
        &mut self,
        cx: &mut Context<'_>,
        method: &Method,
    ) -> Poll<Result<ResponseHead, UpstreamFailure>> {
        self.poll_upload(cx)?;
        loop {
            if !self.conn.input.is_empty() {
                self.response_started = true;
                match self.conn.parse_head(method)? {
                    Some(answer) if is_interim(answer.status) => {
                        if answer.status == StatusCode::CONTINUE {
                            self.release_upload();
                            self.poll_upload(cx)?;
                        }
                        continue;
                    }
                    Some(answer) => {
                        self.abort_held_upload();
                        return Poll::Ready(Ok(answer));
                    }
                    None => {}
                }
            }
            match ready!(self.conn.poll_fill(cx, 0)) {
                Ok(0) if self.response_started => {
                    return Poll::Ready(Err(UpstreamFailure::Malformed("it closed the connection")));
                }
                Err(_) if self.response_started => {
                    return Poll::Ready(Err(UpstreamFailure::Malformed("the connection failed")));
                }
                Ok(0) | Err(_) => return Poll::Ready(Err(UpstreamFailure::NoResponse)),
                Ok(_) => {}
            }
        }
    }

    /// Sends what can be sent now. A unit that stops reading may still respond, so only a failure of the
    /// client is an error.
    pub(super) fn poll_upload(&mut self, cx: &mut Context<'_>) -> Result<(), UpstreamFailure> {
        loop {
            match self.conn.poll_flush(cx, &mut self.bytes_sent) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => {
                    if !matches!(self.upload, UploadState::Open { started: false, .. }) {
                        self.upload = UploadState::Broken;
                    }
                    return Ok(());
                }
                Poll::Pending => return Ok(()),
            }
            let UploadState::Open {
                body,
                chunked,
                started: begun,
                continue_timer: hold,
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
                    self.queue_frame(frame, chunked);
                }
                Poll::Ready(Some(Err(_))) => {
                    self.upload = UploadState::Broken;
                    return Err(UpstreamFailure::ClientBody);
                }
                Poll::Ready(None) => {
                    if *chunked {
                        self.conn.output.extend_from_slice(b"0\r\n\r\n");
                    }
                    self.upload = UploadState::Done;
                }
            }
        }
    }

    fn queue_frame(&mut self, frame: Frame<Bytes>, chunked: bool) {
        match frame.into_data() {
            Ok(data) if data.is_empty() => {}
            Ok(data) if chunked => {
                self.conn
                    .output
                    .extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
                self.conn.queue_data(data, b"\r\n");
            }
            Ok(data) => self.conn.queue_data(data, b""),
            Err(frame) => {
                if let (Ok(trailers), true) = (frame.into_trailers(), chunked) {
                    self.conn.output.extend_from_slice(b"0\r\n");
                    headers::write_trailers(&trailers, &self.connection_header, &mut self.conn.output);
                    self.conn.output.extend_from_slice(b"\r\n");
                    self.upload = UploadState::Done;
                }
            }
        }
    }

    fn release_upload(&mut self) {
        if let UploadState::Open {
            continue_timer: hold, ..
        } = &mut self.upload
        {
            *hold = None;
        }
    }

    /// The unit responded without requesting the held body.
    fn abort_held_upload(&mut self) {
        if matches!(
            self.upload,
            UploadState::Open {
                continue_timer: Some(_),
                ..
            }
        ) {
            self.upload = UploadState::Broken;
        }
    }

    /// Returns the connection to its backend, or closes it.
    pub(super) fn release_conn(self, keeps_alive: bool) {
        if keeps_alive && matches!(self.upload, UploadState::Done) && self.conn.is_clean() {
            self.lease.backend().put_idle_conn(self.conn);
        }
    }
}

fn is_interim(status: StatusCode) -> bool {
    status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS
}
