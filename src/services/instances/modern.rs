//! The modern edition of instances (contract/modern 2.12).

use std::collections::BTreeMap;

use axum::Json;
use schemars::JsonSchema;
use serde::Serialize;

use crate::kernel::error::{Error, ErrorKind};
use crate::kernel::names::{InstanceName, ServiceName, TeamName};
use crate::kernel::permission::Permission;
use crate::services::instances::{
    self, InstanceFilter, InstanceRef, InstanceRemovalOptions, InstanceWithInfo, ServiceInstances,
};
use crate::services::model::{
    DefaultOwner, Disclosure, Instance, InstanceCreation, InstancePatch, NameScope, NewInstance,
};
use crate::services::wire;
use crate::web::answers::{CreatedAnswer, EmptyAnswer, EventStream};
use crate::web::errors::modern::ModernResult;
use crate::web::route_table::AuthPolicy::{UserToken, UserWithPermission};
use crate::web::route_table::{DELETE, GET, POST, PUT, RouteTable};
use crate::web::stream::{self, StreamFormat};
use crate::web::{Ctx, Params, Path};

const DISCLOSURE: Disclosure = Disclosure::Hide;
const CREATION: InstanceCreation = InstanceCreation {
    disclosure: DISCLOSURE,
    default_owner: DefaultOwner::One,
    name_scope: NameScope::OwnService,
};

/// A service and its instances.
#[derive(JsonSchema, Serialize)]
pub struct ServiceInstancesView {
    service: String,
    instances: Vec<String>,
    plans: Vec<String>,
    service_instances: Vec<InstanceItemView>,
}

/// An instance in a list.
#[derive(JsonSchema, Serialize)]
pub struct InstanceItemView {
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

impl From<Instance> for InstanceItemView {
    fn from(instance: Instance) -> Self {
        Self {
            name: instance.name.to_string(),
            id: 0,
            service_name: instance.service.to_string(),
            plan_name: instance.plan,
            apps: instance.apps,
            jobs: instance.jobs,
            teams: instance.teams.iter().map(ToString::to_string).collect(),
            team_owner: instance.team_owner.to_string(),
            description: instance.description,
            tags: instance.tags,
            parameters: instance.parameters,
            pool: instance.pool,
        }
    }
}

impl From<ServiceInstances> for ServiceInstancesView {
    fn from(group: ServiceInstances) -> Self {
        Self {
            service: group.service.to_string(),
            instances: group.instances.iter().map(|i| i.name.to_string()).collect(),
            plans: group.plan_names().into_iter().map(str::to_owned).collect(),
            service_instances: group.instances.into_iter().map(InstanceItemView::from).collect(),
        }
    }
}

/// The description of a single instance.
#[derive(JsonSchema, Serialize)]
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
    state: wire::InstanceStateView,
}

impl InstanceView {
    fn new(item: InstanceWithInfo, plan_description: String) -> Self {
        let state = wire::InstanceStateView::new(&item);
        let instance = item.instance;
        Self {
            apps: instance.apps,
            jobs: instance.jobs,
            teams: instance.teams.iter().map(ToString::to_string).collect(),
            team_owner: instance.team_owner.to_string(),
            description: instance.description,
            plan_name: instance.plan,
            plan_description,
            pool: instance.pool,
            custom_info: item.info,
            tags: instance.tags,
            parameters: instance.parameters,
            state,
        }
    }
}

/// Reads the tags of a request: one form names the field `tag`, the other `tags`.
fn read_tags(params: &Params) -> Result<Vec<String>, Error> {
    let mut tags = params.get_strings("tag")?;
    tags.extend(params.get_strings("tags")?);
    Ok(tags)
}

/// `GET /1.0/services/instances` with its filters, and `GET /1.0/services`.
pub async fn list_instances(ctx: Ctx, params: Params) -> ModernResult<Json<Vec<ServiceInstancesView>>> {
    let filter = InstanceFilter {
        service: params.get_string("service")?,
        name: params.get_string("name")?,
        team_owner: params.get_string("teamOwner")?,
        pool: params.get_string("pool")?,
        plan: params.get_string("plan")?,
        app: params.get_string("app")?,
        tags: read_tags(&params)?,
    };
    let groups = instances::list_instances(&ctx.core, &ctx.request, &filter).await?;
    Ok(Json(groups.into_iter().map(ServiceInstancesView::from).collect()))
}

/// Returns a field by the name that forms have for it, else by that of JSON bodies.
fn either<T>(form: Option<T>, json: Result<Option<T>, Error>) -> Result<Option<T>, Error> {
    match form {
        None => json,
        found => Ok(found),
    }
}

