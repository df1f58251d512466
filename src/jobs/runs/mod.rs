//! The runner of a host: claims planned runs, starts their units, and writes how they end.
//!
//! One runner at a time works for a host: it holds a lock of the database. A claim is one transaction that decides by
//! the policy of the job. Whatever is done to a unit is decided from the row of its run and the report of the
//! provisioner alone, so that the next process goes on where one was killed.

mod claim;
mod spec;
mod steps;
mod store;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use serde_json::json;
use sqlx::PgConnection;

use crate::apps;
use crate::core::Core;
use crate::db::notices::NoticeChannel;
use crate::events::{self, EventOutcome, NewEvent};
use crate::jobs::runs::steps::{AttemptEnd, RunStep, decide_step};
use crate::jobs::runs::store::ActiveRun;
use crate::kernel::error::{Error, ErrorKind};
use crate::kernel::ids::JobId;
use crate::kernel::names::JobName;
use crate::kernel::permission::Permission;
use crate::kernel::request_context::RequestContext;
use crate::provisioners::{FoundUnits, ProvisionError, UnitId, UnitRef, UnitRunner};
use crate::sagas::{ReconcileReport, Reconciler};
use crate::telemetry::metrics;
use crate::units::logs::LogCollector;

/// The pause between two rounds while a run is going on, and else.
const ACTIVE_PERIOD: Duration = Duration::from_millis(250);
const IDLE_PERIOD: Duration = Duration::from_secs(2);
/// Time limit for a provisioner to accept a unit.
const PROVISIONER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a unit may take to end beyond its grace period.
const STOP_MARGIN: Duration = Duration::from_secs(30);
/// Ends that are written at once.
const CONCURRENT_ENDS: usize = 8;
/// The last lines of a unit that is being stopped are read so often.
const FINAL_LOG_INTERVAL: Duration = Duration::from_millis(100);

/// See the module.
pub struct JobRunner {
    shared: Arc<RunnerState>,
    host_lock: tokio::sync::Mutex<Option<PgConnection>>,
    is_active: AtomicBool,
}

struct RunnerState {
    core: Core,
    logs: LogCollector,
    /// Units that are being started or stopped.
    busy: Mutex<HashSet<UnitId>>,
    /// Why units could not be started, for those whose start is tried again.
    failures: Mutex<HashMap<UnitId, String>>,
}

impl JobRunner {
    /// Creates the runner of this host.
    pub fn new(core: &Core) -> Self {
        Self {
            shared: Arc::new(RunnerState {
                core: core.clone(),
                logs: LogCollector::new(core.clone()),
                busy: Mutex::default(),
                failures: Mutex::default(),
            }),
            host_lock: tokio::sync::Mutex::default(),
            is_active: AtomicBool::new(false),
        }
    }

    /// Returns true if this process is the runner of its host; becomes it if there is none.
    async fn hold_host_lock(&self) -> Result<bool, Error> {
        let mut lock = self.host_lock.lock().await;
        let core = &self.shared.core;
        if core.stop.is_cancelled() {
            return Ok(false);
        }
        if let Some(connection) = lock.as_mut() {
            if store::is_alive(connection).await {
                return Ok(true);
            }
            *lock = None;
        }
        let mut connection = core.db.acquire().await?;
        let is_taken = store::try_lock_host(&mut connection, &core.host).await?;
        if is_taken {
            *lock = Some(connection.detach());
        }
        Ok(is_taken)
    }
}

#[async_trait]
impl Reconciler for JobRunner {
    fn name(&self) -> &'static str {
        "job-runner"
    }

    fn channels(&self) -> &'static [NoticeChannel] {
        &[NoticeChannel::Jobs]
    }

    fn period(&self) -> Duration {
        match self.is_active.load(Ordering::Relaxed) {
            true => ACTIVE_PERIOD,
            false => IDLE_PERIOD,
        }
    }

    async fn release_claims(&self) {
        *self.host_lock.lock().await = None;
    }

    async fn run_round(&self) -> Result<ReconcileReport, Error> {
        let mut report = ReconcileReport::default();
        if self.shared.core.provisioners.unit_runners().next().is_none() || !self.hold_host_lock().await? {
            return Ok(report);
        }
        let claimed = claim::claim_due_runs(&self.shared.core).await?;
        let runs = store::list_started(&self.shared.core.db, &self.shared.core.host).await?;
        self.is_active.store(!runs.is_empty(), Ordering::Relaxed);
        self.shared.forget_others(&runs);
        if !runs.is_empty() {
            // Read after the rows: a row that says launched is older than the report.
            let observation = self.shared.core.provisioners.observe_units().await;
            for (provisioner, why) in &observation.silent {
                tracing::warn!(provisioner, why, "cannot list the units of jobs");
            }
            // Of the units of a silent provisioner nothing is known: their runs are left as they are.
            let runs = runs
                .into_iter()
                .filter(|run| !observation.silent.contains_key(run.provisioner.as_str()));
            let settled =
                stream::iter(runs).map(|run| RunnerState::settle(&self.shared, run, &observation.found));
            settled.buffer_unordered(CONCURRENT_ENDS).count().await;
        }
        if claimed > 0 {
            report.done.push(format!("started {claimed} runs of jobs"));
        }
        Ok(report)
    }
}

