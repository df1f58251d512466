//! Plans: how much memory and CPU a unit may use. One plan is the default.

pub mod modern;
mod store;

use sqlx::PgPool;

pub use store::{Plan, list_plans};

use crate::kernel::error::Error;
use crate::kernel::names::PlanName;

/// Returns the named plan, or the default one. Errors: `Invalid` if it does not exist.
pub async fn choose_plan(db: &PgPool, named: Option<&PlanName>) -> Result<PlanName, Error> {
    let found = store::find_plan_name(db, named.map(PlanName::as_str)).await?;
    found.ok_or_else(|| match named {
        Some(name) => Error::invalid(format!("Plan {name:?} does not exist.")),
        None => Error::invalid("There is no default plan: specify a plan."),
    })
}
