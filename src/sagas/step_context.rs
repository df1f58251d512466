//! The context of a running step: its writes, its waits and its log.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use sqlx::PgConnection;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::db::Db;
use crate::db::notices::{NoticeChannel, NoticeHub, NoticeSubscription};
use crate::events;
use crate::kernel::error::{Error, ErrorKind};
use crate::kernel::ids::{EventId, SagaId};
use crate::sagas::store;
use crate::sagas::workers::ClaimPermit;

/// The shortest and the longest pause between two checks of `wait_until` without a notice.
const MIN_CHECK_INTERVAL: Duration = Duration::from_millis(250);
const MAX_CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// Why a step did not succeed.
#[derive(Debug)]
pub enum StepError {
    /// It may succeed later: the same step runs again after a delay.
    Retry { why: Error, after: Duration },
    /// It will not succeed: undo.
    GiveUp(Error),
    /// It was interrupted: the user has cancelled, the process stops, or the lease is lost.
    Interrupted,
    /// Another replica has the saga, or the outcome of a write is unknown: the next claim reads what was
    /// written.
    Lost,
}

impl From<Error> for StepError {
    /// Retries what is unavailable; all other errors are final.
    fn from(error: Error) -> Self {
        match error.kind() {
            ErrorKind::Unavailable => StepError::Retry {
                why: error,
                after: Duration::from_secs(1),
            },
            _ => StepError::GiveUp(error),
        }
    }
}

impl From<sqlx::Error> for StepError {
    fn from(error: sqlx::Error) -> Self {
        Error::from(error).into()
    }
}

/// Returns the outcome of a step as a metric label.
pub(super) fn outcome_label(result: &Result<(), StepError>) -> &'static str {
    match result {
        Ok(()) => "done",
        Err(StepError::Retry { .. }) => "retry",
        Err(StepError::GiveUp(_)) => "failed",
        Err(StepError::Interrupted) => "interrupted",
        Err(StepError::Lost) => "lost",
    }
}

/// The context that a claimed saga passes to its step.
#[derive(Debug)]
pub struct StepContext {
    pub(super) db: Db,
    pub(super) notices: NoticeHub,
    pub(super) permit: ClaimPermit,
    pub(super) saga_id: SagaId,
    pub(super) fence: i64,
    pub(super) event_id: Option<EventId>,
    pub(super) attempts: i32,
    pub(super) cancel_token: CancellationToken,
    pub(super) failure_reason: Option<Error>,
    /// The lines of the last `report_progress`.
    pub(super) reported: Mutex<Vec<String>>,
}

impl StepContext {
    /// Returns the id of the saga: the same for every attempt, so it can serve as an idempotency key.
    pub fn saga_id(&self) -> SagaId {
        self.saga_id
    }

    /// Returns how often this step has failed before.
    pub fn attempts(&self) -> i32 {
        self.attempts
    }

    /// Returns the event that this saga will end.
    pub fn event_id(&self) -> Option<&EventId> {
        self.event_id.as_ref()
    }

    /// Returns the token that is cancelled when a user requests it, when the lease is lost and when the
    /// process stops.
    pub fn cancel_token(&self) -> &CancellationToken {
        &self.cancel_token
    }

    /// Returns why the saga is being undone, while it is.
    pub fn failure_reason(&self) -> Option<&Error> {
        self.failure_reason.as_ref()
    }

    /// Returns the key by which workers, build slots and calls to a service are shared.
    pub fn share_key(&self) -> &str {
        self.permit.share_key()
    }

    /// Awaits slow work without holding a worker. Returns once the saga has a worker again.
    pub async fn without_worker<T>(&self, work: impl Future<Output = T>) -> T {
        let waiting = self.permit.yield_worker();
        let result = work.await;
        drop(waiting);
        self.permit.acquire_worker().await;
        result
    }

    /// Waits until `check` returns a value, and returns it. `check` runs at once, after each of these
    /// notices, and at growing intervals; in between the step holds no worker. A notice is a channel and its
    /// payload; an empty payload matches any. Returns `None` if there was no value within the limit. Errors:
    /// those of `check`, `Interrupted`.
    pub async fn wait_until<T, F>(
        &self,
        channels: &[(NoticeChannel, String)],
        limit: Duration,
        mut check: impl FnMut() -> F,
    ) -> Result<Option<T>, StepError>
    where
        F: Future<Output = Result<Option<T>, StepError>>,
    {
        let mut notices = self.notices.subscribe();
        let started_at = Instant::now();
        loop {
            if let Some(found) = check().await? {
                return Ok(Some(found));
            }
            let waited = started_at.elapsed();
            if waited >= limit {
                return Ok(None);
            }
            // The longer it has waited, the less often it checks.
            let pause = (waited / 8)
                .clamp(MIN_CHECK_INTERVAL, MAX_CHECK_INTERVAL)
                .min(limit - waited);
            let waiting = async {
                tokio::select! {
                    () = wait_for_notice(&mut notices, channels, pause) => Ok(()),
                    () = self.cancel_token.cancelled() => Err(StepError::Interrupted),
                }
            };
            self.without_worker(waiting).await?;
        }
    }

