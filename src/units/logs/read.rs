//! Reading logs: once, or following them.

use std::sync::Arc;

use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use crate::core::Core;
use crate::kernel::error::Error;
use crate::kernel::ids::AppId;
use crate::kernel::log_text::LogEntry;
use crate::units::logs::{feed, store};

/// Which lines to return.
#[derive(Clone, Debug, Default)]
pub struct LogQuery {
    /// Maximum number of lines; the newest are returned.
    pub lines: i64,
    /// Only lines of this source: a process, or `tsuru`.
    pub source: Option<String>,
    /// Only lines of this unit.
    pub unit: Option<String>,
}

impl LogQuery {
    fn matches_entry(&self, entry: &LogEntry) -> bool {
        let fits = |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|wanted| wanted == is);
        fits(&self.source, &entry.source) && fits(&self.unit, &entry.unit)
    }
}

/// Returns the newest lines, the oldest of them first.
pub async fn list_lines(core: &Core, app: AppId, query: &LogQuery) -> Result<Vec<LogEntry>, Error> {
    Ok(store::list_newest(&core.db, app, query).await?)
}

/// A follower of the log of an app.
#[derive(Debug)]
pub struct LogFollower {
    app: AppId,
    query: LogQuery,
    state: LogFollowState,
}

#[derive(Debug)]
enum LogFollowState {
    /// Nothing has been read yet.
    New,
    /// The newest lines have been read, up to this number.
    Listed { after: i64 },
    /// New lines come from the feed; entries up to `after` have been returned already. `has_gap`: entries
    /// before those of the feed may have been missed.
    Listening {
        after: i64,
        feed: Receiver<Arc<[LogEntry]>>,
        has_gap: bool,
    },
}

/// Returns a follower that starts with the newest lines.
pub fn follow_log(app: AppId, query: LogQuery) -> LogFollower {
    LogFollower {
        app,
        query,
        state: LogFollowState::New,
    }
}

impl LogFollower {
    /// Returns the next lines. Only the first result may be empty. Returns `None` when the app is gone or the
    /// core stops.
    pub async fn next(&mut self, core: &Core) -> Result<Option<Vec<LogEntry>>, Error> {
        loop {
            match &mut self.state {
                LogFollowState::New => {
                    let last = store::newest_seq(&core.db, self.app).await?;
                    let lines = list_lines(core, self.app, &self.query).await?;
                    let newest = lines.last().map(|line| line.seq);
                    let after = newest.max(last).unwrap_or(0);
                    self.state = LogFollowState::Listed { after };
                    return Ok(Some(lines));
                }
                LogFollowState::Listed { after } => {
                    let after = *after;
                    // Subscribe before the gap is read, so that no line falls between the two.
                    self.state = LogFollowState::Listening {
                        after,
                        feed: feed::listen_to_app(core, self.app, after),
                        has_gap: true,
                    };
                }
                LogFollowState::Listening { after, has_gap, .. } if *has_gap => {
                    let lines = store::list_after(&core.db, self.app, &self.query, *after).await?;
                    match lines.last() {
                        Some(last) => *after = last.seq,
                        None => *has_gap = false,
                    }
                    if !lines.is_empty() {
                        return Ok(Some(lines));
                    }
                }
                LogFollowState::Listening { after, feed, has_gap } => match feed.recv().await {
                    Ok(entries) => {
                        let new = entries.iter().filter(|entry| entry.seq > *after);
                        let lines: Vec<LogEntry> = new
                            .filter(|entry| self.query.matches_entry(entry))
                            .cloned()
                            .collect();
                        *after = entries.last().map_or(*after, |last| last.seq.max(*after));
                        if !lines.is_empty() {
                            return Ok(Some(lines));
                        }
                    }
                    Err(RecvError::Lagged(_)) => *has_gap = true,
                    Err(RecvError::Closed) => return Ok(None),
                },
            }
        }
    }
}
