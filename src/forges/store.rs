//! SQL of forges.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgExecutor};

use crate::kernel::ids::AppId;
use crate::kernel::names::{AppName, BranchName};

/// A forge in the database.
#[derive(Clone, Debug)]
pub(super) struct Forge {
    pub(super) app: AppId,
    pub(super) url: String,
    pub(super) branch: BranchName,
    pub(super) user: String,
    /// Encrypted.
    pub(super) secret: Vec<u8>,
    /// Encrypted.
    pub(super) password: Option<Vec<u8>>,
    /// Encrypted; only for SSH.
    pub(super) deploy_key: Option<Vec<u8>>,
    /// `SHA256:…`; empty: not seen yet.
    pub(super) host_key: String,
    pub(super) delivered_at: Option<DateTime<Utc>>,
    pub(super) commit: String,
    pub(super) error: String,
}

pub(super) async fn find_forge(db: impl PgExecutor<'_>, app: AppId) -> sqlx::Result<Option<Forge>> {
    sqlx::query_as!(
        Forge,
        r#"select app_id as "app: AppId", url, branch as "branch: BranchName", user_name as "user", secret, password,
                  deploy_key, host_key, delivered_at, commit_id as "commit", error
           from forge where app_id = $1"#,
        app.0,
    )
    .fetch_optional(db)
    .await
}

pub(super) async fn find_forge_by_app_name(
    db: impl PgExecutor<'_>,
    app: &AppName,
) -> sqlx::Result<Option<Forge>> {
    sqlx::query_as!(
        Forge,
        r#"select app_id as "app: AppId", url, branch as "branch: BranchName", user_name as "user", secret, password,
                  deploy_key, host_key, delivered_at, commit_id as "commit", error
           from forge join app using (app_id) where app.name = $1"#,
        app.as_str(),
    )
    .fetch_optional(db)
    .await
}

/// Sets an app's forge; replaces an existing one, but keeps its deploy key.
pub(super) async fn upsert_forge(tx: &mut PgConnection, forge: &Forge) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into forge (app_id, url, branch, user_name, secret, password, host_key)
         values ($1, $2, $3, $4, $5, $6, $7)
         on conflict (app_id) do update set url = excluded.url, branch = excluded.branch,
             user_name = excluded.user_name, secret = excluded.secret, password = excluded.password,
             host_key = excluded.host_key, error = ''",
        forge.app.0,
        forge.url,
        forge.branch.as_str(),
        forge.user,
        forge.secret,
        forge.password,
        forge.host_key,
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Sets the deploy key of a forge, unless it has one.
pub(super) async fn ensure_deploy_key(tx: &mut PgConnection, app: AppId, key: &[u8]) -> sqlx::Result<()> {
    sqlx::query!(
        "update forge set deploy_key = $2 where app_id = $1 and deploy_key is null",
        app.0,
        key,
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Pins the host key of a forge at an address, unless one is pinned; returns the pinned one. `None`: the
/// forge has another address, or was removed.
pub(super) async fn pin_host_key(
    tx: &mut PgConnection,
    app: AppId,
    url: &str,
    shown: &str,
) -> sqlx::Result<Option<String>> {
    sqlx::query_scalar!(
        "update forge set host_key = case host_key when '' then $3 else host_key end
         where app_id = $1 and url = $2 returning host_key",
        app.0,
        url,
        shown,
    )
    .fetch_optional(tx)
    .await
}

/// Deletes an app's forge; returns false if there was none.
pub(super) async fn delete_forge(tx: &mut PgConnection, app: AppId) -> sqlx::Result<bool> {
    sqlx::query!("delete from forge where app_id = $1", app.0)
        .execute(tx)
        .await
        .map(|done| done.rows_affected() == 1)
}

/// Records a delivery; returns false if its id or its content was recorded before. Deletes those older than a
/// year.
pub(super) async fn record_delivery(
    tx: &mut PgConnection,
    app: AppId,
    delivery: &str,
    digest: &[u8],
) -> sqlx::Result<bool> {
    sqlx::query!(
        "with old as (delete from forge_delivery where app_id = $1 and taken_at < now() - interval '1 year')
         insert into forge_delivery (app_id, delivery, digest) values ($1, $2, $3) on conflict do nothing",
        app.0,
        delivery,
        digest,
    )
    .execute(tx)
    .await
    .map(|done| done.rows_affected() == 1)
}

/// Deletes a delivery that failed, so that the forge may send it again.
pub(super) async fn delete_delivery(tx: &mut PgConnection, app: AppId, digest: &[u8]) -> sqlx::Result<()> {
    sqlx::query!(
        "delete from forge_delivery where app_id = $1 and digest = $2",
        app.0,
        digest,
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Records the outcome of the last delivery.
pub(super) async fn record_outcome(
    tx: &mut PgConnection,
    app: AppId,
    commit: &str,
    error: &str,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update forge set delivered_at = now(), commit_id = $2, error = $3 where app_id = $1",
        app.0,
        commit,
        error,
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Returns whether a request has started a deploy of an app.
pub(super) async fn has_deploy_started(
    db: impl PgExecutor<'_>,
    app: AppId,
    request: &str,
) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select exists (select 1 from deploy join event using (event_id)
                          where deploy.app_id = $1 and event.request_id = $2) as "has!""#,
        app.0,
        request,
    )
    .fetch_one(db)
    .await
}
