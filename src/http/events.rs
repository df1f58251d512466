//! Events over HTTP (contract/modern 7): list, one, its kinds, cancel. Keys are capitalised, as the
//! client's own types are.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use crate::core::Core;
use crate::db::{self, listen::Channel};
use crate::events::{self, Event, Filter, Outcome};
use crate::http::kit::{Caller, Input};
use crate::http::wording::modern::Refusal;
use crate::kernel::call::Call;
use crate::kernel::ids::EventId;
use crate::kernel::permission::{self, Context, ContextKind};
use crate::kernel::problem::{Kind, Problem};

const MAX_EVENTS: i64 = 100;

/// `kind:value` of everything the caller holds something on; `None` for an administrator, who reads all.
fn readable(call: &Call) -> Option<Vec<String>> {
    if call.is_admin() {
        return None;
    }
    let held = call
        .grants
        .iter()
        .filter(|grant| grant.context.kind != ContextKind::Global);
    let mut pairs: Vec<String> = held
        .map(|grant| format!("{}:{}", grant.context.kind.as_str(), grant.context.value))
        .collect();
    let (kind, name) = call.owner();
    pairs.push(format!("{kind}:{name}"));
    pairs.sort();
    pairs.dedup();
    Some(pairs)
}

/// A time that clients decode; the zero time stands for none.
fn time(at: Option<DateTime<Utc>>) -> Value {
    at.map_or_else(|| json!("0001-01-01T00:00:00Z"), |at| json!(at))
}

fn view(event: &Event) -> Value {
    let target = json!({ "Type": event.target_kind, "Value": event.target_value });
    let running = event.ended_at.is_none();
    let (error, cancelled) = match &event.outcome {
        Some(Outcome::Failed { kind, words }) => (words.as_str(), *kind == Kind::Cancelled),
        _ => ("", false),
    };
    json!({
        "UniqueID": event.id, "Target": target, "Lock": if running { target.clone() } else { Value::Null },
        "ExtraTargets": [], "StartTime": event.started_at, "EndTime": time(event.ended_at),
        "ExpireAt": time(None), "LockUpdateTime": time(None),
        "Kind": { "Type": "permission", "Name": event.kind },
        "Owner": { "Type": event.owner_kind, "Name": event.owner_name },
        "TokenKind": event.token_kind, "SourceIP": event.source_ip, "Error": error, "Log": "", "StructuredLog": [],
        "CancelInfo": {
            "Owner": event.cancel_by, "StartTime": time(event.cancel_asked_at),
            "AckTime": time(event.ended_at.filter(|_| cancelled)),
            "Reason": event.cancel_reason, "Asked": event.cancel_asked_at.is_some(), "Canceled": cancelled,
        },
        "Cancelable": event.cancelable && running, "Running": running, "RequestID": event.request_id,
        "Allowed": { "Scheme": event.kind, "Contexts": [] }, "AllowedCancel": { "Scheme": event.kind, "Contexts": [] },
        "Instance": { "Name": "", "Port": "", "TLSPort": "", "Addresses": [], "LastUpdate": time(None) },
    })
}

/// `GET /1.1/events?target.type=…&kindname=…&running=…`
pub(super) async fn list(
    State(core): State<Core>,
    Caller(call): Caller,
    input: Input,
) -> Result<Json<Value>, Refusal> {
    let target = input.object("target")?;
    let text = |input: &Input, key: &str| Ok::<_, Problem>(input.text(key)?.unwrap_or_default());
    let filter = Filter {
        target_kind: text(&target, "type")?,
        target_value: text(&target, "value")?,
        kinds: input.texts("kindname")?,
        owner_kind: text(&input, "ownertype")?,
        owner_name: text(&input, "ownername")?,
        running: input
            .text("running")?
            .map(|_| input.flag("running"))
            .transpose()?,
        errors_only: input.flag("erroronly")?,
        readable: readable(&call),
        limit: input
            .number("limit")?
            .filter(|n| (1..=MAX_EVENTS).contains(n))
            .unwrap_or(MAX_EVENTS),
        skip: input.number("skip")?.unwrap_or(0).max(0),
    };
    let found = events::list(&core.db, &filter).await?;
    Ok(Json(found.iter().map(view).collect()))
}

async fn find(core: &Core, call: &Call, id: &str) -> Result<Event, Problem> {
    let id: EventId = id.parse()?;
    let event = events::find(&core.db, &id).await?;
    let (kind, name) = call.owner();
    let sees = |event: &Event| {
        let mine = event.owner_kind == kind && event.owner_name == name;
        mine || readable(call).is_none_or(|pairs| event.contexts.iter().any(|pair| pairs.contains(pair)))
    };
    event
        .filter(sees)
        .ok_or_else(|| Problem::not_found("event not found"))
}

/// `GET /1.1/events/{event}`, with its lines.
pub(super) async fn info(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(id): Path<String>,
) -> Result<Json<Value>, Refusal> {
    let event = find(&core, &call, &id).await?;
    let lines = events::list_lines(&core.db, &event.id, 0).await?;
    let mut view = view(&event);
    // The client writes the messages one after the other: each brings its own line end.
    view["StructuredLog"] = lines
        .iter()
        .map(|(_, at, line)| json!({ "Date": at, "Message": format!("{line}\n") }))
        .collect();
    view["CustomData"] = json!({ "Start": event.start_data, "End": event.end_data, "Other": null });
    Ok(Json(view))
}

fn contexts(event: &Event) -> Vec<Context> {
    let pairs = event.contexts.iter().filter_map(|pair| pair.split_once(':'));
    pairs
        .filter_map(|(kind, value)| Some(Context::new(ContextKind::parse(kind).ok()?, value)))
        .collect()
}

fn not_cancelled(event: &Event) -> Problem {
    match event.cancel_asked_at {
        Some(_) if event.ended_at.is_none() => Problem::conflict("event cancel already requested"),
        _ => Problem::invalid("event is not cancelable"),
    }
}

/// `POST /1.1/events/{event}/cancel`: who could have done it may stop it.
pub(super) async fn cancel(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(id): Path<String>,
    input: Input,
) -> Result<StatusCode, Refusal> {
    let event = find(&core, &call, &id).await?;
    let reason = input
        .text("reason")?
        .ok_or_else(|| Problem::invalid("reason is mandatory"))?;
    let permission = permission::Permission::parse(&event.kind)?;
    let mine = call.owner() == (event.owner_kind.as_str(), event.owner_name.clone());
    if !mine {
        call.allow(permission, &contexts(&event))?;
    }
    let mut tx = core.db.begin().await?;
    if !events::ask_cancel(&mut tx, &event.id, &call.owner().1, &reason).await? {
        return Err(not_cancelled(&event).into());
    }
    db::notify(&mut tx, Channel::Event, event.id.as_str()).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /1.1/events/kinds`
pub(super) async fn kinds() -> Json<Value> {
    let named = permission::all().filter(|permission| !permission.as_str().is_empty());
    Json(
        named
            .map(|permission| json!({ "Type": "permission", "Name": permission.as_str() }))
            .collect(),
    )
}
