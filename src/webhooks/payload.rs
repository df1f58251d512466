//! An event as webhooks get it: with the fields that the event has for clients (contract/modern 7.1), as the
//! body, or as the data of a template.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;

use crate::events::{Event, EventLog, EventOutcome};
use crate::kernel::error::{Error, ErrorKind};
use crate::kernel::ids::EventId;
use crate::web::TimeOrZero;

/// The maximum number of lines of the log that are sent, the last ones, and their maximum size.
pub(super) const MAX_LOG_LINES: i64 = 500;
pub(super) const MAX_LOG_BYTES: i64 = 32 * 1024;

/// The type of all kinds of events.
const KIND_TYPE: &str = "permission";

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct EventPayload {
    cancel_info: CancelPayload,
    cancelable: bool,
    custom_data: DataPayload,
    end_time: TimeOrZero,
    error: String,
    extra_targets: Vec<ExtraTargetPayload>,
    kind: TypedName,
    log: String,
    owner: TypedName,
    #[serde(rename = "RequestID")]
    request_id: String,
    running: bool,
    #[serde(rename = "SourceIP")]
    source_ip: String,
    start_time: DateTime<Utc>,
    structured_log: Vec<LogLinePayload>,
    target: TargetPayload,
    token_kind: String,
    #[serde(rename = "UniqueID")]
    unique_id: EventId,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct CancelPayload {
    asked: bool,
    canceled: bool,
    owner: String,
    reason: String,
    start_time: TimeOrZero,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct DataPayload {
    end: Option<Value>,
    start: Option<Value>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct ExtraTargetPayload {
    lock: bool,
    target: TargetPayload,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct TargetPayload {
    r#type: String,
    value: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct TypedName {
    name: String,
    r#type: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct LogLinePayload {
    date: DateTime<Utc>,
    message: String,
}

impl EventPayload {
    fn new(event: Event, log: EventLog) -> Self {
        let (error, canceled) = match event.outcome {
            Some(EventOutcome::Failed { kind, words }) => (words, kind == ErrorKind::Cancelled),
            _ => (String::new(), false),
        };
        let extra = |(kind, value)| ExtraTargetPayload {
            lock: true,
            target: TargetPayload { r#type: kind, value },
        };
        let structured_log: Vec<LogLinePayload> = log
            .lines
            .into_iter()
            .map(|(_, date, message)| LogLinePayload { date, message })
            .collect();
        Self {
            cancel_info: CancelPayload {
                asked: event.cancel_asked_at.is_some(),
                canceled,
                owner: event.cancel_by,
                reason: event.cancel_reason,
                start_time: TimeOrZero(event.cancel_asked_at),
            },
            cancelable: event.cancelable,
            custom_data: DataPayload {
                end: event.end_data,
                start: event.start_data,
            },
            end_time: TimeOrZero(event.ended_at),
            error,
            extra_targets: event.extra_targets.into_iter().map(extra).collect(),
            kind: TypedName {
                name: event.kind,
                r#type: KIND_TYPE.to_owned(),
            },
            log: join_lines(&structured_log),
            owner: TypedName {
                name: event.owner_name,
                r#type: event.owner_kind,
            },
            request_id: event.request_id,
            running: event.ended_at.is_none(),
            source_ip: event.source_ip,
            start_time: event.started_at,
            structured_log,
            target: TargetPayload {
                r#type: event.target_kind,
                value: event.target_value,
            },
            token_kind: event.token_kind,
            unique_id: event.id,
        }
    }
}

fn join_lines(lines: &[LogLinePayload]) -> String {
    lines.iter().map(|line| format!("{}\n", line.message)).collect()
}

/// Converts an event that has ended, with the end of its log.
pub(super) fn convert_event(event: Event, log: EventLog) -> Result<Value, Error> {
    serde_json::to_value(EventPayload::new(event, log)).map_err(Error::internal)
}

/// Returns an event with every field, against which the fields of a template are checked.
pub(super) fn sample_event() -> Value {
    let event = Event {
        id: EventId::new(),
        target_kind: String::new(),
        target_value: String::new(),
        extra_targets: Vec::new(),
        contexts: Vec::new(),
        kind: String::new(),
        owner_kind: String::new(),
        owner_name: String::new(),
        token_kind: String::new(),
        source_ip: String::new(),
        request_id: String::new(),
        started_at: DateTime::UNIX_EPOCH,
        ended_at: None,
        outcome: None,
        start_data: None,
        end_data: None,
        cancelable: false,
        cancel_asked_at: None,
        cancel_by: String::new(),
        cancel_reason: String::new(),
    };
    convert_event(event, EventLog::default()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sample_has_the_fields_that_the_contract_names() {
        let sample = sample_event();
        for path in [
            "/UniqueID",
            "/Kind/Name",
            "/Kind/Type",
            "/Target/Type",
            "/Target/Value",
            "/Owner/Type",
            "/Owner/Name",
            "/Error",
            "/StartTime",
            "/EndTime",
            "/CustomData/Start",
            "/CancelInfo/Reason",
            "/StructuredLog",
        ] {
            assert!(sample.pointer(path).is_some(), "{path}");
        }
    }
}
