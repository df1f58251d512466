//! Platforms as the classic edition shows them (contract/classic 1.6.1).

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use crate::core::Core;
use crate::http::wording::classic::Refusal;
use crate::platforms;

/// `GET /platforms`
pub async fn list(State(core): State<Core>) -> Result<Json<Value>, Refusal> {
    let platforms = platforms::list(&core.db).await?;
    Ok(Json(
        platforms
            .iter()
            .map(|p| json!({ "Name": p.name, "Disabled": p.disabled }))
            .collect(),
    ))
}
