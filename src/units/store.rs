//! Units in SQL.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::types::Json;
use sqlx::{PgConnection, PgExecutor};

use crate::kernel::error::Error;
use crate::kernel::ids::AppId;
use crate::units::model::{ObservedState, Unit, UnitPhase};

/// Takes the lock of a host for as long as the connection lives; false if another has it.
pub(super) async fn try_lock_host(connection: &mut PgConnection, host: &str) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select pg_try_advisory_lock(hashtextextended('tancho.units.' || $1, 0)) as "taken!""#,
        host
    )
    .fetch_one(connection)
    .await
}

/// Says that this host is alive.
pub(super) async fn renew_host(connection: &mut PgConnection, host: &str) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into host (host) values ($1) on conflict (host) do update set seen_at = now()",
        host
    )
    .execute(connection)
    .await
    .map(drop)
}

/// Apps of which something runs or should run on this host, and which are not as they should be. Compares
/// numbers and a checksum of the names of processes, so that thousands of settled apps cost one pass.
pub(super) async fn list_unsettled(db: impl PgExecutor<'_>, host: &str) -> sqlx::Result<Vec<AppId>> {
    sqlx::query_scalar!(
        r#"with want as (
               select l.app_id, sum(w.units::bigint) as units, sum(w.units::bigint * hashtext(w.process)) as mark
               from live_release l
               join wanted_process w on w.release_id = l.current_release
               join version v on v.app_id = w.app_id and v.version = w.version
               where v.host is null or v.host = $1
               group by l.app_id
           ), have as (
               select u.app_id, count(*) as units, sum(hashtext(u.process)::bigint) as mark,
                      bool_and(u.phase = 'serving' and u.ready and l.app_id is not null and l.candidate_release is null) as well
               from unit u
               left join live_release l on l.app_id = u.app_id and l.current_release = u.release_id
               where u.app_id in (select app_id from want) or u.host = $1
               group by u.app_id
           )
           select coalesce(w.app_id, h.app_id) as "app_id!: AppId"
           from want w full join have h on h.app_id = w.app_id
           where not coalesce(h.well, true) or coalesce(w.units, 0) <> coalesce(h.units, 0)
              or coalesce(w.mark, 0) <> coalesce(h.mark, 0)
           union
           select l.app_id from live_release l join release r on r.release_id = l.candidate_release
           join version v on v.app_id = r.app_id and v.version = r.version
           where v.host is null or v.host = $1"#,
        host
    )
    .fetch_all(db)
    .await
}

/// What should run of one side of an app, as kept.
pub(super) struct DesiredRow {
    pub(super) side: i32,
    pub(super) app_id: AppId,
    pub(super) name: String,
    pub(super) provisioner: String,
    pub(super) current: Option<i64>,
    pub(super) current_version: Option<i32>,
    pub(super) current_here: bool,
    pub(super) current_units: UnitsByProcess,
    pub(super) candidate: Option<i64>,
    pub(super) candidate_version: Option<i32>,
    pub(super) candidate_here: bool,
    pub(super) candidate_units: UnitsByProcess,
}

/// How many units of each process should run.
pub(super) type UnitsByProcess = Json<BTreeMap<String, u32>>;

/// What should run of some apps, in the order of apps and sides. An app that is being removed should have nothing, and of a candidate only the processes
/// that it starts anew are tried.
pub(super) async fn list_desired(
    db: impl PgExecutor<'_>,
    host: &str,
    apps: &[AppId],
) -> sqlx::Result<Vec<DesiredRow>> {
    sqlx::query_as!(
        DesiredRow,
        r#"select s.side as "side!", a.app_id as "app_id: AppId", a.name, pool.provisioner,
                  cr.release_id as "current?", cr.version as "current_version?",
                  coalesce(cv.host, $1) = $1 as "current_here!",
                  coalesce((select jsonb_object_agg(w.process, w.units) from wanted_process w
                            where w.release_id = cr.release_id), '{}') as "current_units!: UnitsByProcess",
                  nr.release_id as "candidate?", nr.version as "candidate_version?",
                  coalesce(nv.host, $1) = $1 as "candidate_here!",
                  coalesce((select jsonb_object_agg(w.process, w.units) from wanted_process w
                            where w.release_id = nr.release_id and w.starts_anew), '{}') as "candidate_units!: UnitsByProcess"
           from app a
           join pool on pool.name = a.pool
           -- The main side of each app, even if nothing should run of it.
           cross join lateral (select 0 as side, a.current_release, a.candidate_release
                               union all
                               select b.version, b.release_id, b.candidate_release from side_release b
                               where b.app_id = a.app_id) s
           left join release cr on cr.release_id = s.current_release and a.state = 'live'
           left join version cv on cv.app_id = cr.app_id and cv.version = cr.version
           left join release nr on nr.release_id = s.candidate_release and a.state = 'live'
           left join version nv on nv.app_id = nr.app_id and nv.version = nr.version
           where a.app_id = any($2)
           order by a.app_id, s.side"#,
        host,
        apps as &[AppId],
    )
    .fetch_all(db)
    .await
}

