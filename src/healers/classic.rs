//! Healers in the classic edition (contract/classic 1.5).

use std::collections::BTreeMap;

use axum::{Extension, Json};

use crate::healers::HealerRegistry;
use crate::web::errors::classic::ClassicResult;
use crate::web::route_table::AuthPolicy::AnyToken;
use crate::web::route_table::{GET, RouteTable};
use crate::web::{Ctx, Path};

/// `GET /healers`: an object for each healer, with its name and the path that runs it.
pub async fn list_healers(
    Extension(healers): Extension<HealerRegistry>,
) -> Json<Vec<BTreeMap<&'static str, String>>> {
    let item = |name: &'static str| BTreeMap::from([(name, format!("/healers/{name}"))]);
    Json(healers.list_names().into_iter().map(item).collect())
}

/// `GET /healers/{healer}`: runs one round and returns what was done, a line each.
pub async fn run_healer(
    Extension(healers): Extension<HealerRegistry>,
    ctx: Ctx,
    Path(healer): Path<String>,
) -> ClassicResult<String> {
    let report = healers.run_healer(&ctx.request, &healer).await?;
    if report.done.is_empty() {
        return Ok(format!("{healer}: nothing to do\n"));
    }
    Ok(report
        .done
        .iter()
        .map(|line| format!("{healer}: {line}\n"))
        .collect())
}

/// The classic routes of this slice.
#[rustfmt::skip]
pub fn routes(table: RouteTable) -> RouteTable {
    table
        .add_route(GET, "/healers", AnyToken, list_healers)
        .add_route(GET, "/healers/{healer}", AnyToken, run_healer)
}
