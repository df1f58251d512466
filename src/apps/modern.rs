//! Apps in the modern edition (contract/modern 2.5, 2.21).

use axum::{Extension, Json};
use serde_json::Value;

use crate::apps::change::AppChange;
use crate::apps::info::InfoCache;
use crate::apps::model::AppDescription;
use crate::apps::plan_override::PlanOverrideChange;
use crate::apps::views::{AppRouterView, AppSummaryView, AppView, CreatedAppView};
use crate::apps::{actions, addresses, listing, quota, wire};
use crate::kernel::error::Error;
use crate::kernel::names::{AppName, TeamName};
use crate::kernel::permission::Permission;
use crate::lifecycle;
use crate::quotas::{QuotaView, parse_limit};
use crate::web::answers::{CreatedJson, EncodedJson, EventStream, StreamedList};
use crate::web::errors::modern::ModernResult;
use crate::web::route_table::AuthPolicy::{UserOrAppToken, UserToken};
use crate::web::route_table::{DELETE, GET, POST, PUT, RouteTable};
use crate::web::stream::{self, StreamFormat};
use crate::web::{Ctx, Params, Path};

/// `GET /1.0/apps`: query `name`, a regular expression, `platform`, `teamOwner`, `owner`, `pool`, `status` of a
/// unit, one or several separated by commas, and `tag`, which may be repeated; with `simplified`, without units.
pub async fn list_apps(ctx: Ctx, params: Params) -> ModernResult<StreamedList<AppSummaryView>> {
    let statuses = parse_statuses(&params)?;
    let simplified = params.get_bool("simplified")?;
    let mut filter = wire::parse_app_filter(&params)?;
    filter.without_units = simplified && statuses.is_empty();
    let apps = listing::list_apps(&ctx.core, &ctx.request, filter);
    Ok(stream::stream_list(apps, move |full| {
        let matches = statuses.is_empty() || full.units.iter().any(|unit| statuses.contains(&unit.state));
        matches.then(|| match simplified {
            true => AppSummaryView::new(&ctx.core, full).without_units(),
            false => AppSummaryView::new(&ctx.core, full),
        })
    })
    .await?)
}

fn parse_statuses(params: &Params) -> Result<Vec<String>, Error> {
    let given = params.get_strings("status")?;
    let statuses = given.iter().flat_map(|statuses| statuses.split(','));
    Ok(statuses
        .map(str::trim)
        .filter(|s| !s.is_empty())
        .map(str::to_owned)
        .collect())
}

/// `GET /1.0/apps/{app}`
pub async fn get_app(
    ctx: Ctx,
    Extension(infos): Extension<InfoCache>,
    Path(app): Path<AppName>,
) -> ModernResult<EncodedJson<AppView>> {
    let asked = (&app, Permission::APP_READ_INFO);
    let view = |full: &AppDescription| AppView::new(&ctx.core, full);
    Ok(infos
        .read_info(&ctx.core, &ctx.request, asked, view)
        .await?
        .into())
}

/// `POST /1.0/apps`: the client decodes the response into a map of strings.
pub async fn create_app(ctx: Ctx, params: Params) -> ModernResult<CreatedJson<CreatedAppView>> {
    let app = actions::create_app(&ctx.core, &ctx.request, wire::parse_create_app(&params)?).await?;
    Ok(CreatedJson(CreatedAppView::new(&ctx.core, &app)))
}

/// Reads the new tags; a list of one empty string removes all tags, as the client sends for `-g ""`.
fn parse_tags(params: &Params) -> Result<Option<Vec<String>>, Error> {
    let given = |key: &str| match params.get_value(key) {
        None => false,
        Some(Value::Array(list)) => !list.is_empty(),
        Some(one) => one != "",
    };
    let tags = [params.get_strings("tags")?, params.get_strings("tag")?].concat();
    Ok((given("tags") || given("tag")).then(|| wire::clean_tags(tags)))
}

/// Reads a change of an app (contract/modern 2.5). Errors: `Invalid` for fields that are no longer supported.
fn parse_app_change(params: &Params) -> Result<AppChange, Error> {
    if params.get_string("router")?.is_some() || has_content(params.get_value("routeropts")) {
        return Err(Error::invalid(
            "The router of an app cannot be changed: this server has only one.",
        ));
    }
    Ok(AppChange {
        description: params.get_string("description")?,
        tags: parse_tags(params)?,
        team_owner: params.parse_field("teamowner")?,
        plan: params.parse_field("plan")?,
        plan_override: parse_plan_override(&params.get_object("planoverride")?)?,
        pool: params.parse_field("pool")?,
        platform: params.parse_field("platform")?,
        resets_image: params.get_bool("imagereset")?,
        metadata: wire::parse_metadata_patch(&params.get_object("metadata")?)?,
        processes: wire::parse_processes(params)?,
    })
}

