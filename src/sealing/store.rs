//! Which keys are in use, and what is sealed with which, in SQL. What reads and writes sealed columns is made
//! from their table (`Column::ALL`), so it is not checked when compiled; the tests run it over all of them.

use sqlx::pool::PoolConnection;
use sqlx::{AssertSqlSafe, PgConnection, PgExecutor, Postgres, Row as _};

use crate::db::Db;
use crate::kernel::ids::ReplicaId;
use crate::kernel::seal::Column;

/// A replica that has said nothing for so long counts as gone, in seconds.
const GONE: f64 = 20.0;
/// What tells the lock of a rotation from others.
const LOCK: i64 = 0x7461_6e63_686f_6b65;

/// Numbers of keys are never negative in the database, and never larger than those of the file.
fn key(number: i64) -> u32 {
    u32::try_from(number).unwrap_or_default()
}

fn keys(numbers: &[i64]) -> Vec<u32> {
    numbers.iter().map(|number| key(*number)).collect()
}

/// The key that seals; if nobody has said so yet, this one.
pub(super) async fn current_or(db: &Db, first: u32) -> sqlx::Result<u32> {
    if let Some(current) = find_current(db).await? {
        return Ok(current);
    }
    sqlx::query!(
        "insert into seal_state (current_key) values ($1) on conflict do nothing",
        i64::from(first)
    )
    .execute(db)
    .await?;
    Ok(find_current(db).await?.unwrap_or(first))
}

pub(super) async fn find_current(db: impl PgExecutor<'_>) -> sqlx::Result<Option<u32>> {
    let found = sqlx::query_scalar!("select current_key from seal_state")
        .fetch_optional(db)
        .await?;
    Ok(found.map(key))
}

/// From now on this key seals.
pub(super) async fn set_current(tx: &mut PgConnection, id: u32) -> sqlx::Result<()> {
    sqlx::query!(
        "update seal_state set current_key = $1, changed_at = now()",
        i64::from(id)
    )
    .execute(tx)
    .await
    .map(drop)
}

/// From now on what is sealed with an older key is refused.
pub(super) async fn set_oldest(db: impl PgExecutor<'_>, id: u32) -> sqlx::Result<()> {
    sqlx::query!(
        "update seal_state set oldest_key = $1 where oldest_key <> $1",
        i64::from(id)
    )
    .execute(db)
    .await
    .map(drop)
}

