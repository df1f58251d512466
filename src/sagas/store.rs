//! Sagas in SQL. Every write after the claim names the fence.

use serde_json::Value;
use sqlx::{PgConnection, PgExecutor};

use crate::kernel::ids::{EventId, ReplicaId, SagaId};
use crate::sagas::Lane;

/// How long a claim holds without being renewed, in seconds. With the poll it bounds how long a dead
/// replica's work lies still.
pub(super) const LEASE_SECONDS: f64 = 8.0;

pub(super) struct Claimed {
    pub(super) saga_id: SagaId,
    pub(super) kind: String,
    pub(super) event_id: Option<String>,
    pub(super) state: String,
    pub(super) step: i32,
    pub(super) data: Value,
    pub(super) attempts: i32,
    pub(super) problem_kind: Option<String>,
    pub(super) problem: String,
    pub(super) fence: i64,
}

pub(super) async fn insert(
    tx: &mut PgConnection,
    id: SagaId,
    kind: &str,
    lane: Lane,
    event: Option<&EventId>,
    host: Option<&str>,
    data: &Value,
) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into saga (saga_id, kind, lane, event_id, host, data) values ($1, $2, $3, $4, $5, $6)",
        id.0,
        kind,
        lane.as_str(),
        event.map(EventId::as_str),
        host,
        data,
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Claims the saga that has waited longest, among the kinds that this replica knows.
pub(super) async fn claim(
    db: impl PgExecutor<'_>,
    lane: Lane,
    kinds: &[String],
    host: &str,
    by: ReplicaId,
) -> sqlx::Result<Option<Claimed>> {
    sqlx::query_as!(
        Claimed,
        r#"update saga set claimed_by = $4, fence = fence + 1, lease_until = now() + make_interval(secs => $5)
           where saga_id = (
               select saga_id from saga
               where ended_at is null and lane = $1 and wake_at <= now() and kind = any($2)
                 and (host is null or host = $3) and (lease_until is null or lease_until < now())
               order by wake_at, saga_id for update skip locked limit 1)
           returning saga_id as "saga_id: SagaId", kind, event_id, state, step, data, attempts, problem_kind, problem, fence"#,
        lane.as_str(),
        kinds,
        host,
        by.0,
        LEASE_SECONDS,
    )
    .fetch_optional(db)
    .await
}

/// Ends the claims of a replica that is known to be dead, so that nobody waits for its leases.
pub async fn release_claims(db: impl PgExecutor<'_>, dead: ReplicaId) -> sqlx::Result<()> {
    sqlx::query!(
        "update saga set lease_until = null where claimed_by = $1 and ended_at is null",
        dead.0
    )
    .execute(db)
    .await
    .map(drop)
}

/// Renews the lease; false when somebody else has the saga now.
pub(super) async fn renew(db: impl PgExecutor<'_>, id: SagaId, fence: i64) -> sqlx::Result<bool> {
    sqlx::query!(
        "update saga set lease_until = now() + make_interval(secs => $3)
         where saga_id = $1 and fence = $2 and ended_at is null",
        id.0,
        fence,
        LEASE_SECONDS,
    )
    .execute(db)
    .await
    .map(|done| done.rows_affected() == 1)
}

/// Holds the saga's row in this transaction if the fence still stands.
pub(super) async fn hold(tx: &mut PgConnection, id: SagaId, fence: i64) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        "select 1 from saga where saga_id = $1 and fence = $2 and ended_at is null for update",
        id.0,
        fence
    )
    .fetch_optional(tx)
    .await
    .map(|row| row.is_some())
}

/// What is written when a step ends.
pub(super) struct Progress<'a> {
    pub(super) state: &'a str,
    pub(super) step: i32,
    pub(super) data: &'a Value,
    pub(super) attempts: i32,
    pub(super) problem_kind: Option<&'a str>,
    pub(super) problem: &'a str,
    pub(super) wake_in_seconds: f64,
    /// Gives the claim back, so that whoever comes first goes on.
    pub(super) release: bool,
}

pub(super) async fn save(
    db: impl PgExecutor<'_>,
    id: SagaId,
    fence: i64,
    progress: &Progress<'_>,
) -> sqlx::Result<bool> {
    sqlx::query!(
        "update saga set state = $3, step = $4, data = $5, attempts = $6, problem_kind = $7, problem = $8,
                wake_at = now() + make_interval(secs => $9),
                lease_until = case when $10 then null else now() + make_interval(secs => $11) end,
                ended_at = case when $3 in ('done', 'undone', 'stuck') then now() end
         where saga_id = $1 and fence = $2 and ended_at is null",
        id.0,
        fence,
        progress.state,
        progress.step,
        progress.data,
        progress.attempts,
        progress.problem_kind,
        progress.problem,
        progress.wake_in_seconds,
        progress.release,
        LEASE_SECONDS,
    )
    .execute(db)
    .await
    .map(|done| done.rows_affected() == 1)
}

/// How many sagas are open, and how many have waited for more than a lease without an owner.
#[derive(Clone, Copy, Debug)]
pub struct Counts {
    pub open: i64,
    pub overdue: i64,
    pub stuck: i64,
}

/// For healers and health checks.
pub async fn counts(db: impl PgExecutor<'_>) -> sqlx::Result<Counts> {
    sqlx::query_as!(
        Counts,
        r#"select count(*) filter (where ended_at is null) as "open!",
                  count(*) filter (where ended_at is null and wake_at < now() - interval '30 seconds'
                                   and (lease_until is null or lease_until < now())) as "overdue!",
                  count(*) filter (where state = 'stuck') as "stuck!"
           from saga where ended_at is null or state = 'stuck'"#
    )
    .fetch_one(db)
    .await
}

/// Keeps the data in a transaction that already holds the row.
pub(super) async fn save_data(tx: &mut PgConnection, id: SagaId, data: &Value) -> sqlx::Result<()> {
    sqlx::query!("update saga set data = $2 where saga_id = $1", id.0, data)
        .execute(tx)
        .await
        .map(drop)
}
