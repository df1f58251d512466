//! The workers: claim, run the steps, renew the lease meanwhile, record, end.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::db::Db;
use crate::db::listen::{Channel, Notices};
use crate::events::{self, Outcome};
use crate::kernel::ids::ReplicaId;
use crate::kernel::problem::{Kind, Problem};
use crate::sagas::drill;
use crate::sagas::run::{Run, StepError, outcome};
use crate::sagas::store::{self, Claimed, Progress};
use crate::sagas::{Lane, Saga};
use crate::telemetry::metrics;

/// How often a worker looks for work without being told.
const POLL: Duration = Duration::from_secs(1);
/// How often a lease is renewed; a fraction of its length.
const RENEW: Duration = Duration::from_secs(2);
/// Tries of one forward step before it is given up.
const MAX_ATTEMPTS: i32 = 6;
/// Tries of what has no alternative, an undo or a step that is forward only, before the saga is stuck: with
/// the back-off, about a day.
const MAX_LAST_ATTEMPTS: i32 = 300;
/// Before the first of those tries; the next ones wait longer.
const LAST_PAUSE: Duration = Duration::from_secs(1);
/// Sagas at work at once, per lane.
const WORKERS: usize = 16;

/// The kinds of sagas that a replica can run.
#[derive(Default)]
pub struct Registry {
    kinds: HashMap<&'static str, Arc<dyn Saga>>,
}

impl Registry {
    /// Adds a kind.
    #[must_use]
    pub fn with(mut self, saga: impl Saga) -> Self {
        self.kinds.insert(saga.kind(), Arc::new(saga));
        self
    }

    /// All kinds, for the drill.
    pub fn kinds(&self) -> impl Iterator<Item = &Arc<dyn Saga>> {
        self.kinds.values()
    }
}

/// Runs sagas until stopped.
#[derive(Clone)]
pub struct Runner {
    db: Db,
    notices: Notices,
    registry: Arc<Registry>,
    host: Arc<str>,
    replica: ReplicaId,
    stop: CancellationToken,
}

impl Runner {
    /// A runner for one replica on one host.
    pub fn new(
        db: Db,
        notices: Notices,
        registry: Registry,
        host: &str,
        replica: ReplicaId,
        stop: CancellationToken,
    ) -> Self {
        Self {
            db,
            notices,
            registry: Arc::new(registry),
            host: Arc::from(host),
            replica,
            stop,
        }
    }

    /// Starts the workers of both lanes.
    pub fn start(self, tasks: &TaskTracker) {
        drill::show(&self.registry);
        for lane in [Lane::People, Lane::Housekeeping] {
            tasks.spawn(self.clone().work(lane, tasks.clone()));
        }
    }

    async fn work(self, lane: Lane, tasks: TaskTracker) {
        let kinds: Vec<String> = self.registry.kinds.keys().map(|k| (*k).to_owned()).collect();
        let room = Arc::new(Semaphore::new(WORKERS));
        let mut notices = self.notices.subscribe();
        loop {
            let permit = tokio::select! {
                permit = Arc::clone(&room).acquire_owned() => permit,
                () = self.stop.cancelled() => return,
            };
            let Ok(permit) = permit else { return };
            match store::claim(&self.db, lane, &kinds, &self.host, self.replica).await {
                Ok(Some(claimed)) => {
                    let runner = self.clone();
                    tasks.spawn(async move {
                        runner.carry(claimed).await;
                        drop(permit);
                    });
                    continue;
                }
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, "sagas cannot be claimed"),
            }
            drop(permit);
            tokio::select! {
                _ = notices.wait(&[Channel::Saga], POLL) => {}
                () = self.stop.cancelled() => return,
            }
        }
    }

    /// Runs a claimed saga until it ends, waits, or is lost.
    async fn carry(&self, claimed: Claimed) {
        let Some(saga) = self.registry.kinds.get(claimed.kind.as_str()).cloned() else {
            return;
        };
        let cancel = self.stop.child_token();
        let mut journey = Journey::new(self.db.clone(), saga, claimed, cancel.clone());
        let keeper = AbortOnDropHandle::new(tokio::spawn(keep_lease(
            self.db.clone(),
            self.notices.clone(),
            journey.run.saga,
            journey.run.fence,
            journey.run.event.clone(),
            cancel,
        )));
        if let Err(problem) = journey.go(&self.stop).await {
            tracing::warn!(saga = %journey.run.saga, kind = journey.saga.kind(), problem = %problem.chain(), "a saga is left for the next claim");
        }
        drop(keeper);
    }
}

