//! Log lines in SQL.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgExecutor};

use crate::db::notices::NoticeChannel;
use crate::kernel::ids::AppId;
use crate::kernel::log_text::LogEntry;
use crate::units::logs::NewLogLine;
use crate::units::logs::read::LogQuery;

/// Lets one transaction after the other write to the logs of these apps.
pub(super) async fn lock_logs(tx: &mut PgConnection, apps: &[AppId]) -> sqlx::Result<()> {
    sqlx::query!(
        r#"select pg_advisory_xact_lock(n.key) as "locked: ()"
           from (select distinct hashtextextended('tancho.log.' || app::text, 0) as key
                 from unnest($1::uuid[]) app order by key) n"#,
        apps as &[AppId]
    )
    .fetch_all(tx)
    .await
    .map(drop)
}

/// Does the same for those of the apps to whose logs nobody else writes now, without waiting. Answers them.
pub(super) async fn try_lock(tx: &mut PgConnection, apps: &[AppId]) -> sqlx::Result<Vec<AppId>> {
    sqlx::query_scalar!(
        r#"select n.app as "app!: AppId" from (select distinct app from unnest($1::uuid[]) app) n
           where pg_try_advisory_xact_lock(hashtextextended('tancho.log.' || n.app::text, 0))"#,
        apps as &[AppId]
    )
    .fetch_all(tx)
    .await
}

/// Adds lines; those of an app that has gone are left out. Answers the number of the last one.
pub(super) async fn insert_lines(tx: &mut PgConnection, lines: &[NewLogLine]) -> sqlx::Result<Option<i64>> {
    sqlx::query_scalar!(
        r#"with added as (
               insert into log_line (app_id, at, source, unit, message)
               select n.app_id, coalesce(n.at, clock_timestamp()), n.source, n.unit, n.message
               from unnest($1::uuid[], $2::timestamptz[], $3::text[], $4::text[], $5::text[])
                    with ordinality as n (app_id, at, source, unit, message, place)
               where exists (select from app a where a.app_id = n.app_id)
               order by n.place
               returning seq)
           select max(seq) from added"#,
        &lines.iter().map(|l| l.app_id.0).collect::<Vec<_>>(),
        &lines.iter().map(|l| l.at).collect::<Vec<_>>() as &[Option<DateTime<Utc>>],
        &lines.iter().map(|l| l.source.clone()).collect::<Vec<_>>(),
        &lines.iter().map(|l| l.unit.clone()).collect::<Vec<_>>(),
        &lines.iter().map(|l| l.message.clone()).collect::<Vec<_>>(),
    )
    .fetch_one(tx)
    .await
}

/// Says that apps have new lines.
pub(super) async fn notify_new_lines(tx: &mut PgConnection, apps: &[AppId]) -> sqlx::Result<()> {
    sqlx::query!(
        r#"select pg_notify($1, app::text) as "told: ()" from unnest($2::uuid[]) app"#,
        NoticeChannel::Log.as_str(),
        apps as &[AppId]
    )
    .fetch_all(tx)
    .await
    .map(drop)
}

/// How far the logs of units have been taken over.
pub(super) async fn list_positions(
    db: impl PgExecutor<'_>,
    units: &[String],
) -> sqlx::Result<Vec<(String, i64)>> {
    let rows = sqlx::query!(
        "select unit_id, position from log_position where unit_id = any($1)",
        units
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(|r| (r.unit_id, r.position)).collect())
}

/// A unit whose log was read from one place to another.
#[derive(Clone, Debug)]
pub(super) struct LogAdvance {
    pub(super) unit: String,
    pub(super) from: i64,
    pub(super) to: i64,
}

/// Moves positions on; false if one of them is not what it was, and nothing may be committed then.
pub(super) async fn advance_positions(tx: &mut PgConnection, all: &[LogAdvance]) -> sqlx::Result<bool> {
    let moved = sqlx::query_scalar!(
        r#"with n as (
               select * from unnest($1::text[], $2::bigint[], $3::bigint[]) as n (unit_id, was, position)
           ), moved as (
               update log_position p set position = n.position from n
               where p.unit_id = n.unit_id and p.position = n.was returning 1
           ), begun as (
               insert into log_position (unit_id, position)
               select n.unit_id, n.position from n
               where n.was = 0 and not exists (select from log_position p where p.unit_id = n.unit_id)
               on conflict do nothing returning 1
           )
           select (select count(*) from moved) + (select count(*) from begun) as "moved!""#,
        &all.iter().map(|a| a.unit.clone()).collect::<Vec<_>>(),
        &all.iter().map(|a| a.from).collect::<Vec<_>>(),
        &all.iter().map(|a| a.to).collect::<Vec<_>>(),
    )
    .fetch_one(tx)
    .await?;
    Ok(usize::try_from(moved).is_ok_and(|moved| moved == all.len()))
}

/// Keeps the newest lines of an app.
pub(super) async fn trim_log(db: impl PgExecutor<'_>, app: AppId, keep: usize) -> sqlx::Result<()> {
    sqlx::query!(
        "delete from log_line where app_id = $1
           and seq <= (select seq from log_line where app_id = $1 order by seq desc offset $2 limit 1)",
        app.0,
        i64::try_from(keep).unwrap_or(i64::MAX),
    )
    .execute(db)
    .await
    .map(drop)
}

/// The newest lines that fit the query, the oldest first.
pub(super) async fn list_newest(
    db: impl PgExecutor<'_>,
    app: AppId,
    query: &LogQuery,
) -> sqlx::Result<Vec<LogEntry>> {
    let mut lines = sqlx::query_as!(
        LogEntry,
        r#"select seq, at, source, unit, message from log_line
           where app_id = $1 and ($2::text is null or source = $2) and ($3::text is null or unit = $3)
           order by seq desc limit $4"#,
        app.0,
        query.source.as_deref(),
        query.unit.as_deref(),
        query.lines,
    )
    .fetch_all(db)
    .await?;
    lines.reverse();
    Ok(lines)
}

/// Lines after one, the oldest first.
pub(super) async fn list_after(
    db: impl PgExecutor<'_>,
    app: AppId,
    query: &LogQuery,
    after: i64,
) -> sqlx::Result<Vec<LogEntry>> {
    sqlx::query_as!(
        LogEntry,
        r#"select seq, at, source, unit, message from log_line
           where app_id = $1 and ($2::text is null or source = $2) and ($3::text is null or unit = $3)
             and seq > $4
           order by seq limit 1000"#,
        app.0,
        query.source.as_deref(),
        query.unit.as_deref(),
        after,
    )
    .fetch_all(db)
    .await
}

/// The number of the newest line of an app; `None` if it has none.
pub(super) async fn newest_seq(db: impl PgExecutor<'_>, app: AppId) -> sqlx::Result<Option<i64>> {
    sqlx::query_scalar!("select max(seq) from log_line where app_id = $1", app.0)
        .fetch_one(db)
        .await
}

/// True if the app has this unit.
pub(super) async fn has_unit(db: impl PgExecutor<'_>, app: AppId, unit: &str) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select exists (select from unit where app_id = $1 and unit_id = $2) as "exists!""#,
        app.0,
        unit,
    )
    .fetch_one(db)
    .await
}

/// True while the app exists.
pub(super) async fn has_app(db: impl PgExecutor<'_>, app: AppId) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select exists (select from app where app_id = $1) as "exists!""#,
        app.0
    )
    .fetch_one(db)
    .await
}
