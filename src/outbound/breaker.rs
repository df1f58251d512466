//! The circuit breaker: closed (calls pass), open (calls are rejected), half-open (one probe decides).

use std::time::Duration;

use tokio::time::Instant;

/// The state of one bulkhead's circuit breaker.
#[derive(Debug, Default)]
pub(super) struct CircuitBreaker {
    failures: u32,
    open_until: Option<Instant>,
    probing: bool,
}

impl CircuitBreaker {
    /// True if a call may be made now. After the open time one probe is admitted.
    pub(super) fn try_admit(&mut self, now: Instant) -> bool {
        match self.open_until {
            None => true,
            Some(until) if now < until || self.probing => false,
            Some(_) => {
                self.probing = true;
                true
            }
        }
    }

    /// Records a call with a response.
    pub(super) fn record_success(&mut self) {
        *self = Self::default();
    }

    /// Records a call without a response; after `most` in a row the breaker opens for `rest`.
    pub(super) fn record_failure(&mut self, now: Instant, most: u32, rest: Duration) {
        self.failures = self.failures.saturating_add(1);
        self.probing = false;
        if self.failures >= most {
            self.open_until = Some(now + rest);
        }
    }

    /// Records a call that was dropped without a result.
    pub(super) fn release_probe(&mut self) {
        self.probing = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn breaker_opens_after_consecutive_failures_and_one_probe_closes_it() {
        let (now, rest) = (Instant::now(), Duration::from_secs(10));
        let mut breaker = CircuitBreaker::default();
        breaker.record_failure(now, 2, rest);
        breaker.record_success();
        breaker.record_failure(now, 2, rest);
        assert!(breaker.try_admit(now), "one failure in a row is not two");
        breaker.record_failure(now, 2, rest);
        assert!(!breaker.try_admit(now));
        let later = now + rest;
        assert!(breaker.try_admit(later), "the probe");
        assert!(!breaker.try_admit(later), "one probe at a time");
        breaker.release_probe();
        assert!(breaker.try_admit(later), "a dropped probe makes room for another");
        breaker.record_failure(later, 2, rest);
        assert!(!breaker.try_admit(later), "a failed probe opens it again");
        assert!(breaker.try_admit(later + rest));
        breaker.record_success();
        assert!(breaker.try_admit(now) && breaker.try_admit(now));
    }
}
