//! Changes of what descriptions of apps show, in SQL.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;
use uuid::Uuid;

/// How long a description is kept, by the database's clock too.
pub(super) const MAX_AGE: Duration = Duration::from_secs(300);
/// How many rows one statement deletes.
pub(super) const PRUNE_BATCH: u64 = 5000;

/// The state of the database at the time of a check.
pub(super) struct ReadMark {
    /// The snapshot, as Postgres writes it.
    pub(super) snapshot: String,
    pub(super) read_at: DateTime<Utc>,
    /// The places of the descriptions that are still valid, from 1 on, in order.
    pub(super) unchanged: Vec<i64>,
}

/// Checks descriptions: the app of each, and the snapshot and the time of its mark.
pub(super) async fn find_unchanged(
    db: impl PgExecutor<'_>,
    apps: &[Uuid],
    snapshots: &[String],
    read_at: &[DateTime<Utc>],
) -> sqlx::Result<ReadMark> {
    sqlx::query_as!(
        ReadMark,
        r#"select pg_current_snapshot()::text as "snapshot!", now() as "read_at!",
                  array(select k.place from unnest($1::uuid[], $2::text[], $3::timestamptz[]) with ordinality
                            as k(app_id, snapshot, read_at, place)
                        where k.read_at > now() - make_interval(secs => $4)
                          and not exists (select from app_change c
                                          where c.app_id = k.app_id
                                            and not pg_visible_in_snapshot(c.xid, k.snapshot::pg_snapshot))
                        order by place) as "unchanged!""#,
        apps,
        snapshots,
        read_at,
        MAX_AGE.as_secs_f64(),
    )
    .fetch_one(db)
    .await
}

/// Deletes changes that are an hour old. No transaction is open for so long, and no description is kept for so long.
pub(super) async fn delete_old_changes(db: impl PgExecutor<'_>) -> sqlx::Result<u64> {
    let deleted = sqlx::query!(
        "delete from app_change where (app_id, xid) in (
             select app_id, xid from app_change where changed_at < now() - interval '1 hour' limit $1)",
        i64::try_from(PRUNE_BATCH).unwrap_or(i64::MAX),
    )
    .execute(db)
    .await?;
    Ok(deleted.rows_affected())
}
