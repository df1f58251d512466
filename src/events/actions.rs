//! Begin, end, say, follow.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{PgConnection, PgExecutor};

use crate::db::Db;
use crate::db::listen::{Channel, Notices, Subscription};
use crate::events::model::{NewEvent, Outcome};
use crate::events::store;
use crate::kernel::call::Call;
use crate::kernel::ids::EventId;
use crate::kernel::problem::{Kind, Problem};

/// Lines longer than this are cut, in bytes.
const MAX_LINE: usize = 16 * 1024;
/// How often a follower looks without being told.
const POLL: Duration = Duration::from_secs(1);
/// How long a follower waits for a database that is away.
const PATIENCE: Duration = Duration::from_secs(120);

/// Begins an event and takes its locks. Errors: `Locked`, naming what runs, who began it and when.
pub async fn begin(tx: &mut PgConnection, call: &Call, new: &NewEvent) -> Result<EventId, Problem> {
    let id = EventId::new();
    store::insert(tx, &id, call, new).await?;
    // In one order for all, so that no two wait for each other.
    let mut targets: Vec<_> = std::iter::once(&new.target).chain(&new.also_locks).collect();
    targets.sort_by_key(|target| (target.kind.as_str(), &target.value));
    for target in targets {
        if store::lock(tx, &id, target).await? {
            continue;
        }
        let words = match store::holder(&mut *tx, target).await? {
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
        return Err(Problem::new(Kind::Locked, words));
    }
    Ok(id)
}

/// Ends an event and frees its locks; an event that has ended stays as it is.
pub async fn end(
    tx: &mut PgConnection,
    id: &EventId,
    outcome: &Outcome,
    data: Option<&Value>,
) -> Result<(), Problem> {
    Ok(store::end(tx, id, outcome, data).await?)
}

/// Records a change that this very transaction makes: begins and ends at once. Errors: as `begin`.
pub async fn record(tx: &mut PgConnection, call: &Call, new: &NewEvent) -> Result<EventId, Problem> {
    let id = begin(tx, call, new).await?;
    store::end(tx, &id, &Outcome::Done, None).await?;
    Ok(id)
}

/// Records what was to be changed and came to nothing: begins and ends at once, and takes no lock, since nothing
/// changes.
pub async fn record_failed(
    tx: &mut PgConnection,
    call: &Call,
    new: &NewEvent,
    outcome: &Outcome,
) -> Result<EventId, Problem> {
    let id = EventId::new();
    store::insert(tx, &id, call, new).await?;
    store::end(tx, &id, outcome, None).await?;
    Ok(id)
}

/// Adds a line to the progress of an event. Empty lines are left out (they crash a client).
pub async fn say(db: impl PgExecutor<'_>, id: &EventId, message: &str) -> Result<(), Problem> {
    say_all(db, id, &[message.to_owned()]).await
}

/// Adds lines to the progress of an event, in their order.
pub async fn say_all(db: impl PgExecutor<'_>, id: &EventId, messages: &[String]) -> Result<(), Problem> {
    let lines: Vec<String> = messages
        .iter()
        .map(|m| clean(m))
        .filter(|m| !m.is_empty())
        .collect();
    match lines.is_empty() {
        true => Ok(()),
        false => Ok(store::insert_lines(db, id, &lines).await?),
    }
}

/// A line of bounded length that Postgres can hold: its text has no zero character.
fn clean(message: &str) -> String {
    let message = message.trim_end_matches(['\n', '\r']);
    let mut cut = message.len().min(MAX_LINE);
    while !message.is_char_boundary(cut) {
        cut -= 1;
    }
    message[..cut].replace('\0', "\u{fffd}")
}

/// What a follower hears.
#[derive(Clone, Debug)]
pub enum Told {
    Line { at: DateTime<Utc>, message: String },
    End(Outcome),
}

/// Somebody following an event from its first line to its end.
#[derive(Debug)]
pub struct Following {
    db: Db,
    notices: Subscription,
    id: EventId,
    after: i64,
    waiting: std::collections::VecDeque<Told>,
    ended: bool,
    /// When the event was last read; at first, when somebody began to follow it, who has just begun or found it.
    seen: tokio::time::Instant,
}

/// Follows an event, on whichever replica it runs.
pub fn follow(db: &Db, notices: &Notices, id: &EventId) -> Following {
    Following {
        db: db.clone(),
        notices: notices.subscribe(),
        id: id.clone(),
        after: 0,
        waiting: std::collections::VecDeque::new(),
        ended: false,
        seen: tokio::time::Instant::now(),
    }
}

impl Following {
    /// The next line, then the end, then `None`.
    pub async fn next(&mut self) -> Result<Option<Told>, Problem> {
        loop {
            if let Some(told) = self.waiting.pop_front() {
                return Ok(Some(told));
            }
            if self.ended {
                return Ok(None);
            }
            match self.look().await {
                Ok(()) => self.seen = tokio::time::Instant::now(),
                // What has begun goes on while the database is away, and so does its follower.
                Err(problem) if problem.kind() == Kind::Unavailable && self.is_patient() => {}
                Err(problem) => return Err(problem),
            }
            if self.waiting.is_empty() {
                self.pause().await;
            }
        }
    }

    fn is_patient(&self) -> bool {
        self.seen.elapsed() < PATIENCE
    }

    /// Waits for the end, and answers it.
    pub async fn outcome(mut self) -> Result<Outcome, Problem> {
        while let Some(told) = self.next().await? {
            if let Told::End(outcome) = told {
                return Ok(outcome);
            }
        }
        Err(Problem::internal("an event ended without an outcome"))
    }

    /// Reads what is new. The end is read before the lines, so that no line comes after it unseen.
    async fn look(&mut self) -> Result<(), Problem> {
        let event = store::find(&self.db, &self.id)
            .await?
            .ok_or_else(|| Problem::not_found("That event does not exist."))?;
        let lines = store::list_lines(&self.db, &self.id, self.after).await?;
        let full = lines.len() == 1000;
        for (seq, at, message) in lines {
            self.after = seq;
            self.waiting.push_back(Told::Line { at, message });
        }
        if let (Some(outcome), false) = (event.outcome, full) {
            self.ended = true;
            self.waiting.push_back(Told::End(outcome));
        }
        Ok(())
    }

    async fn pause(&mut self) {
        let until = tokio::time::Instant::now() + POLL;
        loop {
            let left = until.saturating_duration_since(tokio::time::Instant::now());
            match self.notices.wait(&[Channel::Event], left).await {
                Some(id) if id != self.id.as_str() => {}
                _ => return,
            }
        }
    }
}
