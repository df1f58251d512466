//! SQL statements for sagas. Every write after the claim names the fence.

use serde_json::Value;
use sqlx::{PgConnection, PgExecutor};
use uuid::Uuid;

use crate::kernel::ids::{AppId, EventId, ReplicaId, SagaId};
use crate::sagas::SagaQueue;
use crate::sagas::workers::ClaimAdmission;

/// How long a claim lasts without renewal, in seconds. Together with the poll interval it bounds how long the
/// work of a dead replica is interrupted.
pub(super) const LEASE_SECONDS: f64 = 8.0;

pub(super) struct ClaimedSaga {
    pub(super) saga_id: SagaId,
    pub(super) kind: String,
    pub(super) event_id: Option<String>,
    pub(super) state: String,
    pub(super) step: String,
    pub(super) data: Value,
    pub(super) attempts: i32,
    pub(super) error_kind: Option<String>,
    pub(super) error: String,
    pub(super) fence: i64,
    pub(super) given_up: bool,
    pub(super) share_key: String,
}

/// A saga to insert.
pub(super) struct NewSagaRow<'a> {
    pub(super) id: SagaId,
    pub(super) kind: &'a str,
    pub(super) queue: SagaQueue,
    pub(super) step: &'a str,
    pub(super) event: Option<&'a EventId>,
    pub(super) host: Option<&'a str>,
    pub(super) share_key: &'a str,
    pub(super) data: &'a Value,
}

pub(super) async fn insert_saga(tx: &mut PgConnection, new: &NewSagaRow<'_>) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into saga (saga_id, kind, queue, step, event_id, host, data, share_key)
         values ($1, $2, $3, $4, $5, $6, $7, $8)",
        new.id.0,
        new.kind,
        new.queue.as_str(),
        new.step,
        new.event.map(EventId::as_str),
        new.host,
        new.data,
        new.share_key,
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Returns the share key of an event: its user; for a team token the user who created it, or else its team;
/// for what an app's token or Tancho itself began, the user who owns the app, or else the target of the event.
pub(super) async fn find_event_share_key(
    tx: &mut PgConnection,
    event: &EventId,
) -> sqlx::Result<Option<String>> {
    sqlx::query_scalar!(
        r#"select coalesce(
                      case e.owner_kind
                          when 'user' then 'user/' || lower(e.owner_name)
                          when 'token' then (
                              select coalesce('user/' || lower(u.email), 'team/' || t.name)
                              from team_token k join team t using (team_id)
                              left join user_account u on u.user_id = k.creator_id
                              where k.name = e.owner_name)
                      end,
                      'user/' || lower(a.owner), e.target_kind || '/' || e.target_value) as "key!"
           from event e
           left join app a on (e.owner_kind = 'app' and a.name = e.owner_name and a.kind = 'app')
                           or (e.owner_kind <> 'app' and a.kind = e.target_kind and a.name = e.target_value)
           where e.event_id = $1"#,
        event.as_str(),
    )
    .fetch_optional(tx)
    .await
}

/// Returns the share key of what Tancho does for an app by itself: the user who owns the app.
pub(super) async fn find_app_share_key(tx: &mut PgConnection, app: AppId) -> sqlx::Result<Option<String>> {
    sqlx::query_scalar!(
        r#"select 'user/' || lower(owner) as "key!" from app where app_id = $1"#,
        app.0
    )
    .fetch_optional(tx)
    .await
}

/// The sagas that a replica may claim.
pub(super) struct ClaimFilter<'a> {
    pub(super) queue: SagaQueue,
    /// The kinds that the replica knows.
    pub(super) kinds: &'a [String],
    pub(super) host: &'a str,
    pub(super) admission: &'a ClaimAdmission,
    /// The sagas that the replica cannot read.
    pub(super) excluded: &'a [Uuid],
}

