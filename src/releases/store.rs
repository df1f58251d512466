//! Releases in SQL.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgExecutor};

use crate::kernel::ids::AppId;
use crate::kernel::names::{AppName, ProcessName};
use crate::releases::sides::ReleaseSide;

/// Where one side of an app stands.
pub(super) struct ReleaseState {
    pub(super) name: AppName,
    pub(super) current: Option<i64>,
    pub(super) candidate: Option<i64>,
    /// Version of the current release.
    pub(super) version: Option<i32>,
    /// Units that should run now, over the processes of the current version.
    pub(super) wanted: i64,
    /// Whether the units of the current release get requests.
    pub(super) routable: bool,
}

/// The state of a side; that of one that the app does not have is without releases. `None`: the app is gone.
pub(super) async fn find_release_state(
    tx: &mut PgConnection,
    app: AppId,
    side: ReleaseSide,
) -> sqlx::Result<Option<ReleaseState>> {
    sqlx::query_as!(
        ReleaseState,
        r#"select a.name as "name: AppName", l.current_release as "current?", l.candidate_release as "candidate?",
                  r.version as "version?", coalesce(r.routable, true) as "routable!",
                  (select coalesce(sum(w.units), 0) from wanted_process w
                   where w.release_id = l.current_release) as "wanted!"
           from app a
           left join live_release l on l.app_id = a.app_id and l.side = $2
           left join release r on r.release_id = l.current_release
           where a.app_id = $1"#,
        app.0,
        side.number(),
    )
    .fetch_optional(tx)
    .await
}

/// Inserts a release with the volumes that are bound now.
pub(super) async fn insert_release(
    tx: &mut PgConnection,
    app: AppId,
    version: i32,
    (env, user_env): (&[u8], &[u8]),
    (side, routable): (ReleaseSide, bool),
) -> sqlx::Result<i64> {
    sqlx::query_scalar!(
        "insert into release (app_id, version, env, user_env, side, routable, volumes)
         values ($1, $2, $3, $4, $5, $6,
                 coalesce((select jsonb_agg(jsonb_build_object('volume', volume_id, 'path', mount_point, 'readOnly', read_only)
                                            order by mount_point)
                           from volume_bind where app_id = $1), '[]'))
         returning release_id",
        app.0,
        version,
        env,
        user_env,
        side.number(),
        routable,
    )
    .fetch_one(tx)
    .await
}

/// Makes a release the candidate of its side.
pub(super) async fn set_candidate(
    tx: &mut PgConnection,
    app: AppId,
    side: ReleaseSide,
    release: i64,
) -> sqlx::Result<()> {
    match side {
        ReleaseSide::Main => sqlx::query!(
            "update app set candidate_release = $2 where app_id = $1",
            app.0,
            release
        )
        .execute(tx)
        .await
        .map(drop),
        ReleaseSide::Beside(version) => sqlx::query!(
            "insert into side_release (app_id, version, candidate_release) values ($1, $2, $3)
             on conflict on constraint side_release_pkey do update set candidate_release = excluded.candidate_release",
            app.0,
            version,
            release
        )
        .execute(tx)
        .await
        .map(drop),
    }
}

/// Makes a release the current one of its side, which has no candidate then. Of the processes that it does not start anew
/// it takes the units over, and what the side had of processes that it has no more is forgotten.
pub(super) async fn set_current(
    tx: &mut PgConnection,
    app: AppId,
    side: ReleaseSide,
    release: i64,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update unit u set release_id = new.release_id
         from live_release a, release old, release new
         where a.app_id = $1 and a.side = new.side and old.release_id = a.current_release and new.release_id = $2
           and new.version = old.version and u.release_id = old.release_id and u.phase in ('starting', 'serving')
           and u.process <> all(new.processes)",
        app.0,
        release
    )
    .execute(&mut *tx)
    .await?;
    match side {
        ReleaseSide::Main => {
            sqlx::query!(
                "update app set current_release = $2, candidate_release = null where app_id = $1",
                app.0,
                release
            )
            .execute(&mut *tx)
            .await?;
        }
        ReleaseSide::Beside(version) => {
            sqlx::query!(
                "update side_release set release_id = $3, candidate_release = null where app_id = $1 and version = $2",
                app.0,
                version,
                release
            )
            .execute(&mut *tx)
            .await?;
        }
    }
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

/// Forgets the numbers of units of processes that neither the current release of their side nor the candidate has.
pub(super) async fn delete_removed_processes(tx: &mut PgConnection, app: AppId) -> sqlx::Result<()> {
    sqlx::query!(
        "delete from app_process p
         where p.app_id = $1 and not exists (
             select 1 from live_release l
             join wanted_process w on w.release_id in (l.current_release, l.candidate_release)
             where l.app_id = p.app_id and l.side = p.side and w.process = p.process)",
        app.0
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Drops the candidate, if it is this one, with the numbers of units of processes that only it had.
pub(super) async fn clear_candidate(tx: &mut PgConnection, app: AppId, release: i64) -> sqlx::Result<()> {
    sqlx::query!(
        "with dropped as (update side_release set candidate_release = null
                          where app_id = $1 and candidate_release = $2 and release_id is not null),
              ended as (delete from side_release where app_id = $1 and candidate_release = $2 and release_id is null)
         update app set candidate_release = null where app_id = $1 and candidate_release = $2",
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
/// release of its side does.
pub(super) async fn is_serving(db: impl PgExecutor<'_>, release: i64) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select not exists (
               select 1 from wanted_process w
               where w.release_id = $1
                 and (select count(*) from unit u where u.release_id = w.release_id and u.process = w.process
                      and u.phase = 'serving' and u.ready) < w.units)
           and not exists (
               select 1 from release r
               join unit u on u.app_id = r.app_id and u.release_id <> r.release_id
               join release other on other.release_id = u.release_id and other.side = r.side
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
