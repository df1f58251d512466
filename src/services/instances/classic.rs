//! The classic edition of instances (contract/classic 1.3).

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;

use crate::core::Core;
use crate::events;
use crate::http::kit::caller::Caller;
use crate::http::kit::input::Input;
use crate::http::wording::classic::Refusal;
use crate::kernel::names::{InstanceName, TeamName};
use crate::services::catalogue::classic::ServiceView;
use crate::services::instances::{self, Removal, Told, Wanted};
use crate::services::model::{Edition, NewInstance};
use crate::services::wire;

const EDITION: Edition = Edition::Classic;

/// An instance under the keys of the reference and under those of the clients of its time.
#[derive(Serialize)]
pub struct InstanceView {
    name: String,
    servicename: String,
    teams: Vec<String>,
    apps: Vec<String>,
    #[serde(rename = "Name")]
    name_too: String,
    #[serde(rename = "ServiceName")]
    servicename_too: String,
    #[serde(rename = "Teams")]
    teams_too: Vec<String>,
    #[serde(rename = "Apps")]
    apps_too: Vec<String>,
    #[serde(rename = "Info")]
    info: Option<BTreeMap<String, String>>,
    #[serde(flatten)]
    state: wire::StateView,
}

impl From<Told> for InstanceView {
    fn from(told: Told) -> Self {
        let state = wire::StateView::new(&told);
        let teams: Vec<String> = told.instance.teams.iter().map(ToString::to_string).collect();
        let (name, service) = (told.instance.name.to_string(), told.instance.service.to_string());
        Self {
            name: name.clone(),
            servicename: service.clone(),
            teams: teams.clone(),
            apps: told.instance.apps.clone(),
            name_too: name,
            servicename_too: service,
            teams_too: teams,
            apps_too: told.instance.apps,
            info: told.info,
            state,
        }
    }
}

pub async fn list(State(core): State<Core>, Caller(call): Caller) -> Result<Json<Vec<ServiceView>>, Refusal> {
    let listed = instances::list_names(&core, &call).await?;
    Ok(Json(listed.into_iter().map(ServiceView::from).collect()))
}

pub async fn create(State(core): State<Core>, Caller(call): Caller, input: Input) -> Result<(), Refusal> {
    let new = NewInstance {
        service: wire::service(&input.required("service_name")?)?,
        name: InstanceName::parse(&input.required("name")?)?,
        plan: input.text("plan")?.unwrap_or_default(),
        team: input.parsed::<TeamName>("owner")?,
        description: input.text("description")?.unwrap_or_default(),
        tags: Vec::new(),
        parameters: BTreeMap::new(),
        pool: String::new(),
    };
    Ok(instances::create(&core, &call, new, EDITION).await?)
}

pub async fn remove(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(instance): Path<String>,
) -> Result<&'static str, Refusal> {
    let wanted = Wanted::Named(wire::instance(&instance)?);
    let event = instances::remove(&core, &call, &wanted, Removal::default(), EDITION).await?;
    let following = events::follow(&core.db, &core.notices, &event);
    following.outcome().await?.into_result()?;
    Ok("service instance successfully removed")
}

pub async fn info(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(instance): Path<String>,
) -> Result<Json<InstanceView>, Refusal> {
    let wanted = Wanted::Named(wire::instance(&instance)?);
    let (told, _) = instances::info(&core, &call, &wanted, EDITION).await?;
    Ok(Json(told.into()))
}

pub async fn status(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(instance): Path<String>,
) -> Result<String, Refusal> {
    let wanted = Wanted::Named(wire::instance(&instance)?);
    Ok(instances::status(&core, &call, &wanted, EDITION).await?)
}
