//! The model of deliveries, and the rules of their repetition.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// The pauses between the attempts: six attempts within 15 minutes.
const PAUSES: [Duration; 5] = [
    Duration::from_secs(10),
    Duration::from_secs(30),
    Duration::from_secs(90),
    Duration::from_secs(240),
    Duration::from_secs(530),
];
/// The longest pause that a receiver can ask for.
const MAX_PAUSE: Duration = Duration::from_secs(600);

/// An attempt to deliver.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeliveryAttempt {
    pub at: DateTime<Utc>,
    /// `None`: there was no response.
    pub status: Option<u16>,
    /// Empty: it was delivered.
    pub error: String,
}

/// A delivery with its attempts.
#[derive(Clone, Debug)]
pub struct DeliveryReport {
    /// The webhook as it was named when the event ended.
    pub webhook: String,
    /// `waiting`, `sending`, `delivered`, `failed` or `dropped`.
    pub state: String,
    /// Why it was dropped or has failed.
    pub error: String,
    pub attempts: Vec<DeliveryAttempt>,
}

/// Returns the pause after a number of failed attempts: the receiver may ask for a longer one.
pub(super) fn pause_after(failed: i32, asked: Option<Duration>) -> Duration {
    let at = usize::try_from(failed.max(1) - 1).unwrap_or(0);
    let usual = PAUSES[at.min(PAUSES.len() - 1)];
    asked.unwrap_or_default().min(MAX_PAUSE).max(usual)
}

/// Parses the value of `Retry-After` (RFC 9110, 10.2.3): seconds, or a date.
pub(super) fn parse_retry_after(value: &str, now: DateTime<Utc>) -> Option<Duration> {
    if let Ok(seconds) = value.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = DateTime::parse_from_rfc2822(value.trim()).ok()?;
    (date.with_timezone(&Utc) - now).to_std().ok()
}

/// Returns what is wrong with a status; `None`: it was delivered.
pub(super) fn describe_status(status: u16) -> Option<String> {
    match status {
        200..=299 => None,
        300..=399 => Some(format!(
            "The receiver responded with the redirect {status}, which is not followed: set the final URL."
        )),
        _ => Some(format!("The receiver responded with status {status}.")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn six_attempts_are_made_within_fifteen_minutes() {
        let total: Duration = (1..=5).map(|failed| pause_after(failed, None)).sum();
        assert_eq!(total, Duration::from_secs(900));
        assert!((1..5).all(|failed| pause_after(failed, None) < pause_after(failed + 1, None)));
    }

    #[test]
    fn receiver_can_ask_for_a_longer_pause_within_bounds() {
        let pause = |failed, asked| pause_after(failed, Some(Duration::from_secs(asked))).as_secs();
        assert_eq!(pause(1, 60), 60);
        assert_eq!(pause(1, 0), 10, "not for a shorter one");
        assert_eq!(pause(1, 86_400), 600);
        assert_eq!(pause(5, 1), 530);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = DateTime::parse_from_rfc3339("2026-03-10T14:00:00Z")
            .unwrap()
            .to_utc();
        let parse = |value| parse_retry_after(value, now).map(|pause| pause.as_secs());
        assert_eq!(parse(" 120 "), Some(120));
        assert_eq!(parse("Tue, 10 Mar 2026 14:01:30 GMT"), Some(90));
        assert_eq!(parse("Tue, 10 Mar 2026 13:00:00 GMT"), None);
        for bad in ["", "-1", "soon", "1e9"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn only_status_200_to_299_counts_as_delivered() {
        assert!(describe_status(204).is_none());
        assert!(describe_status(302).unwrap().contains("redirect"));
        for status in [199, 404, 500] {
            assert!(describe_status(status).unwrap().contains(&status.to_string()));
        }
    }
}
