//! Units and logs in the classic edition.

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Uri, header};
use axum::response::IntoResponse;

use crate::kernel::error::Error;
use crate::kernel::names::AppName;
use crate::units::scale::{self, ScaleRequest};
use crate::units::wire::{self, LogLineView};
use crate::web::answers::{EventStream, LogLists, NegotiatedStream, ShapedAnswer};
use crate::web::errors::classic::ClassicResult;
use crate::web::route_table::AuthPolicy::{UserOrAppToken, UserToken};
use crate::web::route_table::{DELETE, GET, POST, PUT, RouteTable};
use crate::web::stream::StreamFormat;
use crate::web::{self, Ctx, Params, Path};

/// Returns the format of the event stream: text for the bare number that the reference client sends, JSON
/// lines for the form of later clients.
fn stream_format(headers: &HeaderMap) -> StreamFormat {
    match web::content_type(headers).contains("urlencoded") {
        true => StreamFormat::Json,
        false => StreamFormat::Text { mark: "" },
    }
}

/// The body is a bare number; newer clients send a form even here.
fn parse_scale_request(
    app: AppName,
    uri: &Uri,
    headers: &HeaderMap,
    body: &Bytes,
) -> Result<ScaleRequest, Error> {
    let bare = std::str::from_utf8(body.trim_ascii()).unwrap_or_default();
    if let Ok(units) = bare.parse() {
        return Ok(ScaleRequest {
            app,
            units,
            process: None,
            version: None,
        });
    }
    let params = Params::parse_request(uri, &web::content_type(headers), body.clone())?;
    let units = params.get_integer("units")?;
    Ok(ScaleRequest {
        app,
        units: units.ok_or_else(|| Error::invalid("You must provide the number of units."))?,
        process: params.parse_field("process")?,
        version: params.get_integer("version")?,
    })
}

/// `PUT /apps/{app}/units`
pub async fn add_units(
    ctx: Ctx,
    Path(app): Path<AppName>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> ClassicResult<NegotiatedStream> {
    let id = scale::add_units(
        &ctx.core,
        &ctx.request,
        &parse_scale_request(app, &uri, &headers, &body)?,
    )
    .await?;
    Ok(ctx.stream_event(&id, stream_format(&headers)).await?)
}

/// `DELETE /apps/{app}/units`
pub async fn remove_units(
    ctx: Ctx,
    Path(app): Path<AppName>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> ClassicResult<NegotiatedStream> {
    let id = scale::remove_units(
        &ctx.core,
        &ctx.request,
        &parse_scale_request(app, &uri, &headers, &body)?,
    )
    .await?;
    Ok(ctx.stream_event(&id, stream_format(&headers)).await?)
}

/// `POST /apps/{app}/start`: streams JSON lines, which later clients read.
pub async fn start_app(ctx: Ctx, Path(app): Path<AppName>, params: Params) -> ClassicResult<EventStream> {
    Ok(wire::start_app(&ctx, app, &params).await?)
}

/// `POST /apps/{app}/stop`: streams JSON lines, which later clients read.
pub async fn stop_app(ctx: Ctx, Path(app): Path<AppName>, params: Params) -> ClassicResult<EventStream> {
    Ok(wire::stop_app(&ctx, app, &params).await?)
}

/// `GET /apps/{app}/log`: query `lines`, `source`, `unit`, `follow`.
pub async fn get_log(
    ctx: Ctx,
    Path(app): Path<AppName>,
    params: Params,
) -> ClassicResult<ShapedAnswer<LogLists<LogLineView<'static>>>> {
    let lines = wire::stream_log(ctx.core, &ctx.request, &app, &params).await?;
    let kind = [(header::CONTENT_TYPE, "application/json")];
    Ok((kind, Body::from_stream(lines)).into_response().into())
}

/// `POST /apps/{app}/log`: a JSON list of strings; any other body is accepted and ignored.
pub async fn add_log(ctx: Ctx, Path(app): Path<AppName>, uri: Uri, body: Bytes) -> ClassicResult<Bytes> {
    let query = Params::parse_request(&uri, "", Bytes::new())?;
    let messages: Vec<String> = serde_json::from_slice(&body).unwrap_or_default();
    wire::add_log(&ctx.core, &ctx.request, &app, &query, &messages).await?;
    Ok(Bytes::new())
}

/// The classic routes of this slice.
#[rustfmt::skip]
pub fn routes(table: RouteTable) -> RouteTable {
    table
        .add_route(PUT, "/apps/{app}/units", UserToken, add_units)
        .add_route(DELETE, "/apps/{app}/units", UserToken, remove_units)
        .add_route(POST, "/apps/{app}/start", UserToken, start_app)
        .add_route(POST, "/apps/{app}/stop", UserToken, stop_app)
        .add_route(GET, "/apps/{app}/log", UserToken, get_log)
        .add_route(POST, "/apps/{app}/log", UserOrAppToken, add_log)
}
