//! Actions on jobs: create, read, trigger, stop a run, remove. Those that change a job are in `change`.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde_json::json;

use crate::apps::{self, App, JobAppRequest, MetadataPatch, NewJobApp};
use crate::core::Core;
use crate::db::{self, notices::NoticeChannel};
use crate::events::{self, NewEvent};
use crate::jobs::model::{
    ConcurrencyPolicy, JobDescription, JobRun, JobSettings, RunOrigin, RunState, ScheduleChange,
    SettingsChange,
};
use crate::jobs::store::{self, JobRow, JobScopes, NewRun};
use crate::jobs::views::NO_SCHEDULE;
use crate::kernel::error::Error;
use crate::kernel::ids::{AppId, EventId};
use crate::kernel::names::{AppName, JobName, PlanName, PlatformName, PoolName, TeamName};
use crate::kernel::permission::{ContextKind, Permission};
use crate::kernel::request_context::RequestContext;
use crate::kernel::schedule::CronSchedule;
use crate::{lifecycle, teams};

/// How a job is built if its creator does not say: nothing is installed, and the Procfile names its command.
const DEFAULT_PLATFORM: &str = "procfile";
/// Runs that wait at once for their start, of one job.
const MAX_PLANNED: i64 = 100;
/// Instants and runs in a description.
const NEXT_RUNS: usize = 5;
const SHOWN_RUNS: i64 = 50;

/// A request to create a job.
#[derive(Debug)]
pub(super) struct CreateJob {
    pub(super) name: JobName,
    pub(super) platform: Option<PlatformName>,
    pub(super) team_owner: Option<TeamName>,
    pub(super) plan: Option<PlanName>,
    pub(super) pool: Option<PoolName>,
    pub(super) description: String,
    pub(super) tags: Vec<String>,
    pub(super) metadata: MetadataPatch,
    pub(super) settings: SettingsChange,
}

/// Finds a job on which the caller holds the permission. Errors: `NotFound`, `Forbidden`.
pub async fn find_authorized_job(
    core: &Core,
    call: &RequestContext,
    name: &JobName,
    permission: Permission,
) -> Result<App, Error> {
    let job = apps::find_job_app(core, name).await?;
    call.authorize(permission, &job.permission_contexts())?;
    Ok(job)
}

/// Creates a job. Returns the next instants of its schedule. Errors: `Invalid`, `Conflict`.
pub(super) async fn create_job(
    core: &Core,
    call: &RequestContext,
    request: CreateJob,
) -> Result<Vec<DateTime<chrono_tz::Tz>>, Error> {
    let (_, owner) = call.require_owner()?;
    let team = teams::choose_owner_team(core, call, request.team_owner, Permission::JOB_CREATE).await?;
    if request.settings.schedule.is_none() {
        return Err(Error::invalid(
            "A job needs a schedule, or manual: give one of them.",
        ));
    }
    let mut settings = JobSettings::default();
    request.settings.apply_to(&mut settings)?;
    let platform = match request.platform {
        Some(platform) => platform,
        None => PlatformName::parse(DEFAULT_PLATFORM)?,
    };
    let new = JobAppRequest {
        name: request.name,
        platform,
        team_owner: team,
        owner: owner.to_string(),
        plan: request.plan,
        pool: request.pool,
        description: request.description,
        tags: request.tags,
        metadata: request.metadata,
    };
    let new = apps::check_job_app(core, new).await?;
    db::retry_transaction(|| create_in_transaction(core, call, &new, &settings)).await
}

async fn create_in_transaction(
    core: &Core,
    call: &RequestContext,
    new: &NewJobApp,
    settings: &JobSettings,
) -> Result<Vec<DateTime<chrono_tz::Tz>>, Error> {
    let mut tx = core.db.begin().await?;
    let job = apps::insert_job_app(&mut tx, new).await?;
    let now = store::transaction_time(&mut *tx).await?;
    let next = settings
        .schedule
        .as_ref()
        .and_then(|schedule| schedule.next_after(now));
    store::upsert_job(&mut tx, job.id, settings, next).await?;
    let data = json!({ "name": job.name, "plan": job.plan, "pool": job.pool, "teamOwner": job.team_owner,
        "schedule": describe_schedule(settings) });
    let event = NewEvent::new(
        job.event_target(),
        Permission::JOB_CREATE,
        job.permission_contexts(),
        data,
    );
    events::record_event(&mut tx, call, &event).await?;
    db::send_notice(&mut tx, NoticeChannel::Jobs, "").await?;
    tx.commit().await?;
    Ok(list_next_runs(settings, now))
}

pub(super) fn describe_schedule(settings: &JobSettings) -> Option<&str> {
    settings.schedule.as_ref().map(|schedule| schedule.as_str())
}

fn list_next_runs(settings: &JobSettings, now: DateTime<Utc>) -> Vec<DateTime<chrono_tz::Tz>> {
    let schedule = settings.schedule.as_ref();
    schedule.map_or_else(Vec::new, |schedule| schedule.list_next(now, NEXT_RUNS))
}

/// Reads whether a job has a schedule: `manual`, or five fields in a zone; `None`: the request does not say. Errors: `Invalid` for both.
pub(super) fn parse_schedule_change(
    schedule: Option<&str>,
    zone: Option<&str>,
    manual: bool,
) -> Result<Option<ScheduleChange>, Error> {
    // Clients know a job without a schedule by one that never occurs.
    let schedule = schedule.filter(|text| *text != NO_SCHEDULE);
    match (schedule, manual) {
        (None, false) => Ok(None),
        (None, true) => Ok(Some(ScheduleChange::Manual)),
        (Some(text), false) => Ok(Some(ScheduleChange::Cron(CronSchedule::parse(text, zone)?))),
        (Some(_), true) => Err(Error::invalid(
            "A job has a schedule, or is manual: give one of them.",
        )),
    }
}

