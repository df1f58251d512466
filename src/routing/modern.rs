//! Routers in the modern edition (contract/modern 2.14).

use axum::Json;
use serde::Serialize;

use crate::kernel::names::AppName;
use crate::routing;
use crate::web::errors::modern::ModernResult;
use crate::web::route_table::AuthPolicy::UserToken;
use crate::web::route_table::{GET, POST, RouteTable};
use crate::web::{Ctx, Params, Path};

/// A router. Fields are in the order of their keys.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RouterView {
    config: RouterConfigView,
    default: bool,
    dynamic: bool,
    info: RouterInfoView,
    name: &'static str,
    readiness_gates: [(); 0],
    r#type: &'static str,
}

#[derive(Debug, Serialize)]
struct RouterConfigView {
    domain: String,
}

#[derive(Debug, Serialize)]
struct RouterInfoView {}

/// `GET /1.3/routers`: the built-in router, the only one.
pub async fn list_routers(ctx: Ctx) -> Json<[RouterView; 1]> {
    Json([RouterView {
        config: RouterConfigView {
            domain: ctx.core.public.domain.clone(),
        },
        default: true,
        dynamic: false,
        info: RouterInfoView {},
        name: "proxy",
        readiness_gates: [],
        r#type: "proxy",
    }])
}

/// The routes of an app by router. Fields are in the order of their keys.
#[derive(Debug, Serialize)]
pub struct RebuiltRoutesView {
    proxy: AppRoutesView,
}

#[derive(Debug, Serialize)]
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

/// The modern routes of this slice.
#[rustfmt::skip]
pub fn routes(table: RouteTable) -> RouteTable {
    table
        .add_versioned_route("1.3", GET, "/routers", UserToken, list_routers)
        .add_versioned_route("1.0", POST, "/apps/{app}/routes", UserToken, rebuild_routes)
}
