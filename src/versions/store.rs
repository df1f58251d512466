//! Versions and their holders in SQL.

use serde_json::Value;
use sqlx::{PgConnection, PgExecutor};

use crate::builders::ProcessCommand;
use crate::db::{self, notices::NoticeChannel};
use crate::kernel::ids::AppId;

/// The next number of an app's versions, taken by a row; the host is a holder of the app from then on.
pub(crate) async fn insert_version(tx: &mut PgConnection, app: AppId, host: &str) -> sqlx::Result<i32> {
    sqlx::query!(
        "insert into version_holder (host, app_id, app_number) select $2, app_id, number from app where app_id = $1
         on conflict on constraint version_holder_pkey do nothing",
        app.0,
        host,
    )
    .execute(&mut *tx)
    .await?;
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

/// Gives a version a tag, which another one of the app loses.
pub(crate) async fn set_tag(tx: &mut PgConnection, app: AppId, version: i32, tag: &str) -> sqlx::Result<()> {
    sqlx::query!(
        "update version set tag = null where app_id = $1 and tag = $2",
        app.0,
        tag
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query!(
        "update version set tag = $3 where app_id = $1 and version = $2",
        app.0,
        version,
        tag
    )
    .execute(tx)
    .await
    .map(drop)
}

/// A version with a tag, and the host that holds it.
pub(crate) struct TaggedVersion {
    pub(crate) version: i32,
    pub(crate) host: Option<String>,
}

/// Finds the version with a tag that can be run.
pub(crate) async fn find_tagged_version(
    db: impl PgExecutor<'_>,
    app: AppId,
    tag: &str,
) -> sqlx::Result<Option<TaggedVersion>> {
    sqlx::query_as!(
        TaggedVersion,
        "select version, host from version where app_id = $1 and tag = $2 and state = 'ready'",
        app.0,
        tag
    )
    .fetch_optional(db)
    .await
}

/// Names the unit that runs the release command of a version; `None`: none does any more.
pub(crate) async fn set_release_unit(
    tx: &mut PgConnection,
    app: AppId,
    version: i32,
    unit: Option<&str>,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update version set release_unit = $3 where app_id = $1 and version = $2",
        app.0,
        version,
        unit,
    )
    .execute(tx)
    .await
    .map(drop)
}

/// What a build has made.
pub(crate) struct BuiltVersion<'a> {
    pub(crate) processes: &'a [ProcessCommand],
    pub(crate) release_command: Option<&'a str>,
    pub(crate) yaml: &'a Value,
    pub(crate) bytes: i64,
    /// The digest of its files or of its image.
    pub(crate) digest: String,
    /// The image that it is, if it is one.
    pub(crate) image: Option<String>,
}

