//! The routes and routers of apps in the modern edition (contract/modern 2.11).

use axum::Json;
use schemars::JsonSchema;
use serde::Serialize;

use crate::certificates::HttpsOptions;
use crate::kernel::error::Error;
use crate::kernel::names::{AppName, RouterName};
use crate::routing::{self, app_routers};
use crate::web::errors::modern::ModernResult;
use crate::web::route_table::AuthPolicy::UserToken;
use crate::web::route_table::{DELETE, POST, PUT, RouteTable};
use crate::web::{Ctx, Params, Path};

/// The routes of an app by router. Fields are in the order of their keys.
#[derive(Debug, JsonSchema, Serialize)]
pub struct RebuiltRoutesView {
    proxy: AppRoutesView,
}

#[derive(Debug, JsonSchema, Serialize)]
struct AppRoutesView {
    addresses: Vec<String>,
    hosts: Vec<String>,
}

/// `POST /1.0/apps/{app}/routes`: form `dry`.
pub async fn rebuild_routes(
    ctx: Ctx,
    Path(app): Path<AppName>,
    params: Params,
) -> ModernResult<Json<RebuiltRoutesView>> {
    let routes = routing::rebuild_routes(&ctx.core, &ctx.request, &app, params.get_bool("dry")?).await?;
    Ok(Json(RebuiltRoutesView {
        proxy: AppRoutesView {
            addresses: routes.addresses,
            hosts: routes.hosts,
        },
    }))
}

/// `POST /1.5/apps/{app}/routers`: form `Name`, `Opts.k`.
pub async fn add_app_router(ctx: Ctx, Path(app): Path<AppName>, params: Params) -> ModernResult {
    let router = RouterName::parse(&params.require_string("name")?)?;
    Ok(app_routers::add_app_router(&ctx.core, &ctx.request, &app, &router).await?)
}

/// `PUT /1.5/apps/{app}/routers/{router}`: form `Opts.https-redirect`, `Opts.hsts`.
pub async fn update_app_router(
    ctx: Ctx,
    Path((app, router)): Path<(AppName, RouterName)>,
    params: Params,
) -> ModernResult {
    let options = read_options(&params.get_object("opts")?)?;
    Ok(app_routers::update_app_router(&ctx.core, &ctx.request, &app, &router, options).await?)
}

/// Reads the options of the built-in router.
fn read_options(given: &Params) -> Result<HttpsOptions, Error> {
    let seconds = given.get_integer("hsts")?.map(i32::try_from).transpose();
    Ok(HttpsOptions {
        redirects: given.get_optional_bool("https-redirect")?,
        hsts_seconds: seconds.map_err(|_| Error::invalid("The option hsts is too large."))?,
    })
}

/// `DELETE /1.5/apps/{app}/routers/{router}`
pub async fn remove_app_router(ctx: Ctx, Path((app, router)): Path<(AppName, RouterName)>) -> ModernResult {
    Ok(app_routers::remove_app_router(&ctx.core, &ctx.request, &app, &router).await?)
}

/// The modern routes of this slice.
#[rustfmt::skip]
pub fn routes(table: RouteTable) -> RouteTable {
    table
        .add_versioned_route("1.5", POST, "/apps/{app}/routers", UserToken, add_app_router)
        .add_versioned_route("1.5", PUT, "/apps/{app}/routers/{router}", UserToken, update_app_router)
        .add_versioned_route("1.5", DELETE, "/apps/{app}/routers/{router}", UserToken, remove_app_router)
        .add_versioned_route("1.0", POST, "/apps/{app}/routes", UserToken, rebuild_routes)
}