/// A step that takes longer than a round.
enum LongStep {
    Launch,
    Stop(Arc<dyn UnitRunner>, String),
}

impl RunnerState {
    fn lock_busy(&self) -> MutexGuard<'_, HashSet<UnitId>> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_failures(&self) -> MutexGuard<'_, HashMap<UnitId, String>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget_others(&self, runs: &[ActiveRun]) {
        let is_started = |unit: &UnitId| runs.iter().any(|run| run.unit == *unit);
        self.lock_failures().retain(|unit, _| is_started(unit));
    }

    /// Takes the next step of a run. A run that fails to be handled does not keep the others from theirs.
    async fn settle(shared: &Arc<Self>, run: ActiveRun, observed: &FoundUnits) {
        if shared.lock_busy().contains(&run.unit) {
            return shared.collect_log(&run).await;
        }
        let found = observed.get(&run.unit);
        let failure = shared.lock_failures().get(&run.unit).cloned();
        let step = decide_step(&run, found.map(|found| &found.report), failure);
        let done = match step {
            RunStep::Wait => {
                shared.collect_log(&run).await;
                shared.note_launch(&run).await
            }
            RunStep::End(end) => shared.end_run(&run, found.map(|found| &found.runner), end).await,
            RunStep::Launch => {
                Self::spawn(shared, run, LongStep::Launch);
                Ok(())
            }
            RunStep::Stop(reason) => {
                if let Some(found) = found {
                    Self::spawn(shared, run, LongStep::Stop(Arc::clone(&found.runner), reason));
                }
                Ok(())
            }
        };
        if let Err(error) = done {
            tracing::warn!(error = %error.report(), "cannot settle the run of a job; it is tried again");
        }
    }

    /// Takes a longer step in the background; meanwhile the unit is busy.
    fn spawn(shared: &Arc<Self>, run: ActiveRun, step: LongStep) {
        let shared = Arc::clone(shared);
        if !shared.lock_busy().insert(run.unit.clone()) {
            return;
        }
        let tasks = shared.core.work.clone();
        tasks.spawn(async move {
            let work = async {
                match step {
                    LongStep::Launch => shared.launch(&run).await,
                    LongStep::Stop(runner, reason) => shared.stop_run(&run, &runner, reason).await,
                }
            };
            let done = tokio::select! {
                done = work => done,
                // The next process finds whatever was begun.
                () = shared.core.stop.cancelled() => Ok(()),
            };
            if let Err(error) = done {
                tracing::warn!(unit = %run.unit, error = %error.report(), "cannot start or stop the run of a job");
            }
            shared.lock_busy().remove(&run.unit);
        });
    }

    /// Notes that the unit of a run is there, if the process that has started it could not.
    async fn note_launch(&self, run: &ActiveRun) -> Result<(), Error> {
        match run.launched {
            true => Ok(()),
            false => Ok(store::mark_launched(&self.core.db, run.run_id, run.unit.as_str()).await?),
        }
    }