/// Reads an override of the plan: `memory` in bytes, `cpumilli`, `cpuBurst`; 0 takes an override away.
fn parse_plan_override(params: &Params) -> Result<PlanOverrideChange, Error> {
    let cpu_milli = params.get_integer("cpumilli")?.map(i32::try_from).transpose();
    Ok(PlanOverrideChange {
        memory_bytes: params.get_integer("memory")?,
        cpu_milli: cpu_milli.map_err(|_| Error::invalid("cpumilli is too large or too small a number."))?,
        cpu_burst: params.get_number("cpuburst")?,
    })
}

/// Returns true if a value is not empty; clients send empty objects and zero values for fields that they do
/// not set.
fn has_content(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => false,
        Some(Value::Object(map)) => map.values().any(|value| has_content(Some(value))),
        Some(Value::Array(items)) => !items.is_empty(),
        Some(Value::String(text)) => !text.is_empty(),
        Some(_) => true,
    }
}

/// `PUT /1.0/apps/{app}/teams/{team}`
pub async fn grant_team(ctx: Ctx, Path((app, team)): Path<(AppName, TeamName)>) -> ModernResult {
    Ok(addresses::grant_team(&ctx.core, &ctx.request, &app, &team).await?)
}

/// `DELETE /1.0/apps/{app}/teams/{team}`
pub async fn revoke_team(ctx: Ctx, Path((app, team)): Path<(AppName, TeamName)>) -> ModernResult {
    Ok(addresses::revoke_team(&ctx.core, &ctx.request, &app, &team).await?)
}

/// `POST /1.0/apps/{app}/cname`
pub async fn add_cname(ctx: Ctx, Path(app): Path<AppName>, params: Params) -> ModernResult {
    Ok(addresses::add_cnames(&ctx.core, &ctx.request, &app, &wire::parse_cnames(&params)?).await?)
}

/// `DELETE /1.0/apps/{app}/cname?cname=…`
pub async fn remove_cname(ctx: Ctx, Path(app): Path<AppName>, params: Params) -> ModernResult {
    Ok(addresses::remove_cnames(&ctx.core, &ctx.request, &app, &wire::parse_cnames(&params)?).await?)
}

/// `GET /1.5/apps/{app}/routers`
pub async fn list_app_routers(ctx: Ctx, Path(app): Path<AppName>) -> ModernResult<Json<[AppRouterView; 1]>> {
    let full =
        actions::describe_authorized_app(&ctx.core, &ctx.request, &app, Permission::APP_READ_ROUTER).await?;
    Ok(Json([AppRouterView::new(&ctx.core, &full.app)]))
}

/// `PUT /1.0/apps/{app}`: JSON; with `noRestart`, running units are not restarted.
pub async fn update_app(ctx: Ctx, Path(app): Path<AppName>, params: Params) -> ModernResult<EventStream> {
    let (change, may_restart) = (parse_app_change(&params)?, !params.get_bool("norestart")?);
    let event = lifecycle::update_app(&ctx.core, &ctx.request, &app, change, may_restart).await?;
    Ok(ctx.stream_event(&event, StreamFormat::Json).await?)
}

/// `GET /1.0/apps/{app}/quota`
pub async fn get_app_quota(ctx: Ctx, Path(app): Path<AppName>) -> ModernResult<Json<QuotaView>> {
    Ok(Json(
        quota::find_quota(&ctx.core, &ctx.request, &app).await?.into(),
    ))
}

/// `PUT /1.0/apps/{app}/quota`: form `limit`.
pub async fn change_app_quota(ctx: Ctx, Path(app): Path<AppName>, params: Params) -> ModernResult {
    let limit = parse_limit(&params.require_scalar("limit")?)?;
    Ok(quota::change_limit(&ctx.core, &ctx.request, &app, limit).await?)
}

/// The modern routes of this slice.
#[rustfmt::skip]
pub fn routes(table: RouteTable) -> RouteTable {
    table
        .add_versioned_route("1.0", GET, "/apps", UserToken, list_apps)
        .add_versioned_route("1.0", POST, "/apps", UserToken, create_app)
        .add_versioned_route("1.0", GET, "/apps/{app}", UserOrAppToken, get_app)
        .add_versioned_route("1.0", PUT, "/apps/{app}", UserToken, update_app)
        .add_versioned_route("1.0", GET, "/apps/{app}/quota", UserToken, get_app_quota)
        .add_versioned_route("1.0", PUT, "/apps/{app}/quota", UserToken, change_app_quota)
        .add_versioned_route("1.0", PUT, "/apps/{app}/teams/{team}", UserToken, grant_team)
        .add_versioned_route("1.0", DELETE, "/apps/{app}/teams/{team}", UserToken, revoke_team)
        .add_versioned_route("1.0", POST, "/apps/{app}/cname", UserToken, add_cname)
        .add_versioned_route("1.0", DELETE, "/apps/{app}/cname", UserToken, remove_cname)
        .add_versioned_route("1.5", GET, "/apps/{app}/routers", UserToken, list_app_routers)
}
