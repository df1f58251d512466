//! The execution of one claim of one saga: runs its steps until it ends, waits for a retry, or is lost.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::db::Db;
use crate::db::notices::NoticeHub;
use crate::events::{self, EventOutcome};
use crate::kernel::error::{Error, ErrorKind};
use crate::kernel::ids::EventId;
use crate::sagas::leases::LeaseTokens;
use crate::sagas::step_context::{StepContext, StepError, outcome_label};
use crate::sagas::steps::decode_data;
use crate::sagas::store::{self, ClaimedSaga, StepProgress};
use crate::sagas::workers::ClaimPermit;
use crate::sagas::{Saga, SagaStep, failpoints};
use crate::telemetry::metrics;

/// Maximum number of attempts of a forward step before the saga is undone.
const MAX_FORWARD_ATTEMPTS: i32 = 6;
/// Maximum number of attempts of a step without alternative (an undo, or a step that is forward only) before
/// the saga is stuck: with the back-off, about a day.
const MAX_MANDATORY_ATTEMPTS: i32 = 300;
/// Delay before the first retry of such a step; it grows with each retry.
const MANDATORY_RETRY_DELAY: Duration = Duration::from_secs(1);

/// A kind of saga, with its types erased.
pub(super) trait RegisteredSaga: Send + Sync {
    fn kind(&self) -> &'static str;

    fn step_names(&self) -> Vec<&'static str>;

    /// Reads a row. Errors: why this version cannot read it.
    fn read_row(self: Arc<Self>, row: &ClaimedSaga) -> Result<Box<dyn ReadableSaga>, String>;
}

/// A row whose step and data were read.
#[async_trait]
pub(super) trait ReadableSaga: Send {
    /// Runs the steps until the saga ends, waits for a retry, or is lost.
    async fn execute(self: Box<Self>, claim: SagaClaim);
}

impl<S: Saga> RegisteredSaga for S {
    fn kind(&self) -> &'static str {
        S::KIND
    }

    fn step_names(&self) -> Vec<&'static str> {
        S::Step::ALL.iter().map(|step| step.name()).collect()
    }

    fn read_row(self: Arc<Self>, row: &ClaimedSaga) -> Result<Box<dyn ReadableSaga>, String> {
        let step = S::Step::parse(&row.step)
            .ok_or_else(|| format!("its step is {:?}, which this version does not know", row.step))?;
        let event_id = row.event_id.as_deref().map(str::parse).transpose();
        let error_kind = row.error_kind.as_deref().map(str::parse::<ErrorKind>).transpose();
        Ok(Box::new(SagaRow {
            step,
            data: decode_data(&row.data)?,
            event_id: event_id.map_err(|_| "the id of its event is invalid".to_owned())?,
            failure_reason: error_kind
                .map_err(|_| "the kind of its error is unknown".to_owned())?
                .map(|kind| Error::new(kind, row.error.clone())),
            saga: self,
        }))
    }
}

/// A row as the types of its kind.
struct SagaRow<S: Saga> {
    saga: Arc<S>,
    step: S::Step,
    data: S::Data,
    event_id: Option<EventId>,
    failure_reason: Option<Error>,
}

/// The claim of a row, with what its execution needs.
pub(super) struct SagaClaim {
    pub(super) db: Db,
    pub(super) notices: NoticeHub,
    pub(super) row: ClaimedSaga,
    pub(super) permit: ClaimPermit,
    pub(super) tokens: LeaseTokens,
}

#[async_trait]
impl<S: Saga> ReadableSaga for SagaRow<S> {
    async fn execute(self: Box<Self>, claim: SagaClaim) {
        let context = StepContext {
            db: claim.db.clone(),
            notices: claim.notices,
            permit: claim.permit,
            saga_id: claim.row.saga_id,
            fence: claim.row.fence,
            event_id: self.event_id,
            attempts: claim.row.attempts,
            cancel_token: claim.tokens.cancel,
            failure_reason: self.failure_reason,
            reported: Mutex::default(),
        };
        let mut execution = SagaExecution {
            db: claim.db,
            saga: self.saga,
            context,
            lease_lost: claim.tokens.lost,
            step: self.step,
            data: self.data,
            undoing: claim.row.state == "undoing",
            given_up: claim.row.given_up,
            last_error: String::new(),
        };
        if let Err(error) = execution.run_steps().await {
            tracing::warn!(saga = %execution.context.saga_id, kind = S::KIND, error = %error.report(), "the execution of a saga stopped; the next claim resumes it");
        }
    }
}

