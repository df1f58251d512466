//! The modern edition of binds (contract/modern 2.12, 4.4): both stream their progress.

use axum::extract::{Path, State};
use axum::response::Response;

use crate::core::Core;
use crate::events;
use crate::http::kit::caller::Caller;
use crate::http::kit::input::Input;
use crate::http::kit::stream::{self, Form};
use crate::http::wording::modern::Refusal;
use crate::kernel::problem::Problem;
use crate::services::binds::{self, Wish};
use crate::services::instances::Wanted;
use crate::services::model::Edition;
use crate::services::wire;

fn wish(service: &str, instance: &str, app: &str, input: &Input) -> Result<Wish, Problem> {
    Ok(Wish {
        app: wire::app(app)?,
        instance: Wanted::Of(wire::service(service)?, wire::instance(instance)?),
        no_restart: input.flag("noRestart")?,
        force: input.flag("force")?,
    })
}

pub async fn bind(
    State(core): State<Core>,
    Caller(call): Caller,
    Path((service, instance, app)): Path<(String, String, String)>,
    input: Input,
) -> Result<Response, Refusal> {
    let wish = wish(&service, &instance, &app, &input)?;
    let (event, _) = binds::bind(&core, &call, &wish, Edition::Modern).await?;
    let following = events::follow(&core.db, &core.notices, &event);
    Ok(stream::event(&event, following, Form::Json).await?)
}

pub async fn unbind(
    State(core): State<Core>,
    Caller(call): Caller,
    Path((service, instance, app)): Path<(String, String, String)>,
    input: Input,
) -> Result<Response, Refusal> {
    let wish = wish(&service, &instance, &app, &input)?;
    let event = binds::unbind(&core, &call, &wish, Edition::Modern).await?;
    let following = events::follow(&core.db, &core.notices, &event);
    Ok(stream::event(&event, following, Form::Json).await?)
}
