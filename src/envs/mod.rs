//! Environment variables of apps, each with its source: a user, a bound instance, or Tancho itself.
//!
//! Values are encrypted in the database. A service's variable never replaces a variable of a user or of
//! another service: such a bind is refused, and so is setting a variable that a bind provides. Two instances
//! of one service may provide the same name: the value of the later bind applies, the other is in
//! `TSURU_SERVICES`, and the event reports it. Names that loaders, shells, interpreters or the platform read
//! are never accepted from a service (`reserved`). A variable may still be covered by a bind (from before
//! these rules, or restored by a rollback): then the bind's value applies, the event reports it, and the
//! other value applies again after the unbind.
//!
//! Promises: an environment that no process can be started with is refused when it is created, also if a
//! removal would create it (`limits`).
//!
//! This slice stores and reads variables; `releases` changes them and restarts the units.

mod limits;
mod model;
pub mod reserved;
pub(crate) mod store;

pub use model::{EnvVar, Environment, VarSource};

use serde_json::json;
use sqlx::PgConnection;

use crate::core::Core;
use crate::kernel::error::Error;
use crate::kernel::ids::AppId;
use crate::kernel::names::{AppName, EnvName};
use crate::kernel::secret::Secret;

/// Names that only Tancho sets.
pub const RESERVED_NAMES: [&str; 5] = [
    "TSURU_APPNAME",
    "TSURU_APPDIR",
    "TSURU_HOST",
    "TSURU_SERVICES",
    "TSURU_APP_TOKEN",
];

/// Stores a private variable of Tancho itself.
pub async fn set_platform_var(
    core: &Core,
    tx: &mut PgConnection,
    app: AppId,
    name: &str,
    value: &Secret,
) -> Result<(), Error> {
    let name = EnvName::parse(name)?;
    store::upsert_var(
        tx,
        &core.keys,
        app,
        &store::EnvVarUpsert {
            name: &name,
            value,
            public: false,
            managed_by: "tsuru",
            alias: "",
        },
    )
    .await
}

/// Returns the present environment of an app's units, with sources, sorted by name.
pub async fn effective_environment(
    core: &Core,
    tx: &mut PgConnection,
    app: AppId,
    name: &AppName,
) -> Result<Environment, Error> {
    let mut vars = Environment::default();
    for var in store::list_app_vars(&mut *tx, &core.keys, app).await? {
        vars.insert(var);
    }
    let bound = store::list_bound_vars(&mut *tx, &core.keys, app).await?;
    let services = services_document(&bound);
    for var in bound.into_iter().filter_map(|b| b.var) {
        vars.insert_bound(var);
    }
    vars.insert(EnvVar::from_platform("TSURU_APPNAME", name.as_str(), true)?);
    vars.insert(EnvVar::from_platform("TSURU_HOST", &core.public.api_url, true)?);
    vars.insert(EnvVar::from_platform(
        "TSURU_APPDIR",
        "/home/application/current",
        true,
    )?);
    vars.insert(EnvVar::from_platform("TSURU_SERVICES", &services, false)?);
    Ok(vars.resolve_aliases())
}

/// Returns `TSURU_SERVICES`: service → list of `{"instance_name", "envs"}` in the order of binding
/// (contract/classic 3.7). Computed on reading, so it is never stale.
fn services_document(bound: &[store::BoundVar]) -> String {
    let mut document = serde_json::Map::new();
    for item in bound {
        let list = document.entry(item.service.clone()).or_insert_with(|| json!([]));
        let Some(list) = list.as_array_mut() else { continue };
        let at = match list
            .iter()
            .position(|i| i["instance_name"] == item.instance.as_str())
        {
            Some(at) => at,
            None => {
                list.push(json!({ "instance_name": item.instance, "envs": {} }));
                list.len() - 1
            }
        };
        if let Some(var) = item
            .var
            .as_ref()
            .filter(|var| reserved::find_reader(var.name.as_str()).is_none())
        {
            list[at]["envs"][var.name.as_str()] = json!(var.value.expose_secret());
        }
    }
    serde_json::Value::Object(document).to_string()
}
