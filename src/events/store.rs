//! Events in SQL.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{PgConnection, PgExecutor};

use crate::db::{self, listen::Channel};
use crate::events::model::{Event, NewEvent, Outcome, Target};
use crate::kernel::call::Call;
use crate::kernel::ids::EventId;
use crate::kernel::problem::Kind;

struct Row {
    event_id: String,
    target_kind: String,
    target_value: String,
    kind: String,
    owner_kind: String,
    owner_name: String,
    token_kind: String,
    source_ip: String,
    request_id: String,
    started_at: DateTime<Utc>,
    ended_at: Option<DateTime<Utc>>,
    outcome: Option<String>,
    error: String,
    start_data: Option<Value>,
    end_data: Option<Value>,
    cancelable: bool,
    cancel_asked_at: Option<DateTime<Utc>>,
    cancel_by: String,
    cancel_reason: String,
    contexts: Vec<String>,
}

impl From<Row> for Event {
    fn from(row: Row) -> Self {
        let outcome = row.outcome.map(|word| match word.as_str() {
            "done" => Outcome::Done,
            word => Outcome::Failed {
                kind: word.parse().unwrap_or(Kind::Internal),
                words: row.error,
            },
        });
        Event {
            id: row.event_id.parse().unwrap_or_else(|_| EventId::new()),
            target_kind: row.target_kind,
            target_value: row.target_value,
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
            contexts: row.contexts,
        }
    }
}

