//! Plans as the modern edition shows them (contract/modern 2.15).

use axum::Json;
use axum::extract::State;
use serde::Serialize;

use crate::core::Core;
use crate::http::wording::modern::Refusal;
use crate::plans;

/// A plan on the wire: memory in bytes.
#[derive(Debug, Serialize)]
pub struct PlanView {
    name: String,
    memory: i64,
    cpumilli: i32,
    default: bool,
}

impl From<plans::Plan> for PlanView {
    fn from(plan: plans::Plan) -> Self {
        Self {
            name: plan.name.to_string(),
            memory: plan.memory_bytes,
            cpumilli: plan.cpu_milli,
            default: plan.is_default,
        }
    }
}

/// `GET /1.0/plans`
pub async fn list(State(core): State<Core>) -> Result<Json<Vec<PlanView>>, Refusal> {
    let plans = plans::list(&core.db).await?;
    Ok(Json(plans.into_iter().map(PlanView::from).collect()))
}
