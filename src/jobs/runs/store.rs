//! Runs in SQL, for the runner.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::{PgConnection, PgExecutor};
use uuid::Uuid;

use crate::db::{self, Db, notices::NoticeChannel};
use crate::jobs::model::{ConcurrencyPolicy, RunState};
use crate::jobs::runs::steps::AttemptEnd;
use crate::jobs::store::delete_old_runs;
use crate::kernel::error::Error;
use crate::kernel::ids::AppId;
use crate::kernel::names::AppName;
use crate::provisioners::UnitId;

/// Takes the lock of the runner of a host, for as long as the connection lives; false if another process has it.
pub(super) async fn try_lock_host(connection: &mut PgConnection, host: &str) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select pg_try_advisory_lock(hashtextextended('tancho.jobs.' || $1, 0)) as "taken!""#,
        host
    )
    .fetch_one(connection)
    .await
}

/// True if a connection, and so what it has locked, is still there.
pub(super) async fn is_alive(connection: &mut PgConnection) -> bool {
    let answer = sqlx::query_scalar!(r#"select true as "alive!""#)
        .fetch_one(connection)
        .await;
    answer.is_ok()
}

/// The runs that a host can start now, those of each team in turn. A team has at most `per_team` runs at once over all hosts, and the
/// host at most `total`.
pub(super) async fn list_startable(
    db: impl PgExecutor<'_>,
    host: &str,
    total: u32,
    per_team: u32,
) -> sqlx::Result<Vec<Uuid>> {
    sqlx::query_scalar!(
        r#"with running as (
               select a.team_owner, count(*) as count, count(*) filter (where r.host = $1) as here
               from job_run r join app a using (app_id) where r.state = 'started' group by a.team_owner
           ), due as (
               select r.run_id, r.due_at,
                      coalesce(running.count, 0) + row_number() over (partition by a.team_owner order by r.due_at, r.run_id) as place
               from job_run r
               join app a using (app_id)
               left join running on running.team_owner = a.team_owner
               left join release current on current.release_id = a.current_release
               left join version v on v.app_id = current.app_id and v.version = current.version
               where r.state = 'planned' and r.due_at <= now() and a.state = 'live' and coalesce(v.host, $1) = $1)
           select run_id from due where place <= $3
           order by place, due_at, run_id
           limit greatest(0, $2::bigint - (select coalesce(sum(here), 0) from running)::bigint)"#,
        host,
        i64::from(total),
        i64::from(per_team),
    )
    .fetch_all(db)
    .await
}

/// A planned run, locked, with what decides about it.
pub(super) struct RunClaim {
    pub(super) run_id: Uuid,
    pub(super) job: AppId,
    pub(super) name: AppName,
    pub(super) is_scheduled: bool,
    pub(super) attempt: i32,
    pub(super) lateness: TimeDelta,
    pub(super) starting_deadline: i32,
    pub(super) concurrency: ConcurrencyPolicy,
    /// Runs of the job that have started and not ended.
    pub(super) running: i64,
    pub(super) version: Option<i32>,
}

/// Locks a planned run and its job; `None` if the run is not planned any more. The job is locked first and in a statement of its own, so
/// that what is read after it is what the last holder of the lock has written.
pub(super) async fn lock_claim(tx: &mut PgConnection, run: Uuid) -> sqlx::Result<Option<RunClaim>> {
    sqlx::query!(
        "select from job where app_id = (select app_id from job_run where run_id = $1) for no key update",
        run
    )
    .fetch_optional(&mut *tx)
    .await?;
    let row = sqlx::query!(
        r#"select r.app_id as "job: AppId", a.name as "name: AppName", r.origin = 'schedule' as "is_scheduled!", r.attempt,
                  extract(epoch from clock_timestamp() - r.scheduled_at)::bigint as "late_seconds!",
                  j.starting_deadline, coalesce(j.concurrency, 'forbid') as "concurrency!: ConcurrencyPolicy",
                  (select count(*) from job_run o where o.app_id = r.app_id and o.state = 'started') as "running!",
                  v.version as "version?"
           from job_run r
           join job j on j.app_id = r.app_id
           join app a on a.app_id = r.app_id
           left join release current on current.release_id = a.current_release
           left join version v on v.app_id = current.app_id and v.version = current.version and v.state = 'ready'
           where r.run_id = $1 and r.state = 'planned' and a.state = 'live'
           for update of r"#,
        run,
    )
    .fetch_optional(tx)
    .await?;
    Ok(row.map(|row| RunClaim {
        run_id: run,
        job: row.job,
        name: row.name,
        is_scheduled: row.is_scheduled,
        attempt: row.attempt,
        lateness: TimeDelta::seconds(row.late_seconds),
        starting_deadline: row.starting_deadline,
        concurrency: row.concurrency,
        running: row.running,
        version: row.version,
    }))
}