struct UnitRow {
    unit_id: String,
    app_id: AppId,
    release_id: i64,
    process: String,
    version: i32,
    side: i32,
    host: String,
    phase: String,
    state: String,
    reason: String,
    address: Option<String>,
    started_at: Option<DateTime<Utc>>,
    restarts: i32,
    ready: bool,
    phase_age: f64,
    routed: bool,
    checked: bool,
    unseen: bool,
}

impl TryFrom<UnitRow> for Unit {
    type Error = Error;

    fn try_from(row: UnitRow) -> Result<Self, Error> {
        Ok(Unit {
            id: row.unit_id.try_into()?,
            app_id: row.app_id,
            release: row.release_id,
            process: row.process,
            version: row.version,
            side: row.side,
            host: row.host,
            phase: row.phase.parse()?,
            phase_age: std::time::Duration::from_secs_f64(row.phase_age.max(0.0)),
            is_web: row.routed,
            has_check: row.checked,
            awaits_routers: row.unseen,
            observed: ObservedState {
                state: row.state,
                reason: row.reason,
                address: row
                    .address
                    .map(|a| a.parse())
                    .transpose()
                    .map_err(Error::internal)?,
                started_at: row.started_at,
                restarts: row.restarts,
                ready: row.ready,
            },
        })
    }
}

/// Units of some apps; a row that cannot be read is a trouble of its app alone.
pub(super) type UnitResults = Vec<Result<Unit, (AppId, Error)>>;

/// All units of some apps, or of this host if none is named; the oldest first.
pub(super) async fn list_units(
    db: impl PgExecutor<'_>,
    host: &str,
    apps: Option<&[AppId]>,
) -> sqlx::Result<UnitResults> {
    let rows = sqlx::query_as!(
        UnitRow,
        r#"select u.unit_id, u.app_id as "app_id: AppId", u.release_id, u.process, u.version, r.side, u.host, u.phase,
                  u.state, u.reason, u.address, u.started_at, u.restarts, u.ready,
                  extract(epoch from clock_timestamp() - u.phase_at)::double precision as "phase_age!",
                  exists (select from web_process w where w.app_id = u.app_id and w.version = u.version
                                                      and w.process = u.process) as "routed!",
                  (jsonb_path_exists(v.yaml, '$.healthcheck.path ? (@ != "")')
                   or jsonb_path_exists(v.yaml, '$.healthcheck.command[*]')
                   or jsonb_path_exists(v.yaml, '$.processes[*].healthcheck.path ? (@ != "")')
                   or jsonb_path_exists(v.yaml, '$.processes[*].healthcheck.command[*]')) as "checked!",
                  (u.phase = 'draining'
                   and exists (select from router_seen s where s.seen_at > now() - interval '15 seconds'
                                                           and s.routes_at < u.phase_at)) as "unseen!"
           from unit u join release r on r.release_id = u.release_id
           join version v on v.app_id = u.app_id and v.version = u.version
           where (u.app_id = any($2)) or ($2 is null and u.host = $1)
           order by u.created_at, u.unit_id"#,
        host,
        apps as Option<&[AppId]>,
    )
    .fetch_all(db)
    .await?;
    let read = |row: UnitRow| {
        let app = row.app_id;
        Unit::try_from(row).map_err(|error| (app, error))
    };
    Ok(rows.into_iter().map(read).collect())
}

/// The ids of the units that were started on this host for a command, a shell or the run of a job that runs still.
pub(super) async fn list_one_off_ids(db: impl PgExecutor<'_>, host: &str) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar!(
        r#"select unit_id as "unit_id!" from exec_session where host = $1 and unit_id is not null
           union all select unit_id from job_run where host = $1 and state = 'started'
           union all select release_unit from version where host = $1 and release_unit is not null"#,
        host
    )
    .fetch_all(db)
    .await
}

/// The ids of this host's units.
pub(super) async fn list_unit_ids(db: impl PgExecutor<'_>, host: &str) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar!("select unit_id from unit where host = $1", host)
        .fetch_all(db)
        .await
}

