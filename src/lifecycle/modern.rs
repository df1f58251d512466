//! `DELETE /1.0/apps/{app}` of the modern edition: a stream.

use axum::extract::{Path, State};
use axum::response::Response;

use crate::core::Core;
use crate::events;
use crate::http::kit::Caller;
use crate::http::kit::stream::{self, Form};
use crate::http::wording::modern::Refusal;
use crate::kernel::names::AppName;
use crate::kernel::problem::Problem;
use crate::lifecycle;

/// Streams the removal to its end.
pub async fn remove_app(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(app): Path<String>,
) -> Result<Response, Refusal> {
    let name = AppName::parse(&app).map_err(|_| Problem::not_found(format!("App {app} not found.")))?;
    let event = lifecycle::remove_app(&core, &call, &name).await?;
    Ok(stream::event(
        &event,
        events::follow(&core.db, &core.notices, &event),
        Form::Json,
    )
    .await?)
}
