//! Pools as the modern edition shows them (contract/modern 2.14).

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use crate::core::Core;
use crate::http::kit::Caller;
use crate::http::wording::modern::Refusal;
use crate::kernel::call::Call;
use crate::kernel::permission::{ContextKind, Permission};
use crate::kernel::problem::Problem;
use crate::pools::{self, Pool};

fn view(pool: &Pool) -> Value {
    json!({
        "name": pool.name,
        "provisioner": pool.provisioner,
        "public": pool.is_public,
        "default": pool.is_default,
        "teams": pool.teams,
        "allowed": { "team": pool.teams },
        "labels": pool.labels,
    })
}

async fn visible(core: &Core, call: &Call) -> Result<Vec<Pool>, Problem> {
    let teams = call.reach(Permission::APP_CREATE, ContextKind::Team);
    Ok(pools::list(&core.db, teams.as_deref()).await?)
}

/// `GET /1.0/pools`
pub async fn list(State(core): State<Core>, Caller(call): Caller) -> Result<Json<Value>, Refusal> {
    let pools = visible(&core, &call).await?;
    Ok(Json(pools.iter().map(view).collect()))
}

/// `GET /pools/{pool}`, the one path that the client asks without a version.
pub async fn info(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(name): Path<String>,
) -> Result<Json<Value>, Refusal> {
    let pools = visible(&core, &call).await?;
    let pool = pools.iter().find(|pool| pool.name.as_str() == name);
    let pool = pool.ok_or_else(|| Problem::not_found(format!("Pool {name:?} does not exist.")))?;
    Ok(Json(view(pool)))
}
