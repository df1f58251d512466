//! Requests whose bodies are streamed both ways, as for a proxy. They pass the same bulkhead, circuit breaker
//! and check of addresses as all others, and hold their slot until the response has been read to its end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{Method, StatusCode, Url};
use tokio::time::Instant;
use uuid::Uuid;

use crate::outbound::bulkhead::CallPermit;
use crate::outbound::{OutboundClient, OutboundError, OutboundErrorKind, classify_error, outcome_label};
use crate::telemetry::metrics;

/// The limit of a whole exchange, whatever progress it makes.
const MAX_EXCHANGE: Duration = Duration::from_secs(300);

/// The chunks of a body.
pub type BodyStream = stream::BoxStream<'static, std::io::Result<Bytes>>;

/// A request to be streamed.
pub struct StreamedRequest {
    pub method: Method,
    pub url: Url,
    /// The value of `Authorization`, marked as sensitive.
    pub authorization: HeaderValue,
    pub headers: HeaderMap,
    /// `None` sends no body at all.
    pub body: Option<BodyStream>,
    /// The maximum number of bytes of the body.
    pub max_body_bytes: u64,
}

/// The head of a response, whatever its status, and its body.
pub struct StreamedResponse {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: BodyStream,
}

/// What a body that is being sent reports.
#[derive(Debug)]
struct UploadProgress {
    last_chunk_at: Mutex<Instant>,
    is_too_large: AtomicBool,
}

impl UploadProgress {
    fn last_chunk_at(&self) -> Instant {
        *self.last_chunk_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts the bytes of a body, and ends it with an error beyond the limit.
    fn watch(
        self: Arc<Self>,
        body: BodyStream,
        mut left: u64,
    ) -> impl Stream<Item = std::io::Result<Bytes>> + Send + 'static {
        body.map(move |chunk| {
            let chunk = chunk?;
            *self.last_chunk_at.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            match left.checked_sub(chunk.len() as u64) {
                Some(rest) => left = rest,
                None => {
                    self.is_too_large.store(true, Ordering::Relaxed);
                    return Err(std::io::Error::other("the body is too large"));
                }
            }
            Ok(chunk)
        })
    }

    /// Waits until nothing has been sent for a while.
    async fn wait_until_idle(&self, limit: Duration) {
        loop {
            let end = self.last_chunk_at() + limit;
            if end <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(end).await;
        }
    }
}

impl OutboundClient {
    /// Streams a request through a bulkhead and returns the response with its body to be read. The service
    /// must respond, and continue to, within the timeout of a call. `key`: as for `send_request`.
    pub async fn stream_request(
        &self,
        bulkhead: Uuid,
        key: &str,
        request: StreamedRequest,
    ) -> Result<StreamedResponse, OutboundError> {
        let began = Instant::now();
        let result = self.stream_head(bulkhead, key, request, began).await;
        let status = result.as_ref().map(|response| response.status);
        metrics::record_service_call(outcome_label(status.map_err(|e| e.kind)), began.elapsed());
        result
    }

    async fn stream_head(
        &self,
        bulkhead: Uuid,
        key: &str,
        request: StreamedRequest,
        began: Instant,
    ) -> Result<StreamedResponse, OutboundError> {
        let idle_limit = self.0.settings.call_timeout;
        self.check_literal(&request.url)?;
        let bulkhead = self.find_or_add_bulkhead(bulkhead);
        let mut permit = bulkhead
            .acquire_permit(key, began + idle_limit)
            .await
            .map_err(OutboundError::not_sent)?;
        let progress = Arc::new(UploadProgress {
            last_chunk_at: Mutex::new(Instant::now()),
            is_too_large: AtomicBool::new(false),
        });
        let mut builder = self
            .0
            .http
            .request(request.method, request.url)
            .headers(request.headers)
            .header(AUTHORIZATION, request.authorization);
        if let Some(body) = request.body {
            let watched = Arc::clone(&progress).watch(body, request.max_body_bytes);
            builder = builder.body(reqwest::Body::wrap_stream(watched));
        }
        let head = tokio::select! {
            head = builder.send() => head.map_err(|error| classify_error(&error)),
            () = progress.wait_until_idle(idle_limit) => Err(timed_out()),
            () = tokio::time::sleep_until(began + MAX_EXCHANGE) => Err(timed_out()),
        };
        if progress.is_too_large.load(Ordering::Relaxed) {
            // The fault is the caller's, so it says nothing about the service.
            return Err(OutboundError {
                kind: OutboundErrorKind::RequestTooLarge,
                sent: true,
            });
        }
        permit.record_result(match &head {
            Ok(_) => true,
            Err(failure) => failure.kind == OutboundErrorKind::PrivateAddress,
        });
        let head = head?;
        Ok(StreamedResponse {
            status: head.status(),
            headers: head.headers().clone(),
            body: stream_body(head, permit, idle_limit, began + MAX_EXCHANGE),
        })
    }
}

fn timed_out() -> OutboundError {
    OutboundError {
        kind: OutboundErrorKind::TimedOut,
        sent: true,
    }
}

/// Streams the body of a response; the slot is released at its end.
fn stream_body(
    response: reqwest::Response,
    permit: CallPermit,
    idle_limit: Duration,
    deadline: Instant,
) -> BodyStream {
    let state = Some((response, permit));
    stream::unfold(state, move |state| async move {
        let (mut response, permit) = state?;
        let until = deadline.min(Instant::now() + idle_limit);
        match tokio::time::timeout_at(until, response.chunk()).await {
            Ok(Ok(Some(chunk))) => Some((Ok(chunk), Some((response, permit)))),
            Ok(Ok(None)) => None,
            Ok(Err(error)) => Some((Err(std::io::Error::other(error)), None)),
            Err(_) => Some((Err(std::io::ErrorKind::TimedOut.into()), None)),
        }
    })
    .boxed()
}