/// Writes rows of units to be started. An app or release that has just gone gets none.
pub(super) async fn insert_units(tx: &mut PgConnection, rows: &[Unit]) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into unit (unit_id, app_id, release_id, process, version, host, created_at)
         select n.unit_id, n.app_id, n.release_id, n.process, n.version, n.host,
                clock_timestamp() + n.place * interval '1 microsecond'
         from unnest($1::text[], $2::uuid[], $3::bigint[], $4::text[], $5::integer[], $6::text[])
              with ordinality as n (unit_id, app_id, release_id, process, version, host, place)
         join release r on r.release_id = n.release_id
         join app a on a.app_id = n.app_id",
        &rows.iter().map(|r| r.id.to_string()).collect::<Vec<_>>(),
        &rows.iter().map(|r| r.app_id.0).collect::<Vec<_>>(),
        &rows.iter().map(|r| r.release).collect::<Vec<_>>(),
        &rows.iter().map(|r| r.process.clone()).collect::<Vec<_>>(),
        &rows.iter().map(|r| r.version).collect::<Vec<_>>(),
        &rows.iter().map(|r| r.host.clone()).collect::<Vec<_>>(),
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Writes what was seen of units.
pub(super) async fn update_observed(tx: &mut PgConnection, rows: &[&Unit]) -> sqlx::Result<()> {
    sqlx::query!(
        "update unit u set state = n.state, reason = n.reason, address = n.address, started_at = n.started_at,
                restarts = n.restarts, ready = n.ready
         from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::integer[], $7::boolean[])
              as n (unit_id, state, reason, address, started_at, restarts, ready)
         where u.unit_id = n.unit_id",
        &rows.iter().map(|r| r.id.to_string()).collect::<Vec<_>>(),
        &rows.iter().map(|r| r.observed.state.clone()).collect::<Vec<_>>(),
        &rows.iter().map(|r| r.observed.reason.clone()).collect::<Vec<_>>(),
        &rows
            .iter()
            .map(|r| r.observed.address.map(|a| a.to_string()))
            .collect::<Vec<_>>() as &[Option<String>],
        &rows.iter().map(|r| r.observed.started_at).collect::<Vec<_>>() as &[Option<DateTime<Utc>>],
        &rows.iter().map(|r| r.observed.restarts).collect::<Vec<_>>(),
        &rows.iter().map(|r| r.observed.ready).collect::<Vec<_>>(),
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Moves units on to phases; never back.
pub(super) async fn update_phases(tx: &mut PgConnection, units: &[(String, UnitPhase)]) -> sqlx::Result<()> {
    sqlx::query!(
        "update unit u set phase = n.phase, phase_at = clock_timestamp()
         from unnest($1::text[], $2::text[]) as n (unit_id, phase)
         where u.unit_id = n.unit_id
           and array_position(array['starting', 'serving', 'draining', 'stopping'], u.phase)
             < array_position(array['starting', 'serving', 'draining', 'stopping'], n.phase)",
        &units.iter().map(|(id, _)| id.clone()).collect::<Vec<_>>(),
        &units
            .iter()
            .map(|(_, phase)| phase.as_str().to_owned())
            .collect::<Vec<_>>(),
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Deletes units that are gone, with how far their logs were read.
pub(super) async fn delete_units(tx: &mut PgConnection, units: &[String]) -> sqlx::Result<()> {
    sqlx::query!(
        "with gone as (delete from unit where unit_id = any($1) returning unit_id)
         delete from log_position where unit_id = any($1)",
        units
    )
    .execute(tx)
    .await
    .map(drop)
}

/// All that a unit's spec is made of, but its environment.
pub(super) struct SpecRow {
    pub(super) app_id: AppId,
    pub(super) app: String,
    pub(super) number: i32,
    pub(super) release_id: i64,
    /// The host that has the files of the version; `None`: any.
    pub(super) holder: Option<String>,
    /// The image that the version is, if it is one.
    pub(super) image: Option<String>,
    pub(super) process: String,
    pub(super) version: i32,
    pub(super) command: String,
    pub(super) yaml: Value,
    pub(super) memory_bytes: i64,
    pub(super) cpu_milli: i32,
}

/// What the spec of a unit is made of; `None` when the row is gone, the unit is to end, or its version has no such process.
pub(super) async fn find_spec(db: impl PgExecutor<'_>, unit: &str) -> sqlx::Result<Option<SpecRow>> {
    sqlx::query_as!(
        SpecRow,
        r#"select u.app_id as "app_id: AppId", a.name as app, a.number, u.release_id, u.process, u.version,
                  v.host as holder, v.image, c.command, v.yaml, l.memory_bytes as "memory_bytes!", l.cpu_milli as "cpu_milli!"
           from unit u join app a on a.app_id = u.app_id
           join version v on v.app_id = u.app_id and v.version = u.version
           join version_process c on c.app_id = u.app_id and c.version = u.version and c.process = u.process
           join process_limit l on l.app_id = u.app_id and l.version = u.version and l.process = u.process
           where u.unit_id = $1 and u.phase <> 'stopping'"#,
        unit
    )
    .fetch_optional(db)
    .await
}

/// The tsuru.yaml of a version.
pub(super) async fn find_yaml(
    db: impl PgExecutor<'_>,
    app: AppId,
    version: i32,
) -> sqlx::Result<Option<Value>> {
    sqlx::query_scalar!(
        "select yaml from version where app_id = $1 and version = $2",
        app.0,
        version
    )
    .fetch_optional(db)
    .await
}

/// A user wants this very unit to end; `None` if the app has no such unit.
pub(super) async fn kill_unit(
    tx: &mut PgConnection,
    app: AppId,
    unit: &str,
    at_once: bool,
) -> sqlx::Result<Option<String>> {
    sqlx::query_scalar!(
        "update unit set phase_at = case when phase in ('starting', 'serving') then clock_timestamp() else phase_at end,
                phase = case when $3 then 'stopping' when phase = 'stopping' then phase else 'draining' end
         where app_id = $1 and unit_id = $2 returning host",
        app.0,
        unit,
        at_once,
    )
    .fetch_optional(tx)
    .await
}
