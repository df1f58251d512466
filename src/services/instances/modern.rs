//! The modern edition of instances (contract/modern 2.12).

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::json;

use crate::core::Core;
use crate::events;
use crate::http::kit::caller::Caller;
use crate::http::kit::input::Input;
use crate::http::kit::stream::{self, Form};
use crate::http::wording::modern::Refusal;
use crate::kernel::names::{InstanceName, TeamName};
use crate::kernel::problem::{Kind, Problem};
use crate::services::instances::{self, Filter, Group, Removal, Told, Wanted};
use crate::services::model::{Edition, Instance, InstancePatch, NewInstance};
use crate::services::wire;

const EDITION: Edition = Edition::Modern;

/// A service and its instances.
#[derive(Serialize)]
pub struct GroupView {
    service: String,
    instances: Vec<String>,
    plans: Vec<String>,
    service_instances: Vec<ItemView>,
}

/// An instance in a list.
#[derive(Serialize)]
pub struct ItemView {
    name: String,
    id: i32,
    service_name: String,
    plan_name: String,
    apps: Vec<String>,
    jobs: Vec<String>,
    teams: Vec<String>,
    team_owner: String,
    description: String,
    tags: Vec<String>,
    parameters: BTreeMap<String, String>,
    pool: String,
}

impl From<Instance> for ItemView {
    fn from(instance: Instance) -> Self {
        Self {
            name: instance.name.to_string(),
            id: 0,
            service_name: instance.service.to_string(),
            plan_name: instance.plan,
            apps: instance.apps,
            jobs: Vec::new(),
            teams: instance.teams.iter().map(ToString::to_string).collect(),
            team_owner: instance.team_owner.to_string(),
            description: instance.description,
            tags: instance.tags,
            parameters: instance.parameters,
            pool: instance.pool,
        }
    }
}

impl From<Group> for GroupView {
    fn from(group: Group) -> Self {
        Self {
            service: group.service.to_string(),
            instances: group.instances.iter().map(|i| i.name.to_string()).collect(),
            plans: group.plans().into_iter().map(str::to_owned).collect(),
            service_instances: group.instances.into_iter().map(ItemView::from).collect(),
        }
    }
}

/// An instance by itself.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct InstanceView {
    apps: Vec<String>,
    jobs: Vec<String>,
    teams: Vec<String>,
    team_owner: String,
    description: String,
    plan_name: String,
    plan_description: String,
    pool: String,
    custom_info: Option<BTreeMap<String, String>>,
    tags: Vec<String>,
    parameters: BTreeMap<String, String>,
    #[serde(flatten)]
    state: wire::StateView,
}

impl InstanceView {
    fn new(told: Told, plan_description: String) -> Self {
        let state = wire::StateView::new(&told);
        let instance = told.instance;
        Self {
            apps: instance.apps,
            jobs: Vec::new(),
            teams: instance.teams.iter().map(ToString::to_string).collect(),
            team_owner: instance.team_owner.to_string(),
            description: instance.description,
            plan_name: instance.plan,
            plan_description,
            pool: instance.pool,
            custom_info: told.info,
            tags: instance.tags,
            parameters: instance.parameters,
            state,
        }
    }
}

fn wanted(service: &str, instance: &str) -> Result<Wanted, Problem> {
    Ok(Wanted::Of(wire::service(service)?, wire::instance(instance)?))
}

/// The tags of a request: one form calls the field `tag`, the other `tags`.
fn tags(input: &Input) -> Result<Vec<String>, Problem> {
    let mut tags = input.texts("tag")?;
    tags.extend(input.texts("tags")?);
    Ok(tags)
}

/// `GET /1.0/services/instances` with its filters, and `GET /1.0/services`.
pub async fn list(
    State(core): State<Core>,
    Caller(call): Caller,
    input: Input,
) -> Result<Json<Vec<GroupView>>, Refusal> {
    let filter = Filter {
        service: input.text("service")?,
        name: input.text("name")?,
        team_owner: input.text("teamOwner")?,
        pool: input.text("pool")?,
        plan: input.text("plan")?,
        tags: tags(&input)?,
    };
    let groups = instances::list(&core, &call, &filter).await?;
    Ok(Json(groups.into_iter().map(GroupView::from).collect()))
}