    /// Starts the unit of a run. What is in the way for good ends the run; what may pass is tried again.
    async fn launch(&self, run: &ActiveRun) -> Result<(), Error> {
        let spec = match spec::build_spec(&self.core, run).await? {
            Ok(spec) => spec,
            Err(reason) => return self.end_run(run, None, AttemptEnd::refused(reason)).await,
        };
        let Some(runner) = self.core.provisioners.find_unit_runner(&run.provisioner) else {
            let reason = "the provisioner of its pool does not run on this host".to_owned();
            return self.end_run(run, None, AttemptEnd::refused(reason)).await;
        };
        if !store::may_launch(&self.core.db, run.run_id, run.unit.as_str()).await? {
            return Ok(());
        }
        let started = tokio::time::timeout(PROVISIONER_TIMEOUT, runner.ensure_unit(&spec)).await;
        match started {
            Ok(Ok(())) => Ok(store::mark_launched(&self.core.db, run.run_id, run.unit.as_str()).await?),
            Ok(Err(ProvisionError::Permanent(reason))) => {
                self.end_run(run, Some(runner), AttemptEnd::refused(reason)).await
            }
            Ok(Err(error)) => {
                self.lock_failures().insert(run.unit.clone(), error.to_string());
                Ok(())
            }
            Err(_) => {
                let reason = "the provisioner did not start its unit in time".to_owned();
                self.lock_failures().insert(run.unit.clone(), reason);
                Ok(())
            }
        }
    }

    /// Stops the unit of a run; its output is collected until it ends.
    async fn stop_run(
        &self,
        run: &ActiveRun,
        runner: &Arc<dyn UnitRunner>,
        reason: String,
    ) -> Result<(), Error> {
        self.track_log(run)?;
        let limit = self.core.settings.apps.stop_grace + STOP_MARGIN;
        let removal = tokio::time::timeout(limit, runner.remove_unit(&run.unit));
        tokio::pin!(removal);
        loop {
            tokio::select! {
                removed = &mut removal => match removed {
                    Ok(Ok(()) | Err(ProvisionError::Gone(_))) => break,
                    Ok(Err(error)) => return Err(Error::unavailable(error.to_string())),
                    Err(_) => return Err(Error::unavailable("The provisioner timed out removing a unit.")),
                },
                () = tokio::time::sleep(FINAL_LOG_INTERVAL) => self.logs.collect_unit(&run.unit).await,
            }
        }
        self.end_run(run, None, AttemptEnd::stopped(reason)).await
    }

    fn track_log(&self, run: &ActiveRun) -> Result<(), Error> {
        let unit = UnitRef::for_job(JobId(run.job.0), run.version, run.unit.clone())?;
        self.logs.track_output(run.job, run.name.as_str(), unit);
        Ok(())
    }

    async fn collect_log(&self, run: &ActiveRun) {
        if self.track_log(run).is_ok() {
            self.logs.collect_unit(&run.unit).await;
        }
    }

    /// Records that a run has failed for good: as an event, for those who read or are sent the events of the job.
    async fn record_failure(&self, run: &ActiveRun, end: &AttemptEnd) -> Result<(), Error> {
        let job = match apps::find_job_app(&self.core, &JobName::parse(run.name.as_str())?).await {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            job => job?,
        };
        let data = json!({ "run": run.run_id, "unit": run.unit, "attempt": run.attempt + 1, "exitStatus": end.exit });
        let event = NewEvent::new(
            job.event_target(),
            Permission::JOB_RUN,
            job.permission_contexts(),
            data,
        );
        let outcome = EventOutcome::from(&Error::failed(end.reason.clone()));
        let mut tx = self.core.db.begin().await?;
        let call = RequestContext::new_internal();
        events::record_failed_event(&mut tx, &call, &event.ignore_blocks(), &outcome).await?;
        Ok(tx.commit().await?)
    }

    /// Collects the last lines of a run, writes how it has ended, and removes its unit: in this order, so that nothing
    /// of it is lost if the process ends in between.
    async fn end_run(
        &self,
        run: &ActiveRun,
        runner: Option<&Arc<dyn UnitRunner>>,
        end: AttemptEnd,
    ) -> Result<(), Error> {
        if runner.is_some() && self.track_log(run).is_ok() {
            self.logs.drain_unit(&run.unit).await;
        }
        let keep = self.core.settings.jobs.keep_runs.into();
        if store::write_end(&self.core.db, run, &end, keep).await? {
            metrics::record_job_run(end.is_success());
            if !end.is_success() && end.retry_pause(run).is_none() && run.is_live {
                self.record_failure(run, &end).await?;
            }
        }
        tracing::debug!(job = %run.name, unit = %run.unit, exit = end.exit, reason = end.reason, "the run of a job has ended");
        self.logs.drop_unit(&run.unit);
        if let Some(runner) = runner
            && let Err(error) = runner.remove_unit(&run.unit).await
        {
            tracing::warn!(unit = %run.unit, %error, "the unit of a run that has ended is left to the reconciler of units");
        }
        Ok(())
    }
}
