//! Requests and views that both editions share: the variables of an app, and changes of them.

use schemars::JsonSchema;
use serde::Serialize;

use crate::envs::{EnvVar, Environment};
use crate::kernel::error::Error;
use crate::kernel::names::{AppName, EnvName};
use crate::kernel::secret::Secret;
use crate::releases::{self, EnvChange, NewVar, RestartTarget};
use crate::web::{Ctx, Params};

/// A variable with its value. Fields are in the order of their keys.
#[derive(JsonSchema, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EnvVarView {
    alias: String,
    managed_by: String,
    name: EnvName,
    public: bool,
    value: String,
}

impl From<EnvVar> for EnvVarView {
    fn from(var: EnvVar) -> Self {
        Self {
            alias: var.alias,
            managed_by: var.source.managed_by(),
            name: var.name,
            public: var.public,
            value: var.value.expose_secret().to_owned(),
        }
    }
}

/// Returns the variables of an app that a request names, or all.
pub(super) async fn list_vars(ctx: &Ctx, app: &AppName, params: &Params) -> Result<Vec<EnvVarView>, Error> {
    let env = releases::read_environment(&ctx.core, &ctx.request, app).await?;
    select_vars(&env, params)
}

/// Returns the variables that a request names, or all.
pub(super) fn select_vars(env: &Environment, params: &Params) -> Result<Vec<EnvVarView>, Error> {
    let names = params.get_names("env")?;
    let wanted = |var: &&EnvVar| names.is_empty() || names.iter().any(|name| name == var.name.as_str());
    Ok(env.iter().filter(wanted).cloned().map(EnvVarView::from).collect())
}

/// Reads `Envs.N.Name`, `Envs.N.Value`, `Envs.N.Private`, `NoRestart`, `Private` of all, `ManagedBy`, `PruneUnused`.
pub(super) fn parse_env_change(params: &Params) -> Result<EnvChange, Error> {
    let all_private = params.get_bool("private")?;
    let mut vars = Vec::new();
    for item in params.get_objects("envs")? {
        vars.push(NewVar {
            name: EnvName::parse(&item.require_string("name")?)?,
            value: Secret::new(item.get_string_or_empty("value")?.unwrap_or_default()),
            alias: item.get_string("alias")?.unwrap_or_default(),
            private: all_private || item.get_bool("private")?,
        });
    }
    let prune = params.get_bool("pruneunused")?;
    let managed_by = params.get_string("managedby")?.unwrap_or_default();
    // Programs that manage variables also say so when there are none, as Terraform's provider when they are given up.
    if vars.is_empty() && !prune && managed_by.is_empty() {
        return Err(Error::invalid(
            "You must provide the list of environment variables",
        ));
    }
    Ok(EnvChange {
        vars,
        managed_by,
        prune,
        no_restart: params.get_bool("norestart")?,
        skip_private: false,
    })
}

/// Reads `process` and `version`.
pub(super) fn parse_restart_target(params: &Params) -> Result<RestartTarget, Error> {
    Ok(RestartTarget {
        process: params.parse_field("process")?,
        version: params.get_integer("version")?,
    })
}
