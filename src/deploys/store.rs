//! Deploys and versions in SQL.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgExecutor};

use crate::apps::AppScopes;
use crate::kernel::error::Error;
use crate::kernel::ids::{AppId, EventId, SagaId};
use crate::releases::ReleaseSide;

/// A deploy as listed.
#[derive(Clone, Debug)]
pub struct DeployRow {
    pub event_id: String,
    pub app: String,
    pub version: Option<i32>,
    /// The image that the version is, if it is one.
    pub image: Option<String>,
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

pub(super) async fn insert_deploy(
    tx: &mut PgConnection,
    event: &EventId,
    app: AppId,
    version: Option<i32>,
    order: &super::DeployOptions,
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

pub(super) async fn end_deploy(tx: &mut PgConnection, event: &EventId, error: &str) -> sqlx::Result<()> {
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
pub(super) async fn list_deploys(
    db: impl PgExecutor<'_>,
    app: &str,
    event: &str,
    reach: Option<&AppScopes>,
    limit: i64,
) -> sqlx::Result<Vec<DeployRow>> {
    let empty = Vec::new();
    sqlx::query_as!(
        DeployRow,
        r#"select d.event_id, a.name as app, d.version, v.image as "image?", d.origin, d.commit_id, d.author, d.message, d.user_name,
                  d.started_at, d.ended_at, d.error,
                  coalesce(v.state = 'ready' and v.disabled_reason = '' and d.error = '', false) as "can_rollback!"
           from deploy d join app a using (app_id)
           left join version v on v.app_id = d.app_id and v.version = d.version
           where a.kind = 'app' and ($1 = '' or a.name = $1) and ($2 = '' or d.event_id = $2)
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

/// The newest versions that can be run of the commits whose names begin so; two at most.
pub(super) async fn find_commit_versions(
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

/// The newest version that can be run of an image, named with its digest.
pub(super) async fn find_image_version(
    db: impl PgExecutor<'_>,
    app: AppId,
    image: &str,
) -> sqlx::Result<Option<i32>> {
    sqlx::query_scalar!(
        r#"select max(version) as "version" from version
           where app_id = $1 and image = $2 and state = 'ready' and disabled_reason = ''"#,
        app.0,
        image,
    )
    .fetch_one(db)
    .await
}

/// Gives each process of a version a number of units, one, unless it has one already. Processes that are
/// new to a stopped app are stopped too.
pub(super) async fn ensure_processes(
    tx: &mut PgConnection,
    app: AppId,
    version: i32,
    side: ReleaseSide,
) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into app_process (app_id, process, units, stopped, side)
         select $1, p.process, 1,
                coalesce((select bool_and(stopped) from app_process where app_id = $1 and side = $3), false), $3
         from version_process p where p.app_id = $1 and p.version = $2
         on conflict on constraint app_process_pkey do nothing",
        app.0,
        version,
        side.number(),
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Counts a deploy that has come to its end.
pub(super) async fn count_deploy(tx: &mut PgConnection, app: AppId) -> sqlx::Result<()> {
    sqlx::query!("update app set deploys = deploys + 1 where app_id = $1", app.0)
        .execute(tx)
        .await
        .map(drop)
}

/// Names of archives that sagas under way still need.
pub(super) async fn list_archives_in_use(db: impl PgExecutor<'_>) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar!(
        r#"select data ->> 'archive' as "archive!" from saga
           where ended_at is null and kind = 'app.deploy' and data ? 'archive'"#
    )
    .fetch_all(db)
    .await
}

/// A deploy that waits on a host, with its archive.
pub(super) struct WaitingArchive {
    pub(super) saga: SagaId,
    pub(super) event: EventId,
    pub(super) archive: String,
}

/// Deploys that only this host may run, and of which nothing is built yet.
pub(super) async fn list_waiting_archives(
    db: impl PgExecutor<'_>,
    host: &str,
) -> Result<Vec<WaitingArchive>, Error> {
    let rows = sqlx::query!(
        r#"select saga_id as "saga: SagaId", event_id as "event!", data ->> 'archive' as "archive!" from saga
           where ended_at is null and kind = 'app.deploy' and host = $1 and event_id is not null
             and data ? 'archive' and data ->> 'version' is null"#,
        host,
    )
    .fetch_all(db)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(WaitingArchive {
                saga: row.saga,
                event: row.event.parse()?,
                archive: row.archive,
            })
        })
        .collect()
}

/// Begins to keep an archive here.
pub(super) async fn insert_archive(
    db: impl PgExecutor<'_>,
    archive: &str,
    owner: &str,
    size: i64,
) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into uploaded_archive (archive, owner, size_bytes) values ($1, $2, $3)
         on conflict (archive) do nothing",
        archive,
        owner,
        size,
    )
    .execute(db)
    .await
    .map(drop)
}

/// Keeps the next piece of an archive.
pub(super) async fn insert_archive_piece(
    db: impl PgExecutor<'_>,
    archive: &str,
    seq: i32,
    content: &[u8],
) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into uploaded_archive_chunk (archive, seq, content) values ($1, $2, $3)
         on conflict on constraint uploaded_archive_chunk_pkey do update set content = excluded.content",
        archive,
        seq,
        content,
    )
    .execute(db)
    .await
    .map(drop)
}

