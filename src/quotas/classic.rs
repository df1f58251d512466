//! `GET /quota/{owner}` (contract/classic 1.4.1).

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;

use crate::core::Core;
use crate::http::kit::Caller;
use crate::http::wording::classic::Refusal;
use crate::quotas::actions;

/// `items` is what is in use, as in the code of its day; `Limit` and `InUse` say it again in the words of
/// later servers. Without a limit, `available` is -1.
#[derive(Debug, Serialize)]
pub struct QuotaView {
    items: i32,
    available: i32,
    #[serde(rename = "Limit")]
    limit: i32,
    #[serde(rename = "InUse")]
    in_use: i32,
}

/// The quota of a user, by e-mail address, or of an app, by name.
pub async fn show(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(owner): Path<String>,
) -> Result<Json<QuotaView>, Refusal> {
    let quota = actions::of_owner(&core, &call, &owner).await?;
    Ok(Json(QuotaView {
        items: quota.in_use,
        available: quota.available().unwrap_or(-1),
        limit: quota.limit,
        in_use: quota.in_use,
    }))
}
