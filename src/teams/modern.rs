//! Teams in the modern edition (contract/modern 2.2).

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Serialize;
use serde_json::{Value, json};

use crate::core::Core;
use crate::http::kit::{Caller, Input};
use crate::http::wording::modern::Refusal;
use crate::kernel::names::TeamName;
use crate::kernel::problem::Problem;
use crate::teams::model::{Membership, TeamApp, permissions_on};
use crate::teams::{Team, actions};
use crate::users::modern::limit;

/// A team in the list, with what the caller may do with it.
#[derive(Debug, Serialize)]
pub struct TeamItem {
    name: String,
    tags: Vec<String>,
    permissions: Vec<String>,
}

/// A team with all that belongs to it.
#[derive(Debug, Serialize)]
pub struct TeamView {
    name: String,
    tags: Vec<String>,
    users: Vec<MemberView>,
    /// Empty until pools say who may use them.
    pools: Vec<Value>,
    apps: Vec<AppView>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct MemberView {
    email: String,
    roles: Vec<RoleView>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct RoleView {
    name: String,
    context_type: &'static str,
    context_value: String,
}

/// What a client shows of a team's apps, without what the team does not know: units and addresses.
#[derive(Debug, Serialize)]
struct AppView {
    name: String,
    platform: String,
    owner: String,
    pool: String,
    plan: Value,
    teamowner: String,
    teams: Vec<String>,
    description: String,
    tags: Vec<String>,
    units: [(); 0],
    cname: [(); 0],
    routers: [(); 0],
}

impl From<TeamApp> for AppView {
    fn from(app: TeamApp) -> Self {
        Self {
            name: app.name,
            platform: app.platform,
            owner: app.owner,
            pool: app.pool,
            plan: json!({ "name": app.plan }),
            teamowner: app.team_owner,
            teams: app.teams,
            description: app.description,
            tags: app.tags,
            units: [],
            cname: [],
            routers: [],
        }
    }
}

/// Members come one row a role, sorted by address.
fn grouped(members: Vec<Membership>, team: &TeamName) -> Vec<MemberView> {
    let mut views: Vec<MemberView> = Vec::new();
    for member in members {
        let role = RoleView {
            name: member.role,
            context_type: "team",
            context_value: team.to_string(),
        };
        match views.last_mut() {
            Some(last) if last.email == member.email => last.roles.push(role),
            _ => views.push(MemberView {
                email: member.email,
                roles: vec![role],
            }),
        }
    }
    views
}

/// A name in a path: what breaks the rule names no team.
fn named(text: &str) -> Result<TeamName, Problem> {
    TeamName::parse(text).map_err(|_| actions::unknown())
}

/// `GET /1.0/teams`.
pub async fn list(State(core): State<Core>, Caller(call): Caller) -> Result<Json<Vec<TeamItem>>, Refusal> {
    let teams = actions::list(&core, &call).await?;
    let item = |team: Team| TeamItem {
        permissions: permissions_on(&call, &team.name),
        name: team.name,
        tags: team.tags,
    };
    Ok(Json(teams.into_iter().map(item).collect()))
}

/// What the team itself knows for `GET /1.4/teams/{team}`; the apps slice tells more of its apps.
pub async fn info(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(team): Path<String>,
) -> Result<Json<TeamView>, Refusal> {
    let name = named(&team)?;
    let team = actions::find(&core, &call, &name).await?;
    let members = actions::members(&core, &name).await?;
    let apps = actions::apps(&core, &name).await?;
    Ok(Json(TeamView {
        name: team.name,
        tags: team.tags,
        users: grouped(members, &name),
        pools: Vec::new(),
        apps: apps.into_iter().map(AppView::from).collect(),
    }))
}

/// `POST /1.0/teams`, `{name, tags}`.
pub async fn create(
    State(core): State<Core>,
    Caller(call): Caller,
    input: Input,
) -> Result<StatusCode, Refusal> {
    let name = TeamName::parse(&input.required("name")?)?;
    let tags = tags(&input)?.unwrap_or_default();
    actions::create(&core, &call, &name, &tags).await?;
    Ok(StatusCode::CREATED)
}

/// `PUT /1.6/teams/{team}`, `{newname, tags}`; what is not sent stays.
pub async fn update(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(team): Path<String>,
    input: Input,
) -> Result<(), Refusal> {
    let new_name: Option<TeamName> = input.parsed("newname")?;
    let tags = tags(&input)?;
    Ok(actions::update(&core, &call, &named(&team)?, new_name.as_ref(), tags.as_deref()).await?)
}

/// Tags as `tags` or, in forms, also `tag`; `None` if neither was sent.
fn tags(input: &Input) -> Result<Option<Vec<String>>, Problem> {
    for key in ["tags", "tag"] {
        if input.value(key).is_some() {
            return input.texts(key).map(Some);
        }
    }
    Ok(None)
}

/// `DELETE /1.0/teams/{team}`.
pub async fn remove(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(team): Path<String>,
) -> Result<(), Refusal> {
    Ok(actions::remove(&core, &call, &named(&team)?).await?)
}

/// A team's quota.
#[derive(Debug, Serialize)]
pub struct QuotaView {
    limit: i32,
    inuse: i32,
}

/// `GET /1.12/teams/{team}/quota`.
pub async fn quota(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(team): Path<String>,
) -> Result<Json<QuotaView>, Refusal> {
    let quota = actions::quota(&core, &call, &named(&team)?).await?;
    Ok(Json(QuotaView {
        limit: quota.limit,
        inuse: quota.in_use,
    }))
}

/// `PUT /1.12/teams/{team}/quota`, form `limit`.
pub async fn change_quota(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(team): Path<String>,
    input: Input,
) -> Result<(), Refusal> {
    let limit = limit(&input)?;
    Ok(actions::change_quota(&core, &call, &named(&team)?, limit).await?)
}
