//! Events as clients decode them (contract/modern 7.1). Keys are capitalised, as in the client's own types.

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use crate::events::bson::{self, RawBson};
use crate::events::{Event, EventLog, EventOutcome, EventTargetKind, read_permission};
use crate::kernel::error::{Error, ErrorKind};
use crate::kernel::ids::EventId;
use crate::kernel::permission::Permission;
use crate::web::TimeOrZero;
use crate::webhooks::{DeliveryAttempt, DeliveryReport};

/// An event. Clients expect some fields that are always empty here.
#[derive(Debug, JsonSchema, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct EventView {
    allowed: EventPermissionView,
    allowed_cancel: EventPermissionView,
    cancel_info: CancelInfoView,
    cancelable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    custom_data: Option<CustomDataView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_custom_data: Option<RawBson>,
    end_time: TimeOrZero,
    error: String,
    expire_at: TimeOrZero,
    extra_targets: Vec<ExtraTargetView>,
    instance: EventInstanceView,
    kind: NamedTypeView,
    lock: Option<EventTargetView>,
    lock_update_time: TimeOrZero,
    log: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    other_custom_data: Option<RawBson>,
    owner: NamedTypeView,
    #[serde(rename = "RequestID")]
    request_id: String,
    running: bool,
    #[serde(rename = "SourceIP")]
    source_ip: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_custom_data: Option<RawBson>,
    start_time: DateTime<Utc>,
    structured_log: Vec<LogMessageView>,
    target: EventTargetView,
    token_kind: String,
    #[serde(rename = "UniqueID")]
    unique_id: EventId,
}

/// What else an event has to show.
#[derive(Debug, JsonSchema, Serialize)]
#[serde(rename_all = "PascalCase")]
struct OtherDataView {
    webhooks: Vec<WebhookDeliveryView>,
}

/// The delivery of the event to a webhook.
#[derive(Debug, JsonSchema, Serialize)]
#[serde(rename_all = "PascalCase")]
struct WebhookDeliveryView {
    webhook: String,
    state: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    error: String,
    attempts: Vec<DeliveryAttemptView>,
}

#[derive(Debug, JsonSchema, Serialize)]
#[serde(rename_all = "PascalCase")]
struct DeliveryAttemptView {
    at: DateTime<Utc>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "String::is_empty")]
    error: String,
}

impl From<DeliveryReport> for WebhookDeliveryView {
    fn from(report: DeliveryReport) -> Self {
        let attempt = |attempt: DeliveryAttempt| DeliveryAttemptView {
            at: attempt.at,
            status: attempt.status,
            error: attempt.error,
        };
        Self {
            webhook: report.webhook,
            state: report.state,
            error: report.error,
            attempts: report.attempts.into_iter().map(attempt).collect(),
        }
    }
}

/// A target; both strings are empty for none.
#[derive(Clone, Debug, JsonSchema, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct EventTargetView {
    pub(super) r#type: String,
    pub(super) value: String,
}

#[derive(Debug, JsonSchema, Serialize)]
#[serde(rename_all = "PascalCase")]
struct EventPermissionView {
    contexts: Vec<EventContextView>,
    scheme: String,
}

#[derive(Clone, Debug, JsonSchema, Serialize)]
#[serde(rename_all = "PascalCase")]
struct EventContextView {
    ctx_type: String,
    value: String,
}

/// A further target that the event has locked.
#[derive(Debug, JsonSchema, Serialize)]
#[serde(rename_all = "PascalCase")]
struct ExtraTargetView {
    lock: bool,
    target: EventTargetView,
}

#[derive(Debug, JsonSchema, Serialize)]
#[serde(rename_all = "PascalCase")]
struct CancelInfoView {
    ack_time: TimeOrZero,
    asked: bool,
    canceled: bool,
    owner: String,
    reason: String,
    start_time: TimeOrZero,
}

#[derive(Debug, JsonSchema, Serialize)]
#[serde(rename_all = "PascalCase")]
struct CustomDataView {
    end: Option<Value>,
    other: Option<Value>,
    start: Option<Value>,
}

#[derive(Debug, JsonSchema, Serialize)]
#[serde(rename_all = "PascalCase")]
struct EventInstanceView {
    addresses: [(); 0],
    last_update: TimeOrZero,
    name: &'static str,
    port: &'static str,
    #[serde(rename = "TLSPort")]
    tls_port: &'static str,
}

/// A name and its type: a permission, or the owner of an event.
#[derive(Debug, JsonSchema, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct NamedTypeView {
    name: String,
    r#type: String,
}

#[derive(Debug, JsonSchema, Serialize)]
#[serde(rename_all = "PascalCase")]
struct LogMessageView {
    date: DateTime<Utc>,
    message: String,
}

