//! Apps in the classic edition (contract/classic 1.1, 1.10), with the keys of the documentation and of the
//! clients that followed it.

use axum::http::header;
use axum::response::IntoResponse;
use axum::{Extension, Json};
use schemars::JsonSchema;
use serde::Serialize;

use crate::apps::info::InfoCache;
use crate::apps::model::AppDescription;
use crate::apps::views::{AppPlanView, AppRouterView, AppUnitView, CreatedAppView};
use crate::apps::{actions, addresses, listing, wire};
use crate::core::Core;
use crate::kernel::error::{Error, ErrorKind};
use crate::kernel::names::{AppName, PoolName, TeamName};
use crate::kernel::permission::{Permission, PermissionContext};
use crate::web::answers::{RenderedJson, ShapedAnswer, StreamedList};
use crate::web::errors::classic::ClassicResult;
use crate::web::route_table::AuthPolicy::{UserOrAppToken, UserToken};
use crate::web::route_table::{DELETE, GET, POST, PUT, RouteTable};
use crate::web::{Ctx, Params, Path, stream};

/// An app with the keys of the documentation (capitalised) and of the clients that followed it.
#[derive(Debug, JsonSchema, Serialize)]
pub struct ClassicAppView {
    #[serde(rename = "Framework")]
    framework: String,
    #[serde(rename = "Ip")]
    ip_too: String,
    #[serde(rename = "Name")]
    name_too: AppName,
    #[serde(rename = "Repository")]
    repository_too: String,
    #[serde(rename = "State")]
    state: &'static str,
    #[serde(rename = "Teams")]
    teams_too: Vec<TeamName>,
    #[serde(rename = "Units")]
    units_too: Vec<AppUnitView>,
    cname: String,
    deploys: i32,
    description: String,
    ip: String,
    memory: String,
    name: AppName,
    owner: String,
    plan: AppPlanView,
    platform: String,
    pool: PoolName,
    ready: bool,
    repository: String,
    routers: [AppRouterView; 1],
    swap: &'static str,
    tags: Vec<String>,
    teamowner: TeamName,
    teams: Vec<TeamName>,
    units: Vec<AppUnitView>,
}

impl ClassicAppView {
    fn new(core: &Core, full: &AppDescription) -> Self {
        let app = full.app.clone();
        let address = core.public.app_address(&app.label);
        let repository = core.public.repository_url(&app.name);
        Self {
            framework: app.platform_text(),
            ip_too: address.clone(),
            name_too: app.name.clone(),
            repository_too: repository.clone(),
            state: app_state(full),
            teams_too: app.teams.clone(),
            units_too: AppUnitView::list_classic(full),
            cname: app.cnames.first().cloned().unwrap_or_default(),
            deploys: app.deploys,
            ip: address,
            memory: (full.effective_memory_bytes() >> 20).to_string(),
            plan: AppPlanView::from(full),
            platform: app.platform_text(),
            ready: true,
            repository,
            routers: [AppRouterView::new(core, &app)],
            swap: "0",
            units: AppUnitView::list_classic(full),
            description: app.description,
            name: app.name,
            owner: app.owner,
            pool: app.pool,
            tags: app.tags,
            teamowner: app.team_owner,
            teams: app.teams,
        }
    }
}

/// Returns the state of an app, shown as `State`.
fn app_state(full: &AppDescription) -> &'static str {
    let units = &full.units;
    if units.iter().any(|u| u.state == "error") {
        return "error";
    }
    match units.is_empty() {
        true if full.app.deploys > 0 => "dead",
        true => "pending",
        false if units.iter().any(|u| u.ready) => "started",
        false => "pending",
    }
}

/// `GET /apps`
pub async fn list_apps(ctx: Ctx, params: Params) -> ClassicResult<StreamedList<ClassicAppView>> {
    let apps = listing::list_apps(&ctx.core, &ctx.request, wire::parse_app_filter(&params)?);
    Ok(stream::stream_list(apps, move |full| Some(ClassicAppView::new(&ctx.core, full))).await?)
}

