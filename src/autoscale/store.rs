//! Rules and usage in SQL.

use std::time::Duration;

use sqlx::types::Json;
use sqlx::{PgConnection, PgExecutor};

use crate::apps::{AppScaleRule, ScaleRule};
use crate::autoscale::decide::ScaleMemory;
use crate::kernel::ids::AppId;
use crate::kernel::names::AppName;

/// The rules of an app.
pub(super) async fn list_rules(db: impl PgExecutor<'_>, app: AppId) -> sqlx::Result<Vec<AppScaleRule>> {
    let rows = sqlx::query!(
        r#"select s.process, r.version as "version?", s.rule as "rule: Json<ScaleRule>"
           from autoscale s
           left join live_release l on l.app_id = s.app_id and l.side = s.side
           left join release r on r.release_id = l.current_release
           where s.app_id = $1 order by s.side, s.process"#,
        app.0,
    )
    .fetch_all(db)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| AppScaleRule {
            process: row.process,
            version: row.version,
            rule: row.rule.0,
        })
        .collect())
}

/// The processes of the version that runs on a side.
pub(super) async fn list_processes(
    tx: &mut PgConnection,
    app: AppId,
    side: i32,
) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar!(
        r#"select w.process as "process!"
           from live_release l join wanted_process w on w.release_id = l.current_release
           where l.app_id = $1 and l.side = $2 order by w.process"#,
        app.0,
        side,
    )
    .fetch_all(tx)
    .await
}

/// Sets the rule of a process, which is due at once.
pub(super) async fn upsert_rule(
    tx: &mut PgConnection,
    app: AppId,
    (side, process): (i32, &str),
    rule: &ScaleRule,
) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into autoscale (app_id, side, process, rule) values ($1, $2, $3, $4)
         on conflict on constraint autoscale_pkey
         do update set rule = excluded.rule, memory = '{}', note = '', next_at = now()",
        app.0,
        side,
        process,
        Json(rule) as Json<&ScaleRule>,
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Deletes the rules of a process on all sides; false if there are none.
pub(super) async fn delete_rules(tx: &mut PgConnection, app: AppId, process: &str) -> sqlx::Result<bool> {
    sqlx::query!(
        "delete from autoscale where app_id = $1 and process = $2",
        app.0,
        process
    )
    .execute(tx)
    .await
    .map(|done| done.rows_affected() > 0)
}

