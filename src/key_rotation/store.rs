//! Stores which keys are in use and counts the values under each. The statements on encrypted columns are
//! built from `SealedColumn::ALL`, so they are not checked at build time; the tests run them over all
//! columns.

use sqlx::pool::PoolConnection;
use sqlx::{AssertSqlSafe, PgConnection, PgExecutor, Postgres, Row as _};

use crate::db::Db;
use crate::kernel::encryption::SealedColumn;
use crate::kernel::ids::ReplicaId;

/// A replica that has not reported for this long counts as gone, in seconds.
const REPLICA_TIMEOUT_SECONDS: f64 = 20.0;
/// The key of the advisory lock of rotations.
const ROTATION_LOCK_KEY: i64 = 0x7461_6e63_686f_6b65;

/// Converts a key id from the database: never negative, and never larger than the ids in the file.
fn to_key_id(number: i64) -> u32 {
    u32::try_from(number).unwrap_or_default()
}

fn to_key_ids(numbers: &[i64]) -> Vec<u32> {
    numbers.iter().map(|number| to_key_id(*number)).collect()
}

/// Returns the current key; if none is set yet, sets this one.
pub(super) async fn find_or_set_current(db: &Db, first: u32) -> sqlx::Result<u32> {
    if let Some(current) = find_current(db).await? {
        return Ok(current);
    }
    sqlx::query!(
        "insert into encryption_state (current_key) values ($1) on conflict do nothing",
        i64::from(first)
    )
    .execute(db)
    .await?;
    Ok(find_current(db).await?.unwrap_or(first))
}

pub(super) async fn find_current(db: impl PgExecutor<'_>) -> sqlx::Result<Option<u32>> {
    let found = sqlx::query_scalar!("select current_key from encryption_state")
        .fetch_optional(db)
        .await?;
    Ok(found.map(to_key_id))
}

/// Records the digests of keys that no server has used before; returns the ids of those that another server has used
/// with another digest.
pub(super) async fn record_key_digests(db: &Db, keys: &[(u32, [u8; 32])]) -> sqlx::Result<Vec<u32>> {
    let ids: Vec<i64> = keys.iter().map(|(id, _)| i64::from(*id)).collect();
    let digests: Vec<Vec<u8>> = keys.iter().map(|(_, digest)| digest.to_vec()).collect();
    sqlx::query!(
        "insert into encryption_key (key_id, digest) select * from unnest($1::bigint[], $2::bytea[])
         on conflict do nothing",
        &ids,
        &digests
    )
    .execute(db)
    .await?;
    let other = sqlx::query_scalar!(
        r#"select k.key_id as "key_id!" from encryption_key k
           join unnest($1::bigint[], $2::bytea[]) given (key_id, digest) on given.key_id = k.key_id
           where given.digest <> k.digest order by 1"#,
        &ids,
        &digests
    )
    .fetch_all(db)
    .await?;
    Ok(to_key_ids(&other))
}

