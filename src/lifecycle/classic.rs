//! `DELETE /apps/{app}` of the classic edition.

use axum::extract::{Path, State};

use crate::core::Core;
use crate::events;
use crate::http::kit::Caller;
use crate::http::wording::classic::Refusal;
use crate::kernel::names::AppName;
use crate::kernel::problem::Problem;
use crate::lifecycle;

/// Answers once the app is gone, so that its name is free when the caller reads `success`.
pub async fn remove_app(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(app): Path<String>,
) -> Result<&'static str, Refusal> {
    let name = AppName::parse(&app).map_err(|_| Problem::not_found(format!("App {app} not found.")))?;
    let event = lifecycle::remove_app(&core, &call, &name).await?;
    events::follow(&core.db, &core.notices, &event)
        .outcome()
        .await?
        .into_result()?;
    Ok("success")
}
