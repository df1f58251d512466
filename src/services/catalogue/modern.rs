//! The modern edition of the catalogue (contract/modern 2.13).

use std::collections::BTreeMap;

use axum::Json;
use schemars::JsonSchema;
use serde::Serialize;

use crate::kernel::error::Error;
use crate::kernel::names::{ServiceName, TeamName};
use crate::kernel::permission::Permission;
use crate::services::broker::ServicePlan;
use crate::services::catalogue::{self, wire};
use crate::services::instances::InstanceWithInfo;
use crate::services::model::{DefaultOwner, Disclosure};
use crate::web::answers::{CreatedAnswer, EmptyAnswer};
use crate::web::errors::modern::ModernResult;
use crate::web::route_table::AuthPolicy::{UserToken, UserWithPermission};
use crate::web::route_table::{DELETE, GET, POST, PUT, RouteTable};
use crate::web::{Ctx, Params, Path};

const DISCLOSURE: Disclosure = Disclosure::Hide;

/// An instance in the information about its service.
#[derive(JsonSchema, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct InstanceInfoView {
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

impl From<InstanceWithInfo> for InstanceInfoView {
    fn from(item: InstanceWithInfo) -> Self {
        let instance = item.instance;
        Self {
            id: 0,
            name: instance.name.to_string(),
            service_name: instance.service.to_string(),
            plan_name: instance.plan,
            pool: instance.pool,
            apps: instance.apps,
            jobs: instance.jobs,
            teams: instance.teams.iter().map(ToString::to_string).collect(),
            team_owner: instance.team_owner.to_string(),
            description: instance.description,
            tags: instance.tags,
            parameters: instance.parameters,
            info: item.info,
        }
    }
}

/// A plan of a service.
#[derive(JsonSchema, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ServicePlanView {
    name: String,
    description: String,
}

impl From<ServicePlan> for ServicePlanView {
    fn from(plan: ServicePlan) -> Self {
        Self {
            name: plan.name,
            description: plan.description,
        }
    }
}

pub async fn create_service(ctx: Ctx, params: Params) -> ModernResult<CreatedAnswer> {
    let manifest = wire::read_manifest_fields(&params)?.into_manifest_with_password()?;
    catalogue::create_service(&ctx.core, &ctx.request, manifest, DefaultOwner::One).await?;
    Ok(EmptyAnswer)
}

pub async fn update_service(ctx: Ctx, Path(service): Path<ServiceName>, params: Params) -> ModernResult {
    let mut fields = wire::read_manifest_fields(&params)?;
    if fields.id.is_empty() {
        fields.id = service.to_string();
    }
    let manifest = fields.into_manifest_with_password()?;
    if manifest.id != service {
        return Err(Error::invalid("The id of a service cannot be changed.").into());
    }
    Ok(catalogue::update_service(&ctx.core, &ctx.request, manifest, DISCLOSURE).await?)
}

pub async fn remove_service(ctx: Ctx, Path(service): Path<ServiceName>) -> ModernResult {
    Ok(catalogue::remove_service(&ctx.core, &ctx.request, &service, DISCLOSURE).await?)
}

pub async fn get_service_info(
    ctx: Ctx,
    Path(service): Path<ServiceName>,
) -> ModernResult<Json<Vec<InstanceInfoView>>> {
    let list = catalogue::list_service_instances(&ctx.core, &ctx.request, &service, DISCLOSURE).await?;
    Ok(Json(list.into_iter().map(InstanceInfoView::from).collect()))
}

pub async fn get_service_doc(ctx: Ctx, Path(service): Path<ServiceName>) -> ModernResult<String> {
    Ok(catalogue::get_service_doc(&ctx.core, &ctx.request, &service, DISCLOSURE).await?)
}

pub async fn set_service_doc(ctx: Ctx, Path(service): Path<ServiceName>, params: Params) -> ModernResult {
    let doc = params.get_string_or_empty("doc")?.unwrap_or_default();
    Ok(catalogue::set_service_doc(&ctx.core, &ctx.request, &service, &doc, DISCLOSURE).await?)
}

pub async fn grant_service_access(
    ctx: Ctx,
    Path((service, team)): Path<(ServiceName, TeamName)>,
) -> ModernResult {
    Ok(catalogue::grant_service_access(&ctx.core, &ctx.request, &service, &team, DISCLOSURE).await?)
}

pub async fn revoke_service_access(
    ctx: Ctx,
    Path((service, team)): Path<(ServiceName, TeamName)>,
) -> ModernResult {
    Ok(catalogue::revoke_service_access(&ctx.core, &ctx.request, &service, &team, DISCLOSURE).await?)
}

pub async fn list_service_plans(
    ctx: Ctx,
    Path(service): Path<ServiceName>,
) -> ModernResult<Json<Vec<ServicePlanView>>> {
    let plans = catalogue::list_service_plans(&ctx.core, &ctx.request, &service, DISCLOSURE).await?;
    Ok(Json(plans.into_iter().map(ServicePlanView::from).collect()))
}

/// The modern routes of this slice.
#[rustfmt::skip]
pub fn routes(table: RouteTable) -> RouteTable {
    table
        .add_versioned_route("1.0", POST, "/services", UserWithPermission(Permission::SERVICE_CREATE), create_service)
        .add_versioned_route("1.0", GET, "/services/{service}", UserToken, get_service_info)
        .add_versioned_route("1.0", PUT, "/services/{service}", UserWithPermission(Permission::SERVICE_UPDATE), update_service)
        .add_versioned_route("1.0", DELETE, "/services/{service}", UserWithPermission(Permission::SERVICE_DELETE), remove_service)
        .add_versioned_route("1.0", GET, "/services/{service}/plans", UserToken, list_service_plans)
        .add_versioned_route("1.0", GET, "/services/{service}/doc", UserToken, get_service_doc)
        .add_versioned_route("1.0", PUT, "/services/{service}/doc", UserWithPermission(Permission::SERVICE_UPDATE_DOC), set_service_doc)
        .add_versioned_route("1.0", PUT, "/services/{service}/team/{team}", UserWithPermission(Permission::SERVICE_UPDATE_GRANT_ACCESS), grant_service_access)
        .add_versioned_route("1.0", DELETE, "/services/{service}/team/{team}", UserWithPermission(Permission::SERVICE_UPDATE_REVOKE_ACCESS), revoke_service_access)
}
