//! Retries of transaction conflicts. Postgres aborts one of several deadlocked transactions, and may abort a
//! serializable one. An aborted transaction had no effect, so it can be run again.

use std::error::Error as StdError;

use crate::kernel::error::Error;
use crate::telemetry::metrics;

/// The maximum number of attempts.
const MAX_ATTEMPTS: u32 = 3;

/// Runs a short transaction, from its begin to its commit, and repeats it after a conflict. The effects of
/// `work` must be in the database only. Errors: `Unavailable` if every attempt had a conflict, as for other
/// transient errors.
pub async fn retry_transaction<T, F>(mut work: impl FnMut() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    for run in 1..MAX_ATTEMPTS {
        match work().await {
            Err(error) if has_transaction_conflict(&error) => {
                metrics::record_transaction_retry();
                tracing::info!(run, error = %error.report(), "transaction conflict; retrying");
            }
            result => return result,
        }
    }
    work().await
}

/// SQLSTATEs of transactions that would have succeeded alone.
pub(super) fn is_transaction_conflict(code: &str) -> bool {
    matches!(code, "40001" | "40P01")
}

fn has_transaction_conflict(error: &Error) -> bool {
    let mut next: Option<&(dyn StdError + 'static)> = error.source();
    while let Some(cause) = next {
        if let Some(sqlx::Error::Database(error)) = cause.downcast_ref() {
            return error.code().is_some_and(|code| is_transaction_conflict(&code));
        }
        next = cause.source();
    }
    false
}