/// Sets the current key.
pub(super) async fn set_current(tx: &mut PgConnection, id: u32) -> sqlx::Result<()> {
    sqlx::query!(
        "update encryption_state set current_key = $1, changed_at = now()",
        i64::from(id)
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Rejects values under keys older than this one from now on.
pub(super) async fn set_oldest(db: impl PgExecutor<'_>, id: u32) -> sqlx::Result<()> {
    sqlx::query!(
        "update encryption_state set oldest_key = $1 where oldest_key <> $1",
        i64::from(id)
    )
    .execute(db)
    .await
    .map(drop)
}

/// Records the keys of a replica, and that it is running.
pub(super) async fn record_replica_keys(
    db: impl PgExecutor<'_>,
    replica: ReplicaId,
    host: &str,
    known: &[u32],
    current: u32,
) -> sqlx::Result<()> {
    let known: Vec<i64> = known.iter().map(|id| i64::from(*id)).collect();
    sqlx::query!(
        "with gone as (delete from encryption_replica where seen_at < now() - interval '1 hour' and replica_id <> $1)
         insert into encryption_replica (replica_id, host, known_keys, current_key) values ($1, $2, $3, $4)
         on conflict (replica_id) do update
         set known_keys = excluded.known_keys, current_key = excluded.current_key, seen_at = now()",
        replica.0,
        host,
        &known,
        i64::from(current),
    )
    .execute(db)
    .await
    .map(drop)
}

/// Deletes the record of a replica that stops.
pub(super) async fn remove_replica(db: impl PgExecutor<'_>, replica: ReplicaId) -> sqlx::Result<()> {
    sqlx::query!("delete from encryption_replica where replica_id = $1", replica.0)
        .execute(db)
        .await
        .map(drop)
}

/// A running replica with its keys.
#[derive(Clone, Debug)]
pub(super) struct ReplicaKeys {
    pub(super) replica: ReplicaId,
    pub(super) host: String,
    pub(super) known_keys: Vec<u32>,
    pub(super) current_key: u32,
}

pub(super) async fn list_replica_keys(db: impl PgExecutor<'_>) -> sqlx::Result<Vec<ReplicaKeys>> {
    let rows = sqlx::query!(
        r#"select replica_id as "replica: ReplicaId", host, known_keys, current_key from encryption_replica
           where seen_at > now() - make_interval(secs => $1) order by host, replica_id"#,
        REPLICA_TIMEOUT_SECONDS
    )
    .fetch_all(db)
    .await?;
    let follower = rows.into_iter().map(|row| ReplicaKeys {
        replica: row.replica,
        host: row.host,
        known_keys: to_key_ids(&row.known_keys),
        current_key: to_key_id(row.current_key),
    });
    Ok(follower.collect())
}

/// Holds the lock of the one rotation that there may be, as long as the connection lives; `None` if another has it. The
/// connection is closed when it is dropped, and never given back to the pool with the lock.
pub(super) async fn lock_rotation(db: &Db) -> sqlx::Result<Option<PoolConnection<Postgres>>> {
    let mut connection = db.acquire().await?;
    connection.close_on_drop();
    let held = sqlx::query_scalar!(r#"select pg_try_advisory_lock($1) as "held!""#, ROTATION_LOCK_KEY)
        .fetch_one(&mut *connection)
        .await?;
    Ok(held.then_some(connection))
}

/// The number of a transaction that is yet to begin.
pub(super) async fn next_transaction_id(db: impl PgExecutor<'_>) -> sqlx::Result<i64> {
    sqlx::query_scalar!(r#"select pg_snapshot_xmax(pg_current_snapshot())::text::bigint as "xid!""#)
        .fetch_one(db)
        .await
}

/// True if all writers that began before `next_transaction_id` was read have ended.
pub(super) async fn have_writers_ended(db: impl PgExecutor<'_>, before: i64) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select pg_snapshot_xmin(pg_current_snapshot())::text::bigint >= $1 as "ended!""#,
        before
    )
    .fetch_one(db)
    .await
}

/// Counts the values of a column by key.
pub(super) async fn count_by_key(
    db: impl PgExecutor<'_>,
    column: SealedColumn,
) -> sqlx::Result<Vec<(u32, i64)>> {
    let SealedColumn { table, name, .. } = column;
    let sql = format!(
        "select seal_key({name}), count(*) from {table} where seal_key({name}) is not null group by 1 order by 1"
    );
    let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(db).await?;
    rows.iter()
        .map(|row| Ok((to_key_id(row.try_get(0)?), row.try_get(1)?)))
        .collect()
}

/// Returns how many blocks a table has on disk.
pub(super) async fn count_blocks(db: impl PgExecutor<'_>, column: SealedColumn) -> sqlx::Result<i64> {
    sqlx::query_scalar!(
        r#"select (pg_relation_size($1::text::regclass) / current_setting('block_size')::bigint) as "blocks!""#,
        column.table
    )
    .fetch_one(db)
    .await
}

/// A value that is encrypted with an old key.
pub(super) struct StaleValue {
    /// The physical position of the row, valid while it is locked.
    pub(super) ctid: String,
    /// The values of the row that are part of its associated data.
    pub(super) row_key: Vec<String>,
    pub(super) sealed: Vec<u8>,
}

/// Locks some of the rows between two blocks whose value is encrypted with another key, except those that
/// another transaction has locked and those at `passed`.
pub(super) async fn lock_stale_values(
    tx: &mut PgConnection,
    column: SealedColumn,
    current: u32,
    (from, to): (i64, i64),
    passed: &[String],
    limit: i64,
) -> sqlx::Result<Vec<StaleValue>> {
    let SealedColumn {
        table,
        name,
        key_columns: row,
        ..
    } = column;
    let row: Vec<String> = row.iter().map(|part| format!("{part}::text")).collect();
    let sql = format!(
        "select ctid::text, array[{}], {name} from {table}
         where ctid >= $1::text::tid and ctid < $2::text::tid and seal_key({name}) <> $3 and ctid <> all($4::text[]::tid[])
         limit $5 for no key update skip locked",
        row.join(", ")
    );
    let rows = sqlx::query(AssertSqlSafe(sql))
        .bind(format!("({from},0)"))
        .bind(format!("({to},0)"))
        .bind(i64::from(current))
        .bind(passed)
        .bind(limit)
        .fetch_all(tx)
        .await?;
    let stale = |row: &sqlx::postgres::PgRow| {
        Ok(StaleValue {
            ctid: row.try_get(0)?,
            row_key: row.try_get(1)?,
            sealed: row.try_get(2)?,
        })
    };
    rows.iter().map(stale).collect()
}

/// Replaces the value of a row locked by `lock_stale_values`.
pub(super) async fn replace_value(
    tx: &mut PgConnection,
    column: SealedColumn,
    at: &str,
    sealed: &[u8],
) -> sqlx::Result<()> {
    let SealedColumn { table, name, .. } = column;
    let sql = format!("update {table} set {name} = $2 where ctid = $1::text::tid");
    sqlx::query(AssertSqlSafe(sql))
        .bind(at)
        .bind(sealed)
        .execute(tx)
        .await
        .map(drop)
}
