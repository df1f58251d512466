//! SQL statements for routers.

use sqlx::{PgConnection, PgExecutor};
use uuid::Uuid;

use crate::kernel::names::RouterName;

/// A router in the database.
pub(super) struct RouterRow {
    pub(super) router_id: Uuid,
    pub(super) name: RouterName,
    pub(super) kind: String,
    pub(super) readiness_gates: Vec<String>,
    /// Encrypted.
    pub(super) config: Vec<u8>,
}

/// Lists all routers that were added, by name.
pub(super) async fn list_routers(db: impl PgExecutor<'_>) -> sqlx::Result<Vec<RouterRow>> {
    sqlx::query_as!(
        RouterRow,
        r#"select router_id, name as "name: RouterName", kind, readiness_gates, config from router order by name"#
    )
    .fetch_all(db)
    .await
}

/// Finds a router by name and locks it until the transaction ends.
pub(super) async fn lock_router(tx: &mut PgConnection, name: &RouterName) -> sqlx::Result<Option<RouterRow>> {
    sqlx::query_as!(
        RouterRow,
        r#"select router_id, name as "name: RouterName", kind, readiness_gates, config
           from router where name = $1 for no key update"#,
        name.as_str(),
    )
    .fetch_optional(tx)
    .await
}

pub(super) async fn find_router(
    db: impl PgExecutor<'_>,
    name: &RouterName,
) -> sqlx::Result<Option<RouterRow>> {
    sqlx::query_as!(
        RouterRow,
        r#"select router_id, name as "name: RouterName", kind, readiness_gates, config
           from router where name = $1"#,
        name.as_str(),
    )
    .fetch_optional(db)
    .await
}

pub(super) async fn count_routers(db: impl PgExecutor<'_>) -> sqlx::Result<i64> {
    sqlx::query_scalar!(r#"select count(*) as "count!" from router"#)
        .fetch_one(db)
        .await
}

pub(super) async fn insert_router(tx: &mut PgConnection, router: &RouterRow) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into router (router_id, name, kind, readiness_gates, config) values ($1, $2, $3, $4, $5)",
        router.router_id,
        router.name.as_str(),
        router.kind,
        &router.readiness_gates,
        router.config,
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Changes a router that this transaction has locked.
pub(super) async fn update_router(tx: &mut PgConnection, router: &RouterRow) -> sqlx::Result<()> {
    sqlx::query!(
        "update router set kind = $2, readiness_gates = $3, config = $4 where router_id = $1",
        router.router_id,
        router.kind,
        &router.readiness_gates,
        router.config,
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Deletes a router; returns false if there is no such router.
pub(super) async fn delete_router(tx: &mut PgConnection, name: &RouterName) -> sqlx::Result<bool> {
    sqlx::query!("delete from router where name = $1", name.as_str())
        .execute(tx)
        .await
        .map(|done| done.rows_affected() == 1)
}

pub(super) async fn router_exists(db: impl PgExecutor<'_>, name: &RouterName) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select exists (select from router where name = $1) as "exists!""#,
        name.as_str()
    )
    .fetch_one(db)
    .await
}
