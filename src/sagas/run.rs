//! What a step holds while it runs.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sqlx::{PgConnection, Postgres, Transaction};
use tokio_util::sync::CancellationToken;

use crate::db::Db;
use crate::events;
use crate::kernel::ids::{EventId, SagaId};
use crate::kernel::problem::{Kind, Problem};
use crate::sagas::store;

/// Why a step did not end well.
#[derive(Debug)]
pub enum StepError {
    /// It may work later: the same step runs again after a while.
    Retry { why: Problem, after: Duration },
    /// It will not work: undo.
    GiveUp(Problem),
    /// Another replica has the saga: stop quietly.
    Lost,
}

impl From<Problem> for StepError {
    /// What is out of reach may come back; all else is final.
    fn from(problem: Problem) -> Self {
        match problem.kind() {
            Kind::Unavailable => StepError::Retry {
                why: problem,
                after: Duration::from_secs(1),
            },
            _ => StepError::GiveUp(problem),
        }
    }
}

impl From<sqlx::Error> for StepError {
    fn from(error: sqlx::Error) -> Self {
        Problem::from(error).into()
    }
}

/// How a step has ended, in one word.
pub(super) fn outcome(result: &Result<(), StepError>) -> &'static str {
    match result {
        Ok(()) => "done",
        Err(StepError::Retry { .. }) => "retry",
        Err(StepError::GiveUp(_)) => "failed",
        Err(StepError::Lost) => "lost",
    }
}

/// A claimed saga in the hands of its step.
#[derive(Debug)]
pub struct Run {
    pub(super) db: Db,
    pub(super) saga: SagaId,
    pub(super) fence: i64,
    pub(super) event: Option<EventId>,
    pub(super) data: Value,
    pub(super) attempts: i32,
    pub(super) cancel: CancellationToken,
    pub(super) problem: Option<Problem>,
}

impl Run {
    /// The saga's id: the same at every attempt, so a good name for what must be done once.
    pub fn saga(&self) -> SagaId {
        self.saga
    }

    /// How often this step has been tried before.
    pub fn attempts(&self) -> i32 {
        self.attempts
    }

    /// The event that this saga will end.
    pub fn event(&self) -> Option<&EventId> {
        self.event.as_ref()
    }

    /// Cancelled when a user asks for it, when the lease is lost and when the process stops.
    pub fn cancel(&self) -> &CancellationToken {
        &self.cancel
    }

    /// While undoing: what went wrong.
    pub fn problem(&self) -> Option<&Problem> {
        self.problem.as_ref()
    }

    /// The saga's data as its type.
    pub fn data<D: DeserializeOwned>(&self) -> Result<D, StepError> {
        D::deserialize(&self.data).map_err(|e| StepError::GiveUp(Problem::internal(e)))
    }

    /// Replaces the data; kept when the step ends well.
    pub fn set_data<D: Serialize>(&mut self, data: &D) -> Result<(), StepError> {
        self.data = serde_json::to_value(data).map_err(|e| StepError::GiveUp(Problem::internal(e)))?;
        Ok(())
    }

    /// Keeps the data now, before an effect that must be found again after a crash.
    pub async fn keep(&self) -> Result<(), StepError> {
        let mut tx = self.begin().await?;
        self.keep_in(&mut tx).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Keeps the data in a transaction of `begin`, together with what it tells of.
    pub async fn keep_in(&self, tx: &mut PgConnection) -> Result<(), StepError> {
        Ok(store::save_data(tx, self.saga, &self.data).await?)
    }

    /// A line of progress for whoever follows the event. A lost line is no reason to stop.
    pub async fn say(&self, line: &str) {
        if let Some(event) = &self.event
            && let Err(problem) = events::say(&self.db, event, line).await
        {
            tracing::warn!(problem = %problem.chain(), "a line of progress was lost");
        }
    }

    /// Many lines at once.
    pub async fn say_all(&self, lines: &[String]) {
        if let Some(event) = &self.event
            && let Err(problem) = events::say_all(&self.db, event, lines).await
        {
            tracing::warn!(problem = %problem.chain(), "lines of progress were lost");
        }
    }

    /// A transaction that only the holder of the fence gets. Errors: `Lost`.
    pub async fn begin(&self) -> Result<Transaction<'static, Postgres>, StepError> {
        let mut tx = self.db.begin().await?;
        if store::hold(&mut tx, self.saga, self.fence).await? {
            Ok(tx)
        } else {
            Err(StepError::Lost)
        }
    }
}
