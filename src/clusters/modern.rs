//! Clusters and provisioners in the modern edition (contract/modern 2.19).

use axum::Json;
use schemars::JsonSchema;
use serde::Serialize;

use crate::clusters::actions;
use crate::kernel::names::ClusterName;
use crate::kernel::permission::Permission;
use crate::web::errors::modern::ModernResult;
use crate::web::route_table::AuthPolicy::UserWithPermission;
use crate::web::route_table::{DELETE, GET, POST, RouteTable};
use crate::web::{Ctx, Params, Path};

/// A provisioner.
#[derive(Debug, JsonSchema, Serialize)]
pub struct ProvisionerView {
    cluster_help: ClusterHelpView,
    name: &'static str,
}

/// What a provisioner says of its clusters: nothing.
#[derive(Debug, Default, JsonSchema, Serialize)]
struct ClusterHelpView {
    custom_data_help: CustomDataHelpView,
    provisioner_help: &'static str,
}

#[derive(Debug, Default, JsonSchema, Serialize)]
struct CustomDataHelpView {}

/// `GET /1.7/provisioner`
pub async fn list_provisioners(ctx: Ctx) -> ModernResult<Json<Vec<ProvisionerView>>> {
    let names = actions::list_provisioners(&ctx.core, &ctx.request)?.into_iter();
    let views = names.map(|name| ProvisionerView {
        cluster_help: ClusterHelpView::default(),
        name,
    });
    Ok(Json(views.collect()))
}

/// `GET /1.3/provisioner/clusters`: an empty list.
pub async fn list_clusters(ctx: Ctx) -> ModernResult<Json<[(); 0]>> {
    actions::check_may_list(&ctx.request)?;
    Ok(Json([]))
}

/// `GET /1.8/provisioner/clusters/{cluster}`
pub async fn get_cluster(ctx: Ctx, Path(name): Path<ClusterName>) -> ModernResult {
    Ok(actions::find_cluster(
        &ctx.request,
        &name,
        Permission::CLUSTER_READ,
    )?)
}

/// `POST /1.3/provisioner/clusters`: `name`, `provisioner` and more.
pub async fn create_cluster(ctx: Ctx, params: Params) -> ModernResult {
    ClusterName::parse(&params.require_string("name")?)?;
    let provisioner = params.require_string("provisioner")?;
    Ok(actions::create_cluster(&ctx.core, &ctx.request, &provisioner)?)
}

/// `POST /1.4/provisioner/clusters/{cluster}`
pub async fn update_cluster(ctx: Ctx, Path(name): Path<ClusterName>) -> ModernResult {
    Ok(actions::find_cluster(
        &ctx.request,
        &name,
        Permission::CLUSTER_UPDATE,
    )?)
}

/// `DELETE /1.3/provisioner/clusters/{cluster}`
pub async fn remove_cluster(ctx: Ctx, Path(name): Path<ClusterName>) -> ModernResult {
    Ok(actions::find_cluster(
        &ctx.request,
        &name,
        Permission::CLUSTER_DELETE,
    )?)
}

/// The modern routes of this slice.
#[rustfmt::skip]
pub fn routes(table: RouteTable) -> RouteTable {
    table
        .add_versioned_route("1.7", GET, "/provisioner", UserWithPermission(Permission::CLUSTER_READ), list_provisioners)
        .add_versioned_route("1.3", GET, "/provisioner/clusters", UserWithPermission(Permission::CLUSTER_READ), list_clusters)
        .add_versioned_route("1.3", POST, "/provisioner/clusters", UserWithPermission(Permission::CLUSTER_CREATE), create_cluster)
        .add_versioned_route("1.8", GET, "/provisioner/clusters/{cluster}", UserWithPermission(Permission::CLUSTER_READ), get_cluster)
        .add_versioned_route("1.4", POST, "/provisioner/clusters/{cluster}", UserWithPermission(Permission::CLUSTER_UPDATE), update_cluster)
        .add_versioned_route("1.3", DELETE, "/provisioner/clusters/{cluster}", UserWithPermission(Permission::CLUSTER_DELETE), remove_cluster)
}
