//! Deploys and versions in SQL.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{PgConnection, PgExecutor};

use crate::apps::Reach;
use crate::kernel::ids::{AppId, EventId};

/// A deploy as listed.
#[derive(Clone, Debug)]
pub struct DeployRow {
    pub event_id: String,
    pub app: String,
    pub version: Option<i32>,
    pub origin: String,
    pub commit_id: String,
    pub author: String,
    pub message: String,
    pub user_name: String,
    pub started_at: DateTime<Utc>,
    pub ended_at: Option<DateTime<Utc>>,
    pub error: String,
    /// Its version is there and may be gone back to.
    pub can_rollback: bool,
}

pub(super) async fn insert(
    tx: &mut PgConnection,
    event: &EventId,
    app: AppId,
    version: Option<i32>,
    order: &super::Order,
    user: &str,
) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into deploy (event_id, app_id, version, origin, commit_id, message, user_name, author)
         values ($1, $2, $3, $4, $5, $6, $7, $8)",
        event.as_str(),
        app.0,
        version,
        order.origin,
        order.commit,
        order.message,
        user,
        order.author,
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Notes which version a deploy makes.
pub(super) async fn set_version(tx: &mut PgConnection, event: &EventId, version: i32) -> sqlx::Result<()> {
    sqlx::query!(
        "update deploy set version = $2 where event_id = $1",
        event.as_str(),
        version
    )
    .execute(tx)
    .await
    .map(drop)
}

pub(super) async fn end(tx: &mut PgConnection, event: &EventId, error: &str) -> sqlx::Result<()> {
    sqlx::query!(
        "update deploy set ended_at = clock_timestamp(), error = $2 where event_id = $1",
        event.as_str(),
        error
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Deploys of one app, or of all that the caller reaches (`None`: all), newest first.
pub(super) async fn list(
    db: impl PgExecutor<'_>,
    app: &str,
    event: &str,
    reach: Option<&Reach>,
    limit: i64,
) -> sqlx::Result<Vec<DeployRow>> {
    let empty = Vec::new();
    sqlx::query_as!(
        DeployRow,
        r#"select d.event_id, a.name as app, d.version, d.origin, d.commit_id, d.author, d.message, d.user_name,
                  d.started_at, d.ended_at, d.error,
                  coalesce(v.state = 'ready' and v.disabled_reason = '' and d.error = '', false) as "can_rollback!"
           from deploy d join app a using (app_id)
           left join version v on v.app_id = d.app_id and v.version = d.version
           where ($1 = '' or a.name = $1) and ($2 = '' or d.event_id = $2)
             and ($3 or a.name = any($5) or a.pool = any($6)
                  or exists(select 1 from app_team t where t.app_id = a.app_id and t.team = any($4)))
           order by d.started_at desc, d.event_id desc limit $7"#,
        app,
        event,
        reach.is_none(),
        reach.map_or(&empty, |r| &r.teams),
        reach.map_or(&empty, |r| &r.apps),
        reach.map_or(&empty, |r| &r.pools),
        limit,
    )
    .fetch_all(db)
    .await
}

/// The next number of an app's versions, taken by a row.
pub(super) async fn new_version(tx: &mut PgConnection, app: AppId, host: &str) -> sqlx::Result<i32> {
    sqlx::query_scalar!(
        "insert into version (app_id, version, host)
         select $1, coalesce(max(version), 0) + 1, $2 from version where app_id = $1
         returning version",
        app.0,
        host,
    )
    .fetch_one(tx)
    .await
}

/// What a build has made.
pub(super) struct Made<'a> {
    pub(super) processes: &'a Value,
    pub(super) yaml: &'a Value,
    pub(super) bytes: i64,
}

pub(super) async fn version_ready(
    tx: &mut PgConnection,
    app: AppId,
    version: i32,
    made: &Made<'_>,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update version set state = 'ready', processes = $3, yaml = $4, size_bytes = $5
         where app_id = $1 and version = $2",
        app.0,
        version,
        made.processes,
        made.yaml,
        made.bytes,
    )
    .execute(tx)
    .await
    .map(drop)
}

pub(super) async fn version_state(
    tx: &mut PgConnection,
    app: AppId,
    version: i32,
    state: &str,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update version set state = $3 where app_id = $1 and version = $2",
        app.0,
        version,
        state
    )
    .execute(tx)
    .await
    .map(drop)
}

/// True if the version is there and may be run.
pub(super) async fn is_runnable(db: impl PgExecutor<'_>, app: AppId, version: i32) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select exists(select 1 from version where app_id = $1 and version = $2
                         and state = 'ready' and disabled_reason = '') as "found!""#,
        app.0,
        version,
    )
    .fetch_one(db)
    .await
}

/// The newest versions that can be run of the commits whose names begin so; two at most.
pub(super) async fn find_commits(
    db: impl PgExecutor<'_>,
    app: AppId,
    prefix: &str,
) -> sqlx::Result<Vec<i32>> {
    sqlx::query_scalar!(
        r#"select max(d.version) as "version!" from deploy d join version v using (app_id, version)
           where d.app_id = $1 and starts_with(d.commit_id, $2) and d.error = '' and v.state = 'ready'
             and v.disabled_reason = ''
           group by d.commit_id limit 2"#,
        app.0,
        prefix,
    )
    .fetch_all(db)
    .await
}

/// Gives each process of a version a number of units, one, unless it has one already. Processes that are
/// new to a stopped app are stopped too.
pub(super) async fn ensure_processes(tx: &mut PgConnection, app: AppId, version: i32) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into app_process (app_id, process, units, stopped)
         select $1, named.name, 1,
                coalesce((select bool_and(stopped) from app_process where app_id = $1), false)
         from version v cross join lateral jsonb_to_recordset(v.processes) as named(name text)
         where v.app_id = $1 and v.version = $2
         on conflict on constraint app_process_pkey do nothing",
        app.0,
        version,
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Counts a deploy that has come to its end.
pub(super) async fn count(tx: &mut PgConnection, app: AppId) -> sqlx::Result<()> {
    sqlx::query!("update app set deploys = deploys + 1 where app_id = $1", app.0)
        .execute(tx)
        .await
        .map(drop)
}

/// Marks the versions beyond the newest `keep` as removed, save those that run or are being rolled out;
/// answers their numbers.
pub(super) async fn retire(
    tx: &mut PgConnection,
    app: AppId,
    host: &str,
    keep: i64,
) -> sqlx::Result<Vec<i32>> {
    sqlx::query_scalar!(
        "update version v set state = 'removed'
         where v.app_id = $1 and v.host = $2 and v.state = 'ready'
           and v.version not in (select version from version where app_id = $1 and state = 'ready' order by version desc limit $3)
           and not exists (select 1 from app a join release r on r.release_id in (a.current_release, a.candidate_release)
                           where a.app_id = $1 and r.version = v.version)
           and not exists (select 1 from unit u where u.app_id = $1 and u.version = v.version)
         returning version",
        app.0,
        host,
        keep,
    )
    .fetch_all(tx)
    .await
}

/// Names of archives that sagas under way still need.
pub(super) async fn archives_in_use(db: impl PgExecutor<'_>) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar!(
        r#"select data ->> 'archive' as "archive!" from saga
           where ended_at is null and kind = 'app.deploy' and data ? 'archive'"#
    )
    .fetch_all(db)
    .await
}
