//! Plans in the modern edition (contract/modern 2.15).

use axum::Json;
use schemars::JsonSchema;
use serde::Serialize;

use crate::kernel::error::Error;
use crate::kernel::names::PlanName;
use crate::kernel::permission::Permission;
use crate::plans::actions;
use crate::plans::model::{Plan, PlanBurst, parse_cpu, parse_memory};
use crate::plans::views::PlanBurstView;
use crate::web::answers::CreatedJson;
use crate::web::errors::modern::ModernResult;
use crate::web::route_table::AuthPolicy::{UserToken, UserWithPermission};
use crate::web::route_table::{DELETE, GET, POST, RouteTable};
use crate::web::{Ctx, Params, Path};

/// A plan; memory in bytes.
#[derive(Debug, JsonSchema, Serialize)]
pub struct PlanView {
    name: PlanName,
    memory: i64,
    cpumilli: i32,
    #[serde(rename = "cpuBurst", skip_serializing_if = "Option::is_none")]
    cpu_burst: Option<PlanBurstView>,
    default: bool,
}

impl From<Plan> for PlanView {
    fn from(plan: Plan) -> Self {
        Self {
            cpu_burst: plan.burst.map(PlanBurstView::from),
            name: plan.name,
            memory: plan.memory_bytes,
            cpumilli: plan.cpu_milli,
            default: plan.is_default,
        }
    }
}

/// `GET /1.0/plans`
pub async fn list_plans(ctx: Ctx) -> ModernResult<Json<Vec<PlanView>>> {
    let plans = actions::list_plans(&ctx.core).await?;
    Ok(Json(plans.into_iter().map(PlanView::from).collect()))
}

/// Reads a plan. 0 is no limit, and no burst, as is what is absent.
fn read_plan(params: &Params) -> Result<Plan, Error> {
    let burst = params.get_object("cpuBurst")?;
    let factor = |key: &str| Ok::<_, Error>(burst.get_number(key)?.filter(|factor| *factor != 0.0));
    let memory = params.get_scalar("memory")?;
    let cpu = params.get_scalar("cpumilli")?;
    Ok(Plan {
        name: PlanName::parse(&params.require_string("name")?)?,
        memory_bytes: memory.map_or(Ok(0), |text| parse_memory(&text))?,
        cpu_milli: cpu.map_or(Ok(0), |text| parse_cpu(&text))?,
        burst: PlanBurst::new(factor("default")?, factor("maxAllowed")?),
        is_default: params.get_bool("default")?,
    })
}

/// `POST /1.0/plans`: `name`, `memory`, `cpumilli`, `cpuBurst{default,maxAllowed}`, `default`. Answers the plan, which
/// programs decode.
pub async fn create_plan(ctx: Ctx, params: Params) -> ModernResult<CreatedJson<PlanView>> {
    let plan = read_plan(&params)?;
    actions::create_plan(&ctx.core, &ctx.request, &plan).await?;
    Ok(CreatedJson(plan.into()))
}

/// `DELETE /1.0/plans/{plan}`
pub async fn remove_plan(ctx: Ctx, Path(name): Path<PlanName>) -> ModernResult {
    Ok(actions::remove_plan(&ctx.core, &ctx.request, &name).await?)
}

/// The modern routes of this slice.
#[rustfmt::skip]
pub fn routes(table: RouteTable) -> RouteTable {
    table
        .add_versioned_route("1.0", GET, "/plans", UserToken, list_plans)
        .add_versioned_route("1.0", POST, "/plans", UserWithPermission(Permission::PLAN_CREATE), create_plan)
        .add_versioned_route("1.0", DELETE, "/plans/{plan}", UserWithPermission(Permission::PLAN_DELETE), remove_plan)
}
