//! The classic edition of instances (contract/classic 1.3).

use std::collections::BTreeMap;

use axum::Json;
use schemars::JsonSchema;
use serde::Serialize;

use crate::kernel::error::Error;
use crate::kernel::names::{InstanceName, ServiceName, TeamName};
use crate::services::instances::{self, InstanceRef, InstanceRemovalOptions, InstanceWithInfo};
use crate::services::model::{DefaultOwner, Disclosure, InstanceCreation, NameScope, NewInstance};
use crate::services::wire::{self, ClassicServiceView};
use crate::web::errors::classic::ClassicResult;
use crate::web::route_table::AuthPolicy::UserToken;
use crate::web::route_table::{DELETE, GET, POST, RouteTable};
use crate::web::{Ctx, Params, Path};

const DISCLOSURE: Disclosure = Disclosure::Deny;
const CREATION: InstanceCreation = InstanceCreation {
    disclosure: DISCLOSURE,
    default_owner: DefaultOwner::AllTeams,
    name_scope: NameScope::AllServices,
};

/// An instance under the keys of the reference and those of the clients of its time.
#[derive(JsonSchema, Serialize)]
pub struct ClassicInstanceView {
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
    state: wire::InstanceStateView,
}

impl From<InstanceWithInfo> for ClassicInstanceView {
    fn from(item: InstanceWithInfo) -> Self {
        let state = wire::InstanceStateView::new(&item);
        let teams: Vec<String> = item.instance.teams.iter().map(ToString::to_string).collect();
        let (name, service) = (item.instance.name.to_string(), item.instance.service.to_string());
        Self {
            name: name.clone(),
            servicename: service.clone(),
            teams: teams.clone(),
            apps: item.instance.apps.clone(),
            name_too: name,
            servicename_too: service,
            teams_too: teams,
            apps_too: item.instance.apps,
            info: item.info,
            state,
        }
    }
}

/// `GET /services/instances`; later clients send `app` in the query.
pub async fn list_instances(ctx: Ctx, params: Params) -> ClassicResult<Json<Vec<ClassicServiceView>>> {
    let app = params.get_string("app")?;
    let listed = instances::list_instance_names(&ctx.core, &ctx.request, app.as_deref()).await?;
    Ok(Json(listed.into_iter().map(ClassicServiceView::from).collect()))
}

/// Reads the name of a service; an invalid name is reported like an unknown service.
fn read_service_name(params: &Params) -> Result<ServiceName, Error> {
    let text = params.require_string("service_name")?;
    ServiceName::parse(&text).map_err(|_| Error::service_not_found(&text))
}

pub async fn create_instance(ctx: Ctx, params: Params) -> ClassicResult {
    let new = NewInstance {
        service: read_service_name(&params)?,
        name: InstanceName::parse(&params.require_string("name")?)?,
        plan: params.get_string("plan")?.unwrap_or_default(),
        team: params.parse_field::<TeamName>("owner")?,
        description: params.get_string("description")?.unwrap_or_default(),
        tags: Vec::new(),
        parameters: BTreeMap::new(),
        pool: None,
    };
    Ok(instances::create_instance(&ctx.core, &ctx.request, new, CREATION).await?)
}

pub async fn remove_instance(ctx: Ctx, Path(instance): Path<InstanceName>) -> ClassicResult<&'static str> {
    let wanted = InstanceRef::ByName(instance);
    let event = instances::remove_instance(
        &ctx.core,
        &ctx.request,
        &wanted,
        InstanceRemovalOptions::default(),
        DISCLOSURE,
    )
    .await?;
    ctx.wait_for_event(&event).await?;
    Ok("service instance successfully removed")
}

pub async fn get_instance_info(
    ctx: Ctx,
    Path(instance): Path<InstanceName>,
) -> ClassicResult<Json<ClassicInstanceView>> {
    let wanted = InstanceRef::ByName(instance);
    let (item, _) = instances::get_instance_info(&ctx.core, &ctx.request, &wanted, DISCLOSURE, false).await?;
    Ok(Json(item.into()))
}

pub async fn get_instance_status(ctx: Ctx, Path(instance): Path<InstanceName>) -> ClassicResult<String> {
    let wanted = InstanceRef::ByName(instance);
    Ok(instances::get_instance_status(&ctx.core, &ctx.request, &wanted, DISCLOSURE).await?)
}

/// The classic routes of this slice.
#[rustfmt::skip]
pub fn routes(table: RouteTable) -> RouteTable {
    table
        .add_route(POST, "/services/instances", UserToken, create_instance)
        .allow_service_time()
        .add_route(DELETE, "/services/instances/{instance}", UserToken, remove_instance)
        .allow_service_time()
        .add_route(GET, "/services/instances", UserToken, list_instances)
        .add_route(GET, "/services/instances/{instance}", UserToken, get_instance_info)
        .add_route(GET, "/services/instances/{instance}/status", UserToken, get_instance_status)
}
