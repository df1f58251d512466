//! SQL statements for quotas.

use sqlx::{PgConnection, PgExecutor};

use crate::kernel::ids::{AppId, UserId};
use crate::kernel::names::{AppName, Email, TeamName};
use crate::quotas::model::Quota;

pub(super) async fn find_user_quota(db: impl PgExecutor<'_>, email: &Email) -> sqlx::Result<Option<Quota>> {
    sqlx::query_as!(
        Quota,
        r#"select u.quota_limit as "limit",
                  (select count(*)::integer from app a where a.owner_id = u.user_id and a.kind = 'app') as "in_use!"
           from user_account u where u.user_id = find_user($1)"#,
        email.as_str(),
    )
    .fetch_optional(db)
    .await
}

pub(super) async fn find_team_quota(db: impl PgExecutor<'_>, team: &TeamName) -> sqlx::Result<Option<Quota>> {
    sqlx::query_as!(
        Quota,
        r#"select t.quota_limit as "limit",
                  (select count(*)::integer from app a where a.team_owner = t.name and a.kind = 'app') as "in_use!"
           from team t where t.name = $1"#,
        team.as_str(),
    )
    .fetch_optional(db)
    .await
}

/// Finds a user's id and stored address, by the address in any spelling.
pub(super) async fn find_user_by_email(
    db: impl PgExecutor<'_>,
    email: &Email,
) -> sqlx::Result<Option<(UserId, Email)>> {
    sqlx::query!(
        r#"select user_id as "id: UserId", email as "email: Email" from user_account where user_id = find_user($1)"#,
        email.as_str(),
    )
    .fetch_optional(db)
    .await
    .map(|row| row.map(|row| (row.id, row.email)))
}

/// Locks a user's row until the end of the transaction; returns false if there is no such user. A separate
/// statement, so that the count after it sees what was committed while it waited.
pub(super) async fn lock_user(tx: &mut PgConnection, email: &Email) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        "select user_id from user_account where user_id = find_user($1) for no key update",
        email.as_str()
    )
    .fetch_optional(tx)
    .await
    .map(|found| found.is_some())
}

/// Locks a team's row, like `lock_user`.
pub(super) async fn lock_team(tx: &mut PgConnection, team: &TeamName) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        "select team_id from team where name = $1 for no key update",
        team.as_str()
    )
    .fetch_optional(tx)
    .await
    .map(|found| found.is_some())
}

/// Locks an app's row until the end of the transaction; returns false if there is no such app. A separate
/// statement, so that the count after it sees what was committed while it waited.
pub(super) async fn lock_app(tx: &mut PgConnection, app: AppId) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        "select number from app where app_id = $1 for no key update",
        app.0
    )
    .fetch_optional(tx)
    .await
    .map(|found| found.is_some())
}

/// Counts the units that the processes of a version request on a side; one of each where users have set none.
pub(super) async fn count_version_units(
    db: impl PgExecutor<'_>,
    app: AppId,
    version: i32,
    side: i32,
) -> sqlx::Result<i32> {
    sqlx::query_scalar!(
        r#"select coalesce(sum(coalesce(asked.units, 1)), 0)::integer as "units!" from version_process p
           left join app_process asked on asked.app_id = p.app_id and asked.side = $3 and asked.process = p.process
           where p.app_id = $1 and p.version = $2"#,
        app.0,
        version,
        side,
    )
    .fetch_one(db)
    .await
}

/// Counts the units that the sides of an app request but one.
pub(super) async fn count_other_sides(db: impl PgExecutor<'_>, app: AppId, side: i32) -> sqlx::Result<i32> {
    sqlx::query_scalar!(
        r#"select coalesce(sum(units), 0)::integer as "units!" from app_process where app_id = $1 and side <> $2"#,
        app.0,
        side,
    )
    .fetch_one(db)
    .await
}

/// Finds the quota of units of an app. A process for which users have set no number has one unit.
pub(super) async fn find_unit_quota(db: impl PgExecutor<'_>, app: AppId) -> sqlx::Result<Option<Quota>> {
    sqlx::query_as!(
        Quota,
        r#"select a.quota_limit as "limit",
                  ((select coalesce(sum(p.units), 0) from app_process p where p.app_id = a.app_id)
                   + (select count(*) from wanted_process w
                      where w.release_id = a.current_release
                        and not exists (select from app_process p
                                        where p.app_id = w.app_id and p.side = 0 and p.process = w.process)))::integer as "in_use!"
           from app a where a.app_id = $1"#,
        app.0,
    )
    .fetch_optional(db)
    .await
}

pub(super) async fn set_user_limit(tx: &mut PgConnection, email: &Email, limit: i32) -> sqlx::Result<()> {
    sqlx::query!(
        "update user_account set quota_limit = $2 where user_id = find_user($1)",
        email.as_str(),
        limit,
    )
    .execute(tx)
    .await
    .map(drop)
}

pub(super) async fn set_team_limit(tx: &mut PgConnection, team: &TeamName, limit: i32) -> sqlx::Result<()> {
    sqlx::query!(
        "update team set quota_limit = $2 where name = $1",
        team.as_str(),
        limit
    )
    .execute(tx)
    .await
    .map(drop)
}

pub(super) async fn set_unit_limit(tx: &mut PgConnection, app: AppId, limit: i32) -> sqlx::Result<()> {
    sqlx::query!("update app set quota_limit = $2 where app_id = $1", app.0, limit)
        .execute(tx)
        .await
        .map(drop)
}

/// Finds the permission contexts of an app: its teams, including the owner, and its pool.
pub(super) async fn find_app_contexts(
    db: impl PgExecutor<'_>,
    app: &AppName,
) -> sqlx::Result<Option<(AppId, Vec<String>, String)>> {
    sqlx::query!(
        r#"select a.app_id as "id: AppId", a.pool, array(select t.team from app_team t where t.app_id = a.app_id union select a.team_owner) as "teams!"
           from app a where a.name = $1 and a.kind = 'app'"#,
        app.as_str(),
    )
    .fetch_optional(db)
    .await
    .map(|row| row.map(|row| (row.id, row.teams, row.pool)))
}
