//! Scaling by load in the modern edition (contract/modern 2.18).

use axum::Json;

use crate::apps::{AppScaleRule, CpuTarget, ScaleBehavior, ScaleDown, ScaleQuery, ScaleRule, ScaleSchedule};
use crate::autoscale::actions;
use crate::autoscale::model::parse_cpu;
use crate::kernel::error::Error;
use crate::kernel::names::AppName;
use crate::web::errors::modern::ModernResult;
use crate::web::route_table::AuthPolicy::UserToken;
use crate::web::route_table::{DELETE, GET, POST, RouteTable};
use crate::web::{Ctx, Params, Path};

/// Returns a number of units, of percent or of seconds. Errors: `Invalid` for one that is out of any range.
fn narrow_number(number: Option<i64>) -> Result<Option<i32>, Error> {
    let narrow = |number: i64| {
        i32::try_from(number)
            .map_err(|_| Error::invalid(format!("{number} is out of range: use a smaller number.")))
    };
    number.map(narrow).transpose()
}

fn parse_schedule(params: &Params) -> Result<ScaleSchedule, Error> {
    Ok(ScaleSchedule {
        name: params.get_string("name")?.unwrap_or_default(),
        min_replicas: narrow_number(params.get_integer("minReplicas")?)?.unwrap_or(0),
        start: params.require_string("start")?,
        end: params.require_string("end")?,
        timezone: params.get_string("timezone")?.unwrap_or_else(|| "UTC".to_owned()),
    })
}

fn parse_query(params: &Params) -> Result<ScaleQuery, Error> {
    Ok(ScaleQuery {
        name: params.require_string("name")?,
        query: params.require_string("query")?,
        threshold: params.get_number("threshold")?.unwrap_or(0.0),
        prometheus_address: params.require_string("prometheusAddress")?,
    })
}

fn parse_rule(params: &Params) -> Result<ScaleRule, Error> {
    let cpu = params.get_string("averageCPU")?;
    let down = params.get_object("behavior")?.get_object("scaleDown")?;
    let schedules = params.get_objects("schedules")?;
    let queries = params.get_objects("prometheus")?;
    Ok(ScaleRule {
        min_units: narrow_number(params.get_integer("minUnits")?)?.unwrap_or(1),
        max_units: narrow_number(params.get_integer("maxUnits")?)?.unwrap_or(0),
        average_cpu: cpu.as_deref().map(parse_cpu).transpose()?.map(CpuTarget),
        schedules: schedules.iter().map(parse_schedule).collect::<Result<_, _>>()?,
        prometheus: queries.iter().map(parse_query).collect::<Result<_, _>>()?,
        behavior: ScaleBehavior {
            scale_down: ScaleDown {
                stabilization_window: narrow_number(down.get_integer("stabilizationWindow")?)?,
                percentage_policy_value: narrow_number(down.get_integer("percentagePolicyValue")?)?,
                units_policy_value: narrow_number(down.get_integer("unitsPolicyValue")?)?,
            },
        },
    })
}

/// `GET /1.9/apps/{app}/units/autoscale`
pub async fn list_rules(ctx: Ctx, Path(app): Path<AppName>) -> ModernResult<Json<Vec<AppScaleRule>>> {
    Ok(Json(actions::list_rules(&ctx.core, &ctx.request, &app).await?))
}

/// `POST /1.9/apps/{app}/units/autoscale`: JSON.
pub async fn set_rule(ctx: Ctx, Path(app): Path<AppName>, params: Params) -> ModernResult {
    let process = params.parse_field("process")?;
    let version = params.get_integer("version")?;
    let rule = parse_rule(&params)?;
    Ok(actions::set_rule(&ctx.core, &ctx.request, &app, (process, version), &rule).await?)
}

/// `DELETE /1.9/apps/{app}/units/autoscale?process=`
pub async fn unset_rule(ctx: Ctx, Path(app): Path<AppName>, params: Params) -> ModernResult {
    let process = params.parse_field("process")?;
    Ok(actions::unset_rule(&ctx.core, &ctx.request, &app, process).await?)
}

/// `POST /1.29/apps/{app}/units/autoscale/swap`: JSON `version`, a string.
pub async fn swap_rules(ctx: Ctx, Path(app): Path<AppName>, params: Params) -> ModernResult {
    let text = params.require_scalar("version")?;
    let version = text
        .parse()
        .map_err(|_| Error::invalid("version must be the number of a version that runs."))?;
    Ok(actions::swap_rules(&ctx.core, &ctx.request, &app, version).await?)
}

/// The modern routes of this slice.
#[rustfmt::skip]
pub fn routes(table: RouteTable) -> RouteTable {
    table
        .add_versioned_route("1.9", GET, "/apps/{app}/units/autoscale", UserToken, list_rules)
        .add_versioned_route("1.9", POST, "/apps/{app}/units/autoscale", UserToken, set_rule)
        .add_versioned_route("1.9", DELETE, "/apps/{app}/units/autoscale", UserToken, unset_rule)
        .add_versioned_route("1.29", POST, "/apps/{app}/units/autoscale/swap", UserToken, swap_rules)
}
