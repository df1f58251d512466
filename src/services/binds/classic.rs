//! The classic edition of binds (contract/classic 1.3.3, 1.3.4): both requests wait for the end of the
//! operation.

use std::collections::BTreeMap;

use axum::Json;

use crate::apps::AppKind;
use crate::kernel::names::{AppName, InstanceName};
use crate::services::binds::{self, BindRequest};
use crate::services::instances::InstanceRef;
use crate::services::model::Disclosure;
use crate::web::errors::classic::ClassicResult;
use crate::web::route_table::AuthPolicy::UserToken;
use crate::web::route_table::{DELETE, PUT, RouteTable};
use crate::web::{Ctx, Path};

fn build_bind_request(instance: InstanceName, app: AppName) -> BindRequest {
    BindRequest {
        kind: AppKind::App,
        app,
        instance: InstanceRef::ByName(instance),
        no_restart: false,
        force: false,
    }
}

/// Returns the variables with their values, as the contract requires.
pub async fn bind_instance(
    ctx: Ctx,
    Path((instance, app)): Path<(InstanceName, AppName)>,
) -> ClassicResult<Json<BTreeMap<String, String>>> {
    let request = build_bind_request(instance, app);
    let (event, bind) = binds::bind_instance(&ctx.core, &ctx.request, &request, Disclosure::Deny).await?;
    ctx.wait_for_event(&event).await?;
    let variables = binds::load_variables(&ctx.core, bind).await?;
    let shown =
        |(name, value): (String, crate::kernel::secret::Secret)| (name, value.expose_secret().to_owned());
    Ok(Json(variables.into_iter().map(shown).collect()))
}

pub async fn unbind_instance(
    ctx: Ctx,
    Path((instance, app)): Path<(InstanceName, AppName)>,
) -> ClassicResult {
    let request = build_bind_request(instance, app);
    let event = binds::unbind_instance(&ctx.core, &ctx.request, &request, Disclosure::Deny).await?;
    Ok(ctx.wait_for_event(&event).await?)
}

/// The classic routes of this slice.
#[rustfmt::skip]
pub fn routes(table: RouteTable) -> RouteTable {
    table
        .add_route(PUT, "/services/instances/{instance}/{app}", UserToken, bind_instance)
        .allow_service_time()
        .add_route(DELETE, "/services/instances/{instance}/{app}", UserToken, unbind_instance)
        .allow_service_time()
}
