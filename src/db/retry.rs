//! Lost races. Of transactions that wait for one another Postgres ends one, and it may refuse one that was to
//! be serializable. Such a transaction has done nothing, so it may simply be run again.

use std::error::Error as StdError;

use crate::kernel::problem::Problem;
use crate::telemetry::metrics;

/// Runs of one transaction.
const RUNS: u32 = 3;

/// Runs a short transaction, from its begin to its commit, again when it has lost a race. What `work` does
/// must be in the database alone. Errors: `Unavailable` when it has lost each time, as for all else that passes.
pub async fn retry<T, F>(mut work: impl FnMut() -> F) -> Result<T, Problem>
where
    F: Future<Output = Result<T, Problem>>,
{
    for run in 1..RUNS {
        match work().await {
            Err(problem) if has_lost_race(&problem) => {
                metrics::lost_race();
                tracing::info!(run, problem = %problem.chain(), "a transaction has lost a race and is run again");
            }
            result => return result,
        }
    }
    work().await
}

/// SQLSTATEs of transactions that would pass if they were alone.
pub(super) fn is_lost_race(code: &str) -> bool {
    matches!(code, "40001" | "40P01")
}

fn has_lost_race(problem: &Problem) -> bool {
    let mut next: Option<&(dyn StdError + 'static)> = problem.source();
    while let Some(cause) = next {
        if let Some(sqlx::Error::Database(error)) = cause.downcast_ref() {
            return error.code().is_some_and(|code| is_lost_race(&code));
        }
        next = cause.source();
    }
    false
}