/// Renews the lease, and cancels the step when the lease is lost or a user asks.
async fn keep_lease(
    db: Db,
    notices: Notices,
    saga: crate::kernel::ids::SagaId,
    fence: i64,
    event: Option<crate::kernel::ids::EventId>,
    cancel: CancellationToken,
) {
    let mut notices = notices.subscribe();
    loop {
        if let Ok(false) = store::renew(&db, saga, fence).await {
            cancel.cancel();
            return;
        }
        let until = tokio::time::Instant::now() + RENEW;
        loop {
            if let Some(event) = &event
                && !cancel.is_cancelled()
                && events::cancel_asked(&db, event).await.unwrap_or(false)
            {
                cancel.cancel();
            }
            let left = until.saturating_duration_since(tokio::time::Instant::now());
            let told = notices.wait(&[Channel::Event], left).await;
            if told.is_none() || tokio::time::Instant::now() >= until {
                break;
            }
        }
    }
}

/// One claim of one saga.
struct Journey {
    db: Db,
    saga: Arc<dyn Saga>,
    run: Run,
    step: i32,
    undoing: bool,
    /// An operator wants no more tries.
    given_up: bool,
    /// What the last try of the step met.
    last_problem: String,
}

impl Journey {
    fn new(db: Db, saga: Arc<dyn Saga>, claimed: Claimed, cancel: CancellationToken) -> Self {
        let problem = claimed
            .problem_kind
            .as_deref()
            .map(|word| Problem::new(word.parse().unwrap_or(Kind::Internal), claimed.problem.clone()));
        let run = Run {
            db: db.clone(),
            saga: claimed.saga_id,
            fence: claimed.fence,
            event: claimed.event_id.and_then(|id| id.parse().ok()),
            data: claimed.data,
            attempts: claimed.attempts,
            cancel,
            problem,
        };
        Self {
            db,
            saga,
            run,
            step: claimed.step,
            undoing: claimed.state == "undoing",
            given_up: claimed.given_up,
            last_problem: String::new(),
        }
    }

    async fn go(&mut self, stop: &CancellationToken) -> Result<(), Problem> {
        loop {
            let steps = self.saga.steps();
            let at = usize::try_from(self.step).ok().and_then(|n| steps.get(n));
            let Some(step) = at else { return self.end().await };
            if stop.is_cancelled() {
                return self.save(0.0, true).await.map(drop);
            }
            let result = self.take(step, stop).await;
            metrics::stepped(self.saga.kind(), step, self.undoing, outcome(&result));
            let go_on = match result {
                Ok(()) => self.passed().await?,
                Err(StepError::Lost) => return Ok(()),
                // What fails because the process is stopping is not a failure: the next claim repeats it.
                Err(_) if stop.is_cancelled() => return self.save(0.0, true).await.map(drop),
                Err(StepError::Retry { why, after }) => self.failed(step, why, Some(after)).await?,
                Err(StepError::GiveUp(why)) => self.failed(step, why, None).await?,
            };
            if !go_on {
                return Ok(());
            }
        }
    }

    async fn take(&mut self, step: &'static str, stop: &CancellationToken) -> Result<(), StepError> {
        tracing::debug!(saga = %self.run.saga, kind = self.saga.kind(), step, undoing = self.undoing, "step");
        let forward_only = self.saga.forward_only(step, &self.run);
        if self.undoing || forward_only {
            // Undoing goes on though the user has cancelled: it is what they asked for. For what is forward
            // only it is too late.
            self.run.cancel = stop.child_token();
        }
        if self.undoing {
            return caught(drill::undo(&*self.saga, step, &mut self.run)).await;
        }
        if forward_only {
            return caught(drill::forward(&*self.saga, step, &mut self.run)).await;
        }
        if self.run.cancel.is_cancelled() {
            return Err(StepError::GiveUp(cancelled()));
        }
        let result = caught(drill::forward(&*self.saga, step, &mut self.run)).await;
        match result {
            Err(StepError::Retry { .. } | StepError::GiveUp(_)) if self.run.cancel.is_cancelled() => {
                match events_cancel_asked(&self.run).await {
                    true => Err(StepError::GiveUp(cancelled())),
                    false => result,
                }
            }
            _ => result,
        }
    }

    async fn passed(&mut self) -> Result<bool, Problem> {
        self.step += if self.undoing { -1 } else { 1 };
        self.run.attempts = 0;
        self.last_problem.clear();
        let steps = i32::try_from(self.saga.steps().len()).unwrap_or(i32::MAX);
        if self.step < 0 || self.step >= steps {
            return Ok(true);
        }
        self.save(0.0, false).await
    }

