//! Quotas in SQL.

use sqlx::{PgConnection, PgExecutor};

use crate::kernel::ids::AppId;
use crate::kernel::names::{AppName, Email, TeamName};
use crate::quotas::model::Quota;

pub(super) async fn find_user(db: impl PgExecutor<'_>, email: &Email) -> sqlx::Result<Option<Quota>> {
    sqlx::query_as!(
        Quota,
        r#"select quota_limit as "limit", quota_in_use as in_use from user_account where email = $1"#,
        email.as_str(),
    )
    .fetch_optional(db)
    .await
}

pub(super) async fn find_team(db: impl PgExecutor<'_>, team: &TeamName) -> sqlx::Result<Option<Quota>> {
    sqlx::query_as!(
        Quota,
        r#"select quota_limit as "limit", quota_in_use as in_use from team where name = $1"#,
        team.as_str(),
    )
    .fetch_optional(db)
    .await
}

pub(super) async fn find_app(db: impl PgExecutor<'_>, app: &AppName) -> sqlx::Result<Option<Quota>> {
    sqlx::query_as!(
        Quota,
        r#"select a.quota_limit as "limit",
                  (select coalesce(sum(p.units), 0)::integer from app_process p where p.app_id = a.app_id) as "in_use!"
           from app a where a.name = $1"#,
        app.as_str(),
    )
    .fetch_optional(db)
    .await
}

/// Holds an app's row to the end of the transaction; false if there is no such app. A statement of its
/// own: what is counted after it has waited is counted as it is then.
pub(super) async fn lock_app(tx: &mut PgConnection, app: AppId) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        "select number from app where app_id = $1 for no key update",
        app.0
    )
    .fetch_optional(tx)
    .await
    .map(|found| found.is_some())
}

/// As `lock_app`, by name.
pub(super) async fn lock_app_named(tx: &mut PgConnection, app: &AppName) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        "select number from app where name = $1 for no key update",
        app.as_str()
    )
    .fetch_optional(tx)
    .await
    .map(|found| found.is_some())
}

pub(super) async fn find_app_by_id(db: impl PgExecutor<'_>, app: AppId) -> sqlx::Result<Option<Quota>> {
    sqlx::query_as!(
        Quota,
        r#"select a.quota_limit as "limit",
                  (select coalesce(sum(p.units), 0)::integer from app_process p where p.app_id = a.app_id) as "in_use!"
           from app a where a.app_id = $1"#,
        app.0,
    )
    .fetch_optional(db)
    .await
}

/// Takes one app of a user's quota; false if there is none left, or no such user.
pub(super) async fn take_from_user(tx: &mut PgConnection, email: &Email) -> sqlx::Result<bool> {
    sqlx::query!(
        "update user_account set quota_in_use = quota_in_use + 1
         where email = $1 and (quota_limit = -1 or quota_in_use < quota_limit)",
        email.as_str(),
    )
    .execute(tx)
    .await
    .map(|done| done.rows_affected() == 1)
}

pub(super) async fn give_to_user(tx: &mut PgConnection, email: &Email) -> sqlx::Result<()> {
    sqlx::query!(
        "update user_account set quota_in_use = greatest(quota_in_use - 1, 0) where email = $1",
        email.as_str(),
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Takes one app of a team's quota; false if there is none left, or no such team.
pub(super) async fn take_from_team(tx: &mut PgConnection, team: &TeamName) -> sqlx::Result<bool> {
    sqlx::query!(
        "update team set quota_in_use = quota_in_use + 1
         where name = $1 and (quota_limit = -1 or quota_in_use < quota_limit)",
        team.as_str(),
    )
    .execute(tx)
    .await
    .map(|done| done.rows_affected() == 1)
}

pub(super) async fn give_to_team(tx: &mut PgConnection, team: &TeamName) -> sqlx::Result<()> {
    sqlx::query!(
        "update team set quota_in_use = greatest(quota_in_use - 1, 0) where name = $1",
        team.as_str(),
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Sets a user's limit; false if more is in use, or no such user.
pub(super) async fn limit_user(tx: &mut PgConnection, email: &Email, limit: i32) -> sqlx::Result<bool> {
    sqlx::query!(
        "update user_account set quota_limit = $2 where email = $1 and ($2 = -1 or quota_in_use <= $2)",
        email.as_str(),
        limit,
    )
    .execute(tx)
    .await
    .map(|done| done.rows_affected() == 1)
}

/// Sets a team's limit; false if more is in use, or no such team.
pub(super) async fn limit_team(tx: &mut PgConnection, team: &TeamName, limit: i32) -> sqlx::Result<bool> {
    sqlx::query!(
        "update team set quota_limit = $2 where name = $1 and ($2 = -1 or quota_in_use <= $2)",
        team.as_str(),
        limit,
    )
    .execute(tx)
    .await
    .map(|done| done.rows_affected() == 1)
}

/// Sets an app's limit; false if it has more units, or no such app.
pub(super) async fn limit_app(tx: &mut PgConnection, app: &AppName, limit: i32) -> sqlx::Result<bool> {
    sqlx::query!(
        "update app set quota_limit = $2 where name = $1
           and ($2 = -1 or (select coalesce(sum(p.units), 0) from app_process p where p.app_id = app.app_id) <= $2)",
        app.as_str(),
        limit,
    )
    .execute(tx)
    .await
    .map(|done| done.rows_affected() == 1)
}

/// Where an app may be looked for: its teams, the owner among them, and its pool.
pub(super) async fn app_places(
    db: impl PgExecutor<'_>,
    app: &AppName,
) -> sqlx::Result<Option<(Vec<String>, String)>> {
    sqlx::query!(
        r#"select a.pool, array(select t.team from app_team t where t.app_id = a.app_id union select a.team_owner) as "teams!"
           from app a where a.name = $1"#,
        app.as_str(),
    )
    .fetch_optional(db)
    .await
    .map(|row| row.map(|row| (row.teams, row.pool)))
}
