//! Plans: how much memory and CPU a unit may use. One plan may be the default one.
//!
//! A plan has a memory and a CPU, of which 0 is unlimited, and may have a burst: the factor by which the CPU of
//! a unit may exceed it, and the largest factor that an app may have instead.
//!
//! Promises: a plan does not change after its creation. A plan that an app or a process has is not removed. A
//! new default plan takes the place of the present one in the same transaction, so there are never two.

mod actions;
mod model;
pub mod modern;
mod store;
mod views;

use sqlx::PgPool;

pub use model::{MAX_CPU_BURST, MAX_CPU_MILLI, MAX_MEMORY_BYTES, MIN_MEMORY_BYTES, Plan, PlanBurst};
pub use views::PlanBurstView;

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

/// Checks that a plan lets an app have a burst. Errors: `Invalid` beyond the largest factor of the plan.
pub async fn check_burst_allowed(db: &PgPool, plan: &PlanName, factor: f64) -> Result<(), Error> {
    match store::find_max_burst(db, plan).await? {
        Some(most) if factor > most => Err(Error::invalid(format!(
            "cpuBurst must be at most {most}, the largest factor of the plan {plan}."
        ))),
        _ => Ok(()),
    }
}
