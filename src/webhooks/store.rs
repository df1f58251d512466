//! Stores webhooks. All access to the table is here.

use sqlx::{PgConnection, PgExecutor};

use crate::kernel::ids::{UserId, WebhookId};
use crate::kernel::names::{TeamName, WebhookName};
use crate::webhooks::model::{WebhookFilter, WebhookSpec};

/// Filters webhooks; `None` does not filter.
#[derive(Clone, Debug, Default)]
pub(super) struct WebhookQuery<'a> {
    pub(super) name: Option<&'a WebhookName>,
    pub(super) teams: Option<&'a [String]>,
}

/// A stored webhook, with its request encrypted.
pub(super) struct WebhookRow {
    pub(super) id: WebhookId,
    pub(super) name: WebhookName,
    pub(super) team: TeamName,
    pub(super) description: String,
    pub(super) method: String,
    pub(super) insecure: bool,
    target_kinds: Vec<String>,
    target_values: Vec<String>,
    kind_types: Vec<String>,
    kind_names: Vec<String>,
    error_only: bool,
    success_only: bool,
    pub(super) sealed: Vec<u8>,
}

impl WebhookRow {
    /// Takes the filter out of the row.
    pub(super) fn take_filter(&mut self) -> WebhookFilter {
        WebhookFilter {
            target_types: std::mem::take(&mut self.target_kinds),
            target_values: std::mem::take(&mut self.target_values),
            kind_types: std::mem::take(&mut self.kind_types),
            kind_names: std::mem::take(&mut self.kind_names),
            error_only: self.error_only,
            success_only: self.success_only,
        }
    }
}

/// Returns webhooks, sorted by name.
pub(super) async fn list_webhooks(
    db: impl PgExecutor<'_>,
    query: &WebhookQuery<'_>,
) -> sqlx::Result<Vec<WebhookRow>> {
    sqlx::query_as!(
        WebhookRow,
        r#"select w.webhook_id as "id: WebhookId", w.name as "name: WebhookName", t.name as "team: TeamName",
                  w.description, w.method, w.insecure, w.target_kinds, w.target_values, w.kind_types, w.kind_names,
                  w.error_only, w.success_only, w.sealed
           from webhook w join team t using (team_id)
           where ($1::text is null or w.name = $1) and ($2::text[] is null or t.name = any($2))
           order by w.name"#,
        query.name.map(WebhookName::as_str),
        query.teams,
    )
    .fetch_all(db)
    .await
}

/// Locks a team until the transaction ends, so that the number of its webhooks stays; returns false if it is
/// gone.
pub(super) async fn lock_team(tx: &mut PgConnection, team: &TeamName) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        "select name from team where name = $1 for no key update",
        team.as_str()
    )
    .fetch_optional(tx)
    .await
    .map(|found| found.is_some())
}

/// A webhook to be written.
pub(super) struct WebhookWrite<'a> {
    pub(super) id: WebhookId,
    pub(super) team: &'a TeamName,
    pub(super) spec: &'a WebhookSpec,
    /// The encrypted request.
    pub(super) sealed: &'a [u8],
    /// The maximum number of webhooks of a team.
    pub(super) most: i64,
}

/// Inserts a webhook; returns false if the team has the maximum number already. The caller must have locked
/// the team.
pub(super) async fn insert_webhook(
    tx: &mut PgConnection,
    name: &WebhookName,
    creator: UserId,
    write: &WebhookWrite<'_>,
) -> sqlx::Result<bool> {
    let filter = &write.spec.filter;
    sqlx::query!(
        "insert into webhook (webhook_id, name, team_id, creator_id, description, method, insecure, target_kinds,
                              target_values, kind_types, kind_names, error_only, success_only, sealed)
         select $1, $2, t.team_id, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14 from team t
         where t.name = $3 and (select count(*) from webhook w where w.team_id = t.team_id) < $15",
        write.id.0,
        name.as_str(),
        write.team.as_str(),
        creator.0,
        write.spec.description,
        write.spec.method,
        write.spec.insecure,
        &filter.target_types,
        &filter.target_values,
        &filter.kind_types,
        &filter.kind_names,
        filter.error_only,
        filter.success_only,
        write.sealed,
        write.most,
    )
    .execute(tx)
    .await
    .map(|done| done.rows_affected() == 1)
}

/// Replaces everything of a webhook but its name and creator; returns false if it is gone, or if its new team
/// has the maximum number already. The caller must have locked the team.
pub(super) async fn update_webhook(tx: &mut PgConnection, write: &WebhookWrite<'_>) -> sqlx::Result<bool> {
    let filter = &write.spec.filter;
    sqlx::query!(
        "update webhook w
         set team_id = t.team_id, description = $3, method = $4, insecure = $5, target_kinds = $6, target_values = $7,
             kind_types = $8, kind_names = $9, error_only = $10, success_only = $11, sealed = $12
         from team t
         where w.webhook_id = $1 and t.name = $2
           and (w.team_id = t.team_id or (select count(*) from webhook o where o.team_id = t.team_id) < $13)",
        write.id.0,
        write.team.as_str(),
        write.spec.description,
        write.spec.method,
        write.spec.insecure,
        &filter.target_types,
        &filter.target_values,
        &filter.kind_types,
        &filter.kind_names,
        filter.error_only,
        filter.success_only,
        write.sealed,
        write.most,
    )
    .execute(tx)
    .await
    .map(|done| done.rows_affected() == 1)
}

/// Deletes a webhook; returns false if it is gone.
pub(super) async fn delete_webhook(tx: &mut PgConnection, id: WebhookId) -> sqlx::Result<bool> {
    sqlx::query!("delete from webhook where webhook_id = $1", id.0)
        .execute(tx)
        .await
        .map(|done| done.rows_affected() == 1)
}

/// Locks a webhook until the transaction ends; returns false if it is gone.
pub(super) async fn lock_webhook(tx: &mut PgConnection, id: WebhookId) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        "select name from webhook where webhook_id = $1 for no key update",
        id.0
    )
    .fetch_optional(tx)
    .await
    .map(|found| found.is_some())
}
