//! Sagas in SQL. Every write after the claim names the fence.

use chrono::{DateTime, Utc};
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
    pub(super) given_up: bool,
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
           returning saga_id as "saga_id: SagaId", kind, event_id, state, step, data, attempts, problem_kind, problem, fence,
                     given_up_at is not null as "given_up!""#,
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
    /// What the last try met; empty when it met nothing.
    pub(super) last_problem: &'a str,
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
                ended_at = case when $3 in ('done', 'undone', 'stuck') then now() end, last_problem = $12,
                stuck_state = case when $3 = 'stuck' then state end
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
        progress.last_problem,
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
           from saga where ended_at is null or (state = 'stuck' and given_up_at is null)"#
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

/// A saga that does not end by itself, or not at once.
#[derive(Clone, Debug)]
pub struct Unsettled {
    pub id: SagaId,
    pub kind: String,
    /// `stuck`, or `forward` or `undoing` with a failed try behind it.
    pub state: String,
    pub attempts: i32,
    /// Why it is being undone; empty if it is not.
    pub problem: String,
    /// What the last try met.
    pub last_problem: String,
    /// What its event is about; empty without one.
    pub target_kind: String,
    pub target_value: String,
    pub created_at: DateTime<Utc>,
    /// When it is tried again; of no meaning when it is stuck.
    pub wake_at: DateTime<Utc>,
    pub lane: String,
    /// A worker has it just now.
    pub at_work: bool,
}

impl Unsettled {
    /// Whether it waits for an operator.
    pub fn is_stuck(&self) -> bool {
        self.state == "stuck"
    }
}

pub(super) async fn list_unsettled(db: impl PgExecutor<'_>, limit: i64) -> sqlx::Result<Vec<Unsettled>> {
    sqlx::query_as!(
        Unsettled,
        r#"select s.saga_id as "id: SagaId", s.kind, s.state, s.attempts, s.problem, s.last_problem,
                  coalesce(e.target_kind, '') as "target_kind!", coalesce(e.target_value, '') as "target_value!",
                  s.created_at, s.wake_at, s.lane, coalesce(s.lease_until > now(), false) as "at_work!"
           from saga s left join event e using (event_id)
           where (s.state = 'stuck' and s.given_up_at is null) or (s.ended_at is null and s.attempts > 0)
           order by s.created_at, s.saga_id limit $1"#,
        limit,
    )
    .fetch_all(db)
    .await
}

/// Holds a saga of `list_unsettled`.
pub(super) async fn hold_unsettled(tx: &mut PgConnection, id: SagaId) -> sqlx::Result<Option<Unsettled>> {
    sqlx::query_as!(
        Unsettled,
        r#"select s.saga_id as "id: SagaId", s.kind, s.state, s.attempts, s.problem, s.last_problem,
                  coalesce(e.target_kind, '') as "target_kind!", coalesce(e.target_value, '') as "target_value!",
                  s.created_at, s.wake_at, s.lane, coalesce(s.lease_until > now(), false) as "at_work!"
           from saga s left join event e using (event_id)
           where s.saga_id = $1
             and ((s.state = 'stuck' and s.given_up_at is null) or (s.ended_at is null and s.attempts > 0))
           for update of s"#,
        id.0,
    )
    .fetch_optional(tx)
    .await
}

/// What was stuck goes on, forward or back, with all tries before it, and ends this event.
pub(super) async fn revive(tx: &mut PgConnection, id: SagaId, event: &EventId) -> sqlx::Result<()> {
    sqlx::query!(
        "update saga set state = coalesce(stuck_state, 'undoing'), ended_at = null,
                problem_kind = case when stuck_state = 'forward' then null else problem_kind end,
                problem = case when stuck_state = 'forward' then '' else problem end, attempts = 0, wake_at = now(), event_id = $2,
                lease_until = null, fence = fence + 1
         where saga_id = $1",
        id.0,
        event.as_str(),
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Has the next try at once.
pub(super) async fn wake(tx: &mut PgConnection, id: SagaId) -> sqlx::Result<()> {
    sqlx::query!("update saga set wake_at = now() where saga_id = $1", id.0)
        .execute(tx)
        .await
        .map(drop)
}

/// Wants no more tries than one.
pub(super) async fn give_up(tx: &mut PgConnection, id: SagaId) -> sqlx::Result<()> {
    sqlx::query!(
        "update saga set given_up_at = now(), wake_at = now() where saga_id = $1",
        id.0
    )
    .execute(tx)
    .await
    .map(drop)
}