pub(crate) async fn mark_version_ready(
    tx: &mut PgConnection,
    app: AppId,
    version: i32,
    made: &BuiltVersion<'_>,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update version set state = 'ready', yaml = $3, size_bytes = $4, content_digest = $5, image = $6, release_command = $7
         where app_id = $1 and version = $2",
        app.0,
        version,
        made.yaml,
        made.bytes,
        made.digest,
        made.image,
        made.release_command,
    )
    .execute(&mut *tx)
    .await?;
    // A build that is repeated may find others.
    sqlx::query!(
        "delete from version_process where app_id = $1 and version = $2",
        app.0,
        version
    )
    .execute(&mut *tx)
    .await?;
    let names: Vec<&str> = made
        .processes
        .iter()
        .map(|process| process.name.as_str())
        .collect();
    let commands: Vec<&str> = made
        .processes
        .iter()
        .map(|process| process.command.as_str())
        .collect();
    sqlx::query!(
        "insert into version_process (app_id, version, process, command)
         select $1, $2, p.name, p.command from unnest($3::text[], $4::text[]) as p (name, command)",
        app.0,
        version,
        &names as &[&str],
        &commands as &[&str],
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Has the holder remove the files of a version that came to nothing.
pub(crate) async fn mark_version_failed(tx: &mut PgConnection, app: AppId, version: i32) -> sqlx::Result<()> {
    sqlx::query!(
        "update version set state = 'failed' where app_id = $1 and version = $2",
        app.0,
        version,
    )
    .execute(&mut *tx)
    .await?;
    db::send_notice(tx, NoticeChannel::Versions, "").await
}

/// Has the holders remove the files of the versions beyond the newest `keep`, save those that run or are being rolled
/// out.
pub(crate) async fn retire_versions(tx: &mut PgConnection, app: AppId, keep: i64) -> sqlx::Result<()> {
    let retired = sqlx::query!(
        "update version v set state = 'removed'
         where v.app_id = $1 and v.state = 'ready'
           and v.version not in (select version from version where app_id = $1 and state = 'ready' order by version desc limit $2)
           and not exists (select 1 from live_release l join release r on r.release_id in (l.current_release, l.candidate_release)
                           where l.app_id = $1 and r.version = v.version)
           and not exists (select 1 from unit u where u.app_id = $1 and u.version = v.version)
           and not exists (select 1 from exec_session s where s.app_id = $1 and s.version = v.version)
           and not exists (select 1 from job_run j where j.app_id = $1 and j.version = v.version and j.state = 'started')",
        app.0,
        keep,
    )
    .execute(&mut *tx)
    .await?;
    match retired.rows_affected() {
        0 => Ok(()),
        _ => db::send_notice(tx, NoticeChannel::Versions, "").await,
    }
}

/// Apps that are gone and of which a host still has files, after the app `after`.
pub(super) async fn list_removed_apps(
    db: impl PgExecutor<'_>,
    host: &str,
    after: AppId,
    limit: i64,
) -> sqlx::Result<Vec<(AppId, i32)>> {
    let rows = sqlx::query!(
        r#"select h.app_id as "app_id: AppId", h.app_number from version_holder h
           where h.host = $1 and h.app_id > $2 and not exists (select from app a where a.app_id = h.app_id)
           order by h.app_id limit $3"#,
        host,
        after.0,
        limit,
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(|row| (row.app_id, row.app_number)).collect())
}

/// A host has nothing of an app any more.
pub(super) async fn delete_holder(db: impl PgExecutor<'_>, host: &str, app: AppId) -> sqlx::Result<()> {
    sqlx::query!(
        "delete from version_holder where host = $1 and app_id = $2",
        host,
        app.0
    )
    .execute(db)
    .await
    .map(drop)
}

/// A version that nothing needs any more.
pub(super) struct RemovedVersion {
    pub(super) app: AppId,
    pub(super) version: i32,
    pub(super) is_image: bool,
}

/// Versions that nothing runs of and whose files a host is to remove, after the version `after`.
pub(super) async fn list_removed_versions(
    db: impl PgExecutor<'_>,
    host: &str,
    after: (AppId, i32),
    limit: i64,
) -> sqlx::Result<Vec<RemovedVersion>> {
    sqlx::query_as!(
        RemovedVersion,
        r#"select v.app_id as "app: AppId", v.version, v.image is not null as "is_image!" from version v
           where v.host = $1 and v.state in ('removed', 'failed') and (v.app_id, v.version) > ($2, $3)
             and not exists (select from unit u where u.app_id = v.app_id and u.version = v.version)
             and not exists (select from exec_session s where s.app_id = v.app_id and s.version = v.version)
             and not exists (select from job_run j where j.app_id = v.app_id and j.version = v.version and j.state = 'started')
           order by v.app_id, v.version limit $4"#,
        host,
        after.0.0,
        after.1,
        limit,
    )
    .fetch_all(db)
    .await
}

/// A host has no files of these versions any more.
pub(super) async fn clear_holder(
    db: impl PgExecutor<'_>,
    host: &str,
    versions: &[(AppId, i32)],
) -> sqlx::Result<()> {
    let (apps, numbers): (Vec<_>, Vec<i32>) = versions.iter().map(|(app, version)| (app.0, *version)).unzip();
    sqlx::query!(
        "update version v set host = null from unnest($2::uuid[], $3::integer[]) as gone (app_id, version)
         where v.host = $1 and v.app_id = gone.app_id and v.version = gone.version and v.state in ('removed', 'failed')",
        host,
        &apps,
        &numbers,
    )
    .execute(db)
    .await
    .map(drop)
}

/// The epoch of an app's cache, if the cache of this host is from an earlier one.
pub(super) async fn find_stale_cache(
    db: impl PgExecutor<'_>,
    host: &str,
    app: AppId,
) -> sqlx::Result<Option<i32>> {
    sqlx::query_scalar!(
        "select a.cache_epoch from app a join version_holder h on h.app_id = a.app_id
         where h.host = $1 and a.app_id = $2 and h.cache_epoch < a.cache_epoch",
        host,
        app.0,
    )
    .fetch_optional(db)
    .await
}

/// The cache of a host is from this epoch.
pub(super) async fn set_cache_epoch(
    db: impl PgExecutor<'_>,
    host: &str,
    app: AppId,
    epoch: i32,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update version_holder set cache_epoch = $3 where host = $1 and app_id = $2",
        host,
        app.0,
        epoch,
    )
    .execute(db)
    .await
    .map(drop)
}

/// What a built version is used for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum VersionUse {
    /// It runs, or is being rolled out.
    InUse,
    /// It is kept for going back to it, unless there is a reason not to; empty: there is none.
    Ready { disabled_reason: String },
}

/// Finds what a version is used for; `None` if there is no such version, or only one that failed or was removed.
pub(crate) async fn find_version_use(
    db: impl PgExecutor<'_>,
    app: AppId,
    version: i32,
) -> sqlx::Result<Option<VersionUse>> {
    let row = sqlx::query!(
        r#"select disabled_reason,
                  exists (select from live_release l join release r on r.release_id in (l.current_release, l.candidate_release)
                          where l.app_id = v.app_id and r.version = v.version) as "in_use!"
           from version v where app_id = $1 and version = $2 and state = 'ready'"#,
        app.0,
        version,
    )
    .fetch_optional(db)
    .await?;
    Ok(row.map(|row| match row.in_use {
        true => VersionUse::InUse,
        false => VersionUse::Ready {
            disabled_reason: row.disabled_reason,
        },
    }))
}

/// Has the holder remove the files of a version that nobody is to go back to.
pub(crate) async fn mark_version_removed(
    tx: &mut PgConnection,
    app: AppId,
    version: i32,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update version set state = 'removed' where app_id = $1 and version = $2 and state = 'ready'",
        app.0,
        version,
    )
    .execute(&mut *tx)
    .await?;
    db::send_notice(tx, NoticeChannel::Versions, "").await
}

/// Says why nobody may go back to a version; empty: it is allowed.
pub(crate) async fn set_disabled_reason(
    tx: &mut PgConnection,
    app: AppId,
    version: i32,
    reason: &str,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update version set disabled_reason = $3 where app_id = $1 and version = $2",
        app.0,
        version,
        reason,
    )
    .execute(tx)
    .await
    .map(drop)
}
