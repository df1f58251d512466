//! SQL statements for platforms and their versions.

use sqlx::{PgConnection, PgExecutor};

use crate::kernel::names::PlatformName;
use crate::platforms::model::Platform;

/// Lists all platforms, by name.
pub(super) async fn list_platforms(db: impl PgExecutor<'_>) -> sqlx::Result<Vec<Platform>> {
    sqlx::query_as!(
        Platform,
        r#"select name as "name: PlatformName", disabled, shipped from platform order by name"#
    )
    .fetch_all(db)
    .await
}

/// Finds a platform by name.
pub(super) async fn find_platform(
    db: impl PgExecutor<'_>,
    name: &PlatformName,
) -> sqlx::Result<Option<Platform>> {
    sqlx::query_as!(
        Platform,
        r#"select name as "name: PlatformName", disabled, shipped from platform where name = $1"#,
        name.as_str(),
    )
    .fetch_optional(db)
    .await
}

/// Finds a platform by name and locks it until the transaction ends.
pub(super) async fn lock_platform(
    tx: &mut PgConnection,
    name: &PlatformName,
) -> sqlx::Result<Option<Platform>> {
    sqlx::query_as!(
        Platform,
        r#"select name as "name: PlatformName", disabled, shipped from platform where name = $1 for no key update"#,
        name.as_str(),
    )
    .fetch_optional(tx)
    .await
}

pub(super) async fn count_platforms(db: impl PgExecutor<'_>) -> sqlx::Result<i64> {
    sqlx::query_scalar!(r#"select count(*) as "count!" from platform"#)
        .fetch_one(db)
        .await
}

/// Inserts a platform, enabled, with the version that is inserted next.
pub(super) async fn insert_platform(tx: &mut PgConnection, name: &PlatformName) -> sqlx::Result<()> {
    sqlx::query!("insert into platform (name) values ($1)", name.as_str())
        .execute(tx)
        .await
        .map(drop)
}

pub(super) async fn set_disabled(
    tx: &mut PgConnection,
    name: &PlatformName,
    disabled: bool,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update platform set disabled = $2 where name = $1",
        name.as_str(),
        disabled
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Inserts the next version of a platform that this transaction has locked or inserted; returns its number.
pub(super) async fn insert_version(
    tx: &mut PgConnection,
    name: &PlatformName,
    digest: &str,
    archive: &[u8],
) -> sqlx::Result<i32> {
    sqlx::query_scalar!(
        "insert into platform_version (platform, version, digest, archive)
         select $1, coalesce(max(version), 0) + 1, $2, $3 from platform_version where platform = $1
         returning version",
        name.as_str(),
        digest,
        archive,
    )
    .fetch_one(tx)
    .await
}

/// Makes a version the current one; `None`: the scripts in the binary. Returns false if there is no such
/// version.
pub(super) async fn set_version(
    tx: &mut PgConnection,
    name: &PlatformName,
    version: Option<i32>,
) -> sqlx::Result<bool> {
    sqlx::query!(
        "update platform set version = $2
         where name = $1 and ($2::integer is null or exists (
             select from platform_version where platform = $1 and version = $2))",
        name.as_str(),
        version,
    )
    .execute(tx)
    .await
    .map(|done| done.rows_affected() == 1)
}

/// Deletes all versions but the current one and the newest ones.
pub(super) async fn delete_old_versions(
    tx: &mut PgConnection,
    name: &PlatformName,
    keep: i64,
) -> sqlx::Result<()> {
    sqlx::query!(
        "delete from platform_version v using platform p
         where v.platform = $1 and p.name = $1 and v.version is distinct from p.version
           and v.version not in (select version from platform_version where platform = $1
                                 order by version desc limit $2)",
        name.as_str(),
        keep,
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Lists the numbers of the kept versions of a platform, from the oldest.
pub(super) async fn list_versions(db: impl PgExecutor<'_>, name: &PlatformName) -> sqlx::Result<Vec<i32>> {
    sqlx::query_scalar!(
        "select version from platform_version where platform = $1 order by version",
        name.as_str()
    )
    .fetch_all(db)
    .await
}

/// The current version of a platform: its number and digest.
pub(super) async fn find_current_version(
    db: impl PgExecutor<'_>,
    name: &PlatformName,
) -> sqlx::Result<Option<(i32, String)>> {
    let row = sqlx::query!(
        "select v.version, v.digest from platform p
         join platform_version v on v.platform = p.name and v.version = p.version
         where p.name = $1",
        name.as_str(),
    )
    .fetch_optional(db)
    .await?;
    Ok(row.map(|row| (row.version, row.digest)))
}

/// Returns the archive of a version, unless it was removed.
pub(super) async fn find_archive(
    db: impl PgExecutor<'_>,
    name: &PlatformName,
    version: i32,
) -> sqlx::Result<Option<Vec<u8>>> {
    sqlx::query_scalar!(
        "select archive from platform_version where platform = $1 and version = $2",
        name.as_str(),
        version,
    )
    .fetch_optional(db)
    .await
}

/// Deletes a platform and its versions.
pub(super) async fn delete_platform(tx: &mut PgConnection, name: &PlatformName) -> sqlx::Result<()> {
    sqlx::query!("delete from platform where name = $1", name.as_str())
        .execute(tx)
        .await
        .map(drop)
}
