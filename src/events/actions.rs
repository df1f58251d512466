//! Begins, ends and follows events, and appends to their logs.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{PgConnection, PgExecutor};

use crate::db::Db;
use crate::db::notices::{NoticeChannel, NoticeHub, NoticeSubscription};
use crate::events::model::{EventOutcome, NewEvent};
use crate::events::{blocks, store, truncate};
use crate::kernel::error::{Error, ErrorKind};
use crate::kernel::ids::EventId;
use crate::kernel::log_text::{MAX_LINE_BYTES, clean_line, clip_line};
use crate::kernel::request_context::RequestContext;

/// Poll interval of a follower without a notice.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// How long a follower waits while the database is unavailable.
const OUTAGE_LIMIT: Duration = Duration::from_secs(120);

/// Begins an event and takes its locks. Errors: `Blocked`, naming the block and its reason; `Locked`, naming
/// the running event, its owner and its start time.
pub async fn begin_event(
    tx: &mut PgConnection,
    call: &RequestContext,
    new: &NewEvent,
) -> Result<EventId, Error> {
    blocks::refuse_blocked_event(tx, call, new).await?;
    let id = insert_event(tx, call, new).await?;
    // In a fixed order, so that no two transactions deadlock.
    let mut targets: Vec<_> = std::iter::once(&new.target).chain(&new.also_locks).collect();
    targets.sort_by_key(|target| (target.kind.as_str(), &target.value));
    for target in targets {
        if store::lock_target(tx, &id, target).await? {
            continue;
        }
        let message = match store::find_lock_holder(&mut *tx, target).await? {
            Some(event) => format!(
                "event locked: {}({}) running \"{}\" start by {} {} at {}",
                target.kind.as_str(),
                target.value,
                event.kind,
                event.owner_kind,
                event.owner_name,
                event
                    .started_at
                    .to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
            ),
            None => format!(
                "event locked: {}({}) just changed; try again",
                target.kind.as_str(),
                target.value
            ),
        };
        return Err(Error::new(ErrorKind::Locked, message));
    }
    Ok(id)
}

/// Begins an event that takes no lock: what it records happens beside changes of the target.
pub async fn begin_unlocked_event(
    tx: &mut PgConnection,
    call: &RequestContext,
    new: &NewEvent,
) -> Result<EventId, Error> {
    insert_event(tx, call, new).await
}

async fn insert_event(
    tx: &mut PgConnection,
    call: &RequestContext,
    new: &NewEvent,
) -> Result<EventId, Error> {
    let id = EventId::new();
    let mut data = truncate::truncate_json(&new.start_data, truncate::MAX_BYTES);
    if truncate::json_size(&data) > truncate::LARGE_BYTES
        && store::exceeds_large_event_rate(tx, call, truncate::LARGE_BYTES, truncate::LARGE_PER_MINUTE)
            .await?
    {
        data = truncate::truncate_json(&new.start_data, truncate::LARGE_BYTES);
    }
    store::insert_event(tx, &id, call, new, &data).await?;
    Ok(id)
}

/// Ends an event and releases its locks; no effect on an event that has ended.
pub async fn end_event(
    tx: &mut PgConnection,
    id: &EventId,
    outcome: &EventOutcome,
    data: Option<&Value>,
) -> Result<(), Error> {
    let data = data.map(|data| truncate::truncate_json(data, truncate::MAX_BYTES));
    Ok(store::end_event(tx, id, outcome, data.as_ref()).await?)
}

/// Records a change that this transaction makes: the event begins and ends at once. Errors: as `begin_event`.
pub async fn record_event(
    tx: &mut PgConnection,
    call: &RequestContext,
    new: &NewEvent,
) -> Result<EventId, Error> {
    let id = begin_event(tx, call, new).await?;
    store::end_event(tx, &id, &EventOutcome::Done, None).await?;
    Ok(id)
}

/// Records a change that failed: the event begins and ends at once, and takes no lock, since nothing changes.
pub async fn record_failed_event(
    tx: &mut PgConnection,
    call: &RequestContext,
    new: &NewEvent,
    outcome: &EventOutcome,
) -> Result<EventId, Error> {
    let id = insert_event(tx, call, new).await?;
    store::end_event(tx, &id, outcome, None).await?;
    Ok(id)
}

