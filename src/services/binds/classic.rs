//! The classic edition of binds (contract/classic 1.3.3, 1.3.4): both wait for the end.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, State};

use crate::core::Core;
use crate::events;
use crate::http::kit::caller::Caller;
use crate::http::wording::classic::Refusal;
use crate::kernel::problem::Problem;
use crate::services::binds::{self, Wish};
use crate::services::instances::Wanted;
use crate::services::model::Edition;
use crate::services::wire;

fn wish(instance: &str, app: &str) -> Result<Wish, Problem> {
    Ok(Wish {
        app: wire::app(app)?,
        instance: Wanted::Named(wire::instance(instance)?),
        no_restart: false,
        force: false,
    })
}

/// Answers the variables with their values: that is the contract.
pub async fn bind(
    State(core): State<Core>,
    Caller(call): Caller,
    Path((instance, app)): Path<(String, String)>,
) -> Result<Json<BTreeMap<String, String>>, Refusal> {
    let wish = wish(&instance, &app)?;
    let (event, bind) = binds::bind(&core, &call, &wish, Edition::Classic).await?;
    let following = events::follow(&core.db, &core.notices, &event);
    following.outcome().await?.into_result()?;
    let variables = binds::variables(&core, bind).await?;
    let shown = |(name, value): (String, crate::kernel::secret::Secret)| (name, value.expose().to_owned());
    Ok(Json(variables.into_iter().map(shown).collect()))
}

pub async fn unbind(
    State(core): State<Core>,
    Caller(call): Caller,
    Path((instance, app)): Path<(String, String)>,
) -> Result<(), Refusal> {
    let wish = wish(&instance, &app)?;
    let event = binds::unbind(&core, &call, &wish, Edition::Classic).await?;
    let following = events::follow(&core.db, &core.notices, &event);
    Ok(following.outcome().await?.into_result()?)
}
