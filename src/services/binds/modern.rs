//! The modern edition of binds (contract/modern 2.12, 4.4): both requests stream the progress.

use crate::apps::AppKind;
use crate::kernel::error::Error;
use crate::kernel::names::{AppName, InstanceName, JobName, ServiceName};
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
        kind: AppKind::App,
        app,
        instance: InstanceRef::InService(service, instance),
        no_restart: params.get_bool("noRestart")?,
        force: params.get_bool("force")?,
    })
}

/// The same names with that of a job.
fn parse_job_bind(
    (service, instance, job): (ServiceName, InstanceName, JobName),
    params: &Params,
) -> Result<BindRequest, Error> {
    let names = (service, instance, AppName::parse(job.as_str())?);
    Ok(BindRequest {
        kind: AppKind::Job,
        ..parse_bind_request(names, params)?
    })
}

pub async fn bind_job(
    ctx: Ctx,
    Path(names): Path<(ServiceName, InstanceName, JobName)>,
    params: Params,
) -> ModernResult<EventStream> {
    let request = parse_job_bind(names, &params)?;
    let (event, _) = binds::bind_instance(&ctx.core, &ctx.request, &request, Disclosure::Hide).await?;
    Ok(ctx.stream_event(&event, StreamFormat::Json).await?)
}

pub async fn unbind_job(
    ctx: Ctx,
    Path(names): Path<(ServiceName, InstanceName, JobName)>,
    params: Params,
) -> ModernResult<EventStream> {
    let request = parse_job_bind(names, &params)?;
    let event = binds::unbind_instance(&ctx.core, &ctx.request, &request, Disclosure::Hide).await?;
    Ok(ctx.stream_event(&event, StreamFormat::Json).await?)
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
        .add_versioned_route("1.13", PUT, "/services/{service}/instances/{instance}/jobs/{job}", UserWithPermission(Permission::SERVICE_INSTANCE_UPDATE_BIND), bind_job)
        .allow_service_time()
        .add_versioned_route("1.13", DELETE, "/services/{service}/instances/{instance}/jobs/{job}", UserWithPermission(Permission::SERVICE_INSTANCE_UPDATE_UNBIND), unbind_job)
        .allow_service_time()
}
