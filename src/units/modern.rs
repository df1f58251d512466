//! Units and logs in the modern edition.

use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};

use crate::core::Core;
use crate::events;
use crate::http::kit::stream::{self, Form};
use crate::http::kit::{Caller, Input};
use crate::http::wording::modern::Refusal;
use crate::kernel::ids::EventId;
use crate::kernel::names::AppName;
use crate::kernel::problem::Problem;
use crate::units::scale::{self, Ask};
use crate::units::wire;

async fn streamed(core: &Core, id: &EventId) -> Result<Response, Refusal> {
    let following = events::follow(&core.db, &core.notices, id);
    Ok(stream::event(id, following, Form::Json).await?)
}

fn ask(app: &str, input: &Input) -> Result<Ask, Problem> {
    Ok(Ask {
        app: AppName::parse(app)?,
        units: input
            .number("units")?
            .ok_or_else(|| Problem::invalid("units is missing."))?,
        process: input.parsed("process")?,
        version: input.number("version")?,
    })
}

/// `PUT /apps/{app}/units`: form `units`, `process`, `version`.
pub async fn add(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(app): Path<String>,
    input: Input,
) -> Result<Response, Refusal> {
    let id = scale::add(&core, &call, &ask(&app, &input)?).await?;
    streamed(&core, &id).await
}

/// `DELETE /apps/{app}/units`: query `units`, `process`, `version`.
pub async fn remove(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(app): Path<String>,
    input: Input,
) -> Result<Response, Refusal> {
    let id = scale::remove(&core, &call, &ask(&app, &input)?).await?;
    streamed(&core, &id).await
}

/// `POST /apps/{app}/start`: form `process`, `version`.
pub async fn start(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(app): Path<String>,
    input: Input,
) -> Result<Response, Refusal> {
    let process = input.parsed("process")?;
    let id = scale::start(&core, &call, &AppName::parse(&app)?, process.as_ref()).await?;
    streamed(&core, &id).await
}

/// `POST /apps/{app}/stop`: form `process`, `version`.
pub async fn stop(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(app): Path<String>,
    input: Input,
) -> Result<Response, Refusal> {
    let process = input.parsed("process")?;
    let id = scale::stop(&core, &call, &AppName::parse(&app)?, process.as_ref()).await?;
    streamed(&core, &id).await
}

/// `DELETE /apps/{app}/units/{unit}`: query `force`.
pub async fn kill(
    State(core): State<Core>,
    Caller(call): Caller,
    Path((app, unit)): Path<(String, String)>,
    input: Input,
) -> Result<Response, Refusal> {
    let at_once = input.flag("force")?;
    let id = scale::kill(&core, &call, &AppName::parse(&app)?, &unit, at_once).await?;
    streamed(&core, &id).await
}

/// `GET /apps/{app}/log`: query `lines`, `source`, `unit`, `follow`.
pub async fn log(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(app): Path<String>,
    input: Input,
) -> Result<Response, Refusal> {
    let lines = wire::log(core, &call, &app, &input).await?;
    let kind = [(header::CONTENT_TYPE, "application/x-json-stream")];
    Ok((kind, Body::from_stream(lines)).into_response())
}

/// `POST /apps/{app}/log`: a JSON list of texts, or form `message`; query or form `source`, `unit`.
pub async fn add_log(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(app): Path<String>,
    input: Input,
) -> Result<Bytes, Refusal> {
    let messages = match input.body_list()? {
        Some(list) => list,
        None => input.texts("message")?,
    };
    wire::add_log(&core, &call, &app, &input, &messages).await?;
    Ok(Bytes::new())
}
