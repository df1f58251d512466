//! Jobs and their runs in SQL.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgExecutor};
use uuid::Uuid;

use crate::jobs::model::{ConcurrencyPolicy, JobRun, JobSettings, MissedRunPolicy, RunOrigin, RunState};
use crate::kernel::error::Error;
use crate::kernel::ids::AppId;
use crate::kernel::names::AppName;
use crate::kernel::schedule::CronSchedule;

/// A job, as stored.
pub(super) struct JobRow {
    pub(super) app_id: AppId,
    schedule: String,
    zone: String,
    command: Vec<String>,
    concurrency: Option<ConcurrencyPolicy>,
    missed_runs: MissedRunPolicy,
    active_deadline: Option<i32>,
    starting_deadline: i32,
    retries: i32,
    pub(super) last_success_at: Option<DateTime<Utc>>,
    pub(super) next_at: Option<DateTime<Utc>>,
    pub(super) now: DateTime<Utc>,
}

impl JobRow {
    /// Returns the settings. Errors: a stored schedule cannot be read.
    pub(super) fn to_settings(&self) -> Result<JobSettings, Error> {
        let schedule = match self.schedule.is_empty() {
            true => None,
            false => Some(CronSchedule::parse(&self.schedule, Some(&self.zone)).map_err(Error::internal)?),
        };
        Ok(JobSettings {
            schedule,
            command: self.command.clone(),
            concurrency: self.concurrency,
            missed_runs: self.missed_runs,
            active_deadline: self.active_deadline,
            starting_deadline: self.starting_deadline,
            retries: self.retries,
        })
    }
}

pub(super) async fn find_job(db: impl PgExecutor<'_>, job: AppId) -> sqlx::Result<Option<JobRow>> {
    Ok(find_jobs(db, &[job]).await?.pop())
}

/// The jobs with these ids, in any order.
pub(super) async fn find_jobs(db: impl PgExecutor<'_>, jobs: &[AppId]) -> sqlx::Result<Vec<JobRow>> {
    sqlx::query_as!(
        JobRow,
        r#"select app_id as "app_id: AppId", schedule, zone, command, concurrency as "concurrency: ConcurrencyPolicy",
                  missed_runs as "missed_runs: MissedRunPolicy", active_deadline, starting_deadline, retries,
                  last_success_at, next_at, now() as "now!"
           from job where app_id = any($1)"#,
        jobs as &[AppId],
    )
    .fetch_all(db)
    .await
}

/// Writes the settings of a new or a changed job. It is planned from `next_at` on.
pub(super) async fn upsert_job(
    tx: &mut PgConnection,
    job: AppId,
    settings: &JobSettings,
    next_at: Option<DateTime<Utc>>,
) -> sqlx::Result<()> {
    let schedule = settings.schedule.as_ref();
    sqlx::query!(
        "insert into job (app_id, schedule, zone, command, concurrency, missed_runs, active_deadline,
                          starting_deadline, retries, next_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
         on conflict on constraint job_pkey
         do update set schedule = excluded.schedule, zone = excluded.zone, command = excluded.command,
                       concurrency = excluded.concurrency, missed_runs = excluded.missed_runs,
                       active_deadline = excluded.active_deadline, starting_deadline = excluded.starting_deadline,
                       retries = excluded.retries, next_at = excluded.next_at",
        job.0,
        schedule.map_or("", CronSchedule::as_str),
        schedule.map_or("UTC", CronSchedule::zone_name),
        &settings.command,
        settings.concurrency.map(ConcurrencyPolicy::as_str),
        settings.missed_runs.as_str(),
        settings.active_deadline,
        settings.starting_deadline,
        settings.retries,
        next_at,
    )
    .execute(tx)
    .await
    .map(drop)
}

/// The time of the transaction.
pub(super) async fn transaction_time(db: impl PgExecutor<'_>) -> sqlx::Result<DateTime<Utc>> {
    sqlx::query_scalar!(r#"select now() as "now!""#)
        .fetch_one(db)
        .await
}

/// The scopes on which a caller may read jobs; without them, all.
pub(super) struct JobScopes {
    pub(super) teams: Vec<String>,
    pub(super) jobs: Vec<String>,
    pub(super) pools: Vec<String>,
}

/// The names of the jobs in these scopes.
pub(super) async fn list_job_names(
    db: impl PgExecutor<'_>,
    scopes: Option<&JobScopes>,
) -> sqlx::Result<Vec<AppName>> {
    let none: &[String] = &[];
    sqlx::query_scalar!(
        r#"select a.name as "name: AppName" from app a
           where a.kind = 'job'
             and ($1 or a.app_id in (select t.app_id from app_team t where t.team = any($2))
                  or a.name = any($3) or a.pool = any($4))
           order by a.name"#,
        scopes.is_none(),
        scopes.map_or(none, |scopes| &scopes.teams),
        scopes.map_or(none, |scopes| &scopes.jobs),
        scopes.map_or(none, |scopes| &scopes.pools),
    )
    .fetch_all(db)
    .await
}

/// A job with instants that are due.
pub(super) struct DueJobRow {
    pub(super) app_id: AppId,
    pub(super) name: String,
    pub(super) schedule: String,
    pub(super) zone: String,
    pub(super) missed_runs: MissedRunPolicy,
    pub(super) starting_deadline: i32,
    pub(super) next_at: DateTime<Utc>,
    pub(super) is_deployed: bool,
    pub(super) now: DateTime<Utc>,
}

/// Locks jobs with instants that are due, except those that another planner has.
pub(super) async fn lock_due_jobs(tx: &mut PgConnection, limit: i64) -> sqlx::Result<Vec<DueJobRow>> {
    sqlx::query_as!(
        DueJobRow,
        r#"select j.app_id as "app_id: AppId", a.name, j.schedule, j.zone,
                  j.missed_runs as "missed_runs: MissedRunPolicy", j.starting_deadline, j.next_at as "next_at!",
                  a.current_release is not null as "is_deployed!", now() as "now!"
           from job j join app a on a.app_id = j.app_id
           where j.next_at <= now() and a.state = 'live'
           order by j.next_at limit $1
           for update of j skip locked"#,
        limit,
    )
    .fetch_all(tx)
    .await
}

/// The time until the first instant that is not planned yet; `None`: there is none.
pub(super) async fn time_until_next(db: impl PgExecutor<'_>) -> sqlx::Result<Option<Duration>> {
    let seconds = sqlx::query_scalar!(
        r#"select extract(epoch from j.next_at - clock_timestamp())::double precision as "seconds!"
           from job j join app a on a.app_id = j.app_id
           where j.next_at is not null and a.state = 'live'
           order by j.next_at limit 1"#
    )
    .fetch_optional(db)
    .await?;
    Ok(seconds.map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or_default()))
}