    async fn failed(
        &mut self,
        step: &'static str,
        why: Problem,
        after: Option<Duration>,
    ) -> Result<bool, Problem> {
        self.run.attempts += 1;
        let (attempts, undoing) = (self.run.attempts, self.undoing);
        tracing::debug!(saga = %self.run.saga, kind = self.saga.kind(), step, undoing, attempts, problem = %why.chain(), "step failed");
        self.last_problem = format!("{step}: {}", why.words());
        if undoing || self.saga.forward_only(step, &self.run) {
            return self.repeat(step, why, after).await;
        }
        match after {
            Some(after) if attempts < MAX_ATTEMPTS && !self.given_up => {
                let wait = after.as_secs_f64() * f64::from(attempts);
                self.save(wait, true).await.map(|_| false)
            }
            _ => {
                if why.kind() == Kind::Internal {
                    tracing::error!(saga = %self.run.saga, kind = self.saga.kind(), step, problem = %why.chain(), "a step failed");
                }
                self.undoing = true;
                self.run.attempts = 0;
                self.run.problem = Some(why);
                self.save(0.0, false).await
            }
        }
    }

    /// What has no alternative waits for its next try, or for an operator.
    async fn repeat(&mut self, step: &str, why: Problem, after: Option<Duration>) -> Result<bool, Problem> {
        let (kind, attempts, undoing) = (self.saga.kind(), self.run.attempts, self.undoing);
        if attempts == 1 && why.kind() == Kind::Internal {
            tracing::error!(saga = %self.run.saga, kind, step, undoing, problem = %why.chain(), "a step failed and is repeated");
        }
        if attempts >= MAX_LAST_ATTEMPTS || self.given_up {
            tracing::error!(saga = %self.run.saga, kind, step, undoing, problem = %why.chain(), "a step is stuck");
            // An undo has its reason already.
            self.run.problem.get_or_insert(why);
            return self.finish("stuck").await.map(|()| false);
        }
        let wait = after.unwrap_or(LAST_PAUSE).as_secs_f64();
        let wait = (wait * 1.5_f64.powi(attempts.min(14))).min(300.0);
        self.save(wait, true).await.map(|_| false)
    }

    async fn save(&self, wake_in_seconds: f64, release: bool) -> Result<bool, Problem> {
        let progress = self.progress(
            if self.undoing { "undoing" } else { "forward" },
            wake_in_seconds,
            release,
        );
        Ok(store::save(&self.db, self.run.saga, self.run.fence, &progress).await?)
    }

    fn progress<'a>(&'a self, state: &'a str, wake_in_seconds: f64, release: bool) -> Progress<'a> {
        Progress {
            state,
            step: self.step,
            data: &self.run.data,
            attempts: self.run.attempts,
            problem_kind: self.run.problem.as_ref().map(|p| p.kind().as_str()),
            problem: self.run.problem.as_ref().map_or("", Problem::words),
            last_problem: &self.last_problem,
            wake_in_seconds,
            release,
        }
    }

    async fn end(&mut self) -> Result<(), Problem> {
        self.finish(if self.undoing { "undone" } else { "done" }).await
    }

    /// The saga's end, its last words and its event's end, in one transaction.
    async fn finish(&mut self, state: &str) -> Result<(), Problem> {
        let outcome = self.run.problem.as_ref().map_or(Outcome::Done, Outcome::from);
        let mut tx = self.db.begin().await?;
        let progress = self.progress(state, 0.0, true);
        if !store::save(&mut *tx, self.run.saga, self.run.fence, &progress).await? {
            return Ok(());
        }
        self.saga.ended(&mut tx, &self.run, &outcome).await?;
        if let Some(event) = &self.run.event {
            events::end(&mut tx, event, &outcome, None).await?;
        }
        tx.commit().await?;
        Ok(())
    }
}

/// A panic in a step is our bug, and a failure of the step: the saga goes on to its undo.
async fn caught(step: impl Future<Output = Result<(), StepError>>) -> Result<(), StepError> {
    match AssertUnwindSafe(step).catch_unwind().await {
        Ok(result) => result,
        Err(_) => Err(StepError::GiveUp(Problem::internal("a step panicked"))),
    }
}

fn cancelled() -> Problem {
    Problem::new(Kind::Cancelled, "canceled by user request")
}

async fn events_cancel_asked(run: &Run) -> bool {
    match &run.event {
        Some(event) => events::cancel_asked(&run.db, event).await.unwrap_or(false),
        None => false,
    }
}
