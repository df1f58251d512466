//! Teams in SQL.

use sqlx::{PgConnection, PgExecutor};

use crate::kernel::names::TeamName;
use crate::teams::model::{Membership, Team, TeamApp, Uses};

pub(super) async fn insert(
    tx: &mut PgConnection,
    name: &TeamName,
    tags: &[String],
    created_by: &str,
) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into team (name, tags, created_by) values ($1, $2, $3)",
        name.as_str(),
        tags,
        created_by,
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Teams by name; `None`: all of them.
pub(super) async fn list(db: impl PgExecutor<'_>, names: Option<&[String]>) -> sqlx::Result<Vec<Team>> {
    sqlx::query_as!(
        Team,
        "select name, tags from team where $1::text[] is null or name = any($1) order by name",
        names,
    )
    .fetch_all(db)
    .await
}

pub(super) async fn find(db: impl PgExecutor<'_>, name: &TeamName) -> sqlx::Result<Option<Team>> {
    sqlx::query_as!(Team, "select name, tags from team where name = $1", name.as_str())
        .fetch_optional(db)
        .await
}

/// Holds the team's row, so that its members are counted by one transaction at a time; false if there is
/// no such team.
pub(super) async fn lock(tx: &mut PgConnection, name: &TeamName) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        "select name from team where name = $1 for no key update",
        name.as_str()
    )
    .fetch_optional(tx)
    .await
    .map(|found| found.is_some())
}

pub(super) async fn update_name(tx: &mut PgConnection, name: &TeamName, new: &TeamName) -> sqlx::Result<()> {
    sqlx::query!(
        "update team set name = $2 where name = $1",
        name.as_str(),
        new.as_str()
    )
    .execute(tx)
    .await
    .map(drop)
}

pub(super) async fn update_tags(tx: &mut PgConnection, name: &TeamName, tags: &[String]) -> sqlx::Result<()> {
    sqlx::query!("update team set tags = $2 where name = $1", name.as_str(), tags)
        .execute(tx)
        .await
        .map(drop)
}

pub(super) async fn delete(tx: &mut PgConnection, name: &TeamName) -> sqlx::Result<bool> {
    sqlx::query!("delete from team where name = $1", name.as_str())
        .execute(tx)
        .await
        .map(|done| done.rows_affected() == 1)
}

/// The members with their roles on the team, by address.
pub(super) async fn list_members(db: impl PgExecutor<'_>, team: &TeamName) -> sqlx::Result<Vec<Membership>> {
    sqlx::query_as!(
        Membership,
        "select u.email, r.name as role
         from user_role ur join role r on r.name = ur.role join user_account u using (user_id)
         where r.context_kind = 'team' and ur.context_value = $1 order by u.email, r.name",
        team.as_str(),
    )
    .fetch_all(db)
    .await
}

pub(super) async fn list_apps(db: impl PgExecutor<'_>, team: &TeamName) -> sqlx::Result<Vec<TeamApp>> {
    sqlx::query_as!(
        TeamApp,
        r#"select a.name, a.platform, a.pool, a.plan, a.owner, a.team_owner, a.description, a.tags,
                  array(select x.team from app_team x where x.app_id = a.app_id order by 1) as "teams!"
           from app a
           where a.team_owner = $1 or exists (select 1 from app_team t where t.app_id = a.app_id and t.team = $1)
           order by a.name"#,
        team.as_str(),
    )
    .fetch_all(db)
    .await
}

/// All that holds a team.
pub(super) async fn uses(db: impl PgExecutor<'_>, team: &TeamName) -> sqlx::Result<Uses> {
    sqlx::query_as!(
        Uses,
        r#"select
             array(select a.name from app a where a.team_owner = $1
                   union select a.name from app_team t join app a using (app_id) where t.team = $1
                   order by 1) as "apps!",
             array(select s.name from service_owner o join service s using (service_id) where o.team = $1
                   order by 1) as "services!",
             array(select s.name || '/' || i.name from service_instance i join service s using (service_id)
                   where i.team_owner = $1
                      or exists (select 1 from service_instance_team t
                                 where t.instance_id = i.instance_id and t.team = $1)
                   order by 1) as "instances!""#,
        team.as_str(),
    )
    .fetch_one(db)
    .await
}

/// True if there is such a team.
pub async fn exists(db: impl PgExecutor<'_>, name: &TeamName) -> sqlx::Result<bool> {
    Ok(find(db, name).await?.is_some())
}

/// The first teams by name, at most `limit`.
pub async fn names(db: impl PgExecutor<'_>, limit: i64) -> sqlx::Result<Vec<TeamName>> {
    sqlx::query_scalar!(
        r#"select name as "name: TeamName" from team order by name limit $1"#,
        limit
    )
    .fetch_all(db)
    .await
}
