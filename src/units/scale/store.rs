//! The numbers of units in SQL.

use std::collections::BTreeMap;

use serde::Deserialize;
use sqlx::types::Json;
use sqlx::{PgConnection, PgExecutor};

use crate::kernel::ids::AppId;
use crate::releases::ReleaseSide;

/// What an app runs, and how many units of each process it should have.
pub(super) struct AppScaleRow {
    /// The version that runs; `None` before the first deploy.
    pub(super) version: Option<i32>,
    pub(super) processes: Json<BTreeMap<String, ProcessScaleRow>>,
}

/// A process of the version that runs.
#[derive(Debug, Deserialize)]
pub(super) struct ProcessScaleRow {
    /// What users have set, stopped or not.
    pub(super) asked: u32,
    pub(super) is_stopped: bool,
    /// What should run now.
    pub(super) wanted: u32,
}

/// A side of an app; `None` if the app is gone or going.
pub(super) async fn find_app(
    db: impl PgExecutor<'_>,
    app: AppId,
    side: ReleaseSide,
) -> sqlx::Result<Option<AppScaleRow>> {
    sqlx::query_as!(
        AppScaleRow,
        r#"select r.version as "version?",
                  coalesce((select jsonb_object_agg(w.process, jsonb_build_object(
                                       'asked', w.asked_units, 'is_stopped', w.stopped_by is not null, 'wanted', w.units))
                            from wanted_process w where w.release_id = r.release_id), '{}')
                      as "processes!: Json<BTreeMap<String, ProcessScaleRow>>"
           from app a
           left join live_release l on l.app_id = a.app_id and l.side = $2
           left join release r on r.release_id = l.current_release
           where a.app_id = $1 and a.state = 'live'"#,
        app.0,
        side.number(),
    )
    .fetch_optional(db)
    .await
}

/// Keeps the app's row as it is until the transaction ends.
pub(super) async fn lock_app(tx: &mut PgConnection, app: AppId) -> sqlx::Result<()> {
    sqlx::query!("select from app where app_id = $1 for no key update", app.0)
        .execute(tx)
        .await
        .map(drop)
}

/// Sets the number of units of a process.
pub(super) async fn set_units(
    tx: &mut PgConnection,
    app: AppId,
    side: ReleaseSide,
    process: &str,
    units: i32,
) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into app_process (app_id, process, units, side) values ($1, $2, $3, $4)
         on conflict on constraint app_process_pkey do update set units = excluded.units",
        app.0,
        process,
        units,
        side.number(),
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Takes a change of the number back, unless it has changed again.
pub(super) async fn revert_units(
    tx: &mut PgConnection,
    app: AppId,
    side: ReleaseSide,
    process: &str,
    (from, to): (i32, i32),
) -> sqlx::Result<bool> {
    sqlx::query!(
        "update app_process set units = $4 where app_id = $1 and process = $2 and units = $3 and side = $5",
        app.0,
        process,
        from,
        to,
        side.number(),
    )
    .execute(tx)
    .await
    .map(|done| done.rows_affected() == 1)
}

/// Stops or starts processes.
pub(super) async fn set_stopped(
    tx: &mut PgConnection,
    app: AppId,
    side: ReleaseSide,
    processes: &[String],
    stopped: bool,
) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into app_process (app_id, process, units, stopped, side)
         select $1, process, 1, $3, $4 from unnest($2::text[]) process
         on conflict on constraint app_process_pkey do update set stopped = excluded.stopped",
        app.0,
        processes,
        stopped,
        side.number(),
    )
    .execute(tx)
    .await
    .map(drop)
}

/// How it stands with the units of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ProcessUnitCounts {
    pub(super) process: String,
    /// Those that serve or are about to.
    pub(super) staying: i64,
    /// Those that are on their way out.
    pub(super) leaving: i64,
    /// Those of the current release that do their work.
    pub(super) ready: i64,
    /// Why one of them does not.
    pub(super) reason: Option<String>,
}

/// How it stands with the units of a side of an app, by process.
pub(super) async fn list_unit_counts(
    db: impl PgExecutor<'_>,
    app: AppId,
    side: ReleaseSide,
) -> sqlx::Result<Vec<ProcessUnitCounts>> {
    sqlx::query_as!(
        ProcessUnitCounts,
        r#"select u.process, count(*) filter (where u.phase in ('starting', 'serving')) as "staying!",
                  count(*) filter (where u.phase in ('draining', 'stopping')) as "leaving!",
                  count(*) filter (where u.ready and u.phase = 'serving' and u.release_id = l.current_release) as "ready!",
                  max(u.reason) filter (where not u.ready and u.reason <> '') as reason
           from unit u join release r on r.release_id = u.release_id
           left join live_release l on l.app_id = u.app_id and l.side = r.side
           where u.app_id = $1 and r.side = $2 group by u.process"#,
        app.0,
        side.number(),
    )
    .fetch_all(db)
    .await
}

/// The bounds within which the number of units of a process follows its load; `None`: users set it.
pub(super) async fn find_scale_bounds(
    db: impl PgExecutor<'_>,
    app: AppId,
    side: ReleaseSide,
    process: &str,
) -> sqlx::Result<Option<(i32, i32)>> {
    sqlx::query!(
        r#"select (rule ->> 'minUnits')::integer as "min!", (rule ->> 'maxUnits')::integer as "max!"
           from autoscale where app_id = $1 and side = $2 and process = $3"#,
        app.0,
        side.number(),
        process,
    )
    .fetch_optional(db)
    .await
    .map(|row| row.map(|row| (row.min, row.max)))
}
