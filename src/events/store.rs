//! Events in SQL.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{PgConnection, PgExecutor};
use uuid::Uuid;

use crate::db::{self, notices::NoticeChannel};
use crate::events::model::{Event, EventLog, EventOutcome, EventTarget, NewEvent};
use crate::kernel::ids::EventId;
use crate::kernel::permission::{ContextKind, PermissionContext};
use crate::kernel::request_context::RequestContext;

/// A row of the table.
pub(super) struct EventRow {
    pub(super) event_id: EventId,
    pub(super) target_kind: String,
    pub(super) target_value: String,
    pub(super) extra_targets: Vec<String>,
    pub(super) contexts: Vec<String>,
    pub(super) kind: String,
    pub(super) owner_kind: String,
    pub(super) owner_name: String,
    pub(super) token_kind: String,
    pub(super) source_ip: String,
    pub(super) request_id: String,
    pub(super) started_at: DateTime<Utc>,
    pub(super) ended_at: Option<DateTime<Utc>>,
    pub(super) outcome: Option<String>,
    pub(super) error: String,
    pub(super) start_data: Option<Value>,
    pub(super) end_data: Option<Value>,
    pub(super) cancelable: bool,
    pub(super) cancel_asked_at: Option<DateTime<Utc>>,
    pub(super) cancel_by: String,
    pub(super) cancel_reason: String,
}

impl TryFrom<EventRow> for Event {
    type Error = sqlx::Error;

    fn try_from(row: EventRow) -> sqlx::Result<Self> {
        let outcome = match row.outcome.as_deref() {
            None => None,
            Some("done") => Some(EventOutcome::Done),
            Some(word) => Some(EventOutcome::Failed {
                kind: word.parse().map_err(|()| {
                    sqlx::Error::Decode(format!("{word:?} is no outcome of an event").into())
                })?,
                words: row.error,
            }),
        };
        Ok(Event {
            id: row.event_id,
            target_kind: row.target_kind,
            target_value: row.target_value,
            extra_targets: split_pairs(&row.extra_targets)?,
            contexts: split_pairs(&row.contexts)?,
            kind: row.kind,
            owner_kind: row.owner_kind,
            owner_name: row.owner_name,
            token_kind: row.token_kind,
            source_ip: row.source_ip,
            request_id: row.request_id,
            started_at: row.started_at,
            ended_at: row.ended_at,
            outcome,
            start_data: row.start_data,
            end_data: row.end_data,
            cancelable: row.cancelable,
            cancel_asked_at: row.cancel_asked_at,
            cancel_by: row.cancel_by,
            cancel_reason: row.cancel_reason,
        })
    }
}

/// Splits `kind:name` pairs.
fn split_pairs(pairs: &[String]) -> sqlx::Result<Vec<(String, String)>> {
    pairs
        .iter()
        .map(|pair| match pair.split_once(':') {
            Some((kind, name)) => Ok((kind.to_owned(), name.to_owned())),
            None => Err(sqlx::Error::Decode(
                format!("{pair:?} is no pair of kind and name").into(),
            )),
        })
        .collect()
}

