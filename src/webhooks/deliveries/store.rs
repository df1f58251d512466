//! Stores deliveries. The database writes them itself, when an event ends.

use sqlx::types::Json;
use sqlx::{PgConnection, PgExecutor};
use uuid::Uuid;

use crate::kernel::ids::{EventId, WebhookId};
use crate::webhooks::deliveries::model::{DeliveryAttempt, DeliveryReport};

/// Returns the deliveries of an event to webhooks of some teams, or of all.
pub(super) async fn list_deliveries(
    db: impl PgExecutor<'_>,
    event: &EventId,
    teams: Option<&[String]>,
) -> sqlx::Result<Vec<DeliveryReport>> {
    let rows = sqlx::query!(
        r#"select d.webhook_name, d.state, d.error, d.attempts as "attempts: Json<Vec<DeliveryAttempt>>"
           from webhook_delivery d
           where d.event_id = $1
             and ($2::text[] is null or d.team_id in (select team_id from team where name = any($2)))
           order by d.webhook_name, d.webhook_id"#,
        event.as_str(),
        teams,
    )
    .fetch_all(db)
    .await?;
    let reports = rows.into_iter().map(|row| DeliveryReport {
        webhook: row.webhook_name,
        state: row.state,
        error: row.error,
        attempts: row.attempts.0,
    });
    Ok(reports.collect())
}

pub(super) async fn delete_open_deliveries(tx: &mut PgConnection, webhook: WebhookId) -> sqlx::Result<()> {
    sqlx::query!(
        "delete from webhook_delivery where webhook_id = $1 and ended_at is null",
        webhook.0
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Deletes what is still to be sent to webhooks that no longer exist.
pub(super) async fn delete_orphaned_deliveries(tx: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::query!(
        "delete from webhook_delivery where delivery_id = any(array(
             select d.delivery_id from webhook_delivery d
             where d.ended_at is null and not exists (select from webhook w where w.webhook_id = d.webhook_id)
             for update skip locked))"
    )
    .execute(tx)
    .await
    .map(drop)
}

/// A delivery that was given to a saga.
pub(super) struct StartedDelivery {
    pub(super) id: Uuid,
    /// The user who created the webhook, or its team.
    pub(super) shares_with: Uuid,
}

/// Starts the deliveries that have waited longest, so that each webhook has at most `most_open` open ones.
pub(super) async fn start_deliveries(
    tx: &mut PgConnection,
    most_open: i64,
    at_most: i64,
) -> sqlx::Result<Vec<StartedDelivery>> {
    sqlx::query_as!(
        StartedDelivery,
        r#"with ranked as (
               select delivery_id, row_number() over (
                   partition by webhook_id order by state = 'waiting', created_at, delivery_id) as nth
               from webhook_delivery where ended_at is null),
           next as (
               select d.delivery_id from webhook_delivery d join ranked using (delivery_id)
               where d.state = 'waiting' and ranked.nth <= $1
                 and exists (select from webhook w where w.webhook_id = d.webhook_id)
               order by d.created_at, d.delivery_id limit $2 for update of d skip locked)
           update webhook_delivery d set state = 'sending'
           from next, webhook w
           where d.delivery_id = next.delivery_id and w.webhook_id = d.webhook_id
           returning d.delivery_id as "id!", coalesce(w.creator_id, w.team_id) as "shares_with!""#,
        most_open,
        at_most,
    )
    .fetch_all(tx)
    .await
}

/// A delivery that is being sent, with its webhook as it is now.
pub(super) struct OpenDelivery {
    pub(super) event: EventId,
    pub(super) webhook: WebhookId,
    pub(super) method: String,
    pub(super) insecure: bool,
    pub(super) sealed: Vec<u8>,
    /// The webhook's team may read the event.
    pub(super) is_readable: bool,
}

/// Returns a delivery that is being sent; `None`: it has ended, or its webhook is gone.
pub(super) async fn find_open_delivery(
    db: impl PgExecutor<'_>,
    id: Uuid,
) -> sqlx::Result<Option<OpenDelivery>> {
    sqlx::query_as!(
        OpenDelivery,
        r#"select d.event_id as "event: EventId", w.webhook_id as "webhook: WebhookId", w.method, w.insecure, w.sealed,
                  exists (select from event_reader r
                          where r.event_id = d.event_id and r.kind = 'team' and r.object_id = w.team_id) as "is_readable!"
           from webhook_delivery d join webhook w using (webhook_id)
           where d.delivery_id = $1 and d.state = 'sending'"#,
        id,
    )
    .fetch_optional(db)
    .await
}

/// Appends an attempt to a delivery that is being sent; without an error, it is delivered.
pub(super) async fn record_attempt(
    tx: &mut PgConnection,
    id: Uuid,
    status: Option<u16>,
    error: &str,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update webhook_delivery
         set attempts = attempts || jsonb_build_array(
                 jsonb_build_object('at', clock_timestamp(), 'status', $2::integer, 'error', $3::text)),
             state = case when $3 = '' then 'delivered' else state end,
             ended_at = case when $3 = '' then now() end
         where delivery_id = $1 and state = 'sending'",
        id,
        status.map(i32::from),
        error,
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Ends a delivery that is being sent: it has failed, or was dropped, for a reason.
pub(super) async fn end_delivery(
    tx: &mut PgConnection,
    id: Uuid,
    state: &str,
    error: &str,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update webhook_delivery set state = $2, error = $3, ended_at = now()
         where delivery_id = $1 and state = 'sending'",
        id,
        state,
        error,
    )
    .execute(tx)
    .await
    .map(drop)
}
