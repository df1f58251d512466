//! The counters of the proxy.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use http::StatusCode;

use crate::telemetry::metrics::RouterStats;

#[derive(Default)]
pub(super) struct ProxyCounters {
    pub(super) connections: AtomicU64,
    pub(super) requests: AtomicU64,
    pub(super) finished: AtomicU64,
    by_status_class: [AtomicU64; 5],
    pub(super) retried: AtomicU64,
    pub(super) tunnels: AtomicU64,
}

impl ProxyCounters {
    pub(super) fn count_response(&self, status: StatusCode) {
        let class = usize::from(status.as_u16() / 100).clamp(1, 5) - 1;
        self.by_status_class[class].fetch_add(1, Relaxed);
    }

    pub(super) fn read_stats(&self) -> RouterStats {
        // Read in this order, so that the number in flight is never negative.
        let finished = self.finished.load(Relaxed);
        let requests = self.requests.load(Relaxed);
        RouterStats {
            connections: self.connections.load(Relaxed),
            requests,
            in_flight: requests.saturating_sub(finished),
            by_class: std::array::from_fn(|class| self.by_status_class[class].load(Relaxed)),
            retried: self.retried.load(Relaxed),
            tunnels: self.tunnels.load(Relaxed),
        }
    }
}
