//! Units and logs in the classic edition.

use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Uri, header};
use axum::response::{IntoResponse, Response};

use crate::core::Core;
use crate::events;
use crate::http::kit::stream::{self, Form};
use crate::http::kit::{Caller, Input};
use crate::http::wording::classic::Refusal;
use crate::kernel::ids::EventId;
use crate::kernel::names::AppName;
use crate::kernel::problem::Problem;
use crate::units::scale::{self, Ask};
use crate::units::wire;

async fn streamed(core: &Core, id: &EventId) -> Result<Response, Refusal> {
    let following = events::follow(&core.db, &core.notices, id);
    Ok(stream::event(id, following, Form::Text { mark: "" }).await?)
}

/// The body is a bare number; newer clients send a form even here.
fn ask(app: &str, uri: &Uri, headers: &HeaderMap, body: &Bytes) -> Result<Ask, Problem> {
    let bare = std::str::from_utf8(body.trim_ascii()).unwrap_or_default();
    let app = AppName::parse(app)?;
    if let Ok(units) = bare.parse() {
        return Ok(Ask {
            app,
            units,
            process: None,
            version: None,
        });
    }
    let kind = headers
        .get(header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default();
    let input = Input::read(uri, kind, body.clone())?;
    let units = input.number("units")?;
    Ok(Ask {
        app,
        units: units.ok_or_else(|| Problem::invalid("You must provide the number of units."))?,
        process: input.parsed("process")?,
        version: input.number("version")?,
    })
}

/// `PUT /apps/{app}/units`
pub async fn add(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(app): Path<String>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refusal> {
    let id = scale::add(&core, &call, &ask(&app, &uri, &headers, &body)?).await?;
    streamed(&core, &id).await
}

/// `DELETE /apps/{app}/units`
pub async fn remove(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(app): Path<String>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refusal> {
    let id = scale::remove(&core, &call, &ask(&app, &uri, &headers, &body)?).await?;
    streamed(&core, &id).await
}

/// `POST /apps/{app}/start`
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

/// `POST /apps/{app}/stop`
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

/// `GET /apps/{app}/log`: query `lines`, `source`, `unit`, `follow`.
pub async fn log(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(app): Path<String>,
    input: Input,
) -> Result<Response, Refusal> {
    let lines = wire::log(core, &call, &app, &input).await?;
    let kind = [(header::CONTENT_TYPE, "application/json")];
    Ok((kind, Body::from_stream(lines)).into_response())
}

/// `POST /apps/{app}/log`: a JSON list of texts; anything else is let pass and ignored.
pub async fn add_log(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(app): Path<String>,
    uri: Uri,
    body: Bytes,
) -> Result<Bytes, Refusal> {
    let query = Input::read(&uri, "", Bytes::new())?;
    let messages: Vec<String> = serde_json::from_slice(&body).unwrap_or_default();
    wire::add_log(&core, &call, &app, &query, &messages).await?;
    Ok(Bytes::new())
}