pub async fn create(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(service): Path<String>,
    input: Input,
) -> Result<StatusCode, Refusal> {
    let new = NewInstance {
        service: wire::service(&service)?,
        name: InstanceName::parse(&input.required("name")?)?,
        plan: input.text("plan")?.unwrap_or_default(),
        team: input.parsed::<TeamName>("owner")?,
        description: input.text("description")?.unwrap_or_default(),
        tags: tags(&input)?,
        parameters: input.map("parameters")?,
        pool: input.text("pool")?.unwrap_or_default(),
    };
    instances::create(&core, &call, new, EDITION).await?;
    Ok(StatusCode::CREATED)
}

pub async fn info(
    State(core): State<Core>,
    Caller(call): Caller,
    Path((service, instance)): Path<(String, String)>,
) -> Result<Json<InstanceView>, Refusal> {
    let wanted = wanted(&service, &instance)?;
    let (told, plan) = instances::info(&core, &call, &wanted, EDITION).await?;
    Ok(Json(InstanceView::new(told, plan)))
}

pub async fn status(
    State(core): State<Core>,
    Caller(call): Caller,
    Path((service, instance)): Path<(String, String)>,
) -> Result<String, Refusal> {
    let wanted = wanted(&service, &instance)?;
    Ok(instances::status(&core, &call, &wanted, EDITION).await?)
}

pub async fn update(
    State(core): State<Core>,
    Caller(call): Caller,
    Path((service, instance)): Path<(String, String)>,
    input: Input,
) -> Result<(), Refusal> {
    let wanted = wanted(&service, &instance)?;
    let has_tags = input.has("tags") || input.has("tag");
    let patch = InstancePatch {
        description: input.text_as_sent("description")?,
        team_owner: input.parsed("teamowner")?,
        plan: input.text_as_sent("plan")?,
        tags: has_tags.then(|| tags(&input)).transpose()?,
        parameters: input
            .has("parameters")
            .then(|| input.map("parameters"))
            .transpose()?,
    };
    Ok(instances::update(&core, &call, &wanted, patch).await?)
}

pub async fn remove(
    State(core): State<Core>,
    Caller(call): Caller,
    Path((service, instance)): Path<(String, String)>,
    input: Input,
) -> Result<Response, Refusal> {
    let how = Removal {
        unbind_all: input.flag("unbindall")?,
        ignore_errors: input.flag("ignoreerrors")?,
    };
    let wanted = wanted(&service, &instance)?;
    match instances::remove(&core, &call, &wanted, how, EDITION).await {
        Ok(event) => {
            let following = events::follow(&core.db, &core.notices, &event);
            Ok(stream::event(&event, following, Form::Json).await?)
        }
        // Clients know this refusal as the last line of a stream (contract/modern 2.12).
        Err(problem) if problem.kind() == Kind::Precondition => Ok(refused_in_a_stream(&problem)),
        Err(problem) => Err(problem.into()),
    }
}

fn refused_in_a_stream(problem: &Problem) -> Response {
    let line = format!("{}\n", json!({ "Message": "", "Error": problem.words() }));
    ([(header::CONTENT_TYPE, "application/x-json-stream")], line).into_response()
}

pub async fn grant(
    State(core): State<Core>,
    Caller(call): Caller,
    Path((service, instance, team)): Path<(String, String, String)>,
) -> Result<(), Refusal> {
    let (wanted, team) = (wanted(&service, &instance)?, wire::team(&team)?);
    Ok(instances::grant(&core, &call, &wanted, &team).await?)
}

pub async fn revoke(
    State(core): State<Core>,
    Caller(call): Caller,
    Path((service, instance, team)): Path<(String, String, String)>,
) -> Result<(), Refusal> {
    let (wanted, team) = (wanted(&service, &instance)?, wire::team(&team)?);
    Ok(instances::revoke(&core, &call, &wanted, &team).await?)
}