/// Gives a stored archive to the deploy that needs it; false if it is gone.
pub(super) async fn assign_archive(
    tx: &mut PgConnection,
    archive: &str,
    event: &EventId,
) -> sqlx::Result<bool> {
    sqlx::query!(
        "update uploaded_archive set event_id = $2 where archive = $1",
        archive,
        event.as_str()
    )
    .execute(tx)
    .await
    .map(|done| done.rows_affected() == 1)
}

/// The size of a stored archive; `None`: there is none of that name.
pub(super) async fn find_archive_size(db: impl PgExecutor<'_>, archive: &str) -> sqlx::Result<Option<i64>> {
    sqlx::query_scalar!(
        "select size_bytes from uploaded_archive where archive = $1",
        archive
    )
    .fetch_optional(db)
    .await
}

pub(super) async fn find_archive_piece(
    db: impl PgExecutor<'_>,
    archive: &str,
    seq: i32,
) -> sqlx::Result<Option<Vec<u8>>> {
    sqlx::query_scalar!(
        "select content from uploaded_archive_chunk where archive = $1 and seq = $2",
        archive,
        seq
    )
    .fetch_optional(db)
    .await
}

/// Bytes of the archives of one owner, and of all.
pub(super) async fn measure_archives(db: impl PgExecutor<'_>, owner: &str) -> sqlx::Result<(i64, i64)> {
    sqlx::query!(
        r#"select coalesce(sum(size_bytes) filter (where owner = $1), 0)::bigint as "by_owner!",
                  coalesce(sum(size_bytes), 0)::bigint as "in_all!" from uploaded_archive"#,
        owner
    )
    .fetch_one(db)
    .await
    .map(|row| (row.by_owner, row.in_all))
}

pub(super) async fn delete_archive(db: impl PgExecutor<'_>, archive: &str) -> sqlx::Result<()> {
    sqlx::query!("delete from uploaded_archive where archive = $1", archive)
        .execute(db)
        .await
        .map(drop)
}

/// Deletes an archive unless a deploy has it.
pub(super) async fn delete_unassigned_archive(db: impl PgExecutor<'_>, archive: &str) -> sqlx::Result<()> {
    sqlx::query!(
        "delete from uploaded_archive where archive = $1 and event_id is null",
        archive
    )
    .execute(db)
    .await
    .map(drop)
}

/// Deletes some archives of deploys that have ended, and such as no deploy has taken within an hour. Answers how many.
pub(super) async fn delete_abandoned_archives(db: impl PgExecutor<'_>, limit: i64) -> sqlx::Result<u64> {
    sqlx::query!(
        "delete from uploaded_archive where archive in (
             select u.archive from uploaded_archive u left join event e on e.event_id = u.event_id
             where e.ended_at is not null or (u.event_id is null and u.created_at < now() - interval '1 hour')
             limit $1)
           and (event_id is null or exists (select from event e where e.event_id = uploaded_archive.event_id
                                                                  and e.ended_at is not null))",
        limit
    )
    .execute(db)
    .await
    .map(|done| done.rows_affected())
}

/// The release command of a version, and what its unit is made of.
pub(super) struct ReleaseCommandRow {
    pub(super) command: String,
    pub(super) provisioner: String,
    pub(super) holder: Option<String>,
    /// The image that the version is, if it is one.
    pub(super) image: Option<String>,
    pub(super) memory_bytes: i64,
    pub(super) cpu_milli: i32,
}

/// Finds the release command of a version; `None` if it has none. Its unit has the limits of the app's main plan.
pub(super) async fn find_release_command(
    db: impl PgExecutor<'_>,
    app: AppId,
    version: i32,
) -> sqlx::Result<Option<ReleaseCommandRow>> {
    sqlx::query_as!(
        ReleaseCommandRow,
        r#"select v.release_command as "command!", p.provisioner, v.host as holder, v.image,
                  l.memory_bytes as "memory_bytes!", l.cpu_milli as "cpu_milli!"
           from version v
           join app a on a.app_id = v.app_id
           join pool p on p.name = a.pool
           join lateral (select memory_bytes, cpu_milli from process_limit c
                         where c.app_id = v.app_id and c.version = v.version order by c.process limit 1) l on true
           where v.app_id = $1 and v.version = $2 and v.release_command is not null"#,
        app.0,
        version,
    )
    .fetch_optional(db)
    .await
}
