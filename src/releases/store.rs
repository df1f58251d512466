//! Releases in SQL.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgExecutor};

use crate::kernel::ids::AppId;
use crate::kernel::names::{AppName, ProcessName};

/// Where an app stands.
pub(super) struct ReleaseState {
    pub(super) name: AppName,
    pub(super) current: Option<i64>,
    pub(super) candidate: Option<i64>,
    /// Version of the current release.
    pub(super) version: Option<i32>,
    /// Units that should run now, over the processes of the current version.
    pub(super) wanted: i64,
}

pub(super) async fn find_release_state(
    tx: &mut PgConnection,
    app: AppId,
) -> sqlx::Result<Option<ReleaseState>> {
    sqlx::query_as!(
        ReleaseState,
        r#"select a.name as "name: AppName", a.current_release as current, a.candidate_release as candidate,
                  r.version as "version?",
                  (select coalesce(sum(w.units), 0) from wanted_process w
                   where w.release_id = a.current_release) as "wanted!"
           from app a left join release r on r.release_id = a.current_release
           where a.app_id = $1"#,
        app.0,
    )
    .fetch_optional(tx)
    .await
}

pub(super) async fn insert_release(
    tx: &mut PgConnection,
    app: AppId,
    version: i32,
    env: &[u8],
    user_env: &[u8],
) -> sqlx::Result<i64> {
    sqlx::query_scalar!(
        "insert into release (app_id, version, env, user_env) values ($1, $2, $3, $4) returning release_id",
        app.0,
        version,
        env,
        user_env,
    )
    .fetch_one(tx)
    .await
}

