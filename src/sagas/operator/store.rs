//! SQL statements for what operators do about sagas.

use sqlx::{PgConnection, PgExecutor};

use crate::kernel::ids::{EventId, SagaId};
use crate::sagas::operator::UnsettledSaga;

pub(super) async fn list_unsettled(db: impl PgExecutor<'_>, limit: i64) -> sqlx::Result<Vec<UnsettledSaga>> {
    sqlx::query_as!(
        UnsettledSaga,
        r#"select s.saga_id as "id: SagaId", s.kind, s.state, s.attempts, s.error, s.last_error,
                  coalesce(e.target_kind, '') as "target_kind!", coalesce(e.target_value, '') as "target_value!",
                  s.created_at, s.wake_at, s.queue, coalesce(s.lease_until > now(), false) as "at_work!"
           from saga s left join event e using (event_id)
           where (s.state = 'stuck' and s.given_up_at is null) or (s.ended_at is null and (s.attempts > 0 or s.last_error <> ''))
           order by s.created_at, s.saga_id limit $1"#,
        limit,
    )
    .fetch_all(db)
    .await
}

/// Locks a saga of `list_unsettled`.
pub(super) async fn lock_unsettled(tx: &mut PgConnection, id: SagaId) -> sqlx::Result<Option<UnsettledSaga>> {
    sqlx::query_as!(
        UnsettledSaga,
        r#"select s.saga_id as "id: SagaId", s.kind, s.state, s.attempts, s.error, s.last_error,
                  coalesce(e.target_kind, '') as "target_kind!", coalesce(e.target_value, '') as "target_value!",
                  s.created_at, s.wake_at, s.queue, coalesce(s.lease_until > now(), false) as "at_work!"
           from saga s left join event e using (event_id)
           where s.saga_id = $1
             and ((s.state = 'stuck' and s.given_up_at is null) or (s.ended_at is null and (s.attempts > 0 or s.last_error <> '')))
           for update of s"#,
        id.0,
    )
    .fetch_optional(tx)
    .await
}

/// Resumes a stuck saga, forward or undoing, with all attempts left; the saga ends this event.
pub(super) async fn restart_stuck(tx: &mut PgConnection, id: SagaId, event: &EventId) -> sqlx::Result<()> {
    sqlx::query!(
        "update saga set state = coalesce(stuck_state, 'undoing'), ended_at = null,
                error_kind = case when stuck_state = 'forward' then null else error_kind end,
                error = case when stuck_state = 'forward' then '' else error end, attempts = 0, wake_at = now(), event_id = $2,
                lease_until = null, fence = fence + 1
         where saga_id = $1",
        id.0,
        event.as_str(),
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Makes the next attempt due at once.
pub(super) async fn wake_saga(tx: &mut PgConnection, id: SagaId) -> sqlx::Result<()> {
    sqlx::query!("update saga set wake_at = now() where saga_id = $1", id.0)
        .execute(tx)
        .await
        .map(drop)
}

/// Marks a saga as given up: it gets one more attempt, due at once.
pub(super) async fn mark_given_up(tx: &mut PgConnection, id: SagaId) -> sqlx::Result<()> {
    sqlx::query!(
        "update saga set given_up_at = now(), wake_at = now() where saga_id = $1",
        id.0
    )
    .execute(tx)
    .await
    .map(drop)
}
