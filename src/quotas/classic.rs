//! `GET /quota/{owner}` (contract/classic 1.4.1).

use axum::Json;
use schemars::JsonSchema;
use serde::Serialize;

use crate::quotas::actions;
use crate::web::errors::classic::ClassicResult;
use crate::web::route_table::AuthPolicy::UserToken;
use crate::web::route_table::{GET, RouteTable};
use crate::web::{Ctx, Path};

/// A quota. `items` is the number in use, as in the code of its time; `Limit` and `InUse` repeat the numbers
/// under the names of later servers. Without a limit, `available` is -1.
#[derive(Debug, JsonSchema, Serialize)]
pub struct ClassicQuotaView {
    items: i32,
    available: i32,
    #[serde(rename = "Limit")]
    limit: i32,
    #[serde(rename = "InUse")]
    in_use: i32,
}

/// Returns the quota of a user, by e-mail address, or of an app, by name.
pub async fn get_quota(ctx: Ctx, Path(owner): Path<String>) -> ClassicResult<Json<ClassicQuotaView>> {
    let quota = actions::find_owner_quota(&ctx.core, &ctx.request, &owner).await?;
    Ok(Json(ClassicQuotaView {
        items: quota.in_use,
        available: quota.available_count().unwrap_or(-1),
        limit: quota.limit,
        in_use: quota.in_use,
    }))
}

/// The classic routes of this slice.
#[rustfmt::skip]
pub fn routes(table: RouteTable) -> RouteTable {
    table
        .add_route(GET, "/quota/{email}", UserToken, get_quota)
}
