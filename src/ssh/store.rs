//! SQL of the host key.

use sqlx::PgExecutor;

/// Stores a host key if there is none; returns the stored one.
pub(super) async fn claim_host_key(db: impl PgExecutor<'_>, sealed: &[u8]) -> sqlx::Result<Vec<u8>> {
    sqlx::query_scalar!(
        "insert into ssh_host_key (sealed) values ($1)
         on conflict (one) do update set one = true returning sealed",
        sealed,
    )
    .fetch_one(db)
    .await
}
