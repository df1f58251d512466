//! The modern edition of binds (contract/modern 2.12, 4.4): both requests stream the progress.

use crate::kernel::error::Error;
use crate::kernel::names::{AppName, InstanceName, ServiceName};
use crate::kernel::permission::Permission;
use crate::services::binds::{self, BindRequest};
use crate::services::instances::InstanceRef;
use crate::services::model::Disclosure;
use crate::web::answers::EventStream;
use crate::web::errors::modern::ModernResult;
use crate::web::route_table::AuthPolicy::UserWithPermission;
use crate::web::route_table::{DELETE, PUT, RouteTable};
use crate::web::stream::StreamFormat;
use crate::web::{Ctx, Params, Path};

fn parse_bind_request(
    (service, instance, app): (ServiceName, InstanceName, AppName),
    params: &Params,
) -> Result<BindRequest, Error> {
    Ok(BindRequest {
        app,
        instance: InstanceRef::InService(service, instance),
        no_restart: params.get_bool("noRestart")?,
        force: params.get_bool("force")?,
    })
}

pub async fn bind_instance(
    ctx: Ctx,
    Path(names): Path<(ServiceName, InstanceName, AppName)>,
    params: Params,
) -> ModernResult<EventStream> {
    let request = parse_bind_request(names, &params)?;
    let (event, _) = binds::bind_instance(&ctx.core, &ctx.request, &request, Disclosure::Hide).await?;
    Ok(ctx.stream_event(&event, StreamFormat::Json).await?)
}

pub async fn unbind_instance(
    ctx: Ctx,
    Path(names): Path<(ServiceName, InstanceName, AppName)>,
    params: Params,
) -> ModernResult<EventStream> {
    let request = parse_bind_request(names, &params)?;
    let event = binds::unbind_instance(&ctx.core, &ctx.request, &request, Disclosure::Hide).await?;
    Ok(ctx.stream_event(&event, StreamFormat::Json).await?)
}

/// The modern routes of this slice.
#[rustfmt::skip]
pub fn routes(table: RouteTable) -> RouteTable {
    table
        .add_versioned_route("1.0", PUT, "/services/{service}/instances/{instance}/{app}", UserWithPermission(Permission::SERVICE_INSTANCE_UPDATE_BIND), bind_instance)
        .allow_service_time()
        .add_versioned_route("1.0", DELETE, "/services/{service}/instances/{instance}/{app}", UserWithPermission(Permission::SERVICE_INSTANCE_UPDATE_UNBIND), unbind_instance)
        .allow_service_time()
        .add_versioned_route("1.13", PUT, "/services/{service}/instances/{instance}/apps/{app}", UserWithPermission(Permission::SERVICE_INSTANCE_UPDATE_BIND), bind_instance)
        .allow_service_time()
        .add_versioned_route("1.13", DELETE, "/services/{service}/instances/{instance}/apps/{app}", UserWithPermission(Permission::SERVICE_INSTANCE_UPDATE_UNBIND), unbind_instance)
        .allow_service_time()
}