/// Claims a saga of the kinds that this replica knows: among the keys below their share, the one with the
/// fewest active sagas here; among its sagas, the one that has waited longest.
pub(super) async fn claim_saga(
    db: impl PgExecutor<'_>,
    by: ReplicaId,
    filter: &ClaimFilter<'_>,
) -> sqlx::Result<Option<ClaimedSaga>> {
    sqlx::query_as!(
        ClaimedSaga,
        r#"update saga set claimed_by = $4, fence = fence + 1, lease_until = now() + make_interval(secs => $5)
           where saga_id = (
               select s.saga_id from saga s
               left join unnest($6::text[], $7::integer[]) as working (key, active) on working.key = s.share_key
               where s.ended_at is null and s.queue = $1 and s.wake_at <= now() and s.kind = any($2)
                 and (s.host is null or s.host = $3) and (s.lease_until is null or s.lease_until < now())
                 and s.share_key <> all ($8) and s.saga_id <> all ($9)
               order by coalesce(working.active, 0), s.wake_at, s.saga_id for update of s skip locked limit 1)
           returning saga_id as "saga_id: SagaId", kind, event_id, state, step, data, attempts, error_kind, error, fence,
                     given_up_at is not null as "given_up!", share_key"#,
        filter.queue.as_str(),
        filter.kinds,
        filter.host,
        by.0,
        LEASE_SECONDS,
        &filter.admission.keys,
        &filter.admission.active,
        &filter.admission.full,
        filter.excluded,
    )
    .fetch_optional(db)
    .await
}

/// Releases the claim of a saga that its claimer cannot read, for other replicas, which may claim it after
/// `delay` seconds.
pub(super) async fn leave_unreadable(
    db: impl PgExecutor<'_>,
    id: SagaId,
    fence: i64,
    why: &str,
    delay: f64,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update saga set lease_until = null, last_error = $3,
                wake_at = case when $4::float8 > 0 then now() + make_interval(secs => $4) else wake_at end
         where saga_id = $1 and fence = $2 and ended_at is null",
        id.0,
        fence,
        why,
        delay,
    )
    .execute(db)
    .await
    .map(drop)
}

/// Marks a saga as stuck that no replica can read and an operator has given up. Returns false if the claim is
/// lost.
pub(super) async fn mark_unreadable_stuck(
    tx: &mut PgConnection,
    id: SagaId,
    fence: i64,
    why: &str,
) -> sqlx::Result<bool> {
    sqlx::query!(
        "update saga set stuck_state = state, state = 'stuck', ended_at = now(), lease_until = null, last_error = $3
         where saga_id = $1 and fence = $2 and ended_at is null",
        id.0,
        fence,
        why,
    )
    .execute(tx)
    .await
    .map(|done| done.rows_affected() == 1)
}

/// Releases the claims of a replica that is known to be dead, so that nobody waits for its leases.
pub async fn release_claims(db: impl PgExecutor<'_>, dead: ReplicaId) -> sqlx::Result<()> {
    sqlx::query!(
        "update saga set lease_until = null where claimed_by = $1 and ended_at is null",
        dead.0
    )
    .execute(db)
    .await
    .map(drop)
}

/// Renews leases. Returns the lost ones: another replica has the saga now, or it has ended.
pub(super) async fn renew_leases(
    db: impl PgExecutor<'_>,
    ids: &[SagaId],
    fences: &[i64],
) -> sqlx::Result<Vec<(SagaId, i64)>> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    // A row that is locked by the transaction of a step is still held by this replica; it must not delay the
    // others.
    let lost = sqlx::query!(
        r#"with held as (select * from unnest($1::uuid[], $2::bigint[]) as held (saga_id, fence)),
                renewed as (
                    update saga set lease_until = now() + make_interval(secs => $3)
                    where saga_id in (
                        select s.saga_id from saga s join held h on h.saga_id = s.saga_id and h.fence = s.fence
                        where s.ended_at is null for no key update of s skip locked))
           select h.saga_id as "saga_id!", h.fence as "fence!" from held h
           where not exists (select from saga s
                             where s.saga_id = h.saga_id and s.fence = h.fence and s.ended_at is null)"#,
        &ids,
        fences,
        LEASE_SECONDS,
    )
    .fetch_all(db)
    .await?;
    Ok(lost
        .into_iter()
        .map(|row| (SagaId(row.saga_id), row.fence))
        .collect())
}