impl NamedTypeView {
    /// The type of all kinds of events: the name of a permission.
    pub(super) fn permission(name: String) -> Self {
        Self {
            name,
            r#type: "permission".into(),
        }
    }
}

impl From<Event> for EventView {
    fn from(event: Event) -> Self {
        let running = event.ended_at.is_none();
        let (error, cancelled) = match event.outcome {
            Some(EventOutcome::Failed { kind, words }) => (words, kind == ErrorKind::Cancelled),
            _ => (String::new(), false),
        };
        let extra_targets = event.extra_targets.iter().map(|extra| ExtraTargetView {
            lock: true,
            target: target_view(extra),
        });
        let extra_targets = extra_targets.collect();
        let contexts: Vec<EventContextView> = event.contexts.iter().map(context_view).collect();
        let read_scheme = EventTargetKind::parse(&event.target_kind).and_then(read_permission);
        let target = EventTargetView {
            r#type: event.target_kind,
            value: event.target_value,
        };
        Self {
            allowed: EventPermissionView {
                contexts: contexts.clone(),
                scheme: read_scheme.map_or("", Permission::as_str).to_owned(),
            },
            allowed_cancel: EventPermissionView {
                contexts,
                scheme: event.kind.clone(),
            },
            cancel_info: CancelInfoView {
                ack_time: TimeOrZero(event.ended_at.filter(|_| cancelled)),
                asked: event.cancel_asked_at.is_some(),
                canceled: cancelled,
                owner: event.cancel_by,
                reason: event.cancel_reason,
                start_time: TimeOrZero(event.cancel_asked_at),
            },
            cancelable: event.cancelable && running,
            custom_data: None,
            end_custom_data: None,
            end_time: TimeOrZero(event.ended_at),
            error,
            expire_at: TimeOrZero(None),
            extra_targets,
            instance: EventInstanceView {
                addresses: [],
                last_update: TimeOrZero(None),
                name: "",
                port: "",
                tls_port: "",
            },
            kind: NamedTypeView::permission(event.kind),
            lock: running.then(|| target.clone()),
            lock_update_time: TimeOrZero(None),
            log: "",
            other_custom_data: None,
            owner: NamedTypeView {
                name: event.owner_name,
                r#type: event.owner_kind,
            },
            request_id: event.request_id,
            running,
            source_ip: event.source_ip,
            start_custom_data: None,
            start_time: event.started_at,
            structured_log: Vec::new(),
            target,
            token_kind: event.token_kind,
            unique_id: event.id,
        }
    }
}

impl EventView {
    /// Adds the log lines, the data at the start and the end, and the deliveries to webhooks: as JSON, and as
    /// BSON for clients that decode what tsuru's database has.
    pub(super) fn with_details(
        mut event: Event,
        log: EventLog,
        deliveries: Vec<DeliveryReport>,
    ) -> Result<Self, Error> {
        let (start, end) = (event.start_data.take(), event.end_data.take());
        let other = match deliveries.is_empty() {
            true => None,
            false => {
                let webhooks = deliveries.into_iter().map(WebhookDeliveryView::from).collect();
                Some(serde_json::to_value(OtherDataView { webhooks }).map_err(Error::internal)?)
            }
        };
        Ok(Self {
            structured_log: log_views(event.started_at, log),
            start_custom_data: Some(bson::encode_raw(start.as_ref())),
            end_custom_data: Some(bson::encode_raw(end.as_ref())),
            other_custom_data: Some(bson::encode_raw(other.as_ref())),
            custom_data: Some(CustomDataView { end, other, start }),
            ..Self::from(event)
        })
    }
}

/// Converts the end of a log; its first line says how many others were left out. The client prints the
/// messages one after the other: each needs its own newline.
fn log_views(started_at: DateTime<Utc>, log: EventLog) -> Vec<LogMessageView> {
    let left_out = (log.omitted > 0).then(|| LogMessageView {
        date: log.lines.first().map_or(started_at, |(_, date, _)| *date),
        message: format!("({} earlier lines are left out)\n", log.omitted),
    });
    let lines = log.lines.into_iter().map(|(_, date, line)| LogMessageView {
        date,
        message: format!("{line}\n"),
    });
    left_out.into_iter().chain(lines).collect()
}

fn target_view((kind, value): &(String, String)) -> EventTargetView {
    EventTargetView {
        r#type: kind.clone(),
        value: value.clone(),
    }
}

fn context_view((kind, value): &(String, String)) -> EventContextView {
    EventContextView {
        ctx_type: kind.clone(),
        value: value.clone(),
    }
}
