//! Plans: how much memory and processor a unit may use. One of them is the default.

pub mod modern;
mod store;

use sqlx::PgPool;

pub use store::{Plan, list};

use crate::kernel::names::PlanName;
use crate::kernel::problem::Problem;

/// The plan named, or the default. Errors: `Invalid` when it does not exist.
pub async fn choose(db: &PgPool, named: Option<&PlanName>) -> Result<PlanName, Problem> {
    let found = store::find(db, named.map(PlanName::as_str)).await?;
    found.ok_or_else(|| match named {
        Some(name) => Problem::invalid(format!("Plan {name:?} does not exist.")),
        None => Problem::invalid("No plan is the default: name one."),
    })
}