/// Locks the row of the saga in this transaction, if the fence is still valid.
pub(super) async fn lock_fenced(tx: &mut PgConnection, id: SagaId, fence: i64) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        "select 1 from saga where saga_id = $1 and fence = $2 and ended_at is null for update",
        id.0,
        fence
    )
    .fetch_optional(tx)
    .await
    .map(|row| row.is_some())
}

/// What is written at the end of a step.
pub(super) struct StepProgress<'a> {
    pub(super) state: &'a str,
    pub(super) step: &'a str,
    pub(super) data: &'a Value,
    pub(super) attempts: i32,
    pub(super) error_kind: Option<&'a str>,
    pub(super) error: &'a str,
    /// The error of the last attempt; empty if there was none.
    pub(super) last_error: &'a str,
    pub(super) wake_in_seconds: f64,
    /// Releases the claim, so that any replica may continue.
    pub(super) release: bool,
}

pub(super) async fn save_progress(
    db: impl PgExecutor<'_>,
    id: SagaId,
    fence: i64,
    progress: &StepProgress<'_>,
) -> sqlx::Result<bool> {
    sqlx::query!(
        "update saga set state = $3, step = $4, data = $5, attempts = $6, error_kind = $7, error = $8,
                wake_at = now() + make_interval(secs => $9),
                lease_until = case when $10 then null else now() + make_interval(secs => $11) end,
                ended_at = case when $3 in ('done', 'undone', 'stuck') then now() end, last_error = $12,
                stuck_state = case when $3 = 'stuck' then state end
         where saga_id = $1 and fence = $2 and ended_at is null",
        id.0,
        fence,
        progress.state,
        progress.step,
        progress.data,
        progress.attempts,
        progress.error_kind,
        progress.error,
        progress.wake_in_seconds,
        progress.release,
        LEASE_SECONDS,
        progress.last_error,
    )
    .execute(db)
    .await
    .map(|done| done.rows_affected() == 1)
}

/// The number of open sagas, and of those that have waited for long although no other saga of their share key
/// is active.
#[derive(Clone, Copy, Debug)]
pub struct SagaCounts {
    pub open: i64,
    pub overdue: i64,
    pub stuck: i64,
}

/// Counts sagas, for healers and health checks.
pub async fn count_sagas(db: impl PgExecutor<'_>) -> sqlx::Result<SagaCounts> {
    sqlx::query_as!(
        SagaCounts,
        r#"select count(*) filter (where ended_at is null) as "open!",
                  count(*) filter (where ended_at is null and wake_at < now() - interval '30 seconds'
                                   and (lease_until is null or lease_until < now())
                                   and not exists (select from saga b where b.share_key = saga.share_key
                                                   and b.lease_until > now() and b.ended_at is null)) as "overdue!",
                  count(*) filter (where state = 'stuck') as "stuck!"
           from saga where ended_at is null or (state = 'stuck' and given_up_at is null)"#
    )
    .fetch_one(db)
    .await
}

/// Returns the data of a saga that has not ended, and locks it until the transaction ends.
pub(super) async fn lock_data(tx: &mut PgConnection, id: SagaId) -> sqlx::Result<Option<Value>> {
    sqlx::query_scalar!(
        "select data from saga where saga_id = $1 and ended_at is null for update",
        id.0
    )
    .fetch_optional(tx)
    .await
}

/// Sets the only host that may run a saga; `None`: any.
pub(super) async fn set_saga_host(tx: &mut PgConnection, id: SagaId, host: Option<&str>) -> sqlx::Result<()> {
    sqlx::query!("update saga set host = $2 where saga_id = $1", id.0, host)
        .execute(tx)
        .await
        .map(drop)
}

/// Stores the data in a transaction that already holds the row.
pub(super) async fn save_data(tx: &mut PgConnection, id: SagaId, data: &Value) -> sqlx::Result<()> {
    sqlx::query!("update saga set data = $2 where saga_id = $1", id.0, data)
        .execute(tx)
        .await
        .map(drop)
}
