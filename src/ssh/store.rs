//! The host key in SQL.

use sqlx::PgExecutor;

/// Keeps a host key if there is none; answers the one that is kept.
pub(super) async fn claim(db: impl PgExecutor<'_>, sealed: &[u8]) -> sqlx::Result<Vec<u8>> {
    sqlx::query_scalar!(
        "insert into ssh_host_key (sealed) values ($1)
         on conflict (one) do update set one = true returning sealed",
        sealed,
    )
    .fetch_one(db)
    .await
}
