//! The modern edition of the catalogue (contract/modern 2.13).

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Serialize;
use serde_json::Value;

use crate::core::Core;
use crate::http::kit::caller::Caller;
use crate::http::kit::input::Input;
use crate::http::wording::modern::Refusal;
use crate::kernel::problem::Problem;
use crate::services::broker::ServicePlan;
use crate::services::catalogue;
use crate::services::instances::Told;
use crate::services::manifest::Fields;
use crate::services::model::Edition;
use crate::services::wire;

const EDITION: Edition = Edition::Modern;

/// An instance in the information about its service.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct InstanceView {
    id: i32,
    name: String,
    service_name: String,
    plan_name: String,
    pool: String,
    apps: Vec<String>,
    jobs: Vec<String>,
    teams: Vec<String>,
    team_owner: String,
    description: String,
    tags: Vec<String>,
    parameters: BTreeMap<String, String>,
    info: Option<BTreeMap<String, String>>,
}

impl From<Told> for InstanceView {
    fn from(told: Told) -> Self {
        let instance = told.instance;
        Self {
            id: 0,
            name: instance.name.to_string(),
            service_name: instance.service.to_string(),
            plan_name: instance.plan,
            pool: instance.pool,
            apps: instance.apps,
            jobs: Vec::new(),
            teams: instance.teams.iter().map(ToString::to_string).collect(),
            team_owner: instance.team_owner.to_string(),
            description: instance.description,
            tags: instance.tags,
            parameters: instance.parameters,
            info: told.info,
        }
    }
}

/// A plan of a service.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct PlanView {
    name: String,
    description: String,
}

impl From<ServicePlan> for PlanView {
    fn from(plan: ServicePlan) -> Self {
        Self {
            name: plan.name,
            description: plan.description,
        }
    }
}

/// The manifest as the fields of a form, or of a JSON object.
pub(super) fn fields(input: &Input) -> Result<Fields, Problem> {
    let text = |key: &str| input.text(key).map(Option::unwrap_or_default);
    let endpoint = match input.value("endpoint") {
        Some(Value::Object(_)) => input.map("endpoint")?,
        _ => BTreeMap::from([("production".to_owned(), text("endpoint")?)]),
    };
    Ok(Fields {
        id: text("id")?,
        username: text("username")?,
        password: text("password")?,
        team: text("team")?,
        dialect: text("dialect")?,
        endpoint,
    })
}

pub async fn create(
    State(core): State<Core>,
    Caller(call): Caller,
    input: Input,
) -> Result<StatusCode, Refusal> {
    let manifest = fields(&input)?.check()?;
    catalogue::create(&core, &call, manifest, EDITION).await?;
    Ok(StatusCode::CREATED)
}

pub async fn update(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(service): Path<String>,
    input: Input,
) -> Result<(), Refusal> {
    let service = wire::service(&service)?;
    let mut fields = fields(&input)?;
    if fields.id.is_empty() {
        fields.id = service.to_string();
    }
    let manifest = fields.check()?;
    if manifest.id != service {
        return Err(Problem::invalid("The id of a service cannot be changed.").into());
    }
    Ok(catalogue::update(&core, &call, manifest, EDITION).await?)
}

pub async fn remove(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(service): Path<String>,
) -> Result<(), Refusal> {
    Ok(catalogue::remove(&core, &call, &wire::service(&service)?, EDITION).await?)
}

pub async fn info(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(service): Path<String>,
) -> Result<Json<Vec<InstanceView>>, Refusal> {
    let told = catalogue::info(&core, &call, &wire::service(&service)?, EDITION).await?;
    Ok(Json(told.into_iter().map(InstanceView::from).collect()))
}

pub async fn doc(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(service): Path<String>,
) -> Result<String, Refusal> {
    Ok(catalogue::doc(&core, &call, &wire::service(&service)?, EDITION).await?)
}

pub async fn set_doc(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(service): Path<String>,
    input: Input,
) -> Result<(), Refusal> {
    let doc = input.text_as_sent("doc")?.unwrap_or_default();
    let service = wire::service(&service)?;
    Ok(catalogue::set_doc(&core, &call, &service, &doc, EDITION).await?)
}

pub async fn grant(
    State(core): State<Core>,
    Caller(call): Caller,
    Path((service, team)): Path<(String, String)>,
) -> Result<(), Refusal> {
    let (service, team) = (wire::service(&service)?, wire::team(&team)?);
    Ok(catalogue::grant(&core, &call, &service, &team, EDITION).await?)
}

pub async fn revoke(
    State(core): State<Core>,
    Caller(call): Caller,
    Path((service, team)): Path<(String, String)>,
) -> Result<(), Refusal> {
    let (service, team) = (wire::service(&service)?, wire::team(&team)?);
    Ok(catalogue::revoke(&core, &call, &service, &team, EDITION).await?)
}

pub async fn plans(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(service): Path<String>,
) -> Result<Json<Vec<PlanView>>, Refusal> {
    let plans = catalogue::plans(&core, &call, &wire::service(&service)?, EDITION).await?;
    Ok(Json(plans.into_iter().map(PlanView::from).collect()))
}
