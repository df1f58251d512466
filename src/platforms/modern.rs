//! Platforms as the modern edition shows them (contract/modern 2.15).

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use crate::core::Core;
use crate::http::wording::modern::Refusal;
use crate::kernel::problem::Problem;
use crate::platforms;

/// `GET /1.0/platforms`
pub async fn list(State(core): State<Core>) -> Result<Json<Value>, Refusal> {
    let platforms = platforms::list(&core.db).await?;
    Ok(Json(
        platforms
            .iter()
            .map(|p| json!({ "Name": p.name, "Disabled": p.disabled }))
            .collect(),
    ))
}

/// `GET /1.6/platforms/{platform}`
pub async fn info(State(core): State<Core>, Path(name): Path<String>) -> Result<Json<Value>, Refusal> {
    let platforms = platforms::list(&core.db).await?;
    let found = platforms.iter().find(|p| p.name.as_str() == name);
    let platform = found.ok_or_else(|| Problem::not_found(format!("Platform {name:?} does not exist.")))?;
    Ok(Json(
        json!({ "platform": { "Name": platform.name, "Disabled": platform.disabled }, "images": [] }),
    ))
}
