//! What is hunted, as operators and users see it, in SQL.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgExecutor};
use uuid::Uuid;

use crate::kernel::ids::ServiceId;
use crate::kernel::names::InstanceName;

/// An orphan that is hunted, as operators and users see it.
#[derive(Clone, Debug)]
pub struct Open {
    pub id: Uuid,
    pub service: String,
    pub service_id: Option<ServiceId>,
    pub instance: InstanceName,
    /// `instance` or `bind`.
    pub what: String,
    /// Of a bind, the app.
    pub app: String,
    /// Of a bind, its id.
    pub bind: Option<String>,
    /// What the last try met.
    pub reason: String,
    pub attempts: i32,
    pub created_at: DateTime<Utc>,
    /// When the service is told again.
    pub wake_at: DateTime<Utc>,
    /// It is being told just now.
    pub at_work: bool,
}

/// All that is hunted, the oldest first.
pub(super) async fn list_open(db: impl PgExecutor<'_>, limit: i64) -> sqlx::Result<Vec<Open>> {
    sqlx::query_as!(
        Open,
        r#"select orphan_id as id, service, service_id as "service_id: ServiceId", instance as "instance: InstanceName",
                  what, coalesce(detail #>> '{app,name}', '') as "app!", detail ->> 'bind' as bind, reason, attempts,
                  created_at, wake_at, coalesce(claimed_until > now(), false) as "at_work!"
           from orphan where ended_at is null order by created_at, orphan_id limit $1"#,
        limit,
    )
    .fetch_all(db)
    .await
}

/// What is hunted of one instance.
pub(in crate::services) async fn list_open_of_instance(
    db: impl PgExecutor<'_>,
    service: ServiceId,
    name: &InstanceName,
) -> sqlx::Result<Vec<Open>> {
    sqlx::query_as!(
        Open,
        r#"select orphan_id as id, service, service_id as "service_id: ServiceId", instance as "instance: InstanceName",
                  what, coalesce(detail #>> '{app,name}', '') as "app!", detail ->> 'bind' as bind, reason, attempts,
                  created_at, wake_at, coalesce(claimed_until > now(), false) as "at_work!"
           from orphan where ended_at is null and service_id = $1 and instance = $2 order by created_at, orphan_id"#,
        service.0,
        name.as_str(),
    )
    .fetch_all(db)
    .await
}

/// Holds what is hunted.
pub(super) async fn hold_open(tx: &mut PgConnection, id: Uuid) -> sqlx::Result<Option<Open>> {
    sqlx::query_as!(
        Open,
        r#"select orphan_id as id, service, service_id as "service_id: ServiceId", instance as "instance: InstanceName",
                  what, coalesce(detail #>> '{app,name}', '') as "app!", detail ->> 'bind' as bind, reason, attempts,
                  created_at, wake_at, coalesce(claimed_until > now(), false) as "at_work!"
           from orphan where ended_at is null and orphan_id = $1 for update"#,
        id,
    )
    .fetch_optional(tx)
    .await
}

/// Has the service told at once, and with short pauses again.
pub(super) async fn wake(tx: &mut PgConnection, id: Uuid) -> sqlx::Result<()> {
    sqlx::query!(
        "update orphan set wake_at = now(), attempts = 0 where orphan_id = $1",
        id
    )
    .execute(tx)
    .await
    .map(drop)
}

/// The service is told no more.
pub(super) async fn give_up(tx: &mut PgConnection, id: Uuid) -> sqlx::Result<()> {
    sqlx::query!(
        "update orphan set ended_at = coalesce(ended_at, now()), given_up_at = now() where orphan_id = $1",
        id
    )
    .execute(tx)
    .await
    .map(drop)
}