/// Appends a line to the log of an event. Empty lines are left out (they crash a client).
pub async fn append_log(db: impl PgExecutor<'_>, id: &EventId, message: &str) -> Result<(), Error> {
    append_log_lines(db, id, &[message.to_owned()]).await
}

/// Appends lines to the log of an event, in their order.
pub async fn append_log_lines(
    db: impl PgExecutor<'_>,
    id: &EventId,
    messages: &[String],
) -> Result<(), Error> {
    let lines: Vec<String> = messages
        .iter()
        .flat_map(|message| message.lines())
        .filter(|line| !line.is_empty())
        .map(|line| clip_line(clean_line(line), MAX_LINE_BYTES).into_owned())
        .collect();
    match lines.is_empty() {
        true => Ok(()),
        false => Ok(store::insert_log_lines(db, id, &lines).await?),
    }
}

/// An update that a follower receives.
#[derive(Clone, Debug)]
pub enum EventUpdate {
    Line { at: DateTime<Utc>, message: String },
    End(EventOutcome),
}

/// A follower of an event, from its first line to its end.
#[derive(Debug)]
pub struct EventFollower {
    db: Db,
    notices: NoticeSubscription,
    id: EventId,
    last_seq: i64,
    pending: std::collections::VecDeque<EventUpdate>,
    ended: bool,
    /// Time of the last successful read; at first, the time when the follower was created.
    last_read_at: tokio::time::Instant,
}

/// Returns a follower of an event, whichever replica it runs on.
pub fn follow_event(db: &Db, notices: &NoticeHub, id: &EventId) -> EventFollower {
    EventFollower {
        db: db.clone(),
        notices: notices.subscribe(),
        id: id.clone(),
        last_seq: 0,
        pending: std::collections::VecDeque::new(),
        ended: false,
        last_read_at: tokio::time::Instant::now(),
    }
}

impl EventFollower {
    /// Returns the next line, then the end, then `None`.
    pub async fn next(&mut self) -> Result<Option<EventUpdate>, Error> {
        loop {
            if let Some(update) = self.pending.pop_front() {
                return Ok(Some(update));
            }
            if self.ended {
                return Ok(None);
            }
            match self.read_updates().await {
                Ok(()) => self.last_read_at = tokio::time::Instant::now(),
                // The change goes on while the database is unavailable, and so does its follower.
                Err(error) if error.kind() == ErrorKind::Unavailable && self.tolerates_outage() => {}
                Err(error) => return Err(error),
            }
            if self.pending.is_empty() {
                self.wait_for_change().await;
            }
        }
    }

    fn tolerates_outage(&self) -> bool {
        self.last_read_at.elapsed() < OUTAGE_LIMIT
    }

    /// Waits for the end and returns the outcome.
    pub async fn wait_for_outcome(mut self) -> Result<EventOutcome, Error> {
        while let Some(update) = self.next().await? {
            if let EventUpdate::End(outcome) = update {
                return Ok(outcome);
            }
        }
        Err(Error::internal("an event ended without an outcome"))
    }

    /// Reads new lines and the end. The end is read before the lines, so that no line after it is missed.
    async fn read_updates(&mut self) -> Result<(), Error> {
        let event = store::find_event(&self.db, &self.id)
            .await?
            .ok_or_else(|| Error::not_found("That event does not exist."))?;
        let lines = store::list_log_lines(&self.db, &self.id, self.last_seq).await?;
        let full = lines.len() == store::LOG_LINES_PER_PAGE;
        for (seq, at, message) in lines {
            self.last_seq = seq;
            self.pending.push_back(EventUpdate::Line { at, message });
        }
        if let (Some(outcome), false) = (event.outcome, full) {
            self.ended = true;
            self.pending.push_back(EventUpdate::End(outcome));
        }
        Ok(())
    }

    async fn wait_for_change(&mut self) {
        let until = tokio::time::Instant::now() + POLL_INTERVAL;
        loop {
            let left = until.saturating_duration_since(tokio::time::Instant::now());
            match self.notices.wait_for_notice(&[NoticeChannel::Event], left).await {
                Some(id) if id != self.id.as_str() => {}
                _ => return,
            }
        }
    }
}