/// The execution of one claim.
struct SagaExecution<S: Saga> {
    db: Db,
    saga: Arc<S>,
    context: StepContext,
    /// Cancelled when the lease is lost, or the server stops.
    lease_lost: CancellationToken,
    step: S::Step,
    data: S::Data,
    undoing: bool,
    /// An operator has given the saga up: no more retries.
    given_up: bool,
    /// The error of the last attempt of the step.
    last_error: String,
}

impl<S: Saga> SagaExecution<S> {
    async fn run_steps(&mut self) -> Result<(), Error> {
        loop {
            // The saga has a worker already, unless it was just claimed, or a step was dropped while it
            // waited.
            tokio::select! {
                () = self.context.permit.acquire_worker() => {}
                () = self.lease_lost.cancelled() => {}
            }
            if self.lease_lost.is_cancelled() {
                return self.save_progress(0.0, true).await.map(drop);
            }
            let result = self.attempt_step().await;
            metrics::record_saga_step(S::KIND, self.step.name(), self.undoing, outcome_label(&result));
            let go_on = match result {
                Ok(()) => match self.next_step() {
                    Some(next) => self.advance_to(next).await?,
                    None => return self.finish_normally().await,
                },
                Err(StepError::Lost) => return Ok(()),
                // A failure because the lease was lost, or the process stops, does not count: the next claim
                // repeats the step.
                Err(_) if self.lease_lost.is_cancelled() => {
                    return self.save_progress(0.0, true).await.map(drop);
                }
                Err(StepError::Interrupted) => return Ok(()),
                Err(StepError::Retry { why, after }) => self.handle_failure(why, Some(after)).await?,
                Err(StepError::GiveUp(why)) => self.handle_failure(why, None).await?,
            };
            if !go_on {
                return Ok(());
            }
        }
    }

    async fn attempt_step(&mut self) -> Result<(), StepError> {
        let step = self.step;
        tracing::debug!(saga = %self.context.saga_id, kind = S::KIND, step = step.name(), undoing = self.undoing, "running a saga step");
        let forward_only = self.is_forward_only();
        if self.undoing || forward_only {
            // An undo continues although the user has cancelled: the user asked for it. A step that is
            // forward only cannot be cancelled any more.
            self.context.cancel_token = self.lease_lost.child_token();
        }
        self.context.reported = Mutex::default();
        if self.undoing {
            return catch_panic(failpoints::undo_step(
                &*self.saga,
                step,
                &mut self.data,
                &self.context,
            ))
            .await;
        }
        if !forward_only && self.context.cancel_token.is_cancelled() {
            return Err(self.explain_interruption().await);
        }
        let running = failpoints::run_step(&*self.saga, step, &mut self.data, &self.context);
        match catch_panic(running).await {
            Err(StepError::Interrupted) => Err(self.explain_interruption().await),
            // A step that fails after its cancellation has most likely failed because of it.
            Err(StepError::Retry { .. } | StepError::GiveUp(_))
                if self.context.cancel_token.is_cancelled() && is_cancel_requested(&self.context).await =>
            {
                Err(cancelled_error())
            }
            result => result,
        }
    }

    fn is_forward_only(&self) -> bool {
        self.saga.is_forward_only(self.step, &self.data)
    }

    /// Returns why a step was interrupted: it is undone only if the user has cancelled.
    async fn explain_interruption(&self) -> StepError {
        match is_cancel_requested(&self.context).await {
            true => cancelled_error(),
            false => StepError::Interrupted,
        }
    }

    /// Returns the step after this one, or before it while undoing.
    fn next_step(&self) -> Option<S::Step> {
        let at = S::Step::ALL.iter().position(|step| *step == self.step)?;
        let next = if self.undoing { at.checked_sub(1)? } else { at + 1 };
        S::Step::ALL.get(next).copied()
    }

    async fn advance_to(&mut self, step: S::Step) -> Result<bool, Error> {
        self.step = step;
        self.context.attempts = 0;
        self.last_error.clear();
        self.save_progress(0.0, false).await
    }

    async fn handle_failure(&mut self, why: Error, after: Option<Duration>) -> Result<bool, Error> {
        self.context.attempts += 1;
        let (step, attempts, undoing) = (self.step.name(), self.context.attempts, self.undoing);
        tracing::debug!(saga = %self.context.saga_id, kind = S::KIND, step, undoing, attempts, error = %why.report(), "a saga step failed");
        self.last_error = format!("{step}: {}", why.message());
        if undoing || self.is_forward_only() {
            return self.retry_or_mark_stuck(why, after).await;
        }
        match after {
            Some(after) if attempts < MAX_FORWARD_ATTEMPTS && !self.given_up => {
                let wait = after.as_secs_f64() * f64::from(attempts);
                self.save_progress(wait, true).await.map(|_| false)
            }
            _ => {
                if why.kind() == ErrorKind::Internal {
                    tracing::error!(saga = %self.context.saga_id, kind = S::KIND, step, error = %why.report(), "a saga step failed; undoing");
                }
                self.undoing = true;
                self.context.attempts = 0;
                self.context.failure_reason = Some(why);
                self.save_progress(0.0, false).await
            }
        }
    }

