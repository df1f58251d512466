//! Environment and restart as the modern edition has them (contract/modern 2.5, 2.6).

use axum::extract::{Path, State};
use axum::response::Response;

use crate::core::Core;
use crate::events;
use crate::http::kit::stream::{self, Form};
use crate::http::kit::{Caller, Input};
use crate::http::wording::modern::Refusal;
use crate::kernel::ids::EventId;
use crate::kernel::names::{AppName, EnvName};
use crate::kernel::problem::Problem;
use crate::kernel::secret::Secret;
use crate::releases::{self, EnvChange};

/// `GET /1.0/apps/{app}/env?env=…`. Keys in small letters: this is the one list that the client reads so.
pub use super::classic::get_env;

/// Reads `Envs.N.Name`, `Envs.N.Value`, `NoRestart`, `Private`, `ManagedBy`, `PruneUnused`.
pub(super) fn change_of(input: &Input) -> Result<EnvChange, Problem> {
    let mut vars = Vec::new();
    for item in input.objects("envs")? {
        let name = EnvName::parse(&item.required("name")?)?;
        let value = Secret::new(item.text_as_sent("value")?.unwrap_or_default());
        vars.push((name, value, item.text("alias")?.unwrap_or_default()));
    }
    let prune = input.flag("pruneunused")?;
    if vars.is_empty() && !prune {
        return Err(Problem::invalid(
            "You must provide the list of environment variables",
        ));
    }
    Ok(EnvChange {
        vars,
        private: input.flag("private")?,
        managed_by: input.text("managedby")?.unwrap_or_default(),
        prune,
        no_restart: input.flag("norestart")?,
        skip_private: false,
    })
}

/// `POST /1.0/apps/{app}/env`
pub async fn set_env(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(app): Path<String>,
    input: Input,
) -> Result<Response, Refusal> {
    let event = releases::set_env(&core, &call, &AppName::parse(&app)?, change_of(&input)?).await?;
    Ok(followed(&core, &event).await?)
}

/// `DELETE /1.0/apps/{app}/env?env=…&noRestart=`
pub async fn unset_env(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(app): Path<String>,
    input: Input,
) -> Result<Response, Refusal> {
    let names = input.texts("env")?;
    if names.is_empty() {
        return Err(Problem::invalid("You must provide the list of environment variables.").into());
    }
    let app = AppName::parse(&app)?;
    let event = releases::unset_env(&core, &call, &app, &names, input.flag("norestart")?, false).await?;
    Ok(followed(&core, &event).await?)
}

/// `POST /1.0/apps/{app}/restart`
pub async fn restart(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(app): Path<String>,
) -> Result<Response, Refusal> {
    let event = releases::restart(&core, &call, &AppName::parse(&app)?).await?;
    Ok(followed(&core, &event).await?)
}

async fn followed(core: &Core, event: &EventId) -> Result<Response, Problem> {
    stream::event(event, events::follow(&core.db, &core.notices, event), Form::Json).await
}
