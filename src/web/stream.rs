//! Streamed responses: the progress of an event as plain text for deploys and the classic edition, or as JSON
//! lines (`application/x-json-stream`) for the rest of the modern edition (contract/modern 1.6).
//!
//! An early failure before the first line is an ordinary error response with its status; a later failure is
//! the last line. During silence a chunk without meaning keeps the connection open. Dropping the response does
//! not stop the event.

use std::convert::Infallible;
use std::pin::Pin;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use futures_util::{Stream, StreamExt};
use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::mpsc;

use crate::events::{EventFollower, EventOutcome, EventUpdate};
use crate::kernel::error::Error;
use crate::kernel::ids::EventId;
use crate::web::answers::{EventStream, JSON_STREAM, StreamedList, TEXT};
use crate::web::signature::JSON;

/// The times of all streams of events.
const STREAM_TIMES: StreamTimes = StreamTimes {
    first_update: Duration::from_secs(10),
    keep_alive: KEEP_ALIVE,
};

/// The silence after which a chunk is sent to keep the connection open.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(30);

#[derive(Clone, Copy)]
struct StreamTimes {
    /// How long a response waits for the first update of its event. A failure within this time is an error
    /// response; after it, clients have the status and the id of the event, with which they can cancel it.
    first_update: Duration,
    /// The silence after which a chunk is sent to keep the connection open.
    keep_alive: Duration,
}

/// The format of a streamed response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamFormat {
    /// Lines as they are; success ends with the mark.
    Text { mark: &'static str },
    /// One JSON object per line.
    Json,
}

/// A line of a JSON stream. Fields are in the order of their keys.
#[derive(JsonSchema, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct StreamLine<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<String>,
}

impl<'a> StreamLine<'a> {
    /// A message without a time: only the database knows the time.
    pub(super) fn message(message: &'a str) -> Self {
        Self {
            error: None,
            message,
            timestamp: None,
        }
    }

    pub(super) fn error(message: &'a str) -> Self {
        Self {
            error: Some(message),
            message: "",
            timestamp: None,
        }
    }

    pub(super) fn to_bytes(&self) -> Bytes {
        // Strings only: this cannot fail.
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        line.into()
    }
}

impl StreamFormat {
    pub(super) fn content_type(self) -> HeaderValue {
        match self {
            StreamFormat::Text { .. } => HeaderValue::from_static(TEXT),
            // Exactly this value: with a parameter, clients drop the messages (contract/peers).
            StreamFormat::Json => HeaderValue::from_static(JSON_STREAM),
        }
    }

    fn format_line(self, message: &str, at: Option<chrono::DateTime<chrono::Utc>>) -> Bytes {
        match self {
            StreamFormat::Text { .. } => Bytes::from(format!("{message}\n")),
            StreamFormat::Json => StreamLine {
                error: None,
                message: &format!("{message}\n"),
                timestamp: at.map(format_time),
            }
            .to_bytes(),
        }
    }

    fn format_end(self, outcome: &EventOutcome) -> Option<Bytes> {
        match (self, outcome) {
            (StreamFormat::Text { mark }, EventOutcome::Done) => {
                (!mark.is_empty()).then(|| Bytes::from_static(mark.as_bytes()))
            }
            (StreamFormat::Json, EventOutcome::Done) => None,
            (StreamFormat::Text { .. }, EventOutcome::Failed { words, .. }) => {
                Some(Bytes::from(format!("\nERROR: {words}\n")))
            }
            (StreamFormat::Json, EventOutcome::Failed { words, .. }) => {
                Some(StreamLine::error(words).to_bytes())
            }
        }
    }

    fn keep_alive_chunk(self) -> Bytes {
        match self {
            StreamFormat::Text { .. } => Bytes::from_static(b"please wait...\n"),
            StreamFormat::Json => Bytes::from_static(b"\n"),
        }
    }
}

fn format_time(at: chrono::DateTime<chrono::Utc>) -> String {
    at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}

/// Names the event in the header by which clients cancel it.
pub(super) fn set_event_id(headers: &mut HeaderMap, id: &EventId) {
    if let Ok(value) = HeaderValue::from_str(id.as_str()) {
        headers.insert(HeaderName::from_static("x-tsuru-eventid"), value);
    }
}

/// Streams an event from its first line. Errors: the event's failure, if it comes early and before any line.
pub async fn stream_event(
    id: &EventId,
    follower: EventFollower,
    form: StreamFormat,
) -> Result<Response, Error> {
    let updates = stream::unfold(follower, |mut follower| async move {
        let update = follower.next().await.transpose()?;
        Some((update, follower))
    });
    respond_with_updates(id, Box::pin(updates), form, STREAM_TIMES).await
}

