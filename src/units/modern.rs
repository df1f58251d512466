//! Units and logs in the modern edition.

use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::IntoResponse;

use crate::kernel::error::Error;
use crate::kernel::names::{AppName, JobName};
use crate::units::scale::{self, ScaleRequest};
use crate::units::wire::{self, LogLineView};
use crate::web::answers::{EventStream, LogLists, ShapedAnswer};
use crate::web::errors::modern::ModernResult;
use crate::web::route_table::AuthPolicy::{UserOrAppToken, UserToken};
use crate::web::route_table::{DELETE, GET, POST, PUT, RouteTable};
use crate::web::stream::StreamFormat;
use crate::web::{Ctx, Params, Path};

fn parse_scale_request(app: AppName, params: &Params) -> Result<ScaleRequest, Error> {
    Ok(ScaleRequest {
        app,
        units: params
            .get_integer("units")?
            .ok_or_else(|| Error::invalid("units is missing."))?,
        process: params.parse_field("process")?,
        version: params.get_integer("version")?,
    })
}

/// `PUT /apps/{app}/units`: form `units`, `process`, `version`.
pub async fn add_units(ctx: Ctx, Path(app): Path<AppName>, params: Params) -> ModernResult<EventStream> {
    let id = scale::add_units(&ctx.core, &ctx.request, &parse_scale_request(app, &params)?).await?;
    Ok(ctx.stream_event(&id, StreamFormat::Json).await?)
}

/// `DELETE /apps/{app}/units`: query `units`, `process`, `version`.
pub async fn remove_units(ctx: Ctx, Path(app): Path<AppName>, params: Params) -> ModernResult<EventStream> {
    let id = scale::remove_units(&ctx.core, &ctx.request, &parse_scale_request(app, &params)?).await?;
    Ok(ctx.stream_event(&id, StreamFormat::Json).await?)
}

/// `POST /apps/{app}/start`: form `process`, `version`.
pub async fn start_app(ctx: Ctx, Path(app): Path<AppName>, params: Params) -> ModernResult<EventStream> {
    Ok(wire::start_app(&ctx, app, &params).await?)
}

/// `POST /apps/{app}/stop`: form `process`, `version`.
pub async fn stop_app(ctx: Ctx, Path(app): Path<AppName>, params: Params) -> ModernResult<EventStream> {
    Ok(wire::stop_app(&ctx, app, &params).await?)
}

/// `DELETE /apps/{app}/units/{unit}`: query `force`.
pub async fn kill_unit(
    ctx: Ctx,
    Path((app, unit)): Path<(AppName, String)>,
    params: Params,
) -> ModernResult<EventStream> {
    let at_once = params.get_bool("force")?;
    let id = scale::kill_unit(&ctx.core, &ctx.request, &app, &unit, at_once).await?;
    Ok(ctx.stream_event(&id, StreamFormat::Json).await?)
}

/// `GET /apps/{app}/log`: query `lines`, `source`, `unit`, `follow`.
pub async fn get_log(
    ctx: Ctx,
    Path(app): Path<AppName>,
    params: Params,
) -> ModernResult<ShapedAnswer<LogLists<LogLineView<'static>>>> {
    let lines = wire::stream_log(ctx.core, &ctx.request, &app, &params).await?;
    let kind = [(header::CONTENT_TYPE, "application/x-json-stream")];
    Ok((kind, Body::from_stream(lines)).into_response().into())
}

/// `GET /1.13/jobs/{job}/log`: query `lines`, `unit`, `follow`.
pub async fn get_job_log(
    ctx: Ctx,
    Path(job): Path<JobName>,
    params: Params,
) -> ModernResult<ShapedAnswer<LogLists<LogLineView<'static>>>> {
    let lines = wire::stream_job_log(ctx.core, &ctx.request, &job, &params).await?;
    let kind = [(header::CONTENT_TYPE, "application/x-json-stream")];
    Ok((kind, Body::from_stream(lines)).into_response().into())
}

/// `POST /apps/{app}/log`: a JSON list of strings, or form `message`; query or form `source`, `unit`.
pub async fn add_log(ctx: Ctx, Path(app): Path<AppName>, params: Params) -> ModernResult<Bytes> {
    let messages = match params.get_body_strings()? {
        Some(list) => list,
        None => params.get_strings("message")?,
    };
    wire::add_log(&ctx.core, &ctx.request, &app, &params, &messages).await?;
    Ok(Bytes::new())
}

/// The modern routes of this slice.
#[rustfmt::skip]
pub fn routes(table: RouteTable) -> RouteTable {
    table
        .add_versioned_route("1.0", PUT, "/apps/{app}/units", UserToken, add_units)
        .add_versioned_route("1.0", DELETE, "/apps/{app}/units", UserToken, remove_units)
        .add_versioned_route("1.12", DELETE, "/apps/{app}/units/{unit}", UserToken, kill_unit)
        .add_versioned_route("1.0", POST, "/apps/{app}/start", UserToken, start_app)
        .add_versioned_route("1.0", POST, "/apps/{app}/stop", UserToken, stop_app)
        .add_versioned_route("1.0", GET, "/apps/{app}/log", UserToken, get_log)
        .add_versioned_route("1.0", POST, "/apps/{app}/log", UserOrAppToken, add_log)
        .add_versioned_route("1.13", GET, "/jobs/{job}/log", UserToken, get_job_log)
}
