//! When an order is tried again, and what is said of a failure.

use std::time::Duration;

use instant_acme::{Error as AcmeError, Problem};

use crate::kernel::log_text::clean_line;

/// Authorities quote names and addresses, so that a reason is longer than other excerpts.
const MAX_REASON_CHARS: usize = 300;

/// The pauses after failures in a row, in minutes; the last one is repeated.
const PAUSE_MINUTES: [u64; 9] = [1, 2, 2, 5, 10, 30, 60, 180, 360];

/// Returns the pause after a number of failures in a row.
pub(super) fn pause_after(failures: i32) -> Duration {
    let at = usize::try_from(failures.max(1) - 1).unwrap_or(0);
    Duration::from_secs(60 * PAUSE_MINUTES[at.min(PAUSE_MINUTES.len() - 1)])
}

/// Describes an error of the authority in a sentence without control characters, of bounded length.
pub(super) fn describe_error(error: &AcmeError) -> String {
    match error {
        AcmeError::Api(problem) => describe_problem(problem),
        AcmeError::Timeout(_) => "The authority did not decide in time.".to_owned(),
        other => format!(
            "The authority cannot be reached or understood: {}.",
            shorten(&other.to_string())
        ),
    }
}

pub(super) fn describe_problem(problem: &Problem) -> String {
    let detail = problem.detail.as_deref().unwrap_or("it gave no reason");
    let detail = shorten(detail.trim_end_matches('.'));
    format!("The authority refused: {detail}.")
}

/// True if the error is no decision of the authority.
pub(super) fn is_transient(error: &AcmeError) -> bool {
    match error {
        AcmeError::Api(problem) => {
            let kind = problem.r#type.as_deref().unwrap_or_default();
            kind.ends_with(":badNonce") || kind.ends_with(":serverInternal")
        }
        AcmeError::Http(_) | AcmeError::Hyper(_) | AcmeError::Other(_) | AcmeError::Timeout(_) => true,
        _ => false,
    }
}

fn shorten(text: &str) -> String {
    let first: String = text.chars().take(MAX_REASON_CHARS).collect();
    clean_line(&first).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_from_a_minute_to_six_hours() {
        let minutes = |failures| pause_after(failures).as_secs() / 60;
        assert_eq!((minutes(0), minutes(1), minutes(2)), (1, 1, 2));
        assert_eq!((minutes(9), minutes(1000)), (360, 360));
        assert!((1..20).all(|failures| pause_after(failures) <= pause_after(failures + 1)));
    }
}
