//! Stores teams.

use sqlx::{PgConnection, PgExecutor};

use crate::kernel::names::TeamName;
use crate::teams::model::{Team, TeamMembership, TeamReferences};

pub(super) async fn insert_team(
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

/// Returns teams by name; `None`: all teams.
pub(super) async fn list_teams(db: impl PgExecutor<'_>, names: Option<&[String]>) -> sqlx::Result<Vec<Team>> {
    sqlx::query_as!(
        Team,
        "select name, tags from team where $1::text[] is null or name = any($1) order by name",
        names,
    )
    .fetch_all(db)
    .await
}

pub(super) async fn find_team(db: impl PgExecutor<'_>, name: &TeamName) -> sqlx::Result<Option<Team>> {
    sqlx::query_as!(Team, "select name, tags from team where name = $1", name.as_str())
        .fetch_optional(db)
        .await
}

/// Locks the team's row, so that one transaction at a time counts its members; returns false if there is no
/// such team.
pub(super) async fn lock_team(tx: &mut PgConnection, name: &TeamName) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        "select name from team where name = $1 for no key update",
        name.as_str()
    )
    .fetch_optional(tx)
    .await
    .map(|found| found.is_some())
}

pub(super) async fn update_team_name(
    tx: &mut PgConnection,
    name: &TeamName,
    new: &TeamName,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update team set name = $2 where name = $1",
        name.as_str(),
        new.as_str()
    )
    .execute(tx)
    .await
    .map(drop)
}

pub(super) async fn update_team_tags(
    tx: &mut PgConnection,
    name: &TeamName,
    tags: &[String],
) -> sqlx::Result<()> {
    sqlx::query!("update team set tags = $2 where name = $1", name.as_str(), tags)
        .execute(tx)
        .await
        .map(drop)
}

pub(super) async fn delete_team(tx: &mut PgConnection, name: &TeamName) -> sqlx::Result<bool> {
    sqlx::query!("delete from team where name = $1", name.as_str())
        .execute(tx)
        .await
        .map(|done| done.rows_affected() == 1)
}

/// Returns the members with their roles on the team, sorted by e-mail address.
pub(super) async fn list_members(
    db: impl PgExecutor<'_>,
    team: &TeamName,
) -> sqlx::Result<Vec<TeamMembership>> {
    sqlx::query_as!(
        TeamMembership,
        "select u.email, ur.role
         from user_role ur join team t using (team_id) join user_account u using (user_id)
         where t.name = $1 order by u.email, ur.role",
        team.as_str(),
    )
    .fetch_all(db)
    .await
}

/// Returns the groups with their roles on the team, as pairs sorted by group.
pub(super) async fn list_group_roles(
    db: impl PgExecutor<'_>,
    team: &TeamName,
) -> sqlx::Result<Vec<(String, String)>> {
    sqlx::query!(
        "select g.name, ur.role
         from user_role ur join team t using (team_id) join user_group g using (group_id)
         where t.name = $1 order by g.name, ur.role",
        team.as_str(),
    )
    .fetch_all(db)
    .await
    .map(|rows| rows.into_iter().map(|row| (row.name, row.role)).collect())
}

/// Returns everything that references a team.
pub(super) async fn find_references(
    db: impl PgExecutor<'_>,
    team: &TeamName,
) -> sqlx::Result<TeamReferences> {
    sqlx::query_as!(
        TeamReferences,
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

/// Returns the first of these names that no team has.
pub async fn find_unknown_team(db: impl PgExecutor<'_>, names: &[String]) -> sqlx::Result<Option<String>> {
    sqlx::query_scalar!(
        r#"select name as "name!" from unnest($1::text[]) with ordinality as n (name, at)
           where not exists (select from team t where t.name = n.name) order by at limit 1"#,
        names,
    )
    .fetch_optional(db)
    .await
}

/// True if the team exists.
pub async fn team_exists(db: impl PgExecutor<'_>, name: &TeamName) -> sqlx::Result<bool> {
    Ok(find_team(db, name).await?.is_some())
}

/// Returns the first team names in order, at most `limit`.
pub async fn list_team_names(db: impl PgExecutor<'_>, limit: i64) -> sqlx::Result<Vec<TeamName>> {
    sqlx::query_scalar!(
        r#"select name as "name: TeamName" from team order by name limit $1"#,
        limit
    )
    .fetch_all(db)
    .await
}
