//! Platforms in the classic edition (contract/classic 1.6.1).

use axum::Json;

use crate::platforms::actions;
use crate::platforms::wire::PlatformView;
use crate::web::Ctx;
use crate::web::errors::classic::ClassicResult;
use crate::web::route_table::AuthPolicy::UserToken;
use crate::web::route_table::{GET, RouteTable};

/// `GET /platforms`
pub async fn list_platforms(ctx: Ctx) -> ClassicResult<Json<Vec<PlatformView>>> {
    let platforms = actions::list_platforms(&ctx.core).await?;
    Ok(Json(platforms.into_iter().map(PlatformView::from).collect()))
}

/// The classic routes of this slice.
#[rustfmt::skip]
pub fn routes(table: RouteTable) -> RouteTable {
    table
        .add_route(GET, "/platforms", UserToken, list_platforms)
}
