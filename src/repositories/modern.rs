//! The repository of an app in the modern API. Today's client does not use it; `curl` does.

use axum::Json;
use schemars::JsonSchema;
use serde::Serialize;

use crate::kernel::names::{AppName, BranchName};
use crate::repositories::actions;
use crate::web::errors::modern::ModernResult;
use crate::web::route_table::AuthPolicy::UserToken;
use crate::web::route_table::{DELETE, GET, PUT, RouteTable};
use crate::web::{Ctx, Params, Path};

/// The repository of an app. Fields are in the order of their keys.
#[derive(Debug, JsonSchema, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RepositoryView {
    branch: BranchName,
    bytes: i64,
    host: String,
    http_url: String,
    max_bytes: u64,
    url: String,
}

/// `GET /1.0/apps/{app}/repository`
pub async fn show_repository(ctx: Ctx, Path(app): Path<AppName>) -> ModernResult<Json<RepositoryView>> {
    let found = actions::describe_repository(&ctx.core, &ctx.request, &app).await?;
    Ok(Json(RepositoryView {
        branch: found.branch,
        bytes: found.bytes,
        host: found.host,
        http_url: found.http_url,
        max_bytes: ctx.core.settings.git.max_repository_bytes.0,
        url: found.url,
    }))
}

/// `PUT /1.0/apps/{app}/repository` (`branch`)
pub async fn update_repository(ctx: Ctx, Path(app): Path<AppName>, params: Params) -> ModernResult {
    let branch = params.require_string("branch")?.parse()?;
    Ok(actions::set_deploy_branch(&ctx.core, &ctx.request, &app, &branch).await?)
}

/// `DELETE /1.0/apps/{app}/repository`
pub async fn detach_repository(ctx: Ctx, Path(app): Path<AppName>) -> ModernResult {
    Ok(actions::detach_repository(&ctx.core, &ctx.request, &app).await?)
}

/// The modern routes of this slice.
#[rustfmt::skip]
pub fn routes(table: RouteTable) -> RouteTable {
    table
        .add_versioned_route("1.0", GET, "/apps/{app}/repository", UserToken, show_repository)
        .add_versioned_route("1.0", PUT, "/apps/{app}/repository", UserToken, update_repository)
        .add_versioned_route("1.0", DELETE, "/apps/{app}/repository", UserToken, detach_repository)
}