pub(super) async fn insert(
    tx: &mut PgConnection,
    id: &EventId,
    call: &Call,
    new: &NewEvent,
) -> sqlx::Result<()> {
    let (owner_kind, owner_name) = call.owner();
    let contexts: Vec<String> = new
        .contexts
        .iter()
        .map(|c| format!("{}:{}", c.kind.as_str(), c.value))
        .collect();
    sqlx::query!(
        "insert into event (event_id, target_kind, target_value, kind, owner_kind, owner_name, source_ip, request_id, start_data, cancelable, contexts,
                            token_kind)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
        id.as_str(),
        new.target.kind.as_str(),
        new.target.value,
        new.kind.as_str(),
        owner_kind,
        owner_name,
        &*call.source_ip,
        &*call.request_id,
        new.start_data,
        new.cancelable,
        &contexts,
        call.token_kind.as_str(),
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Takes the lock of a target; false if another running event has it. Waits for a transaction that is
/// about to take or free it.
pub(super) async fn lock(tx: &mut PgConnection, id: &EventId, target: &Target) -> sqlx::Result<bool> {
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
pub(super) async fn holder(db: impl PgExecutor<'_>, target: &Target) -> sqlx::Result<Option<Event>> {
    sqlx::query_as!(
        Row,
        "select e.event_id, e.target_kind, e.target_value, e.kind, e.owner_kind, e.owner_name, e.source_ip,
                e.request_id, e.started_at, e.ended_at, e.outcome, e.error, e.start_data, e.end_data,
                e.cancelable, e.cancel_asked_at, e.cancel_by, e.cancel_reason, e.contexts, e.token_kind
         from event_lock l join event e using (event_id)
         where l.target_kind = $1 and l.target_value = $2",
        target.kind.as_str(),
        target.value,
    )
    .fetch_optional(db)
    .await
    .map(|row| row.map(Event::from))
}

pub(super) async fn end(
    tx: &mut PgConnection,
    id: &EventId,
    outcome: &Outcome,
    data: Option<&Value>,
) -> sqlx::Result<()> {
    let (word, error) = match outcome {
        Outcome::Done => ("done", ""),
        Outcome::Failed { kind, words } => (kind.as_str(), words.as_str()),
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
    db::notify(tx, Channel::Event, id.as_str()).await
}

pub(super) async fn insert_lines(
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

/// Lines after a number, in order, at most 1,000.
pub async fn list_lines(
    db: impl PgExecutor<'_>,
    id: &EventId,
    after: i64,
) -> sqlx::Result<Vec<(i64, DateTime<Utc>, String)>> {
    sqlx::query!(
        "select seq, at, message from event_line where event_id = $1 and seq > $2 order by seq limit 1000",
        id.as_str(),
        after,
    )
    .fetch_all(db)
    .await
    .map(|rows| {
        rows.into_iter()
            .map(|row| (row.seq, row.at, row.message))
            .collect()
    })
}

/// One event.
pub async fn find(db: impl PgExecutor<'_>, id: &EventId) -> sqlx::Result<Option<Event>> {
    sqlx::query_as!(
        Row,
        "select event_id, target_kind, target_value, kind, owner_kind, owner_name, source_ip, request_id,
                started_at, ended_at, outcome, error, start_data, end_data, cancelable, cancel_asked_at,
                cancel_by, cancel_reason, contexts, token_kind
         from event where event_id = $1",
        id.as_str(),
    )
    .fetch_optional(db)
    .await
    .map(|row| row.map(Event::from))
}

/// What a list of events is narrowed by; empty texts and `None` do not narrow.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub target_kind: String,
    pub target_value: String,
    pub kinds: Vec<String>,
    pub owner_kind: String,
    pub owner_name: String,
    pub running: Option<bool>,
    pub errors_only: bool,
    /// `kind:value` pairs that the reader holds; `None` reads all.
    pub readable: Option<Vec<String>>,
    pub limit: i64,
    pub skip: i64,
}

/// Events, newest first.
pub async fn list(db: impl PgExecutor<'_>, filter: &Filter) -> sqlx::Result<Vec<Event>> {
    sqlx::query_as!(
        Row,
        "select event_id, target_kind, target_value, kind, owner_kind, owner_name, source_ip, request_id,
                started_at, ended_at, outcome, error, start_data, end_data, cancelable, cancel_asked_at,
                cancel_by, cancel_reason, contexts, token_kind
         from event
         where ($1 = '' or target_kind = $1) and ($2 = '' or target_value = $2)
           and (cardinality($3::text[]) = 0 or kind = any($3))
           and ($4 = '' or owner_kind = $4) and ($5 = '' or owner_name = $5)
           and ($6::boolean is null or (ended_at is null) = $6)
           and (not $7 or coalesce(outcome, 'done') <> 'done')
           and ($8::text[] is null or contexts && $8)
         order by started_at desc, event_id desc limit $9 offset $10",
        filter.target_kind,
        filter.target_value,
        &filter.kinds,
        filter.owner_kind,
        filter.owner_name,
        filter.running,
        filter.errors_only,
        filter.readable.as_deref(),
        filter.limit,
        filter.skip,
    )
    .fetch_all(db)
    .await
    .map(|rows| rows.into_iter().map(Event::from).collect())
}

/// Asks a running, cancelable event to stop; false if it is neither, or was asked already.
pub async fn ask_cancel(tx: &mut PgConnection, id: &EventId, by: &str, reason: &str) -> sqlx::Result<bool> {
    let asked = sqlx::query!(
        "update event set cancel_asked_at = now(), cancel_by = $2, cancel_reason = $3
         where event_id = $1 and ended_at is null and cancelable and cancel_asked_at is null",
        id.as_str(),
        by,
        reason,
    )
    .execute(&mut *tx)
    .await?;
    db::notify(tx, Channel::Event, id.as_str()).await?;
    Ok(asked.rows_affected() == 1)
}

/// True if somebody has asked the event to stop.
pub async fn cancel_asked(db: impl PgExecutor<'_>, id: &EventId) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select cancel_asked_at is not null as "asked!" from event where event_id = $1"#,
        id.as_str(),
    )
    .fetch_optional(db)
    .await
    .map(|asked| asked.unwrap_or(false))
}

/// Deletes events that ended more than so many days ago, the oldest first. Answers how many.
pub async fn expire(db: impl PgExecutor<'_>, keep_days: i32, at_most: i32) -> sqlx::Result<i64> {
    sqlx::query_scalar!(r#"select event_expire($1, $2) as "gone!""#, keep_days, at_most)
        .fetch_one(db)
        .await
}
