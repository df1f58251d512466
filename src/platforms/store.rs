//! SQL statements for platforms.

use sqlx::PgExecutor;

use crate::kernel::names::PlatformName;

/// A platform.
#[derive(Clone, Debug)]
pub struct Platform {
    pub name: PlatformName,
    pub disabled: bool,
}

/// Lists all platforms, by name.
pub async fn list_platforms(db: impl PgExecutor<'_>) -> sqlx::Result<Vec<Platform>> {
    sqlx::query_as!(
        Platform,
        r#"select name as "name: PlatformName", disabled from platform order by name"#
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
        r#"select name as "name: PlatformName", disabled from platform where name = $1"#,
        name.as_str(),
    )
    .fetch_optional(db)
    .await
}