pub(super) async fn set_candidate(tx: &mut PgConnection, app: AppId, release: i64) -> sqlx::Result<()> {
    sqlx::query!(
        "update app set candidate_release = $2 where app_id = $1",
        app.0,
        release
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Makes a release current; the candidate is none then. Of the processes that it does not start anew it takes the units
/// over, and what the app had of processes that it has no more is forgotten.
pub(super) async fn set_current(tx: &mut PgConnection, app: AppId, release: i64) -> sqlx::Result<()> {
    sqlx::query!(
        "update unit u set release_id = new.release_id
         from app a, release old, release new
         where a.app_id = $1 and old.release_id = a.current_release and new.release_id = $2
           and new.version = old.version and u.release_id = old.release_id and u.phase in ('starting', 'serving')
           and u.process <> all(new.processes)",
        app.0,
        release
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query!(
        "update app set current_release = $2, candidate_release = null where app_id = $1",
        app.0,
        release
    )
    .execute(&mut *tx)
    .await?;
    delete_removed_processes(tx, app).await
}

/// Has a release start some processes only, and take over the units of the others when it becomes current.
pub(super) async fn limit_to_processes(
    tx: &mut PgConnection,
    release: i64,
    processes: &[String],
) -> sqlx::Result<()> {
    sqlx::query!(
        "update release set processes = $2 where release_id = $1",
        release,
        processes
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Forgets the numbers of units of processes that neither the current release nor the candidate has.
async fn delete_removed_processes(tx: &mut PgConnection, app: AppId) -> sqlx::Result<()> {
    sqlx::query!(
        "delete from app_process p
         where p.app_id = $1 and not exists (
             select 1 from app a
             join wanted_process w on w.release_id in (a.current_release, a.candidate_release)
             where a.app_id = p.app_id and w.process = p.process)",
        app.0
    )
    .execute(tx)
    .await
    .map(drop)
}

/// The version that runs and its processes; `None` if nothing is deployed.
pub(super) async fn find_processes(
    tx: &mut PgConnection,
    app: AppId,
) -> sqlx::Result<Option<(i32, Vec<String>)>> {
    sqlx::query!(
        r#"select r.version, array(select w.process from wanted_process w where w.release_id = r.release_id
                                   order by w.process) as "processes!"
           from app a join release r on r.release_id = a.current_release
           where a.app_id = $1"#,
        app.0
    )
    .fetch_optional(tx)
    .await
    .map(|row| row.map(|row| (row.version, row.processes)))
}

/// Drops the candidate, if it is this one, with the numbers of units of processes that only it had.
pub(super) async fn clear_candidate(tx: &mut PgConnection, app: AppId, release: i64) -> sqlx::Result<()> {
    sqlx::query!(
        "update app set candidate_release = null where app_id = $1 and candidate_release = $2",
        app.0,
        release,
    )
    .execute(&mut *tx)
    .await?;
    delete_removed_processes(tx, app).await
}

/// A sealed environment with what its place is made of.
pub(super) struct EncryptedEnv {
    pub(super) app: AppId,
    pub(super) version: i32,
    pub(super) env: Vec<u8>,
    pub(super) user_env: Vec<u8>,
}

pub(super) async fn find_encrypted_env(
    db: impl PgExecutor<'_>,
    release: i64,
) -> sqlx::Result<Option<EncryptedEnv>> {
    sqlx::query_as!(
        EncryptedEnv,
        r#"select app_id as "app: AppId", version, env, user_env from release where release_id = $1"#,
        release,
    )
    .fetch_optional(db)
    .await
}

/// The first release of a version: the environment it was deployed with.
pub(super) async fn find_first_release(
    tx: &mut PgConnection,
    app: AppId,
    version: i32,
) -> sqlx::Result<Option<i64>> {
    sqlx::query_scalar!(
        r#"select min(release_id) from release where app_id = $1 and version = $2"#,
        app.0,
        version,
    )
    .fetch_one(tx)
    .await
}

/// How far one process of a release is.
pub(super) struct ProcessReadiness {
    pub(super) process: ProcessName,
    pub(super) wanted: i64,
    pub(super) ready: i64,
    /// Restarts of its most restless unit.
    pub(super) restarts: i32,
    /// Why a unit of it is in trouble.
    pub(super) reason: Option<String>,
    /// Seconds since the release was made.
    pub(super) age_seconds: f64,
    /// What the version's healthcheck allows for a deploy, in seconds.
    pub(super) allowed_seconds: Option<i32>,
}

/// How far each process is that a release starts.
pub(super) async fn list_readiness(
    db: impl PgExecutor<'_>,
    release: i64,
) -> sqlx::Result<Vec<ProcessReadiness>> {
    sqlx::query_as!(
        ProcessReadiness,
        r#"select w.process as "process!: ProcessName", w.units::bigint as "wanted!",
                  count(u.unit_id) filter (where u.ready) as "ready!",
                  coalesce(max(u.restarts), 0) as "restarts!",
                  max(u.reason) filter (where u.state = 'error' or u.reason <> '') as reason,
                  extract(epoch from now() - r.created_at)::double precision as "age_seconds!",
                  (v.yaml #>> '{healthcheck,deploy_timeout_seconds}')::integer as allowed_seconds
           from release r join version v on v.app_id = r.app_id and v.version = r.version
           join wanted_process w on w.release_id = r.release_id and w.starts_anew
           left join unit u on u.release_id = r.release_id and u.process = w.process and u.phase in ('starting', 'serving')
           where r.release_id = $1
           group by w.process, w.units, r.created_at, v.yaml
           order by w.process"#,
        release,
    )
    .fetch_all(db)
    .await
}

/// The last lines that units of a release have said.
pub(super) async fn list_last_lines(db: impl PgExecutor<'_>, release: i64) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar!(
        "select message from (
             select l.seq, l.message from log_line l
             join release r on r.app_id = l.app_id
             join unit u on u.unit_id = l.unit and u.release_id = r.release_id
             where r.release_id = $1 order by l.seq desc limit 12) last order by seq",
        release,
    )
    .fetch_all(db)
    .await
}

/// Units of a release that are there in any phase.
pub(super) async fn count_units(db: impl PgExecutor<'_>, release: i64) -> sqlx::Result<i64> {
    sqlx::query_scalar!(
        r#"select count(*) as "count!" from unit where release_id = $1"#,
        release
    )
    .fetch_one(db)
    .await
}

/// True if as many units of a release get requests as should, over all processes, and no unit of another
/// release does.
pub(super) async fn is_serving(db: impl PgExecutor<'_>, release: i64) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select not exists (
               select 1 from wanted_process w
               where w.release_id = $1
                 and (select count(*) from unit u where u.release_id = w.release_id and u.process = w.process
                      and u.phase = 'serving' and u.ready) < w.units)
           and not exists (
               select 1 from release r join unit u on u.app_id = r.app_id and u.release_id <> r.release_id
               where r.release_id = $1 and u.phase = 'serving' and u.ready) as "serving!""#,
        release,
    )
    .fetch_one(db)
    .await
}

/// The time on the database's clock.
pub(super) async fn read_clock(db: impl PgExecutor<'_>) -> sqlx::Result<DateTime<Utc>> {
    sqlx::query_scalar!(r#"select clock_timestamp() as "now!""#)
        .fetch_one(db)
        .await
}

/// True if no router at work uses addresses from before a time.
pub(super) async fn routers_have_seen(db: impl PgExecutor<'_>, time: DateTime<Utc>) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select not exists (select 1 from router_seen
                              where seen_at > now() - interval '10 seconds' and routes_at < $1) as "seen!""#,
        time,
    )
    .fetch_one(db)
    .await
}
