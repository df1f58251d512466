//! What the proxy has counted since it was made.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use http::StatusCode;

/// The numbers at one instant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Connections of clients, tunnels included.
    pub connections: u64,
    /// Requests begun.
    pub requests: u64,
    /// Requests whose answer is not through yet; tunnels do not count.
    pub in_flight: u64,
    /// Answers by class: 1xx, 2xx, 3xx, 4xx, 5xx; units' and our own.
    pub by_class: [u64; 5],
    /// Tries after the first.
    pub retried: u64,
    /// Tunnels open now.
    pub tunnels: u64,
}

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

    pub(super) fn read(&self) -> Stats {
        // In this order, so that what is in flight is never less than nothing.
        let finished = self.finished.load(Relaxed);
        let requests = self.requests.load(Relaxed);
        Stats {
            connections: self.connections.load(Relaxed),
            requests,
            in_flight: requests.saturating_sub(finished),
            by_class: std::array::from_fn(|class| self.by_class[class].load(Relaxed)),
            retried: self.retried.load(Relaxed),
            tunnels: self.tunnels.load(Relaxed),
        }
    }
}
