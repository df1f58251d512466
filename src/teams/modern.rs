//! Teams in the modern edition (contract/modern 2.2).

use axum::Json;
use schemars::JsonSchema;
use serde::Serialize;

use crate::apps::{self, AppView};
use crate::kernel::error::Error;
use crate::kernel::names::TeamName;
use crate::kernel::permission::Permission;
use crate::pools::{self, PoolView};
use crate::quotas::{QuotaView, parse_limit};
use crate::teams::model::{TeamMembership, permissions_on};
use crate::teams::{Team, actions};
use crate::web::answers::{CreatedAnswer, EmptyAnswer};
use crate::web::errors::modern::ModernResult;
use crate::web::route_table::AuthPolicy::{UserToken, UserWithPermission};
use crate::web::route_table::{DELETE, GET, POST, PUT, RouteTable};
use crate::web::{Ctx, Params, Path};

/// A team in the list, with the caller's permissions on it.
#[derive(Debug, JsonSchema, Serialize)]
pub struct TeamItem {
    name: String,
    tags: Vec<String>,
    permissions: Vec<String>,
}

/// A team with its members, apps and quota. Fields are in the order of their keys.
#[derive(Debug, JsonSchema, Serialize)]
pub struct TeamView {
    apps: Vec<AppView>,
    name: String,
    /// The pools that the team may use, of those that the caller may see.
    pools: Vec<PoolView>,
    tags: Vec<String>,
    users: Vec<TeamMemberView>,
}

#[derive(Debug, JsonSchema, Serialize)]
#[serde(rename_all = "PascalCase")]
struct TeamMemberView {
    email: String,
    roles: Vec<MemberRoleView>,
}

#[derive(Debug, JsonSchema, Serialize)]
#[serde(rename_all = "PascalCase")]
struct MemberRoleView {
    context_type: &'static str,
    context_value: String,
    name: String,
}

/// Groups members that come as one row per role, sorted by e-mail address.
fn group_by_member(members: Vec<TeamMembership>, team: &TeamName) -> Vec<TeamMemberView> {
    let mut views: Vec<TeamMemberView> = Vec::new();
    for member in members {
        let role = MemberRoleView {
            name: member.role,
            context_type: "team",
            context_value: team.to_string(),
        };
        match views.last_mut() {
            Some(last) if last.email == member.email => last.roles.push(role),
            _ => views.push(TeamMemberView {
                email: member.email,
                roles: vec![role],
            }),
        }
    }
    views
}

/// `GET /1.0/teams`.
pub async fn list_teams(ctx: Ctx) -> ModernResult<Json<Vec<TeamItem>>> {
    let teams = actions::list_teams(&ctx.core, &ctx.request).await?;
    let item = |team: Team| TeamItem {
        permissions: permissions_on(&ctx.request, &team.name),
        name: team.name,
        tags: team.tags,
    };
    Ok(Json(teams.into_iter().map(item).collect()))
}

/// `GET /1.4/teams/{team}`: the team with its members, and the apps that the caller may read, as in the list
/// of apps.
pub async fn get_team(ctx: Ctx, Path(name): Path<TeamName>) -> ModernResult<Json<TeamView>> {
    let team = actions::find_team(&ctx.core, &ctx.request, &name).await?;
    let members = actions::list_members(&ctx.core, &name).await?;
    let mut pools = pools::list_visible_pools(&ctx.core, &ctx.request, None).await?;
    pools.retain(|pool| pool.allowed.teams.contains(&team.name));
    let apps = apps::list_team_apps(&ctx.core, &ctx.request, &name).await?;
    Ok(Json(TeamView {
        name: team.name,
        tags: team.tags,
        users: group_by_member(members, &name),
        pools: pools.into_iter().map(PoolView::from).collect(),
        apps: apps.iter().map(|full| AppView::new(&ctx.core, full)).collect(),
    }))
}

/// A user with the names of their roles on a team.
#[derive(Debug, JsonSchema, Serialize)]
pub struct TeamUserItem {
    email: String,
    roles: Vec<String>,
}

/// A group with the names of its roles on a team.
#[derive(Debug, JsonSchema, Serialize)]
pub struct TeamGroupItem {
    group: String,
    roles: Vec<String>,
}

