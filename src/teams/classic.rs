//! Teams in the classic edition (contract/classic 1.8).

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;

use crate::core::Core;
use crate::http::kit::{Caller, Input};
use crate::http::wording::classic::Refusal;
use crate::kernel::names::TeamName;
use crate::kernel::problem::Problem;
use crate::teams::{actions, members};

/// A team in the list: texts only, or a classic client cannot read it.
#[derive(Debug, Serialize)]
pub struct TeamItem {
    name: String,
}

/// A team with the addresses of its members.
#[derive(Debug, Serialize)]
pub struct TeamView {
    name: String,
    users: Vec<String>,
}

/// A name in a path: what breaks the rule names no team.
fn named(text: &str) -> Result<TeamName, Problem> {
    TeamName::parse(text).map_err(|_| actions::unknown())
}

/// `GET /teams`.
pub async fn list(State(core): State<Core>, Caller(call): Caller) -> Result<Json<Vec<TeamItem>>, Refusal> {
    let teams = actions::list(&core, &call).await?;
    Ok(Json(
        teams
            .into_iter()
            .map(|team| TeamItem { name: team.name })
            .collect(),
    ))
}

/// `GET /teams/{team}`: 403 for who is no member.
pub async fn info(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(team): Path<String>,
) -> Result<Json<TeamView>, Refusal> {
    let name = named(&team)?;
    let team = actions::load(&core, &name).await?;
    members::member_only(&call, &name)?;
    let mut users: Vec<String> = actions::members(&core, &name)
        .await?
        .into_iter()
        .map(|member| member.email)
        .collect();
    users.dedup();
    Ok(Json(TeamView {
        name: team.name,
        users,
    }))
}

/// `POST /teams`: 200.
pub async fn create(State(core): State<Core>, Caller(call): Caller, input: Input) -> Result<(), Refusal> {
    let name = TeamName::parse(input.required("name")?.trim())?;
    Ok(actions::create(&core, &call, &name, &[]).await?)
}

/// `DELETE /teams/{team}`: the reference asks for apps first, whoever calls.
pub async fn remove(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(team): Path<String>,
) -> Result<(), Refusal> {
    let name = named(&team)?;
    if let Some(words) = actions::app_references(&core, &call, &name).await? {
        return Err(Problem::forbidden(words).into());
    }
    Ok(actions::remove(&core, &call, &name).await?)
}

/// `PUT /teams/{team}/{user}`.
pub async fn add_member(
    State(core): State<Core>,
    Caller(call): Caller,
    Path((team, user)): Path<(String, String)>,
) -> Result<(), Refusal> {
    Ok(members::add(&core, &call, &named(&team)?, &user).await?)
}

/// `DELETE /teams/{team}/{user}`.
pub async fn remove_member(
    State(core): State<Core>,
    Caller(call): Caller,
    Path((team, user)): Path<(String, String)>,
) -> Result<(), Refusal> {
    Ok(members::remove(&core, &call, &named(&team)?, &user).await?)
}
