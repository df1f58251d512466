//! The variables of an app, and where each came from: set by a user, given by a bound instance, or made
//! by Tancho itself.
//!
//! Values lie sealed in the database. A variable of a bind covers the user's of the same name while the
//! bind lasts; of two binds that give the same name the later one wins. Nothing is lost by that: when the
//! bind ends, the user's value shows again.
//!
//! This slice keeps and reads; what changes them, and starts units anew for it, is `releases`.

mod model;
pub(crate) mod store;

pub use model::{Environment, Source, Var};

use serde_json::json;
use sqlx::PgConnection;

use crate::core::Core;
use crate::kernel::ids::AppId;
use crate::kernel::names::{AppName, EnvName};
use crate::kernel::problem::Problem;
use crate::kernel::secret::Secret;

/// Names that only Tancho sets.
pub const RESERVED: [&str; 5] = [
    "TSURU_APPNAME",
    "TSURU_APPDIR",
    "TSURU_HOST",
    "TSURU_SERVICES",
    "TSURU_APP_TOKEN",
];

/// Keeps a private variable that Tancho itself sets.
pub async fn set_own(
    core: &Core,
    tx: &mut PgConnection,
    app: AppId,
    name: &str,
    value: &Secret,
) -> Result<(), Problem> {
    let name = EnvName::parse(name)?;
    store::put(
        tx,
        &core.keys,
        app,
        &store::Put {
            name: &name,
            value,
            public: false,
            managed_by: "tsuru",
            alias: "",
        },
    )
    .await
}

/// Everything an app's units get, as it is now, with its source; in the order of the names.
pub async fn effective(
    core: &Core,
    tx: &mut PgConnection,
    app: AppId,
    name: &AppName,
) -> Result<Environment, Problem> {
    let mut vars = Environment::default();
    for var in store::list_set(&mut *tx, &core.keys, app).await? {
        vars.put(var);
    }
    let bound = store::list_bound(&mut *tx, &core.keys, app).await?;
    let services = services_document(&bound);
    for var in bound.into_iter().filter_map(|b| b.var) {
        vars.put(var);
    }
    vars.put(Var::own("TSURU_APPNAME", name.as_str(), true)?);
    vars.put(Var::own("TSURU_HOST", &core.public.api_url, true)?);
    vars.put(Var::own("TSURU_APPDIR", "/home/application/current", true)?);
    vars.put(Var::own("TSURU_SERVICES", &services, false)?);
    Ok(vars.resolve_aliases())
}

/// `TSURU_SERVICES`: service → list of `{"instance_name", "envs"}` in the order of binding
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
        if let Some(var) = &item.var {
            list[at]["envs"][var.name.as_str()] = json!(var.value.expose());
        }
    }
    serde_json::Value::Object(document).to_string()
}
