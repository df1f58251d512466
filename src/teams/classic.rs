//! Teams in the classic edition (contract/classic 1.8).

use axum::Json;
use schemars::JsonSchema;
use serde::Serialize;

use crate::kernel::error::Error;
use crate::kernel::names::{Email, TeamName};
use crate::teams::{actions, members};
use crate::web::errors::classic::ClassicResult;
use crate::web::route_table::AuthPolicy::UserToken;
use crate::web::route_table::{DELETE, GET, POST, PUT, RouteTable};
use crate::web::{Ctx, Params, Path};

/// A team in the list. All values are strings: classic clients cannot decode others.
#[derive(Debug, JsonSchema, Serialize)]
pub struct ClassicTeamItem {
    name: String,
}

/// A team with the e-mail addresses of its members.
#[derive(Debug, JsonSchema, Serialize)]
pub struct ClassicTeamView {
    name: String,
    users: Vec<String>,
}

/// `GET /teams`.
pub async fn list_teams(ctx: Ctx) -> ClassicResult<Json<Vec<ClassicTeamItem>>> {
    let teams = actions::list_teams(&ctx.core, &ctx.request).await?;
    Ok(Json(
        teams
            .into_iter()
            .map(|team| ClassicTeamItem { name: team.name })
            .collect(),
    ))
}

/// `GET /teams/{team}`: 403 for non-members.
pub async fn get_team(ctx: Ctx, Path(name): Path<TeamName>) -> ClassicResult<Json<ClassicTeamView>> {
    let team = actions::load_team(&ctx.core, &name).await?;
    members::require_member(&ctx.request, &name)?;
    let mut users: Vec<String> = actions::list_members(&ctx.core, &name)
        .await?
        .into_iter()
        .map(|member| member.email)
        .collect();
    users.dedup();
    Ok(Json(ClassicTeamView {
        name: team.name,
        users,
    }))
}

/// `POST /teams`: 200.
pub async fn create_team(ctx: Ctx, params: Params) -> ClassicResult {
    let name = TeamName::parse(params.require_string("name")?.trim())?;
    Ok(actions::create_team(&ctx.core, &ctx.request, &name, &[]).await?)
}

/// `DELETE /teams/{team}`: the reference checks for apps before permissions.
pub async fn remove_team(ctx: Ctx, Path(name): Path<TeamName>) -> ClassicResult {
    if let Some(words) = actions::describe_app_references(&ctx.core, &ctx.request, &name).await? {
        return Err(Error::forbidden(words).into());
    }
    Ok(actions::remove_team(&ctx.core, &ctx.request, &name).await?)
}

/// `PUT /teams/{team}/{user}`.
pub async fn add_member(ctx: Ctx, Path((team, user)): Path<(TeamName, Email)>) -> ClassicResult {
    Ok(members::add_member(&ctx.core, &ctx.request, &team, &user).await?)
}

/// `DELETE /teams/{team}/{user}`.
pub async fn remove_member(ctx: Ctx, Path((team, user)): Path<(TeamName, Email)>) -> ClassicResult {
    Ok(members::remove_member(&ctx.core, &ctx.request, &team, &user).await?)
}

/// The classic routes of this slice.
#[rustfmt::skip]
pub fn routes(table: RouteTable) -> RouteTable {
    table
        .add_route(GET, "/teams", UserToken, list_teams)
        .add_route(GET, "/teams/{team}", UserToken, get_team)
        .add_route(POST, "/teams", UserToken, create_team)
        .add_route(DELETE, "/teams/{team}", UserToken, remove_team)
        .add_route(PUT, "/teams/{team}/{user}", UserToken, add_member)
        .add_route(DELETE, "/teams/{team}/{user}", UserToken, remove_member)
}
