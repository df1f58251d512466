//! Reading logs, once or as they grow.

use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::core::Core;
use crate::db::listen::{Channel, Subscription};
use crate::kernel::ids::AppId;
use crate::kernel::problem::Problem;
use crate::units::logs::store;

/// How often a follower looks without being told.
const POLL: Duration = Duration::from_secs(2);

/// Which lines are asked for.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// At most so many of the newest.
    pub lines: i64,
    /// Only of this process, or `tsuru`.
    pub source: Option<String>,
    /// Only of this unit.
    pub unit: Option<String>,
}

/// A line as kept.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Grows within an app.
    pub seq: i64,
    pub at: DateTime<Utc>,
    pub source: String,
    pub unit: String,
    pub message: String,
}

/// The newest lines, the oldest first.
pub async fn list(core: &Core, app: AppId, query: &Query) -> Result<Vec<Stored>, Problem> {
    Ok(store::list_last(&core.db, app, query).await?)
}

/// Somebody following the log of an app.
#[derive(Debug)]
pub struct Following {
    notices: Subscription,
    app: AppId,
    query: Query,
    after: Option<i64>,
}

/// Follows a log from its newest lines on.
pub fn follow(core: &Core, app: AppId, query: Query) -> Following {
    Following {
        notices: core.notices.subscribe(),
        app,
        query,
        after: None,
    }
}

impl Following {
    /// The next lines, at least one but for the first time; `None` when the app is gone or the core stops.
    pub async fn next(&mut self, core: &Core) -> Result<Option<Vec<Stored>>, Problem> {
        let Some(mut after) = self.after else {
            let last = store::last(&core.db, self.app).await?;
            let lines = list(core, self.app, &self.query).await?;
            let newest = lines.last().map(|line| line.seq);
            self.after = Some(newest.max(last).unwrap_or(0));
            return Ok(Some(lines));
        };
        loop {
            let lines = store::list_after(&core.db, self.app, &self.query, after).await?;
            if let Some(line) = lines.last() {
                after = line.seq;
                self.after = Some(after);
                return Ok(Some(lines));
            }
            tokio::select! {
                () = self.pause() => {}
                () = core.stop.cancelled() => return Ok(None),
            }
            if !store::has_app(&core.db, self.app).await? {
                return Ok(None);
            }
        }
    }

    async fn pause(&mut self) {
        let until = tokio::time::Instant::now() + POLL;
        let app = self.app.to_string();
        loop {
            let left = until.saturating_duration_since(tokio::time::Instant::now());
            match self.notices.wait(&[Channel::Log], left).await {
                Some(id) if id != app => {}
                _ => return,
            }
        }
    }
}