pub async fn create_instance(
    ctx: Ctx,
    Path(service): Path<ServiceName>,
    params: Params,
) -> ModernResult<CreatedAnswer> {
    let new = NewInstance {
        service,
        name: InstanceName::parse(&params.require_string("name")?)?,
        plan: either(params.get_string("plan")?, params.get_string("plan_name"))?.unwrap_or_default(),
        team: either(
            params.parse_field::<TeamName>("owner")?,
            params.parse_field("team_owner"),
        )?,
        description: params.get_string("description")?.unwrap_or_default(),
        tags: read_tags(&params)?,
        parameters: params.get_string_map("parameters")?,
        pool: params.parse_field("pool")?,
    };
    instances::create_instance(&ctx.core, &ctx.request, new, CREATION).await?;
    Ok(EmptyAnswer)
}

pub async fn get_instance_info(
    ctx: Ctx,
    Path((service, instance)): Path<(ServiceName, InstanceName)>,
) -> ModernResult<Json<InstanceView>> {
    let wanted = InstanceRef::InService(service, instance);
    let (item, plan) =
        instances::get_instance_info(&ctx.core, &ctx.request, &wanted, DISCLOSURE, true).await?;
    Ok(Json(InstanceView::new(item, plan)))
}

pub async fn get_instance_status(
    ctx: Ctx,
    Path((service, instance)): Path<(ServiceName, InstanceName)>,
) -> ModernResult<String> {
    let wanted = InstanceRef::InService(service, instance);
    Ok(instances::get_instance_status(&ctx.core, &ctx.request, &wanted, DISCLOSURE).await?)
}

pub async fn update_instance(
    ctx: Ctx,
    Path((service, instance)): Path<(ServiceName, InstanceName)>,
    params: Params,
) -> ModernResult {
    let wanted = InstanceRef::InService(service, instance);
    let has_tags = params.has_field("tags") || params.has_field("tag");
    let patch = InstancePatch {
        description: params.get_string_or_empty("description")?,
        team_owner: params.parse_field("teamowner")?,
        plan: params.get_string_or_empty("plan")?,
        tags: has_tags.then(|| read_tags(&params)).transpose()?,
        parameters: params
            .has_field("parameters")
            .then(|| params.get_string_map("parameters"))
            .transpose()?,
    };
    Ok(instances::update_instance(&ctx.core, &ctx.request, &wanted, patch).await?)
}

pub async fn remove_instance(
    ctx: Ctx,
    Path((service, instance)): Path<(ServiceName, InstanceName)>,
    params: Params,
) -> ModernResult<EventStream> {
    let how = InstanceRemovalOptions {
        unbind_all: params.get_bool("unbindall")?,
        ignore_errors: params.get_bool("ignoreerrors")?,
    };
    let wanted = InstanceRef::InService(service, instance);
    match instances::remove_instance(&ctx.core, &ctx.request, &wanted, how, DISCLOSURE).await {
        Ok(event) => Ok(ctx.stream_event(&event, StreamFormat::Json).await?),
        // Clients expect this error as the last line of a stream (contract/modern 2.12).
        Err(error) if error.kind() == ErrorKind::Precondition => Ok(stream::stream_error(&error)),
        Err(error) => Err(error.into()),
    }
}

pub async fn grant_instance_access(
    ctx: Ctx,
    Path((service, instance, team)): Path<(ServiceName, InstanceName, TeamName)>,
) -> ModernResult {
    let wanted = InstanceRef::InService(service, instance);
    Ok(instances::grant_instance_access(&ctx.core, &ctx.request, &wanted, &team).await?)
}

pub async fn revoke_instance_access(
    ctx: Ctx,
    Path((service, instance, team)): Path<(ServiceName, InstanceName, TeamName)>,
) -> ModernResult {
    let wanted = InstanceRef::InService(service, instance);
    Ok(instances::revoke_instance_access(&ctx.core, &ctx.request, &wanted, &team).await?)
}

/// The modern routes of this slice.
#[rustfmt::skip]
pub fn routes(table: RouteTable) -> RouteTable {
    table
        .add_versioned_route("1.0", GET, "/services", UserToken, list_instances)
        .add_versioned_route("1.0", GET, "/services/instances", UserToken, list_instances)
        .add_versioned_route("1.0", POST, "/services/{service}/instances", UserWithPermission(Permission::SERVICE_INSTANCE_CREATE), create_instance)
        .allow_service_time()
        .add_versioned_route("1.0", GET, "/services/{service}/instances/{instance}", UserToken, get_instance_info)
        .add_versioned_route("1.0", PUT, "/services/{service}/instances/{instance}", UserToken, update_instance)
        .allow_service_time()
        .add_versioned_route("1.0", DELETE, "/services/{service}/instances/{instance}", UserWithPermission(Permission::SERVICE_INSTANCE_DELETE), remove_instance)
        .allow_service_time()
        .add_versioned_route("1.0", GET, "/services/{service}/instances/{instance}/status", UserToken, get_instance_status)
        .add_versioned_route("1.0", PUT, "/services/{service}/instances/permission/{instance}/{team}", UserWithPermission(Permission::SERVICE_INSTANCE_UPDATE_GRANT), grant_instance_access)
        .add_versioned_route("1.0", DELETE, "/services/{service}/instances/permission/{instance}/{team}", UserWithPermission(Permission::SERVICE_INSTANCE_UPDATE_REVOKE), revoke_instance_access)
}