/// Says that a run starts now, with its unit, host and version.
pub(super) async fn start_run(
    tx: &mut PgConnection,
    run: Uuid,
    (unit, host, version): (&str, &str, i32),
) -> sqlx::Result<()> {
    sqlx::query!(
        "update job_run set state = 'started', unit_id = $2, host = $3, version = $4, launched = false,
                stop_reason = null, reason = '', exit_status = null, started_at = clock_timestamp()
         where run_id = $1 and state = 'planned'",
        run,
        unit,
        host,
        version,
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Closes a planned run that does not start.
pub(super) async fn close_run(
    tx: &mut PgConnection,
    run: Uuid,
    state: RunState,
    reason: &str,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update job_run set state = $2, reason = $3, ended_at = clock_timestamp()
         where run_id = $1 and state = 'planned'",
        run,
        state.as_str(),
        reason,
    )
    .execute(tx)
    .await
    .map(drop)
}

/// A run that has started.
#[derive(Clone, Debug)]
pub(super) struct ActiveRun {
    pub(super) run_id: Uuid,
    pub(super) job: AppId,
    pub(super) name: AppName,
    pub(super) provisioner: String,
    pub(super) unit: UnitId,
    pub(super) version: i32,
    pub(super) scheduled_at: DateTime<Utc>,
    pub(super) attempt: i32,
    pub(super) retries: i32,
    pub(super) launched: bool,
    pub(super) stop_reason: Option<String>,
    pub(super) active_deadline: Option<i32>,
    pub(super) is_overdue: bool,
    /// Its job is not being removed.
    pub(super) is_live: bool,
    /// Since it has started.
    pub(super) age: Duration,
}

impl ActiveRun {
    /// Returns why it must not go on.
    pub(super) fn stop_cause(&self) -> Option<String> {
        match (self.is_live, &self.stop_reason, self.active_deadline) {
            (false, ..) => Some("its job is being removed".into()),
            (true, Some(reason), _) => Some(reason.clone()),
            (true, None, Some(seconds)) if self.is_overdue => {
                Some(format!("it took longer than its limit of {seconds} seconds"))
            }
            (true, None, _) => None,
        }
    }
}

/// The runs of a host that have started and not ended.
pub(super) async fn list_started(db: impl PgExecutor<'_>, host: &str) -> Result<Vec<ActiveRun>, Error> {
    let rows = sqlx::query!(
        r#"select r.run_id, r.app_id as "job: AppId", a.name as "name: AppName", p.provisioner, r.unit_id as "unit!",
                  r.version as "version!", r.scheduled_at, r.attempt, j.retries, r.launched, r.stop_reason, j.active_deadline,
                  coalesce(clock_timestamp() > r.started_at + make_interval(secs => j.active_deadline), false) as "is_overdue!",
                  a.state = 'live' as "is_live!",
                  extract(epoch from clock_timestamp() - r.started_at)::double precision as "age_seconds!"
           from job_run r
           join job j on j.app_id = r.app_id
           join app a on a.app_id = r.app_id
           join pool p on p.name = a.pool
           where r.host = $1 and r.state = 'started'"#,
        host,
    )
    .fetch_all(db)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(ActiveRun {
                run_id: row.run_id,
                job: row.job,
                name: row.name,
                provisioner: row.provisioner,
                unit: UnitId::parse(&row.unit)?,
                version: row.version,
                scheduled_at: row.scheduled_at,
                attempt: row.attempt,
                retries: row.retries,
                launched: row.launched,
                stop_reason: row.stop_reason,
                active_deadline: row.active_deadline,
                is_overdue: row.is_overdue,
                is_live: row.is_live,
                age: Duration::try_from_secs_f64(row.age_seconds).unwrap_or_default(),
            })
        })
        .collect()
}

/// True if the unit of a run is still to be started.
pub(super) async fn may_launch(db: impl PgExecutor<'_>, run: Uuid, unit: &str) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select exists (select from job_run where run_id = $1 and unit_id = $2 and state = 'started'
                                                and not launched and stop_reason is null) as "may!""#,
        run,
        unit,
    )
    .fetch_one(db)
    .await
}

