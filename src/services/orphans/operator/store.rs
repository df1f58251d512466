//! SQL statements for pending orphans, as operators and users see them.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgExecutor};
use uuid::Uuid;

use crate::kernel::ids::ServiceId;
use crate::kernel::names::InstanceName;

/// A pending orphan, as operators and users see it.
#[derive(Clone, Debug)]
pub struct PendingOrphan {
    pub id: Uuid,
    pub service: String,
    pub service_id: Option<ServiceId>,
    pub instance: InstanceName,
    /// `instance` or `bind`.
    pub kind: String,
    /// The app of a bind.
    pub app: String,
    /// The id of a bind.
    pub bind: Option<String>,
    /// The result of the last attempt.
    pub reason: String,
    pub attempts: i32,
    pub created_at: DateTime<Utc>,
    /// When the next attempt is due.
    pub wake_at: DateTime<Utc>,
    /// A call about it is running.
    pub at_work: bool,
}

/// Lists all pending orphans, the oldest first.
pub(super) async fn list_pending_orphans(
    db: impl PgExecutor<'_>,
    limit: i64,
) -> sqlx::Result<Vec<PendingOrphan>> {
    sqlx::query_as!(
        PendingOrphan,
        r#"select orphan_id as id, service, service_id as "service_id: ServiceId", instance as "instance: InstanceName",
                  kind, coalesce(detail #>> '{app,name}', '') as "app!", detail ->> 'bind' as bind, reason, attempts,
                  created_at, wake_at, coalesce(claimed_until > now(), false) as "at_work!"
           from orphan where ended_at is null order by created_at, orphan_id limit $1"#,
        limit,
    )
    .fetch_all(db)
    .await
}

/// Lists the pending orphans of one instance.
pub(in crate::services) async fn list_pending_orphans_of_instance(
    db: impl PgExecutor<'_>,
    service: ServiceId,
    name: &InstanceName,
) -> sqlx::Result<Vec<PendingOrphan>> {
    sqlx::query_as!(
        PendingOrphan,
        r#"select orphan_id as id, service, service_id as "service_id: ServiceId", instance as "instance: InstanceName",
                  kind, coalesce(detail #>> '{app,name}', '') as "app!", detail ->> 'bind' as bind, reason, attempts,
                  created_at, wake_at, coalesce(claimed_until > now(), false) as "at_work!"
           from orphan where ended_at is null and service_id = $1 and instance = $2 order by created_at, orphan_id"#,
        service.0,
        name.as_str(),
    )
    .fetch_all(db)
    .await
}

/// Locks a pending orphan.
pub(super) async fn lock_pending_orphan(
    tx: &mut PgConnection,
    id: Uuid,
) -> sqlx::Result<Option<PendingOrphan>> {
    sqlx::query_as!(
        PendingOrphan,
        r#"select orphan_id as id, service, service_id as "service_id: ServiceId", instance as "instance: InstanceName",
                  kind, coalesce(detail #>> '{app,name}', '') as "app!", detail ->> 'bind' as bind, reason, attempts,
                  created_at, wake_at, coalesce(claimed_until > now(), false) as "at_work!"
           from orphan where ended_at is null and orphan_id = $1 for update"#,
        id,
    )
    .fetch_optional(tx)
    .await
}

/// Makes an orphan due at once, with short pauses again.
pub(super) async fn wake_orphan(tx: &mut PgConnection, id: Uuid) -> sqlx::Result<()> {
    sqlx::query!(
        "update orphan set wake_at = now(), attempts = 0 where orphan_id = $1",
        id
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Ends an orphan as given up by an operator.
pub(super) async fn mark_given_up(tx: &mut PgConnection, id: Uuid) -> sqlx::Result<()> {
    sqlx::query!(
        "update orphan set ended_at = coalesce(ended_at, now()), given_up_at = now() where orphan_id = $1",
        id
    )
    .execute(tx)
    .await
    .map(drop)
}
