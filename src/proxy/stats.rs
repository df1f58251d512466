//! What the proxy has counted since it was made.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use http::StatusCode;

use crate::telemetry::metrics::RouterStats;

#[derive(Default)]
pub(super) struct Counters {
    pub(super) connections: AtomicU64,
    pub(super) requests: AtomicU64,
    pub(super) finished: AtomicU64,
    by_class: [AtomicU64; 5],
    pub(super) retried: AtomicU64,
    pub(super) tunnels: AtomicU64,
}

impl Counters {
    pub(super) fn answered(&self, status: StatusCode) {
        let class = usize::from(status.as_u16() / 100).clamp(1, 5) - 1;
        self.by_class[class].fetch_add(1, Relaxed);
    }

    pub(super) fn read(&self) -> RouterStats {
        // In this order, so that what is in flight is never less than nothing.
        let finished = self.finished.load(Relaxed);
        let requests = self.requests.load(Relaxed);
        RouterStats {
            connections: self.connections.load(Relaxed),
            requests,
            in_flight: requests.saturating_sub(finished),
            by_class: std::array::from_fn(|class| self.by_class[class].load(Relaxed)),
            retried: self.retried.load(Relaxed),
            tunnels: self.tunnels.load(Relaxed),
        }
    }
}