/// What a stream of an event sends next.
enum StreamStep {
    Update(EventUpdate),
    /// Nothing has happened for a while.
    Silence,
    End,
}

type EventUpdates = Pin<Box<dyn Stream<Item = Result<EventUpdate, Error>> + Send>>;

async fn respond_with_updates(
    id: &EventId,
    mut updates: EventUpdates,
    form: StreamFormat,
    times: StreamTimes,
) -> Result<Response, Error> {
    let first = match tokio::time::timeout(times.first_update, updates.next()).await {
        Ok(Some(Ok(EventUpdate::End(outcome @ EventOutcome::Failed { .. })))) => {
            return Err(outcome
                .into_result()
                .err()
                .unwrap_or_else(|| Error::internal("no outcome")));
        }
        Ok(Some(Ok(update))) => StreamStep::Update(update),
        Ok(Some(Err(error))) => return Err(error),
        Ok(None) => StreamStep::End,
        Err(_) => StreamStep::Silence,
    };
    let chunks = stream::unfold(Some((updates, Some(first))), move |state| async move {
        let (mut updates, waiting) = state?;
        let step = match waiting {
            Some(step) => step,
            None => next_step(&mut updates, times.keep_alive).await,
        };
        match step {
            StreamStep::Silence => Some((form.keep_alive_chunk(), Some((updates, None)))),
            StreamStep::Update(EventUpdate::Line { at, message }) => {
                Some((form.format_line(&message, Some(at)), Some((updates, None))))
            }
            StreamStep::Update(EventUpdate::End(outcome)) => {
                Some((form.format_end(&outcome).unwrap_or_default(), None))
            }
            StreamStep::End => None,
        }
    });
    let mut response = Body::from_stream(chunks.map(Ok::<Bytes, Infallible>)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, form.content_type());
    set_event_id(headers, id);
    Ok(response)
}

/// Returns the next step; an error of the follower is the last line.
async fn next_step(updates: &mut EventUpdates, silence: Duration) -> StreamStep {
    match tokio::time::timeout(silence, updates.next()).await {
        Ok(Some(Ok(update))) => StreamStep::Update(update),
        Ok(Some(Err(error))) => StreamStep::Update(EventUpdate::End(EventOutcome::from(&error))),
        Ok(None) => StreamStep::End,
        Err(_) => StreamStep::Silence,
    }
}

/// Responds with a message as the only line of a JSON stream: of a change that is done at once, where clients
/// read a stream.
pub fn stream_message(message: &str) -> EventStream {
    let kind = [(header::CONTENT_TYPE, StreamFormat::Json.content_type())];
    (kind, StreamFormat::Json.format_line(message, None))
        .into_response()
        .into()
}

/// Responds with an error as the only line of a JSON stream, with a success status: clients expect some
/// refusals in this form.
pub fn stream_error(error: &Error) -> EventStream {
    let kind = [(header::CONTENT_TYPE, StreamFormat::Json.content_type())];
    (kind, StreamLine::error(error.message()).to_bytes())
        .into_response()
        .into()
}

/// Streams a JSON list whose items are read in batches, so that the first item does not wait for the last,
/// and the list is never held in memory. `None` marks the end of the list: batches that end without it are
/// incomplete. Items for which `render` returns `None` are left out. Errors: those before the first item;
/// later ones cut the response, so that no client takes it for a complete list.
pub async fn stream_list<T: Send + 'static, V: Serialize>(
    mut batches: mpsc::Receiver<Result<Option<Vec<T>>, Error>>,
    render: impl Fn(&T) -> Option<V> + Send + 'static,
) -> Result<StreamedList<V>, Error> {
    let first = next_batch(&mut batches).await?;
    let mut opened = false;
    let encode = move |batch: Vec<T>| {
        let mut text = Vec::new();
        for item in batch.iter().filter_map(&render) {
            text.extend_from_slice(if opened { b",\n" } else { b"[" });
            opened = true;
            serde_json::to_writer(&mut text, &item).map_err(Error::internal)?;
        }
        Ok((Bytes::from(text), opened))
    };
    let body = stream::unfold(Some((Some(first), batches, encode)), |state| async move {
        let (waiting, mut batches, mut encode) = state?;
        let batch = match waiting {
            Some(batch) => Ok(batch),
            None => next_batch(&mut batches).await,
        };
        match batch.and_then(|batch| batch.map(&mut encode).transpose()) {
            Ok(Some((text, _))) => Some((Ok(text), Some((None, batches, encode)))),
            Ok(None) => {
                let opened = encode(Vec::new()).is_ok_and(|(_, opened)| opened);
                let end = if opened { "]" } else { "[]" };
                Some((Ok(Bytes::from_static(end.as_bytes())), None))
            }
            Err(error) => Some((Err(error), None)),
        }
    });
    let mut response = Body::from_stream(body).into_response();
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(JSON));
    Ok(response.into())
}