/// Says which keys a replica has, and that it is there.
pub(super) async fn tell(
    db: impl PgExecutor<'_>,
    replica: ReplicaId,
    host: &str,
    known: &[u32],
    current: u32,
) -> sqlx::Result<()> {
    let known: Vec<i64> = known.iter().map(|id| i64::from(*id)).collect();
    sqlx::query!(
        "with gone as (delete from seal_follower where seen_at < now() - interval '1 hour' and replica_id <> $1)
         insert into seal_follower (replica_id, host, known_keys, current_key) values ($1, $2, $3, $4)
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

/// A replica says goodbye.
pub(super) async fn leave(db: impl PgExecutor<'_>, replica: ReplicaId) -> sqlx::Result<()> {
    sqlx::query!("delete from seal_follower where replica_id = $1", replica.0)
        .execute(db)
        .await
        .map(drop)
}

/// A replica at work.
#[derive(Clone, Debug)]
pub(super) struct Follower {
    pub(super) replica: ReplicaId,
    pub(super) host: String,
    pub(super) known: Vec<u32>,
    pub(super) current: u32,
}

pub(super) async fn list_followers(db: impl PgExecutor<'_>) -> sqlx::Result<Vec<Follower>> {
    let rows = sqlx::query!(
        r#"select replica_id as "replica: ReplicaId", host, known_keys, current_key from seal_follower
           where seen_at > now() - make_interval(secs => $1) order by host, replica_id"#,
        GONE
    )
    .fetch_all(db)
    .await?;
    let follower = rows.into_iter().map(|row| Follower {
        replica: row.replica,
        host: row.host,
        known: keys(&row.known_keys),
        current: key(row.current_key),
    });
    Ok(follower.collect())
}

/// Holds the one rotation that there may be, as long as the connection lives; `None` if another has it.
pub(super) async fn hold(db: &Db) -> sqlx::Result<Option<PoolConnection<Postgres>>> {
    let mut connection = db.acquire().await?;
    let held = sqlx::query_scalar!(r#"select pg_try_advisory_lock($1) as "held!""#, LOCK)
        .fetch_one(&mut *connection)
        .await?;
    Ok(held.then_some(connection))
}

/// Ends what `hold` has begun.
pub(super) async fn release(mut held: PoolConnection<Postgres>) -> sqlx::Result<()> {
    sqlx::query_scalar!(r#"select pg_advisory_unlock($1) as "done!""#, LOCK)
        .fetch_one(&mut *held)
        .await
        .map(drop)
}

/// The number of a transaction that is yet to begin.
pub(super) async fn next_transaction(db: impl PgExecutor<'_>) -> sqlx::Result<i64> {
    sqlx::query_scalar!(r#"select pg_snapshot_xmax(pg_current_snapshot())::text::bigint as "xid!""#)
        .fetch_one(db)
        .await
}

/// Whether all writers that began before a transaction of `next_transaction` have ended.
pub(super) async fn have_ended(db: impl PgExecutor<'_>, before: i64) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select pg_snapshot_xmin(pg_current_snapshot())::text::bigint >= $1 as "ended!""#,
        before
    )
    .fetch_one(db)
    .await
}

/// How many values of a column are sealed with which key.
pub(super) async fn count(db: impl PgExecutor<'_>, column: Column) -> sqlx::Result<Vec<(u32, i64)>> {
    let Column { table, name, .. } = column;
    let sql = format!(
        "select seal_key({name}), count(*) from {table} where seal_key({name}) is not null group by 1 order by 1"
    );
    let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(db).await?;
    rows.iter()
        .map(|row| Ok((key(row.try_get(0)?), row.try_get(1)?)))
        .collect()
}

/// How many blocks of the disk a table has.
pub(super) async fn blocks(db: impl PgExecutor<'_>, column: Column) -> sqlx::Result<i64> {
    sqlx::query_scalar!(
        r#"select (pg_relation_size($1::text::regclass) / current_setting('block_size')::bigint) as "blocks!""#,
        column.table
    )
    .fetch_one(db)
    .await
}

/// A value that is sealed with another key than it should be.
pub(super) struct Stale {
    /// Where the row is, as long as it is held.
    pub(super) at: String,
    /// What its place is made of.
    pub(super) row: Vec<String>,
    pub(super) sealed: Vec<u8>,
}

/// Holds some of the rows between two blocks whose value is sealed with another key, but those that somebody
/// else holds and those at `passed`.
pub(super) async fn hold_stale(
    tx: &mut PgConnection,
    column: Column,
    current: u32,
    (from, to): (i64, i64),
    passed: &[String],
    limit: i64,
) -> sqlx::Result<Vec<Stale>> {
    let Column { table, name, row, .. } = column;
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
        Ok(Stale {
            at: row.try_get(0)?,
            row: row.try_get(1)?,
            sealed: row.try_get(2)?,
        })
    };
    rows.iter().map(stale).collect()
}

/// Replaces the value of a row that `hold_stale` holds.
pub(super) async fn replace(
    tx: &mut PgConnection,
    column: Column,
    at: &str,
    sealed: &[u8],
) -> sqlx::Result<()> {
    let Column { table, name, .. } = column;
    let sql = format!("update {table} set {name} = $2 where ctid = $1::text::tid");
    sqlx::query(AssertSqlSafe(sql))
        .bind(at)
        .bind(sealed)
        .execute(tx)
        .await
        .map(drop)
}
