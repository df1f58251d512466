//! Environment and restart in the modern edition (contract/modern 2.5, 2.6).

use axum::Json;

use crate::jobs;
use crate::kernel::error::Error;
use crate::kernel::names::{AppName, JobName};
use crate::kernel::permission::Permission;
use crate::releases;
use crate::releases::wire::{self, EnvVarView};
use crate::web::answers::EventStream;
use crate::web::errors::modern::ModernResult;
use crate::web::route_table::AuthPolicy::{UserOrAppToken, UserToken};
use crate::web::route_table::{DELETE, GET, POST, RouteTable};
use crate::web::stream::StreamFormat;
use crate::web::{Ctx, Params, Path};

/// `GET /1.0/apps/{app}/env?env=…`. Keys in lower case: the client reads only this list so.
pub async fn get_env(
    ctx: Ctx,
    Path(app): Path<AppName>,
    params: Params,
) -> ModernResult<Json<Vec<EnvVarView>>> {
    Ok(Json(wire::list_vars(&ctx, &app, &params).await?))
}

/// `POST /1.0/apps/{app}/env`
pub async fn set_env(ctx: Ctx, Path(app): Path<AppName>, params: Params) -> ModernResult<EventStream> {
    let event = releases::set_env(&ctx.core, &ctx.request, &app, wire::parse_env_change(&params)?).await?;
    Ok(ctx.stream_event(&event, StreamFormat::Json).await?)
}

/// `DELETE /1.0/apps/{app}/env?env=…&noRestart=`
pub async fn unset_env(ctx: Ctx, Path(app): Path<AppName>, params: Params) -> ModernResult<EventStream> {
    let names = params.get_names("env")?;
    if names.is_empty() {
        return Err(Error::invalid("You must provide the list of environment variables.").into());
    }
    let event = releases::unset_env(
        &ctx.core,
        &ctx.request,
        &app,
        &names,
        params.get_bool("norestart")?,
        false,
    )
    .await?;
    Ok(ctx.stream_event(&event, StreamFormat::Json).await?)
}

/// `GET /1.16/jobs/{job}/env?env=…`
pub async fn get_job_env(
    ctx: Ctx,
    Path(job): Path<JobName>,
    params: Params,
) -> ModernResult<Json<Vec<EnvVarView>>> {
    let job = jobs::find_authorized_job(&ctx.core, &ctx.request, &job, Permission::JOB_READ).await?;
    let env = releases::read_environment_of(&ctx.core, &job).await?;
    Ok(Json(wire::select_vars(&env, &params)?))
}

/// `POST /1.13/jobs/{job}/env`: the next run has the variables.
pub async fn set_job_env(ctx: Ctx, Path(job): Path<JobName>, params: Params) -> ModernResult<EventStream> {
    let change = wire::parse_env_change(&params)?;
    let permission = Permission::JOB_UPDATE;
    let job = jobs::find_authorized_job(&ctx.core, &ctx.request, &job, permission).await?;
    let event = releases::set_env_of(&ctx.core, &ctx.request, &job, permission, change).await?;
    Ok(ctx.stream_event(&event, StreamFormat::Json).await?)
}

/// `DELETE /1.13/jobs/{job}/env?env=…`
pub async fn unset_job_env(ctx: Ctx, Path(job): Path<JobName>, params: Params) -> ModernResult<EventStream> {
    let names = params.get_names("env")?;
    if names.is_empty() {
        return Err(Error::invalid("You must provide the list of environment variables.").into());
    }
    let permission = Permission::JOB_UPDATE;
    let job = jobs::find_authorized_job(&ctx.core, &ctx.request, &job, permission).await?;
    let target = (&job, permission);
    let event = releases::unset_env_of(&ctx.core, &ctx.request, target, &names, true, false).await?;
    Ok(ctx.stream_event(&event, StreamFormat::Json).await?)
}

/// `POST /1.0/apps/{app}/restart`: form `process`, `version`.
pub async fn restart_app(ctx: Ctx, Path(app): Path<AppName>, params: Params) -> ModernResult<EventStream> {
    let target = wire::parse_restart_target(&params)?;
    let event = releases::restart_app(&ctx.core, &ctx.request, &app, &target).await?;
    Ok(ctx.stream_event(&event, StreamFormat::Json).await?)
}

/// The modern routes of this slice.
#[rustfmt::skip]
pub fn routes(table: RouteTable) -> RouteTable {
    table
        .add_versioned_route("1.0", GET, "/apps/{app}/env", UserOrAppToken, get_env)
        .add_versioned_route("1.0", POST, "/apps/{app}/env", UserToken, set_env)
        .add_versioned_route("1.0", DELETE, "/apps/{app}/env", UserToken, unset_env)
        .add_versioned_route("1.0", POST, "/apps/{app}/restart", UserToken, restart_app)
        .add_versioned_route("1.16", GET, "/jobs/{job}/env", UserToken, get_job_env)
        .add_versioned_route("1.13", POST, "/jobs/{job}/env", UserToken, set_job_env)
        .add_versioned_route("1.13", DELETE, "/jobs/{job}/env", UserToken, unset_job_env)
}
