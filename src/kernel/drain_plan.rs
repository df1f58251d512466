//! How a process that stops treats its clients: it asks them to go, or, where another process has taken over its
//! sockets, lets each finish in its own time.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// What has become of the process that had this data folder before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Predecessor {
    /// It has exited: what it left is nobody's.
    Exited,
    /// It lets its last clients finish: what belongs to them must stay.
    Serving,
}

/// Shared by everything that serves clients. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct DrainPlan(Arc<OnceLock<Duration>>);

impl DrainPlan {
    /// Another process has taken over: what is in progress may take this long. Must be called before the process stops.
    pub fn set_taken_over(&self, limit: Duration) {
        // A second call changes nothing: there is one successor.
        let _ = self.0.set(limit);
    }

    /// True if connections are to end after their next response, and not at once.
    pub fn is_taken_over(&self) -> bool {
        self.0.get().is_some()
    }

    /// Returns how long what is in progress may take; `usual` without a successor.
    pub fn limit(&self, usual: Duration) -> Duration {
        self.0.get().copied().unwrap_or(usual)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limit_is_the_usual_one_until_another_process_has_taken_over() {
        let (plan, usual) = (DrainPlan::default(), Duration::from_secs(30));
        let clone = plan.clone();
        assert!(!clone.is_taken_over() && clone.limit(usual) == usual);
        plan.set_taken_over(Duration::from_secs(3600));
        assert!(clone.is_taken_over());
        assert_eq!(clone.limit(usual), Duration::from_secs(3600));
    }
}
