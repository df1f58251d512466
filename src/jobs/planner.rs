//! The planner: turns schedules into planned runs when their instants come. It runs on every worker; a job that one
//! planner has is left out by the others, and the instants of a job are unique.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};

use crate::core::Core;
use crate::db::notices::NoticeChannel;
use crate::jobs::model::{RunOrigin, RunState};
use crate::jobs::schedule::{DuePlan, LatePolicy, plan_due};
use crate::jobs::store::{self, DueJobRow, NewRun};
use crate::kernel::error::Error;
use crate::kernel::ids::AppId;
use crate::kernel::schedule::CronSchedule;
use crate::sagas::{ReconcileReport, Reconciler};

/// The longest and the shortest pause between two looks at the next instant. A notice ends a pause; the longest one is
/// for notices that are lost.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
/// Jobs in one transaction.
const JOBS_PER_ROUND: i64 = 200;

/// See the module.
pub struct JobPlanner {
    core: Core,
    /// Until the next instant.
    pause: Mutex<Duration>,
}

impl JobPlanner {
    /// Creates the planner.
    pub fn new(core: &Core) -> Self {
        Self {
            core: core.clone(),
            pause: Mutex::new(SHORTEST_PAUSE),
        }
    }

    /// Sets the pause until the next instant, by the clock of the database.
    async fn set_pause(&self) -> Result<(), Error> {
        let until_next = store::time_until_next(&self.core.db).await?;
        let pause = until_next.map_or(LONGEST_PAUSE, |time| time.clamp(SHORTEST_PAUSE, LONGEST_PAUSE));
        *self.pause.lock().unwrap_or_else(PoisonError::into_inner) = pause;
        Ok(())
    }
}

/// What a round writes.
#[derive(Default)]
struct RoundPlan {
    runs: Vec<NewRun>,
    next: Vec<(AppId, Option<DateTime<Utc>>)>,
}

impl RoundPlan {
    fn add_job(&mut self, row: &DueJobRow) {
        let schedule = match CronSchedule::parse(&row.schedule, Some(&row.zone)) {
            Ok(schedule) => schedule,
            Err(error) => {
                // A bug, or a row that was written by hand: the other jobs go on.
                tracing::error!(job = row.name, error = %error.report(), "cannot read the schedule of a job; it is not planned any more");
                self.next.push((row.app_id, None));
                return;
            }
        };
        let policy = LatePolicy {
            missed_runs: row.missed_runs,
            starting_deadline: TimeDelta::seconds(row.starting_deadline.into()),
        };
        let (plans, next) = plan_due(&schedule, row.next_at, row.now, policy);
        self.next.push((row.app_id, next));
        for (scheduled_at, plan) in plans {
            let (state, reason) = match plan {
                DuePlan::Run if row.is_deployed => (RunState::Planned, String::new()),
                DuePlan::Run => (
                    RunState::Skipped,
                    "the job has no version yet: deploy it first".to_owned(),
                ),
                DuePlan::Missed(reason) => (RunState::Missed, reason),
            };
            self.runs.push(NewRun {
                job: row.app_id,
                scheduled_at,
                state,
                reason,
            });
        }
    }
}

#[async_trait]
impl Reconciler for JobPlanner {
    fn name(&self) -> &'static str {
        "job-planner"
    }

    fn channels(&self) -> &'static [NoticeChannel] {
        &[NoticeChannel::Jobs]
    }

    fn period(&self) -> Duration {
        *self.pause.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run_round(&self) -> Result<ReconcileReport, Error> {
        let mut tx = self.core.db.begin().await?;
        let due = store::lock_due_jobs(&mut tx, JOBS_PER_ROUND).await?;
        let mut report = ReconcileReport::default();
        if due.is_empty() {
            drop(tx);
            self.set_pause().await?;
            return Ok(report);
        }
        let mut plan = RoundPlan::default();
        due.iter().for_each(|row| plan.add_job(row));
        let new = store::insert_runs(&mut tx, RunOrigin::Schedule, &plan.runs).await?;
        store::set_next_instants(&mut tx, &plan.next).await?;
        tx.commit().await?;
        let jobs: Vec<AppId> = due.iter().map(|row| row.app_id).collect();
        store::delete_old_runs(&self.core.db, &jobs, self.core.settings.jobs.keep_runs.into()).await?;
        report.has_more = jobs.len() as i64 == JOBS_PER_ROUND;
        self.set_pause().await?;
        report.done.push(format!("planned {new} runs of jobs"));
        Ok(report)
    }
}