/// `GET /1.17/teams/{team}/users`.
pub async fn list_team_users(ctx: Ctx, Path(name): Path<TeamName>) -> ModernResult<Json<Vec<TeamUserItem>>> {
    let users = actions::list_team_users(&ctx.core, &ctx.request, &name).await?;
    let item = |(email, roles)| TeamUserItem { email, roles };
    Ok(Json(users.into_iter().map(item).collect()))
}

/// `GET /1.17/teams/{team}/groups`.
pub async fn list_team_groups(
    ctx: Ctx,
    Path(name): Path<TeamName>,
) -> ModernResult<Json<Vec<TeamGroupItem>>> {
    let groups = actions::list_team_groups(&ctx.core, &ctx.request, &name).await?;
    let item = |(group, roles)| TeamGroupItem { group, roles };
    Ok(Json(groups.into_iter().map(item).collect()))
}

/// `POST /1.0/teams`, `{name, tags}`.
pub async fn create_team(ctx: Ctx, params: Params) -> ModernResult<CreatedAnswer> {
    let name = TeamName::parse(&params.require_string("name")?)?;
    let tags = read_tags(&params)?.unwrap_or_default();
    actions::create_team(&ctx.core, &ctx.request, &name, &tags).await?;
    Ok(EmptyAnswer)
}

/// `PUT /1.6/teams/{team}`, `{newname, tags}`; absent fields stay unchanged.
pub async fn update_team(ctx: Ctx, Path(team): Path<TeamName>, params: Params) -> ModernResult {
    let new_name: Option<TeamName> = params.parse_field("newname")?;
    let tags = read_tags(&params)?;
    Ok(actions::update_team(&ctx.core, &ctx.request, &team, new_name.as_ref(), tags.as_deref()).await?)
}

/// Returns the tags from `tags` or, in forms, also `tag`; `None` if neither was sent.
fn read_tags(params: &Params) -> Result<Option<Vec<String>>, Error> {
    for key in ["tags", "tag"] {
        if params.get_value(key).is_some() {
            return params.get_strings(key).map(Some);
        }
    }
    Ok(None)
}

/// `DELETE /1.0/teams/{team}`.
pub async fn remove_team(ctx: Ctx, Path(team): Path<TeamName>) -> ModernResult {
    Ok(actions::remove_team(&ctx.core, &ctx.request, &team).await?)
}

/// `GET /1.12/teams/{team}/quota`.
pub async fn get_team_quota(ctx: Ctx, Path(team): Path<TeamName>) -> ModernResult<Json<QuotaView>> {
    let quota = actions::find_team_quota(&ctx.core, &ctx.request, &team).await?;
    Ok(Json(quota.into()))
}

/// `PUT /1.12/teams/{team}/quota`, form `limit`.
pub async fn change_team_quota(ctx: Ctx, Path(team): Path<TeamName>, params: Params) -> ModernResult {
    let limit = parse_limit(&params.require_scalar("limit")?)?;
    Ok(actions::change_team_quota(&ctx.core, &ctx.request, &team, limit).await?)
}

/// The modern routes of this slice.
#[rustfmt::skip]
pub fn routes(table: RouteTable) -> RouteTable {
    table
        .add_versioned_route("1.0", GET, "/teams", UserToken, list_teams)
        .add_versioned_route("1.0", POST, "/teams", UserToken, create_team)
        .add_versioned_route("1.0", DELETE, "/teams/{team}", UserToken, remove_team)
        .add_versioned_route("1.4", GET, "/teams/{team}", UserToken, get_team)
        .add_versioned_route("1.4", POST, "/teams/{team}", UserToken, update_team)
        .add_versioned_route("1.6", PUT, "/teams/{team}", UserToken, update_team)
        .add_versioned_route("1.17", GET, "/teams/{team}/users", UserToken, list_team_users)
        .add_versioned_route("1.17", GET, "/teams/{team}/groups", UserToken, list_team_groups)
        .add_versioned_route("1.12", GET, "/teams/{team}/quota", UserToken, get_team_quota)
        .add_versioned_route("1.12", PUT, "/teams/{team}/quota", UserWithPermission(Permission::TEAM_UPDATE_QUOTA), change_team_quota)
}