/// A run to write.
pub(super) struct NewRun {
    pub(super) job: AppId,
    pub(super) scheduled_at: DateTime<Utc>,
    pub(super) state: RunState,
    pub(super) reason: String,
}

/// Writes runs; those of instants that have one are left as they are. Returns how many are new.
pub(super) async fn insert_runs(
    tx: &mut PgConnection,
    origin: RunOrigin,
    runs: &[NewRun],
) -> sqlx::Result<u64> {
    sqlx::query!(
        "insert into job_run (run_id, app_id, scheduled_at, due_at, origin, state, reason, ended_at)
         select n.run_id, n.app_id, n.at, n.at, $1, n.state, n.reason, case when n.state <> 'planned' then now() end
         from unnest($2::uuid[], $3::uuid[], $4::timestamptz[], $5::text[], $6::text[])
              as n (run_id, app_id, at, state, reason)
         on conflict on constraint job_run_instant_key do nothing",
        origin.as_str(),
        &runs.iter().map(|_| Uuid::now_v7()).collect::<Vec<_>>(),
        &runs.iter().map(|run| run.job.0).collect::<Vec<_>>(),
        &runs.iter().map(|run| run.scheduled_at).collect::<Vec<_>>(),
        &runs.iter().map(|run| run.state.as_str().to_owned()).collect::<Vec<_>>(),
        &runs.iter().map(|run| run.reason.clone()).collect::<Vec<_>>(),
    )
    .execute(tx)
    .await
    .map(|done| done.rows_affected())
}

/// Sets the first instants that are not planned yet; `None`: there are none.
pub(super) async fn set_next_instants(
    tx: &mut PgConnection,
    next: &[(AppId, Option<DateTime<Utc>>)],
) -> sqlx::Result<()> {
    sqlx::query!(
        "update job j set next_at = n.next_at
         from unnest($1::uuid[], $2::timestamptz[]) as n (app_id, next_at) where j.app_id = n.app_id",
        &next.iter().map(|(job, _)| job.0).collect::<Vec<_>>(),
        &next.iter().map(|(_, at)| *at).collect::<Vec<_>>() as &[Option<DateTime<Utc>>],
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Deletes the oldest ended runs of jobs, so that `keep` of each are left.
pub(super) async fn delete_old_runs(db: impl PgExecutor<'_>, jobs: &[AppId], keep: i64) -> sqlx::Result<()> {
    sqlx::query!(
        "delete from job_run where run_id in (
             select r.run_id from (select distinct app_id from unnest($1::uuid[]) as app_id) j
             cross join lateral (
                 select run_id from job_run where app_id = j.app_id and ended_at is not null
                 order by ended_at desc, scheduled_at desc offset $2) r)",
        jobs as &[AppId],
        keep,
    )
    .execute(db)
    .await
    .map(drop)
}

/// The newest runs of a job: those that have started and not ended first, then those that wait.
pub(super) async fn list_runs(db: impl PgExecutor<'_>, job: AppId, limit: i64) -> sqlx::Result<Vec<JobRun>> {
    sqlx::query_as!(
        JobRun,
        r#"select run_id, scheduled_at, origin, state as "state: RunState", reason, attempt, unit_id, version,
                  launched, started_at, ended_at, exit_status
           from job_run where app_id = $1
           order by case state when 'started' then 0 when 'planned' then 1 else 2 end, scheduled_at desc limit $2"#,
        job.0,
        limit,
    )
    .fetch_all(db)
    .await
}

/// How many runs of a job wait, and how many run.
pub(super) async fn count_open_runs(db: impl PgExecutor<'_>, job: AppId) -> sqlx::Result<(i64, i64)> {
    sqlx::query!(
        r#"select count(*) filter (where state = 'planned') as "planned!",
                  count(*) filter (where state = 'started') as "started!"
           from job_run where app_id = $1 and state in ('planned', 'started')"#,
        job.0,
    )
    .fetch_one(db)
    .await
    .map(|row| (row.planned, row.started))
}

/// Asks for the end of a run; false if no run of the job has this unit now.
pub(super) async fn request_stop(
    tx: &mut PgConnection,
    job: AppId,
    unit: Option<&str>,
    reason: &str,
) -> sqlx::Result<bool> {
    sqlx::query!(
        "update job_run set stop_reason = coalesce(stop_reason, $3)
         where app_id = $1 and ($2::text is null or unit_id = $2) and state = 'started'",
        job.0,
        unit,
        reason,
    )
    .execute(tx)
    .await
    .map(|done| done.rows_affected() > 0)
}
