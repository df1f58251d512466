//! Plans in the modern edition (contract/modern 2.15).

use axum::Json;
use serde::Serialize;

use crate::plans;
use crate::web::Ctx;
use crate::web::errors::modern::ModernResult;
use crate::web::route_table::AuthPolicy::UserToken;
use crate::web::route_table::{GET, RouteTable};

/// A plan; memory in bytes.
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
pub async fn list_plans(ctx: Ctx) -> ModernResult<Json<Vec<PlanView>>> {
    let plans = plans::list_plans(&ctx.core.db).await?;
    Ok(Json(plans.into_iter().map(PlanView::from).collect()))
}

/// The modern routes of this slice.
#[rustfmt::skip]
pub fn routes(table: RouteTable) -> RouteTable {
    table
        .add_versioned_route("1.0", GET, "/plans", UserToken, list_plans)
}