/// `GET /apps/{app}`
pub async fn get_app(
    ctx: Ctx,
    Extension(infos): Extension<InfoCache>,
    Path(name): Path<AppName>,
) -> ClassicResult<ShapedAnswer<RenderedJson<ClassicAppView>>> {
    let asked = (&name, Permission::APP_READ_INFO);
    let view = |full: &AppDescription| ClassicAppView::new(&ctx.core, full);
    let bytes = infos.read_info(&ctx.core, &ctx.request, asked, view).await?;
    let profile = format!("application/json; profile={}/schema/app", ctx.core.public.api_url);
    Ok(([(header::CONTENT_TYPE, profile)], bytes).into_response().into())
}

/// `GET /apps/{app}/available`: 200 if a unit is started, else 500, as old clients expect.
pub async fn check_availability(ctx: Ctx, Path(name): Path<AppName>) -> ClassicResult {
    let full =
        actions::describe_authorized_app(&ctx.core, &ctx.request, &name, Permission::APP_READ_INFO).await?;
    match full.units.iter().any(|u| u.state == "started") {
        true => Ok(()),
        false => Err(Error::new(
            ErrorKind::Failed,
            format!("App {name} has no unit that is started."),
        )
        .into()),
    }
}

/// `POST /apps`: JSON or a form; every value of the response is a string.
pub async fn create_app(ctx: Ctx, params: Params) -> ClassicResult<Json<CreatedAppView>> {
    let request = wire::parse_create_app(&params)?;
    // Classic reports this as an invalid request (contract/classic 1.1.4), not as a missing permission.
    if let Some(team) = &request.team_owner
        && !ctx
            .request
            .has_permission(Permission::APP_CREATE, &[PermissionContext::for_team(team)])
    {
        return Err(Error::invalid(format!("You are not in team {team}: use one of your teams.")).into());
    }
    let app = actions::create_app(&ctx.core, &ctx.request, request).await?;
    Ok(Json(CreatedAppView::new(&ctx.core, &app)))
}

/// `PUT` and `POST /swap?app1=…&app2=…`
pub async fn swap_apps(ctx: Ctx, params: Params) -> ClassicResult {
    let name = |key: &str| -> Result<AppName, Error> {
        let text = params.get_string(key)?.unwrap_or_default();
        AppName::parse(&text).map_err(|_| Error::app_not_found(&text))
    };
    let (one, two) = (name("app1")?, name("app2")?);
    Ok(addresses::swap_apps(&ctx.core, &ctx.request, &one, &two, params.get_bool("cnameonly")?).await?)
}

/// `PUT /apps/{app}/{team}`
pub async fn grant_team(ctx: Ctx, Path((app, team)): Path<(AppName, TeamName)>) -> ClassicResult {
    Ok(addresses::grant_team(&ctx.core, &ctx.request, &app, &team).await?)
}

/// `DELETE /apps/{app}/{team}`
pub async fn revoke_team(ctx: Ctx, Path((app, team)): Path<(AppName, TeamName)>) -> ClassicResult {
    Ok(addresses::revoke_team(&ctx.core, &ctx.request, &app, &team).await?)
}

/// `POST /apps/{app}/cname`
pub async fn add_cname(ctx: Ctx, Path(app): Path<AppName>, params: Params) -> ClassicResult {
    Ok(addresses::add_cnames(&ctx.core, &ctx.request, &app, &wire::parse_cnames(&params)?).await?)
}

/// `DELETE /apps/{app}/cname`
pub async fn remove_cname(ctx: Ctx, Path(app): Path<AppName>, params: Params) -> ClassicResult {
    Ok(addresses::remove_cnames(&ctx.core, &ctx.request, &app, &wire::parse_cnames(&params)?).await?)
}

/// The classic routes of this slice.
#[rustfmt::skip]
pub fn routes(table: RouteTable) -> RouteTable {
    table
        .add_route(GET, "/apps", UserToken, list_apps)
        .add_route(POST, "/apps", UserToken, create_app)
        .add_route(GET, "/apps/{app}", UserToken, get_app)
        .add_route(GET, "/apps/{app}/available", UserOrAppToken, check_availability)
        .add_route(PUT, "/swap", UserToken, swap_apps)
        .add_route(POST, "/swap", UserToken, swap_apps)
        .add_route(PUT, "/apps/{app}/{team}", UserToken, grant_team)
        .add_route(DELETE, "/apps/{app}/{team}", UserToken, revoke_team)
        .add_route(POST, "/apps/{app}/cname", UserToken, add_cname)
        .add_route(DELETE, "/apps/{app}/cname", UserToken, remove_cname)
}