/// Lists the jobs that the caller may read, by name.
pub(super) async fn list_jobs(core: &Core, call: &RequestContext) -> Result<Vec<JobDescription>, Error> {
    let scopes_of = |kind| call.visible_scopes(Permission::JOB_READ, kind);
    let scopes = (|| {
        Some(JobScopes {
            teams: scopes_of(ContextKind::Team)?,
            jobs: scopes_of(ContextKind::Job)?,
            pools: scopes_of(ContextKind::Pool)?,
        })
    })();
    let names = store::list_job_names(&core.db, scopes.as_ref()).await?;
    describe_jobs(core, &names).await
}

/// Describes jobs by their names, in the same order; those that are gone are left out.
async fn describe_jobs(core: &Core, names: &[AppName]) -> Result<Vec<JobDescription>, Error> {
    let described = apps::describe_job_apps(core, names).await?;
    let ids: Vec<AppId> = described.iter().map(|full| full.app.id).collect();
    let rows = store::find_jobs(&core.db, &ids).await?;
    let mut rows: HashMap<AppId, JobRow> = rows.into_iter().map(|row| (row.app_id, row)).collect();
    let mut jobs = Vec::with_capacity(described.len());
    for full in described {
        let Some(row) = rows.remove(&full.app.id) else {
            continue;
        };
        let settings = row.to_settings()?;
        jobs.push(JobDescription {
            full,
            next_runs: list_next_runs(&settings, row.now),
            settings,
            last_success_at: row.last_success_at,
        });
    }
    Ok(jobs)
}

/// Describes a job with its newest runs. Errors: `NotFound`, `Forbidden`.
pub(super) async fn describe_job(
    core: &Core,
    call: &RequestContext,
    name: &JobName,
) -> Result<(JobDescription, Vec<JobRun>), Error> {
    let job = find_authorized_job(core, call, name, Permission::JOB_READ).await?;
    let described = describe_jobs(core, std::slice::from_ref(&job.name)).await?;
    let gone = || Error::job_not_found(name);
    let described = described.into_iter().next().ok_or_else(gone)?;
    let runs = store::list_runs(&core.db, job.id, SHOWN_RUNS).await?;
    Ok((described, runs))
}

/// Plans a run of a job for now. Errors: `Conflict` if it has no version, or a run goes on that forbids another one; `TooMany`.
pub(super) async fn trigger_job(core: &Core, call: &RequestContext, name: &JobName) -> Result<(), Error> {
    let job = find_authorized_job(core, call, name, Permission::JOB_TRIGGER).await?;
    apps::ensure_live(&job)?;
    let mut tx = core.db.begin().await?;
    let event = NewEvent::new(
        job.event_target(),
        Permission::JOB_TRIGGER,
        job.permission_contexts(),
        json!({}),
    );
    events::record_event(&mut tx, call, &event).await?;
    if job.current_release.is_none() {
        return Err(Error::conflict(format!(
            "Job {name} has no version that can run: deploy it first."
        )));
    }
    let row = store::find_job(&mut *tx, job.id).await?;
    let row = row.ok_or_else(|| Error::job_not_found(name))?;
    check_trigger(
        name,
        &row.to_settings()?,
        store::count_open_runs(&mut *tx, job.id).await?,
    )?;
    let run = NewRun {
        job: job.id,
        scheduled_at: row.now,
        state: RunState::Planned,
        reason: String::new(),
    };
    if store::insert_runs(&mut tx, RunOrigin::Trigger, &[run]).await? == 0 {
        return Err(Error::conflict(
            "The job has a run at this very moment: trigger it again.",
        ));
    }
    Ok(tx.commit().await?)
}

fn check_trigger(
    name: &JobName,
    settings: &JobSettings,
    (planned, started): (i64, i64),
) -> Result<(), Error> {
    if settings.effective_concurrency() == ConcurrencyPolicy::Forbid && planned + started > 0 {
        return Err(Error::conflict(format!(
            "A run of the job {name} is going on, and the job forbids two at once: wait for its end, or stop it."
        )));
    }
    match planned >= MAX_PLANNED {
        true => Err(Error::too_many(format!(
            "Job {name} has {MAX_PLANNED} runs that wait to start: wait for them."
        ))),
        false => Ok(()),
    }
}

/// Stops a run, named by its unit. Errors: `NotFound` if no run of the job has the unit.
pub(super) async fn kill_unit(
    core: &Core,
    call: &RequestContext,
    name: &JobName,
    unit: &str,
) -> Result<(), Error> {
    let job = find_authorized_job(core, call, name, Permission::JOB_UNIT_KILL).await?;
    let mut tx = core.db.begin().await?;
    let event = NewEvent::new(
        job.event_target(),
        Permission::JOB_UNIT_KILL,
        job.permission_contexts(),
        json!({ "unit": unit }),
    );
    events::record_event(&mut tx, call, &event).await?;
    if !store::request_stop(&mut tx, job.id, Some(unit), "a user has stopped it").await? {
        return Err(Error::not_found(format!("Job {name} runs no such unit.")));
    }
    db::send_notice(&mut tx, NoticeChannel::Jobs, "").await?;
    Ok(tx.commit().await?)
}

/// Removes a job with its versions, its binds and its runs; what runs is stopped. Returns the event to follow.
pub(super) async fn remove_job(core: &Core, call: &RequestContext, name: &JobName) -> Result<EventId, Error> {
    let job = find_authorized_job(core, call, name, Permission::JOB_DELETE).await?;
    lifecycle::remove_app_of(core, call, &job, Permission::JOB_DELETE).await
}
