//! Healers in the classic edition (contract/classic 1.5).

use std::collections::BTreeMap;

use axum::extract::Path;
use axum::{Extension, Json};

use crate::healers::Healers;
use crate::http::kit::Caller;
use crate::http::wording::classic::Refusal;

/// `GET /healers`: one object for each, its name with the path that runs it.
pub async fn list(Extension(healers): Extension<Healers>) -> Json<Vec<BTreeMap<&'static str, String>>> {
    let item = |name: &'static str| BTreeMap::from([(name, format!("/healers/{name}"))]);
    Json(healers.names().into_iter().map(item).collect())
}

/// `GET /healers/{healer}`: runs one round, and says what was done, a line each.
pub async fn run(
    Extension(healers): Extension<Healers>,
    Caller(call): Caller,
    Path(healer): Path<String>,
) -> Result<String, Refusal> {
    let report = healers.run(&call, &healer).await?;
    if report.done.is_empty() {
        return Ok(format!("{healer}: nothing to do\n"));
    }
    Ok(report
        .done
        .iter()
        .map(|line| format!("{healer}: {line}\n"))
        .collect())
}
