//! Answers that go on while an event runs: plain text for deploys and the classic edition, JSON lines
//! (`application/x-json-stream`) for the rest of the modern one (contract/modern 1.6).
//!
//! A failure that comes before the first line is an ordinary refusal with its status; after it, it is
//! the last line. Dropping the answer does not stop the event.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::json;
use tokio::sync::mpsc;

use crate::events::{Following, Outcome, Told};
use crate::kernel::ids::EventId;
use crate::kernel::problem::Problem;

/// Silence after which something is sent to keep the connection open.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// The form of a streamed answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Lines as they are; success ends with the mark.
    Text { mark: &'static str },
    /// One JSON object a line.
    Json,
}

impl Form {
    fn content_type(self) -> HeaderValue {
        match self {
            Form::Text { .. } => HeaderValue::from_static("text/plain; charset=utf-8"),
            // Exactly so: a parameter makes a client's messages vanish (contract/peers).
            Form::Json => HeaderValue::from_static("application/x-json-stream"),
        }
    }

    fn line(self, message: &str, at: Option<chrono::DateTime<chrono::Utc>>) -> Bytes {
        match self {
            Form::Text { .. } => Bytes::from(format!("{message}\n")),
            Form::Json => {
                let mut line = json!({ "Message": format!("{message}\n") });
                if let Some(at) = at {
                    line["Timestamp"] = json!(at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true));
                }
                Bytes::from(format!("{line}\n"))
            }
        }
    }

    fn end(self, outcome: &Outcome) -> Option<Bytes> {
        match (self, outcome) {
            (Form::Text { mark }, Outcome::Done) => {
                (!mark.is_empty()).then(|| Bytes::from_static(mark.as_bytes()))
            }
            (Form::Json, Outcome::Done) => None,
            (Form::Text { .. }, Outcome::Failed { words, .. }) => {
                Some(Bytes::from(format!("\nERROR: {words}\n")))
            }
            (Form::Json, Outcome::Failed { words, .. }) => Some(Bytes::from(format!(
                "{}\n",
                json!({ "Message": "", "Error": words })
            ))),
        }
    }

    fn keep_alive(self) -> Bytes {
        match self {
            Form::Text { .. } => Bytes::from_static(b"please wait...\n"),
            Form::Json => Bytes::from_static(b"\n"),
        }
    }
}

/// Streams an event from its first line. Errors: what it failed with, if that comes before any line.
pub async fn event(id: &EventId, mut following: Following, form: Form) -> Result<Response, Problem> {
    let first = match following.next().await? {
        Some(Told::End(outcome @ Outcome::Failed { .. })) => {
            return Err(outcome
                .into_result()
                .err()
                .unwrap_or_else(|| Problem::internal("no outcome")));
        }
        first => first,
    };
    let chunks = stream::unfold((Some(following), first), move |(following, waiting)| async move {
        let mut following = following?;
        let told = match waiting {
            Some(told) => Ok(Some(told)),
            None => match tokio::time::timeout(KEEP_ALIVE, following.next()).await {
                Ok(told) => told,
                Err(_) => return Some((form.keep_alive(), (Some(following), None))),
            },
        };
        match told {
            Ok(Some(Told::Line { at, message })) => {
                Some((form.line(&message, Some(at)), (Some(following), None)))
            }
            Ok(Some(Told::End(outcome))) => Some((form.end(&outcome).unwrap_or_default(), (None, None))),
            Ok(None) => None,
            Err(problem) => {
                let outcome = Outcome::from(&problem);
                Some((form.end(&outcome).unwrap_or_default(), (None, None)))
            }
        }
    });
    let mut response =
        Body::from_stream(futures_util::StreamExt::map(chunks, Ok::<Bytes, Infallible>)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, form.content_type());
    if let Ok(value) = HeaderValue::from_str(id.as_str()) {
        headers.insert(HeaderName::from_static("x-tsuru-eventid"), value);
    }
    Ok(response)
}

/// A JSON list whose items come in batches as they are read, so that neither the first waits for the last
/// nor all of them lie in memory. `render` leaves out what it answers `None` for. Errors: what comes before
/// the first item; later ones cut the answer, which no client then takes for a whole list.
pub async fn list<T: Send + 'static>(
    mut batches: mpsc::Receiver<Result<Vec<T>, Problem>>,
    render: impl Fn(&T) -> Option<serde_json::Value> + Send + 'static,
) -> Result<Response, Problem> {
    let first = batches.recv().await.transpose()?.unwrap_or_default();
    let mut opened = false;
    let mut text = move |batch: Vec<T>| {
        let mut text = String::new();
        for item in batch.iter().filter_map(&render) {
            text.push_str(if opened { ",\n" } else { "[" });
            opened = true;
            text.push_str(&item.to_string());
        }
        (Bytes::from(text), opened)
    };
    let (start, _) = text(first);
    let rest = stream::unfold(Some((batches, text)), |state| async move {
        let (mut batches, mut text) = state?;
        match batches.recv().await {
            Some(Ok(batch)) => Some((Ok(text(batch).0), Some((batches, text)))),
            Some(Err(problem)) => Some((Err(problem), None)),
            None => {
                let end = if text(Vec::new()).1 { "]" } else { "[]" };
                Some((Ok(Bytes::from_static(end.as_bytes())), None))
            }
        }
    });
    let body = futures_util::StreamExt::chain(stream::once(async { Ok(start) }), rest);
    let mut response = Body::from_stream(body).into_response();
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// Lines that were all known at once, in the form of a stream.
pub fn said(lines: &[&str], form: Form) -> Response {
    let mut body = Vec::new();
    for line in lines {
        body.extend_from_slice(&form.line(line, None));
    }
    body.extend_from_slice(&form.end(&Outcome::Done).unwrap_or_default());
    ([(header::CONTENT_TYPE, form.content_type())], body).into_response()
}