/// Moves the rules of an app to one side, in the place of those that it has for the same processes. Returns how many.
pub(super) async fn move_rules(tx: &mut PgConnection, app: AppId, side: i32) -> sqlx::Result<u64> {
    sqlx::query!(
        "delete from autoscale t where t.app_id = $1 and t.side = $2
             and exists (select from autoscale o where o.app_id = t.app_id and o.process = t.process and o.side <> t.side)",
        app.0,
        side,
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query!(
        "delete from autoscale t where t.app_id = $1 and t.side <> $2
             and exists (select from autoscale o where o.app_id = t.app_id and o.process = t.process
                         and o.side <> $2 and o.side < t.side)",
        app.0,
        side,
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query!(
        "update autoscale set side = $2, memory = '{}', next_at = now() where app_id = $1 and side <> $2",
        app.0,
        side,
    )
    .execute(tx)
    .await
    .map(|done| done.rows_affected())
}

/// A rule that is due.
pub(super) struct DueRule {
    pub(super) app: AppId,
    pub(super) name: AppName,
    pub(super) side: i32,
    pub(super) process: String,
    pub(super) rule: Json<ScaleRule>,
}

/// Claims rules that are due: nobody else gets them until they are due again.
pub(super) async fn claim_due(
    db: impl PgExecutor<'_>,
    limit: i64,
    period: Duration,
) -> sqlx::Result<Vec<DueRule>> {
    sqlx::query_as!(
        DueRule,
        r#"update autoscale s set next_at = now() + make_interval(secs => $2)
           from (select d.app_id, d.side, d.process, a.name
                 from autoscale d join app a on a.app_id = d.app_id
                 where d.next_at <= now() and a.state = 'live'
                 order by d.next_at limit $1 for update of d skip locked) due
           where (s.app_id, s.side, s.process) = (due.app_id, due.side, due.process)
           returning s.app_id as "app: AppId", due.name as "name!: AppName", s.side, s.process,
                     s.rule as "rule: Json<ScaleRule>""#,
        limit,
        period.as_secs_f64(),
    )
    .fetch_all(db)
    .await
}

/// The time until the next rule is due; `None`: there is none.
pub(super) async fn time_until_due(db: impl PgExecutor<'_>) -> sqlx::Result<Option<Duration>> {
    let seconds = sqlx::query_scalar!(
        r#"select extract(epoch from s.next_at - clock_timestamp())::double precision as "seconds!"
           from autoscale s join app a on a.app_id = s.app_id
           where a.state = 'live' order by s.next_at limit 1"#
    )
    .fetch_optional(db)
    .await?;
    Ok(seconds.map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or_default()))
}

/// How a process stands: what its units use, and what was decided before.
pub(super) struct ProcessStand {
    /// What is asked for.
    pub(super) units: i32,
    pub(super) is_stopped: bool,
    pub(super) memory: Json<ScaleMemory>,
    /// The mean usage, in thousandths of what the plan gives to a unit.
    pub(super) cpu: Option<f64>,
    /// Units that serve, and those whose usage is known.
    pub(super) serving: i64,
    pub(super) measured: i64,
    /// The time, in seconds.
    pub(super) now: i64,
}

/// How a process stands; `None` if it has no rule any more, or does not run.
pub(super) async fn find_stand(
    db: impl PgExecutor<'_>,
    (app, side, process): (AppId, i32, &str),
    max_age: Duration,
) -> sqlx::Result<Option<ProcessStand>> {
    sqlx::query_as!(
        ProcessStand,
        r#"select w.asked_units as "units!", w.stopped_by is not null as "is_stopped!",
                  s.memory as "memory: Json<ScaleMemory>",
                  avg(g.cpu_milli * 1000.0 / case l.cpu_milli when 0 then 1000 else l.cpu_milli end)::double precision as cpu,
                  count(u.unit_id) as "serving!", count(g.unit_id) as "measured!",
                  extract(epoch from now())::bigint as "now!"
           from autoscale s
           join live_release r on r.app_id = s.app_id and r.side = s.side
           join wanted_process w on w.release_id = r.current_release and w.process = s.process
           join process_limit l on l.app_id = w.app_id and l.version = w.version and l.process = w.process
           left join unit u on u.release_id = r.current_release and u.process = s.process and u.phase = 'serving'
           left join unit_usage g on g.unit_id = u.unit_id and g.measured_at > now() - make_interval(secs => $4)
           where s.app_id = $1 and s.side = $2 and s.process = $3
           group by w.asked_units, w.stopped_by, s.memory"#,
        app.0,
        side,
        process,
        max_age.as_secs_f64(),
    )
    .fetch_optional(db)
    .await
}

/// Writes what is remembered of a decision, and what could not be measured.
pub(super) async fn write_memory(
    tx: &mut PgConnection,
    (app, side, process): (AppId, i32, &str),
    memory: &ScaleMemory,
    note: &str,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update autoscale set memory = $4, note = $5 where app_id = $1 and side = $2 and process = $3",
        app.0,
        side,
        process,
        Json(memory) as Json<&ScaleMemory>,
        note,
    )
    .execute(tx)
    .await
    .map(drop)
}

/// The units of a host whose usage is to be measured, by provisioner.
pub(super) async fn list_measured_units(
    db: impl PgExecutor<'_>,
    host: &str,
) -> sqlx::Result<Vec<(String, String)>> {
    sqlx::query!(
        r#"select p.provisioner, u.unit_id
           from unit u join release r on r.release_id = u.release_id
           join autoscale s on s.app_id = u.app_id and s.side = r.side and s.process = u.process
           join app a on a.app_id = u.app_id join pool p on p.name = a.pool
           where u.host = $1 and u.phase = 'serving' and s.rule ->> 'averageCPU' is not null"#,
        host,
    )
    .fetch_all(db)
    .await
    .map(|rows| {
        rows.into_iter()
            .map(|row| (row.provisioner, row.unit_id))
            .collect()
    })
}

/// Writes the usage of units; those that are gone are left out.
pub(super) async fn upsert_usage(db: impl PgExecutor<'_>, usage: &[(String, i32)]) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into unit_usage (unit_id, cpu_milli, measured_at)
         select n.unit_id, n.cpu_milli, now() from unnest($1::text[], $2::integer[]) as n (unit_id, cpu_milli)
         join unit u on u.unit_id = n.unit_id
         on conflict on constraint unit_usage_pkey
         do update set cpu_milli = excluded.cpu_milli, measured_at = excluded.measured_at",
        &usage.iter().map(|(unit, _)| unit.clone()).collect::<Vec<_>>(),
        &usage.iter().map(|(_, milli)| *milli).collect::<Vec<_>>(),
    )
    .execute(db)
    .await
    .map(drop)
}
