//! The manifests of services in the modern edition (contract/modern 4.5).

use axum::Json;
use schemars::JsonSchema;
use serde::Serialize;

use crate::kernel::error::Error;
use crate::kernel::names::ServiceName;
use crate::kernel::permission::Permission;
use crate::services::operations::actions;
use crate::services::operations::model::{OperationManifest, ServiceOperation};
use crate::web::errors::modern::ModernResult;
use crate::web::route_table::AuthPolicy::UserWithPermission;
use crate::web::route_table::{GET, PUT, RouteTable};
use crate::web::{Ctx, Params, Path};

/// The manifest of a service's operations.
#[derive(Debug, JsonSchema, Serialize)]
pub struct OperationManifestView {
    enabled: bool,
    strict_actions: bool,
    legacy_compat: bool,
    operations: Vec<ServiceOperationView>,
}

#[derive(Debug, JsonSchema, Serialize)]
struct ServiceOperationView {
    method: String,
    path: String,
    action: String,
}

impl From<OperationManifest> for OperationManifestView {
    fn from(manifest: OperationManifest) -> Self {
        let view = |operation: ServiceOperation| ServiceOperationView {
            method: operation.method,
            path: operation.path,
            action: operation.action,
        };
        Self {
            enabled: manifest.enabled,
            strict_actions: manifest.strict_actions,
            legacy_compat: manifest.legacy_compat,
            operations: manifest.operations.into_iter().map(view).collect(),
        }
    }
}

fn read_operation(params: &Params) -> Result<ServiceOperation, Error> {
    Ok(ServiceOperation {
        method: params.require_string("method")?,
        path: params.require_string("path")?,
        action: params.require_string("action")?,
    })
}

/// `GET /1.31/services/{service}/manifest`.
pub async fn get_manifest(
    ctx: Ctx,
    Path(service): Path<ServiceName>,
) -> ModernResult<Json<OperationManifestView>> {
    let manifest = actions::find_manifest(&ctx.core, &ctx.request, &service).await?;
    Ok(Json(manifest.into()))
}

/// `PUT /1.31/services/{service}/manifest`, `{enabled, strict_actions, legacy_compat, operations}`.
pub async fn replace_manifest(ctx: Ctx, Path(service): Path<ServiceName>, params: Params) -> ModernResult {
    let operations: Result<Vec<ServiceOperation>, Error> = params
        .get_objects("operations")?
        .iter()
        .map(read_operation)
        .collect();
    let manifest = OperationManifest {
        enabled: params.get_bool("enabled")?,
        strict_actions: params.get_bool("strict_actions")?,
        legacy_compat: params.get_bool("legacy_compat")?,
        operations: operations?,
    };
    Ok(actions::replace_manifest(&ctx.core, &ctx.request, &service, &manifest).await?)
}

/// The modern routes of this slice.
#[rustfmt::skip]
pub fn routes(table: RouteTable) -> RouteTable {
    table
        .add_versioned_route("1.31", GET, "/services/{service}/manifest", UserWithPermission(Permission::SERVICE_UPDATE), get_manifest)
        .add_versioned_route("1.31", PUT, "/services/{service}/manifest", UserWithPermission(Permission::SERVICE_UPDATE), replace_manifest)
}
