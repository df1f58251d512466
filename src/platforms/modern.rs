//! Platforms in the modern edition (contract/modern 2.15).

use axum::Json;
use serde::Serialize;

use crate::kernel::error::Error;
use crate::kernel::names::PlatformName;
use crate::platforms;
use crate::platforms::wire::PlatformView;
use crate::web::errors::modern::ModernResult;
use crate::web::route_table::AuthPolicy::UserToken;
use crate::web::route_table::{GET, RouteTable};
use crate::web::{Ctx, Path};

/// The description of a single platform; it has no images.
#[derive(Debug, Serialize)]
pub struct PlatformInfoView {
    images: [(); 0],
    platform: PlatformView,
}

/// `GET /1.0/platforms`
pub async fn list_platforms(ctx: Ctx) -> ModernResult<Json<Vec<PlatformView>>> {
    let platforms = platforms::list_platforms(&ctx.core.db).await?;
    Ok(Json(platforms.into_iter().map(PlatformView::from).collect()))
}

/// `GET /1.6/platforms/{platform}`
pub async fn get_platform(ctx: Ctx, Path(name): Path<PlatformName>) -> ModernResult<Json<PlatformInfoView>> {
    let platforms = platforms::list_platforms(&ctx.core.db).await?;
    let found = platforms.into_iter().find(|platform| platform.name == name);
    let platform = found.ok_or_else(|| Error::platform_not_found(name))?;
    Ok(Json(PlatformInfoView {
        images: [],
        platform: platform.into(),
    }))
}

/// The modern routes of this slice.
#[rustfmt::skip]
pub fn routes(table: RouteTable) -> RouteTable {
    table
        .add_versioned_route("1.0", GET, "/platforms", UserToken, list_platforms)
        .add_versioned_route("1.6", GET, "/platforms/{platform}", UserToken, get_platform)
}
