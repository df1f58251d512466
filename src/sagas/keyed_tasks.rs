//! Background tasks by key: each key (a service, a user) has at most one task at a time, and a round that
//! starts tasks waits for none of them. So the slow task of one key delays no other key.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

/// The tasks of one purpose in this process.
#[derive(Clone)]
pub struct KeyedTasks {
    busy: Arc<Mutex<HashSet<Uuid>>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// Releases the key on drop.
struct BusyKey(KeyedTasks, Uuid);

impl Drop for BusyKey {
    fn drop(&mut self) {
        self.0.lock_busy().remove(&self.1);
    }
}

impl KeyedTasks {
    /// Creates an empty set. Its tasks are tracked by `tasks` and cancelled by `stop`.
    pub fn new(tasks: TaskTracker, stop: CancellationToken) -> Self {
        Self {
            busy: Arc::default(),
            tasks,
            stop,
        }
    }

    fn lock_busy(&self) -> MutexGuard<'_, HashSet<Uuid>> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the keys that have a task now.
    pub fn busy_keys(&self) -> Vec<Uuid> {
        self.lock_busy().iter().copied().collect()
    }

    /// Starts the task of a key; drops the work if the key has a task already.
    pub fn spawn(&self, key: Uuid, work: impl Future<Output = ()> + Send + 'static) {
        if !self.lock_busy().insert(key) {
            return;
        }
        let busy = BusyKey(self.clone(), key);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn key_runs_one_task_at_a_time_beside_tasks_of_other_keys() {
        let tasks = TaskTracker::new();
        let keyed = KeyedTasks::new(tasks.clone(), CancellationToken::new());
        let (slow, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let (done, wait) = tokio::sync::oneshot::channel::<()>();
        keyed.spawn(slow, async move { drop(wait.await) });
        keyed.spawn(slow, async { panic!("a second task of one key") });
        let (say, hear) = tokio::sync::oneshot::channel();
        keyed.spawn(other, async move { assert_eq!(say.send(()), Ok(())) });
        hear.await.unwrap();
        assert!(keyed.busy_keys().contains(&slow));
        drop(done);
        tasks.close();
        tasks.wait().await;
        assert!(keyed.busy_keys().is_empty());
    }
}
