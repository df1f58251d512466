//! Routers in the modern edition (contract/modern 2.11).

use std::collections::BTreeMap;

use axum::Json;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::core::Core;
use crate::kernel::error::Error;
use crate::kernel::names::RouterName;
use crate::kernel::permission::Permission;
use crate::routers::actions;
use crate::routers::model::{AddedRouter, BUILT_IN, RouterPatch};
use crate::web::answers::{CreatedAnswer, EmptyAnswer};
use crate::web::errors::modern::ModernResult;
use crate::web::route_table::AuthPolicy::{UserToken, UserWithPermission};
use crate::web::route_table::{DELETE, GET, POST, PUT, RouteTable};
use crate::web::{Ctx, Params, Path};

/// A router. Fields are in the order of their keys.
#[derive(Debug, JsonSchema, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RouterView {
    config: Map<String, Value>,
    default: bool,
    dynamic: bool,
    info: BTreeMap<&'static str, &'static str>,
    name: String,
    readiness_gates: Vec<String>,
    r#type: String,
}

impl RouterView {
    fn built_in(core: &Core) -> Self {
        let domain = Value::String(core.public.domain.clone());
        Self {
            config: Map::from_iter([("domain".to_owned(), domain)]),
            default: true,
            dynamic: false,
            info: BTreeMap::new(),
            name: BUILT_IN.to_owned(),
            readiness_gates: Vec::new(),
            r#type: BUILT_IN.to_owned(),
        }
    }
}

impl From<AddedRouter> for RouterView {
    fn from(router: AddedRouter) -> Self {
        Self {
            config: router.config,
            default: false,
            dynamic: true,
            info: BTreeMap::from([("status", "not driven by this server yet")]),
            name: router.name.to_string(),
            readiness_gates: router.readiness_gates,
            r#type: router.kind,
        }
    }
}

/// `GET /1.3/routers`: the built-in router, and those that were added.
pub async fn list_routers(ctx: Ctx) -> ModernResult<Json<Vec<RouterView>>> {
    let added = actions::list_routers(&ctx.core, &ctx.request).await?;
    let built_in = std::iter::once(RouterView::built_in(&ctx.core));
    Ok(Json(
        built_in.chain(added.into_iter().map(RouterView::from)).collect(),
    ))
}

/// Reads a router; what is absent or null is left out.
fn read_patch(params: &Params) -> Result<RouterPatch, Error> {
    let config = match params.get_value("config") {
        None => None,
        Some(Value::Object(config)) => Some(config.clone()),
        Some(value) if value == "" => None,
        Some(_) => return Err(Error::invalid("config must be an object.")),
    };
    let has_gates = params.get_value("readinessGates").is_some();
    Ok(RouterPatch {
        kind: params.get_string("type")?,
        readiness_gates: has_gates
            .then(|| params.get_strings("readinessGates"))
            .transpose()?,
        config,
    })
}

/// `POST /1.8/routers`, `{name, type, readinessGates, config}`.
pub async fn create_router(ctx: Ctx, params: Params) -> ModernResult<CreatedAnswer> {
    let name = RouterName::parse(&params.require_string("name")?)?;
    params.require_string("type")?;
    actions::create_router(&ctx.core, &ctx.request, name, read_patch(&params)?).await?;
    Ok(EmptyAnswer)
}

/// `PUT /1.8/routers/{router}`, the same; what is absent or null stays.
pub async fn update_router(ctx: Ctx, Path(name): Path<RouterName>, params: Params) -> ModernResult {
    Ok(actions::update_router(&ctx.core, &ctx.request, &name, read_patch(&params)?).await?)
}

/// `DELETE /1.8/routers/{router}`
pub async fn remove_router(ctx: Ctx, Path(name): Path<RouterName>) -> ModernResult {
    Ok(actions::remove_router(&ctx.core, &ctx.request, &name).await?)
}

/// The modern routes of this slice.
#[rustfmt::skip]
pub fn routes(table: RouteTable) -> RouteTable {
    table
        .add_versioned_route("1.3", GET, "/routers", UserToken, list_routers)
        .add_versioned_route("1.8", POST, "/routers", UserWithPermission(Permission::ROUTER_CREATE), create_router)
        .add_versioned_route("1.8", PUT, "/routers/{router}", UserWithPermission(Permission::ROUTER_UPDATE), update_router)
        .add_versioned_route("1.8", DELETE, "/routers/{router}", UserWithPermission(Permission::ROUTER_DELETE), remove_router)
}