    /// Writes the effect of a step together with its data, in one transaction that requires the fence. `work`
    /// changes a copy of the data, which replaces the data once it is committed. Errors: those of `work`,
    /// `Lost`; then nothing is written.
    pub async fn checkpoint<D: Clone + Serialize, T>(
        &self,
        data: &mut D,
        work: impl AsyncFnOnce(&mut PgConnection, &mut D) -> Result<T, StepError>,
    ) -> Result<T, StepError> {
        let mut changed = data.clone();
        let result = self
            .write_fenced(async |tx| {
                let result = work(tx, &mut changed).await?;
                let value =
                    serde_json::to_value(&changed).map_err(|e| StepError::GiveUp(Error::internal(e)))?;
                store::save_data(tx, self.saga_id, &value).await?;
                Ok(result)
            })
            .await?;
        *data = changed;
        Ok(result)
    }

    /// Writes like `checkpoint`, without changing the data.
    pub async fn write_fenced<T>(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, StepError>,
    ) -> Result<T, StepError> {
        let mut tx = self.db.begin().await?;
        if !store::lock_fenced(&mut tx, self.saga_id, self.fence).await? {
            return Err(StepError::Lost);
        }
        let result = work(&mut tx).await?;
        match tx.commit().await {
            Ok(()) => Ok(result),
            Err(error @ sqlx::Error::Database(_)) => Err(error.into()),
            Err(error) => {
                tracing::warn!(saga = %self.saga_id, %error, "the outcome of a commit is unknown; the next claim of the saga resumes it");
                Err(StepError::Lost)
            }
        }
    }

    /// Returns whether this claim still holds the saga. Errors: the database is unavailable.
    pub async fn holds_fence(&self) -> Result<bool, Error> {
        let mut tx = self.db.begin().await?;
        Ok(store::lock_fenced(&mut tx, self.saga_id, self.fence).await?)
    }

    /// Binds the saga to the host that has the files of its further steps, in a transaction of `checkpoint` that
    /// stores the host in the data too.
    pub async fn pin_to_host(&self, tx: &mut PgConnection, host: &str) -> Result<(), StepError> {
        Ok(store::set_saga_host(tx, self.saga_id, Some(host)).await?)
    }

    /// Appends a line of progress to the log of the event. A lost line is logged and does not fail the step.
    pub async fn append_log(&self, line: &str) {
        if let Some(event) = &self.event_id
            && let Err(error) = events::append_log(&self.db, event, line).await
        {
            tracing::warn!(error = %error.report(), "cannot append a line to the log of an event");
        }
    }

    /// Appends several lines at once.
    pub async fn append_log_lines(&self, lines: &[String]) {
        if let Some(event) = &self.event_id
            && let Err(error) = events::append_log_lines(&self.db, event, lines).await
        {
            tracing::warn!(error = %error.report(), "cannot append lines to the log of an event");
        }
    }

    /// Reports the progress of a step, as lines; appends only those that were not in the last report.
    pub async fn report_progress(&self, lines: &[String]) {
        let new: Vec<String> = {
            let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
            let new = lines.iter().filter(|line| !reported.contains(*line));
            let new = new.cloned().collect();
            *reported = lines.to_vec();
            new
        };
        if !new.is_empty() {
            self.append_log_lines(&new).await;
        }
    }
}

/// Waits for one of the given notices, for notices that may have been lost, or for the pause to pass.
async fn wait_for_notice(notices: &mut NoticeSubscription, on: &[(NoticeChannel, String)], pause: Duration) {
    let next = async {
        while let Some((channel, payload)) = notices.next_notice().await {
            let is_about = |(on, about): &(NoticeChannel, String)| {
                *on == channel && (about.is_empty() || payload.is_empty() || *about == payload)
            };
            if on.iter().any(is_about) {
                return;
            }
        }
    };
    // The caller does not need to know which of the two it was.
    let _ = tokio::time::timeout(pause, next).await;
}