    /// Schedules the next attempt of a step without alternative, or marks the saga as stuck.
    async fn retry_or_mark_stuck(&mut self, why: Error, after: Option<Duration>) -> Result<bool, Error> {
        let (step, attempts, undoing) = (self.step.name(), self.context.attempts, self.undoing);
        if attempts == 1 && why.kind() == ErrorKind::Internal {
            tracing::error!(saga = %self.context.saga_id, kind = S::KIND, step, undoing, error = %why.report(), "a saga step failed; retrying");
        }
        if attempts >= MAX_MANDATORY_ATTEMPTS || self.given_up {
            tracing::error!(saga = %self.context.saga_id, kind = S::KIND, step, undoing, error = %why.report(), "a saga is stuck and waits for an operator");
            // An undo has its reason already.
            self.context.failure_reason.get_or_insert(why);
            return self.finish_saga("stuck").await.map(|()| false);
        }
        let wait = after.unwrap_or(MANDATORY_RETRY_DELAY).as_secs_f64();
        let wait = (wait * 1.5_f64.powi(attempts.min(14))).min(300.0);
        self.save_progress(wait, true).await.map(|_| false)
    }

    async fn save_progress(&self, wake_in_seconds: f64, release: bool) -> Result<bool, Error> {
        let state = if self.undoing { "undoing" } else { "forward" };
        let data = serde_json::to_value(&self.data).map_err(Error::internal)?;
        let progress = self.build_progress(state, &data, wake_in_seconds, release);
        Ok(store::save_progress(&self.db, self.context.saga_id, self.context.fence, &progress).await?)
    }

    fn build_progress<'a>(
        &'a self,
        state: &'a str,
        data: &'a Value,
        wake_in_seconds: f64,
        release: bool,
    ) -> StepProgress<'a> {
        StepProgress {
            state,
            step: self.step.name(),
            data,
            attempts: self.context.attempts,
            error_kind: self.context.failure_reason.as_ref().map(|p| p.kind().as_str()),
            error: self.context.failure_reason.as_ref().map_or("", Error::message),
            last_error: &self.last_error,
            wake_in_seconds,
            release,
        }
    }

    async fn finish_normally(&mut self) -> Result<(), Error> {
        self.last_error.clear();
        self.finish_saga(if self.undoing { "undone" } else { "done" })
            .await
    }

    /// Writes the end of the saga, what its kind adds to it, and the end of its event, in one transaction.
    async fn finish_saga(&mut self, state: &str) -> Result<(), Error> {
        let outcome = self
            .context
            .failure_reason
            .as_ref()
            .map_or(EventOutcome::Done, EventOutcome::from);
        let mut tx = self.db.begin().await?;
        let data = serde_json::to_value(&self.data).map_err(Error::internal)?;
        let progress = self.build_progress(state, &data, 0.0, true);
        if !store::save_progress(&mut *tx, self.context.saga_id, self.context.fence, &progress).await? {
            return Ok(());
        }
        self.saga
            .on_finish(&mut tx, &self.data, &self.context, &outcome)
            .await?;
        if let Some(event) = &self.context.event_id {
            events::end_event(&mut tx, event, &outcome, None).await?;
        }
        tx.commit().await?;
        Ok(())
    }
}

/// Turns a panic of a step, which is a bug, into a failure of the step: the saga goes on with its undo.
async fn catch_panic(step: impl Future<Output = Result<(), StepError>>) -> Result<(), StepError> {
    match AssertUnwindSafe(step).catch_unwind().await {
        Ok(result) => result,
        Err(_) => Err(StepError::GiveUp(Error::internal("a step panicked"))),
    }
}

fn cancelled_error() -> StepError {
    StepError::GiveUp(Error::new(ErrorKind::Cancelled, "canceled by user request"))
}

async fn is_cancel_requested(ctx: &StepContext) -> bool {
    match &ctx.event_id {
        Some(event) => events::is_cancel_requested(&ctx.db, event).await.unwrap_or(false),
        None => false,
    }
}