/// Returns the next batch of a list; `None` is its end. Errors: also if the sender is dropped before the end.
async fn next_batch<T>(
    batches: &mut mpsc::Receiver<Result<Option<Vec<T>>, Error>>,
) -> Result<Option<Vec<T>>, Error> {
    batches
        .recv()
        .await
        .unwrap_or_else(|| Err(Error::unavailable("The list is incomplete; request it again.")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the body of a list of these batches, after which the sender is dropped.
    async fn read_list(parts: Vec<Result<Option<Vec<u8>>, Error>>) -> Result<String, axum::Error> {
        let (sender, batches) = mpsc::channel(10);
        for part in parts {
            sender.send(part).await.unwrap();
        }
        drop(sender);
        let response = stream_list(batches, |item| Some(*item))
            .await
            .unwrap()
            .into_response();
        let bytes = axum::body::to_bytes(response.into_body(), 1000).await?;
        Ok(String::from_utf8(bytes.to_vec()).unwrap())
    }

    const SHORT: StreamTimes = StreamTimes {
        first_update: Duration::from_millis(20),
        keep_alive: Duration::from_millis(10),
    };

    fn failure() -> EventUpdate {
        EventUpdate::End(EventOutcome::from(&Error::failed("no unit starts")))
    }

    #[tokio::test]
    async fn silent_event_gets_its_headers_and_a_chunk_after_each_silence() {
        for (form, chunk) in [
            (StreamFormat::Json, "\n"),
            (StreamFormat::Text { mark: "" }, "please wait...\n"),
        ] {
            let (sender, updates) = mpsc::channel(10);
            let updates = stream::unfold(updates, |mut updates: mpsc::Receiver<_>| async move {
                Some((updates.recv().await?, updates))
            });
            let response = respond_with_updates(&EventId::new(), Box::pin(updates), form, SHORT)
                .await
                .unwrap();
            assert!(response.headers().contains_key("x-tsuru-eventid"));
            let mut body = response.into_body().into_data_stream();
            assert_eq!(body.next().await.unwrap().unwrap(), chunk);
            assert_eq!(body.next().await.unwrap().unwrap(), chunk);
            sender.send(Ok(failure())).await.unwrap();
            let mut last = body.next().await.unwrap().unwrap();
            while last == chunk {
                last = body.next().await.unwrap().unwrap();
            }
            assert!(String::from_utf8_lossy(&last).contains("no unit starts"));
            assert!(body.next().await.is_none());
        }
    }

    #[tokio::test]
    async fn early_failure_before_the_first_line_is_an_error_response() {
        let updates = stream::iter([Ok(failure())]);
        let failed = respond_with_updates(
            &EventId::new(),
            Box::pin(updates),
            StreamFormat::Json,
            STREAM_TIMES,
        )
        .await;
        assert_eq!(failed.unwrap_err().message(), "no unit starts");
    }

    #[tokio::test]
    async fn list_with_end_marker_is_complete_json() {
        assert_eq!(read_list(vec![Ok(None)]).await.unwrap(), "[]");
        let parts = vec![
            Ok(Some(vec![1, 2])),
            Ok(Some(vec![])),
            Ok(Some(vec![3])),
            Ok(None),
        ];
        assert_eq!(read_list(parts).await.unwrap(), "[1,\n2,\n3]");
    }

    #[tokio::test]
    async fn list_without_end_marker_is_cut_with_an_error() {
        assert!(read_list(vec![Ok(Some(vec![1]))]).await.is_err());
        let parts = vec![Ok(Some(vec![1])), Err(Error::internal("lost"))];
        assert!(read_list(parts).await.is_err());
        let (sender, batches) = mpsc::channel::<Result<Option<Vec<u8>>, Error>>(1);
        drop(sender);
        assert!(
            stream_list(batches, |_| None::<u8>).await.is_err(),
            "nothing is no empty list"
        );
    }
}