pub(super) async fn insert_event(
    tx: &mut PgConnection,
    id: &EventId,
    call: &RequestContext,
    new: &NewEvent,
    start_data: &Value,
) -> sqlx::Result<()> {
    let (owner_kind, owner_name) = call.event_owner();
    let contexts: Vec<String> = new
        .contexts
        .iter()
        .map(|c| format!("{}:{}", c.kind.as_str(), c.value))
        .collect();
    let extra_targets: Vec<String> = new
        .also_locks
        .iter()
        .map(|target| format!("{}:{}", target.kind.as_str(), target.value))
        .collect();
    sqlx::query!(
        "insert into event (event_id, target_kind, target_value, kind, owner_kind, owner_name, source_ip, request_id, start_data, cancelable, contexts,
                            token_kind, extra_targets)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
        id.as_str(),
        new.target.kind.as_str(),
        new.target.value,
        new.kind.as_str(),
        owner_kind,
        owner_name,
        &*call.source_ip,
        &*call.request_id,
        start_data,
        new.cancelable,
        &contexts,
        call.token_kind.as_str(),
        &extra_targets,
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Takes the lock of a target; false if another running event has it. Waits for a transaction that is
/// about to take or free it.
pub(super) async fn lock_target(
    tx: &mut PgConnection,
    id: &EventId,
    target: &EventTarget,
) -> sqlx::Result<bool> {
    sqlx::query!(
        "insert into event_lock (target_kind, target_value, event_id) values ($1, $2, $3)
         on conflict on constraint event_lock_pkey do nothing",
        target.kind.as_str(),
        target.value,
        id.as_str(),
    )
    .execute(tx)
    .await
    .map(|done| done.rows_affected() == 1)
}

/// The event that holds the lock of a target.
pub(super) async fn find_lock_holder(
    db: impl PgExecutor<'_>,
    target: &EventTarget,
) -> sqlx::Result<Option<Event>> {
    sqlx::query_as!(
        EventRow,
        r#"select e.event_id as "event_id: EventId", e.target_kind, e.target_value, e.kind, e.owner_kind, e.owner_name, e.source_ip,
                e.request_id, e.started_at, e.ended_at, e.outcome, e.error, e.start_data, e.end_data,
                e.cancelable, e.cancel_asked_at, e.cancel_by, e.cancel_reason, e.token_kind,
                e.extra_targets, e.contexts
         from event_lock l join event e using (event_id)
         where l.target_kind = $1 and l.target_value = $2"#,
        target.kind.as_str(),
        target.value,
    )
    .fetch_optional(db)
    .await?
    .map(Event::try_from)
    .transpose()
}

pub(super) async fn end_event(
    tx: &mut PgConnection,
    id: &EventId,
    outcome: &EventOutcome,
    data: Option<&Value>,
) -> sqlx::Result<()> {
    let (word, error) = match outcome {
        EventOutcome::Done => ("done", ""),
        EventOutcome::Failed { kind, words } => (kind.as_str(), words.as_str()),
    };
    sqlx::query!(
        "with freed as (delete from event_lock where event_id = $1)
         update event set ended_at = clock_timestamp(), outcome = $2, error = $3, end_data = coalesce($4, end_data)
         where event_id = $1 and ended_at is null",
        id.as_str(),
        word,
        error,
        data,
    )
    .execute(&mut *tx)
    .await?;
    db::send_notice(tx, NoticeChannel::Event, id.as_str()).await
}

pub(super) async fn insert_log_lines(
    db: impl PgExecutor<'_>,
    id: &EventId,
    messages: &[String],
) -> sqlx::Result<()> {
    sqlx::query!(
        "with lines as (
             insert into event_line (event_id, message)
             select $1, message from unnest($2::text[]) with ordinality as said(message, nth) order by nth)
         select pg_notify('tancho_event', $1)",
        id.as_str(),
        messages,
    )
    .fetch_one(db)
    .await
    .map(drop)
}

/// Lines that are read at once.
pub(super) const LOG_LINES_PER_PAGE: usize = 1000;

/// Lines after a number, in order, at most `LOG_LINES_PER_PAGE`.
pub async fn list_log_lines(
    db: impl PgExecutor<'_>,
    id: &EventId,
    after: i64,
) -> sqlx::Result<Vec<(i64, DateTime<Utc>, String)>> {
    sqlx::query!(
        "select seq, at, message from event_line where event_id = $1 and seq > $2 order by seq limit $3",
        id.as_str(),
        after,
        i64::try_from(LOG_LINES_PER_PAGE).unwrap_or(i64::MAX),
    )
    .fetch_all(db)
    .await
    .map(|rows| {
        rows.into_iter()
            .map(|row| (row.seq, row.at, row.message))
            .collect()
    })
}

/// The last lines of the log of an event, in order, within limits of their number and size.
pub async fn list_last_log_lines(
    db: impl PgExecutor<'_>,
    id: &EventId,
    max_lines: i64,
    max_bytes: i64,
) -> sqlx::Result<EventLog> {
    let rows = sqlx::query!(
        r#"select seq, at, message, total as "total!"
           from (select seq, at, message, count(*) over () as total, row_number() over latest as nth,
                        sum(octet_length(message)) over latest as bytes
                 from event_line where event_id = $1
                 window latest as (order by seq desc)) l
           where nth <= $2 and bytes <= $3 order by seq"#,
        id.as_str(),
        max_lines,
        max_bytes,
    )
    .fetch_all(db)
    .await?;
    let total = rows.first().map_or(0, |row| row.total);
    let lines: Vec<_> = rows
        .into_iter()
        .map(|row| (row.seq, row.at, row.message))
        .collect();
    Ok(EventLog {
        omitted: total - i64::try_from(lines.len()).unwrap_or(total),
        lines,
    })
}

