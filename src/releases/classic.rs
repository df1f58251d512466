//! Environment and restart as the classic edition has them (contract/classic 1.1.5–1.1.8).

use axum::Json;
use axum::extract::{Path, State};
use axum::response::Response;
use serde_json::{Value, json};

use crate::core::Core;
use crate::events;
use crate::http::kit::stream::{self, Form};
use crate::http::kit::{Caller, Input};
use crate::http::wording::classic::Refusal;
use crate::kernel::ids::EventId;
use crate::kernel::names::{AppName, EnvName};
use crate::kernel::problem::Problem;
use crate::kernel::secret::Secret;
use crate::releases::{self, EnvChange};

/// `GET /apps/{app}/env`: names in a JSON array as the body, or as `env` in the query; none means all.
pub async fn get_env(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(app): Path<String>,
    input: Input,
) -> Result<Json<Value>, Refusal> {
    let names = match input.body_list()? {
        Some(names) => names,
        None => input.texts("env")?,
    };
    let env = releases::environment_of(&core, &call, &AppName::parse(&app)?).await?;
    let wanted = |name: &str| names.is_empty() || names.iter().any(|n| n == name);
    let vars = env.iter().filter(|var| wanted(var.name.as_str()));
    Ok(Json(
        vars.map(|var| {
            json!({
                "name": var.name, "value": var.value.expose(), "public": var.public,
                "alias": var.alias, "managedBy": var.source.managed_by(),
            })
        })
        .collect(),
    ))
}

/// `POST /apps/{app}/env`: a JSON object of texts, or the form of later clients.
pub async fn set_env(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(app): Path<String>,
    input: Input,
) -> Result<(), Refusal> {
    let name = AppName::parse(&app)?;
    let change = match input.has("envs") {
        true => super::modern::change_of(&input)?,
        false => EnvChange {
            vars: plain_vars(&input)?,
            skip_private: true,
            ..EnvChange::default()
        },
    };
    let event = releases::set_env(&core, &call, &name, change).await?;
    Ok(finished(&core, &event).await?)
}

fn plain_vars(input: &Input) -> Result<Vec<(EnvName, Secret, String)>, Problem> {
    if input.raw.trim_ascii().is_empty() || input.body_list()?.is_some() {
        return Err(Problem::invalid(
            "Send the variables as a JSON object of texts, such as {\"NAME\": \"value\"}.",
        ));
    }
    let vars = input.body_map()?;
    vars.into_iter()
        .map(|(name, value)| Ok((EnvName::parse(&name)?, Secret::new(value), String::new())))
        .collect()
}

/// `DELETE /apps/{app}/env`: names in a JSON array as the body, or as `env`.
pub async fn unset_env(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(app): Path<String>,
    input: Input,
) -> Result<(), Refusal> {
    let name = AppName::parse(&app)?;
    let (names, public_only) = match input.body_list()? {
        Some(names) => (names, true),
        None => (input.texts("env")?, false),
    };
    if names.is_empty() {
        return Err(Problem::invalid("Name the variables to remove, as a JSON array of texts.").into());
    }
    let event =
        releases::unset_env(&core, &call, &name, &names, input.flag("norestart")?, public_only).await?;
    Ok(finished(&core, &event).await?)
}

async fn finished(core: &Core, event: &EventId) -> Result<(), Problem> {
    events::follow(&core.db, &core.notices, event)
        .outcome()
        .await?
        .into_result()
}

/// `GET` and `POST /apps/{app}/restart`: the progress as text.
pub async fn restart(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(app): Path<String>,
) -> Result<Response, Refusal> {
    let event = releases::restart(&core, &call, &AppName::parse(&app)?).await?;
    let following = events::follow(&core.db, &core.notices, &event);
    Ok(stream::event(&event, following, Form::Text { mark: "" }).await?)
}
