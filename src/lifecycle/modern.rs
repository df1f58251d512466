//! `DELETE /1.0/apps/{app}` of the modern edition: a stream.

use crate::kernel::names::AppName;
use crate::lifecycle;
use crate::web::answers::EventStream;
use crate::web::errors::modern::ModernResult;
use crate::web::route_table::AuthPolicy::UserToken;
use crate::web::route_table::{DELETE, RouteTable};
use crate::web::stream::StreamFormat;
use crate::web::{Ctx, Path};

/// `DELETE /1.0/apps/{app}`: streams the progress of the removal.
pub async fn remove_app(ctx: Ctx, Path(app): Path<AppName>) -> ModernResult<EventStream> {
    let event = lifecycle::remove_app(&ctx.core, &ctx.request, &app).await?;
    Ok(ctx.stream_event(&event, StreamFormat::Json).await?)
}

/// The modern routes of this slice.
#[rustfmt::skip]
pub fn routes(table: RouteTable) -> RouteTable {
    table
        .add_versioned_route("1.0", DELETE, "/apps/{app}", UserToken, remove_app)
}