/// One event.
pub async fn find_event(db: impl PgExecutor<'_>, id: &EventId) -> sqlx::Result<Option<Event>> {
    sqlx::query_as!(
        EventRow,
        r#"select event_id as "event_id: EventId", target_kind, target_value, kind, owner_kind, owner_name, source_ip, request_id,
                started_at, ended_at, outcome, error, start_data, end_data, cancelable, cancel_asked_at,
                cancel_by, cancel_reason, token_kind, extra_targets, contexts
         from event where event_id = $1"#,
        id.as_str(),
    )
    .fetch_optional(db)
    .await?
    .map(Event::try_from)
    .transpose()
}

/// What an event is about, as it is named now, as far as it is still there.
pub(super) async fn list_event_contexts(
    db: impl PgExecutor<'_>,
    id: &EventId,
) -> sqlx::Result<Vec<PermissionContext>> {
    sqlx::query!(
        r#"select o.kind as "kind!", o.name as "name!"
           from event_reader r join context_object o on o.kind = r.kind and o.object_id = r.object_id
           where r.event_id = $1"#,
        id.as_str(),
    )
    .fetch_all(db)
    .await
    .map(|rows| {
        rows.into_iter()
            .filter_map(|row| {
                Some(PermissionContext::new(
                    ContextKind::parse(&row.kind).ok()?,
                    row.name,
                ))
            })
            .collect()
    })
}

/// True if the user or app of this id has made the event.
pub(super) async fn is_event_owner(db: impl PgExecutor<'_>, id: &EventId, owner: Uuid) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select exists (
               select 1 from event_reader where event_id = $1 and kind = 'owner' and object_id = $2) as "is!""#,
        id.as_str(),
        owner,
    )
    .fetch_one(db)
    .await
}

/// True if an owner has made so many events within a minute that keep more than so many bytes.
pub(super) async fn exceeds_large_event_rate(
    tx: &mut PgConnection,
    call: &RequestContext,
    bytes: usize,
    events: i64,
) -> sqlx::Result<bool> {
    let (owner_kind, owner_name) = call.event_owner();
    sqlx::query_scalar!(
        r#"select count(*) >= $4 as "has!" from (
               select 1 from event
               where started_at > now() - interval '1 minute' and owner_kind = $1 and owner_name = $2
                 and octet_length(start_data::text) > $3
               limit $4) as big"#,
        owner_kind,
        owner_name,
        i32::try_from(bytes).unwrap_or(i32::MAX),
        events,
    )
    .fetch_one(tx)
    .await
}

/// Asks a running, cancelable event to stop; false if it is neither, or was asked already.
pub async fn request_cancel(
    tx: &mut PgConnection,
    id: &EventId,
    by: &str,
    reason: &str,
) -> sqlx::Result<bool> {
    let asked = sqlx::query!(
        "update event set cancel_asked_at = now(), cancel_by = $2, cancel_reason = $3
         where event_id = $1 and ended_at is null and cancelable and cancel_asked_at is null",
        id.as_str(),
        by,
        reason,
    )
    .execute(&mut *tx)
    .await?;
    db::send_notice(tx, NoticeChannel::Event, id.as_str()).await?;
    Ok(asked.rows_affected() == 1)
}

/// True if somebody has asked the event to stop.
pub async fn is_cancel_requested(db: impl PgExecutor<'_>, id: &EventId) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select cancel_asked_at is not null as "asked!" from event where event_id = $1"#,
        id.as_str(),
    )
    .fetch_optional(db)
    .await
    .map(|asked| asked.unwrap_or(false))
}

/// Those of some events that somebody has asked to stop.
pub async fn list_cancel_requested(db: impl PgExecutor<'_>, ids: &[EventId]) -> sqlx::Result<Vec<String>> {
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    sqlx::query_scalar!(
        "select event_id from event where event_id = any($1) and cancel_asked_at is not null",
        &ids,
    )
    .fetch_all(db)
    .await
}

/// Deletes events that ended more than so many days ago, the oldest first. Answers how many.
pub async fn delete_expired_events(
    db: impl PgExecutor<'_>,
    keep_days: i32,
    at_most: i32,
) -> sqlx::Result<i64> {
    sqlx::query_scalar!(r#"select event_expire($1, $2) as "gone!""#, keep_days, at_most)
        .fetch_one(db)
        .await
}
