//! Leaves alone what keeps failing: closed (calls pass), open (they do not), then one probe decides.

use std::time::Duration;

use tokio::time::Instant;

/// The state of one lane's breaker.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    failures: u32,
    open_until: Option<Instant>,
    probing: bool,
}

impl Breaker {
    /// Whether a call may go now. While open, only one may, and not before the rest is over.
    pub(super) fn admits(&mut self, now: Instant) -> bool {
        match self.open_until {
            None => true,
            Some(until) if now < until || self.probing => false,
            Some(_) => {
                self.probing = true;
                true
            }
        }
    }

    /// A call was answered.
    pub(super) fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// A call failed to be answered; after `most` in a row the breaker opens for `rest`.
    pub(super) fn failed(&mut self, now: Instant, most: u32, rest: Duration) {
        self.failures = self.failures.saturating_add(1);
        self.probing = false;
        if self.failures >= most {
            self.open_until = Some(now + rest);
        }
    }

    /// A call ended without telling anything: it was dropped.
    pub(super) fn dropped(&mut self) {
        self.probing = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_after_failures_in_a_row_and_one_probe_closes_it() {
        let (now, rest) = (Instant::now(), Duration::from_secs(10));
        let mut breaker = Breaker::default();
        breaker.failed(now, 2, rest);
        breaker.succeeded();
        breaker.failed(now, 2, rest);
        assert!(breaker.admits(now), "one failure in a row is not two");
        breaker.failed(now, 2, rest);
        assert!(!breaker.admits(now));
        let later = now + rest;
        assert!(breaker.admits(later), "the probe");
        assert!(!breaker.admits(later), "one probe at a time");
        breaker.dropped();
        assert!(breaker.admits(later), "a dropped probe makes room for another");
        breaker.failed(later, 2, rest);
        assert!(!breaker.admits(later), "a failed probe opens it again");
        assert!(breaker.admits(later + rest));
        breaker.succeeded();
        assert!(breaker.admits(now) && breaker.admits(now));
    }
}
