//! Background calls to many services, some of which hang: each service has at most one crew at work, so
//! that a round never waits for any of them.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

/// The services that a replica is busy with, for one purpose.
#[derive(Clone)]
pub(super) struct Crews {
    busy: Arc<Mutex<HashSet<Uuid>>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// A service is free again when this drops.
struct Busy(Crews, Uuid);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.lock().remove(&self.1);
    }
}

impl Crews {
    pub(super) fn new(tasks: TaskTracker, stop: CancellationToken) -> Self {
        Self {
            busy: Arc::default(),
            tasks,
            stop,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<Uuid>> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The services that have a crew now.
    pub(super) fn busy(&self) -> Vec<Uuid> {
        self.lock().iter().copied().collect()
    }

    /// Sends a crew to a service; its work is dropped when the process stops.
    pub(super) fn send(&self, service: Uuid, work: impl Future<Output = ()> + Send + 'static) {
        self.lock().insert(service);
        let busy = Busy(self.clone(), service);
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = work => {}
            }
            drop(busy);
        });
    }
}
