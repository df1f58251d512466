//! Releases in SQL.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgExecutor};

use crate::kernel::ids::AppId;
use crate::kernel::names::{AppName, ProcessName};

/// Where an app stands.
pub(super) struct Standing {
    pub(super) name: AppName,
    pub(super) current: Option<i64>,
    pub(super) candidate: Option<i64>,
    /// Version of the current release.
    pub(super) version: Option<i32>,
    /// Units that should run now, over the processes of the current version.
    pub(super) wanted: i64,
}

pub(super) async fn standing(tx: &mut PgConnection, app: AppId) -> sqlx::Result<Option<Standing>> {
    sqlx::query_as!(
        Standing,
        r#"select a.name as "name: AppName", a.current_release as current, a.candidate_release as candidate,
                  r.version as "version?",
                  (select coalesce(sum(case when p.stopped then 0 else coalesce(p.units, 1) end), 0)
                   from version v
                   cross join lateral jsonb_to_recordset(v.processes) as named(name text)
                   left join app_process p on p.app_id = a.app_id and p.process = named.name
                   where v.app_id = a.app_id and v.version = r.version) as "wanted!"
           from app a left join release r on r.release_id = a.current_release
           where a.app_id = $1"#,
        app.0,
    )
    .fetch_optional(tx)
    .await
}

pub(super) async fn insert(
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

/// Makes a release current; the candidate is none then.
pub(super) async fn set_current(tx: &mut PgConnection, app: AppId, release: i64) -> sqlx::Result<()> {
    sqlx::query!(
        "update app set current_release = $2, candidate_release = null where app_id = $1",
        app.0,
        release
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Drops the candidate, if it is this one.
pub(super) async fn drop_candidate(tx: &mut PgConnection, app: AppId, release: i64) -> sqlx::Result<()> {
    sqlx::query!(
        "update app set candidate_release = null where app_id = $1 and candidate_release = $2",
        app.0,
        release,
    )
    .execute(tx)
    .await
    .map(drop)
}

/// A sealed environment with what its place is made of.
pub(super) struct Sealed {
    pub(super) app: AppId,
    pub(super) version: i32,
    pub(super) env: Vec<u8>,
    pub(super) user_env: Vec<u8>,
}

pub(super) async fn find_sealed(db: impl PgExecutor<'_>, release: i64) -> sqlx::Result<Option<Sealed>> {
    sqlx::query_as!(
        Sealed,
        r#"select app_id as "app: AppId", version, env, user_env from release where release_id = $1"#,
        release,
    )
    .fetch_optional(db)
    .await
}

/// The first release of a version: the environment it was deployed with.
pub(super) async fn first_of_version(
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
pub(super) struct Readiness {
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

/// How far each process of a release is.
pub(super) async fn readiness(db: impl PgExecutor<'_>, release: i64) -> sqlx::Result<Vec<Readiness>> {
    sqlx::query_as!(
        Readiness,
        r#"select named.name as "process!: ProcessName",
                  (case when p.stopped then 0 else coalesce(p.units, 1) end)::bigint as "wanted!",
                  count(u.unit_id) filter (where u.ready) as "ready!",
                  coalesce(max(u.restarts), 0) as "restarts!",
                  max(u.reason) filter (where u.state = 'error' or u.reason <> '') as reason,
                  extract(epoch from now() - r.created_at)::double precision as "age_seconds!",
                  (v.yaml #>> '{healthcheck,deploy_timeout_seconds}')::integer as allowed_seconds
           from release r join version v on v.app_id = r.app_id and v.version = r.version
           cross join lateral jsonb_to_recordset(v.processes) as named(name text)
           left join app_process p on p.app_id = r.app_id and p.process = named.name
           left join unit u on u.release_id = r.release_id and u.process = named.name and u.phase in ('starting', 'serving')
           where r.release_id = $1
           group by named.name, p.stopped, p.units, r.created_at, v.yaml
           order by named.name"#,
        release,
    )
    .fetch_all(db)
    .await
}

/// The last lines that units of a release have said.
pub(super) async fn last_lines(db: impl PgExecutor<'_>, release: i64) -> sqlx::Result<Vec<String>> {
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
               select 1 from release r join version v on v.app_id = r.app_id and v.version = r.version
               cross join lateral jsonb_to_recordset(v.processes) as named(name text)
               left join app_process p on p.app_id = r.app_id and p.process = named.name
               where r.release_id = $1
                 and (select count(*) from unit u where u.release_id = r.release_id and u.process = named.name
                      and u.phase = 'serving' and u.ready)
                     < case when p.stopped then 0 else coalesce(p.units, 1) end)
           and not exists (
               select 1 from release r join unit u on u.app_id = r.app_id and u.release_id <> r.release_id
               where r.release_id = $1 and u.phase = 'serving' and u.ready) as "serving!""#,
        release,
    )
    .fetch_one(db)
    .await
}

/// The time on the database's clock.
pub(super) async fn clock(db: impl PgExecutor<'_>) -> sqlx::Result<DateTime<Utc>> {
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