/// Says that the provisioner has accepted the unit of a run.
pub(super) async fn mark_launched(db: impl PgExecutor<'_>, run: Uuid, unit: &str) -> sqlx::Result<()> {
    sqlx::query!(
        "update job_run set launched = true where run_id = $1 and unit_id = $2 and state = 'started'",
        run,
        unit,
    )
    .execute(db)
    .await
    .map(drop)
}

/// What the spec of a run is made of, beside its process.
pub(super) struct RunSpecRow {
    pub(super) number: i32,
    pub(super) command: Vec<String>,
    pub(super) holder: Option<String>,
    /// The image that the version is, if it is one.
    pub(super) image: Option<String>,
}

pub(super) async fn find_spec(db: impl PgExecutor<'_>, run: Uuid) -> sqlx::Result<Option<RunSpecRow>> {
    sqlx::query_as!(
        RunSpecRow,
        r#"select a.number, j.command, v.host as holder, v.image
           from job_run r
           join job j on j.app_id = r.app_id
           join app a on a.app_id = r.app_id
           join version v on v.app_id = r.app_id and v.version = r.version and v.state = 'ready'
           where r.run_id = $1"#,
        run,
    )
    .fetch_optional(db)
    .await
}

/// A process of a version, with its limits.
pub(super) struct ProcessRow {
    pub(super) process: String,
    pub(super) command: String,
    pub(super) memory_bytes: i64,
    pub(super) cpu_milli: i32,
}

pub(super) async fn list_processes(
    db: impl PgExecutor<'_>,
    job: AppId,
    version: i32,
) -> sqlx::Result<Vec<ProcessRow>> {
    sqlx::query_as!(
        ProcessRow,
        r#"select c.process, c.command, l.memory_bytes as "memory_bytes!", l.cpu_milli as "cpu_milli!"
           from version_process c
           join process_limit l on l.app_id = c.app_id and l.version = c.version and l.process = c.process
           where c.app_id = $1 and c.version = $2 order by c.process"#,
        job.0,
        version,
    )
    .fetch_all(db)
    .await
}

/// Writes how an attempt has ended: the run has ended too, or waits for the next attempt. Keeps so many ended runs. Returns false
/// if that was written before.
pub(super) async fn write_end(db: &Db, run: &ActiveRun, end: &AttemptEnd, keep: i64) -> Result<bool, Error> {
    let pause = end.retry_pause(run);
    let mut tx = db.begin().await?;
    let written = sqlx::query!(
        "update job_run set state = case when $3::double precision is null then 'ended' else 'planned' end,
                ended_at = case when $3 is null then clock_timestamp() end,
                due_at = case when $3 is null then due_at else clock_timestamp() + make_interval(secs => $3) end,
                attempt = attempt + case when $3 is null then 0 else 1 end,
                exit_status = $4, reason = $5
         where run_id = $1 and unit_id = $2 and state = 'started'",
        run.run_id,
        run.unit.as_str(),
        pause.map(|pause| pause.as_secs_f64()),
        end.exit,
        end.reason,
    )
    .execute(&mut *tx)
    .await?;
    if written.rows_affected() == 1 && end.is_success() {
        sqlx::query!(
            "update job set last_success_at = clock_timestamp() where app_id = $1",
            run.job.0
        )
        .execute(&mut *tx)
        .await?;
    }
    delete_old_runs(&mut *tx, &[run.job], keep).await?;
    // The removal of a job waits for its last run.
    db::send_notice(&mut tx, NoticeChannel::Units, &run.job.to_string()).await?;
    db::send_notice(&mut tx, NoticeChannel::Jobs, "").await?;
    tx.commit().await?;
    Ok(written.rows_affected() == 1)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A run that has just started.
    pub(in crate::jobs::runs) fn sample_run() -> ActiveRun {
        ActiveRun {
            run_id: Uuid::nil(),
            job: AppId(Uuid::nil()),
            name: AppName::parse("nightly").unwrap(),
            provisioner: "local".into(),
            unit: UnitId::parse("nightly-1").unwrap(),
            version: 1,
            scheduled_at: DateTime::UNIX_EPOCH,
            attempt: 0,
            retries: 0,
            launched: false,
            stop_reason: None,
            active_deadline: None,
            is_overdue: false,
            is_live: true,
            age: Duration::ZERO,
        }
    }
}
