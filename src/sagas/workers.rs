//! The workers of one queue of one replica, shared by key.
//!
//! A claimed saga holds a *permit* until its claim ends, and a *worker* only while one of its steps runs. A
//! waiting step (`StepContext::wait_until`, `without_worker`) releases the worker and acquires one again,
//! fairly by key, before it continues. So a permit costs some kB of memory and a part of the statement that
//! renews leases, and a key with many waiting sagas blocks nobody.
//!
//! A key never has all workers, nor more than its share of the permits; its further sagas stay in the table.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::kernel::fair_slots::{FairSlot, FairSlots, SlotLimits};

/// Maximum number of running sagas of a queue.
const MAX_WORKERS: usize = 16;
/// Maximum number of running sagas of one key: a quarter of the workers is reserved for other keys, even if
/// they are idle.
const MAX_WORKERS_PER_KEY: usize = 12;
/// Maximum number of claimed sagas of one key, including waiting ones.
const MAX_CLAIMS_PER_KEY: usize = 64;
/// Maximum number of claimed sagas in total. Each is a task and a row in the statement that renews leases.
const MAX_CLAIMS: usize = 4096;
/// Maximum number of claimed sagas that wait for their first worker: more would only be kept from other
/// replicas.
const MAX_STARTING: usize = 4;

/// The worker pool of one queue. Cheap to clone.
#[derive(Clone)]
pub(super) struct WorkerPool(Arc<WorkerPoolInner>);

struct WorkerPoolInner {
    slots: FairSlots<Arc<str>>,
    load: Mutex<WorkerLoad>,
    /// Notified when a claim may succeed that was refused before.
    capacity_freed: Notify,
}

#[derive(Default)]
struct WorkerLoad {
    claims: usize,
    starting: usize,
    keys: HashMap<Arc<str>, KeyLoad>,
    /// A claim was refused because of a limit.
    has_refused_claim: bool,
}

#[derive(Clone, Copy, Default)]
struct KeyLoad {
    claims: usize,
    waiting: usize,
}

impl KeyLoad {
    /// Returns the number of sagas that have a worker or wait for one.
    fn active_count(self) -> usize {
        self.claims.saturating_sub(self.waiting)
    }
}

/// The limits of the next claim: the keys below their share, each with its number of active sagas, and the
/// keys that have reached it.
#[derive(Debug, Default)]
pub(super) struct ClaimAdmission {
    pub(super) keys: Vec<String>,
    pub(super) active: Vec<i32>,
    pub(super) full: Vec<String>,
}

impl WorkerPool {
    pub(super) fn new() -> Self {
        Self(Arc::new(WorkerPoolInner {
            slots: FairSlots::new(SlotLimits {
                total: MAX_WORKERS,
                per_key: MAX_WORKERS_PER_KEY,
                // The number of permits is bounded already.
                waiting_per_key: usize::MAX,
            }),
            load: Mutex::default(),
            capacity_freed: Notify::new(),
        }))
    }

    fn lock_load(&self) -> MutexGuard<'_, WorkerLoad> {
        self.0.load.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the limits of the next claim; `None`: nothing may be claimed until `wait_for_capacity`
    /// returns.
    pub(super) fn compute_admission(&self) -> Option<ClaimAdmission> {
        let mut load = self.lock_load();
        if load.claims >= MAX_CLAIMS || load.starting >= MAX_STARTING {
            load.has_refused_claim = true;
            return None;
        }
        let mut admission = ClaimAdmission::default();
        for (key, of_key) in &load.keys {
            match of_key.active_count() >= MAX_WORKERS_PER_KEY || of_key.claims >= MAX_CLAIMS_PER_KEY {
                true => admission.full.push(key.to_string()),
                false => {
                    admission.keys.push(key.to_string());
                    admission
                        .active
                        .push(i32::try_from(of_key.active_count()).unwrap_or(i32::MAX));
                }
            }
        }
        load.has_refused_claim = !admission.full.is_empty();
        Some(admission)
    }

    /// Waits until a saga may be claimed that the last `ClaimAdmission` excluded.
    pub(super) async fn wait_for_capacity(&self) {
        self.0.capacity_freed.notified().await;
    }

    /// Returns the permit of a saga that was claimed.
    pub(super) fn admit_claim(&self, key: &str) -> ClaimPermit {
        let key: Arc<str> = Arc::from(key);
        let mut load = self.lock_load();
        load.claims += 1;
        load.starting += 1;
        load.keys.entry(Arc::clone(&key)).or_default().claims += 1;
        ClaimPermit {
            workers: self.clone(),
            key,
            state: Mutex::new(ClaimPermitState {
                is_starting: true,
                waits: 0,
                worker: None,
            }),
        }
    }

    fn update_load(&self, change: impl FnOnce(&mut WorkerLoad)) {
        let mut load = self.lock_load();
        change(&mut load);
        if std::mem::take(&mut load.has_refused_claim) {
            self.0.capacity_freed.notify_one();
        }
    }
}

/// The permit of one claimed saga.
pub(super) struct ClaimPermit {
    workers: WorkerPool,
    key: Arc<str>,
    state: Mutex<ClaimPermitState>,
}

struct ClaimPermitState {
    /// The saga has never had a worker.
    is_starting: bool,
    /// The number of running waits.
    waits: usize,
    worker: Option<FairSlot<Arc<str>>>,
}

impl std::fmt::Debug for ClaimPermit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClaimPermit")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

impl ClaimPermit {
    fn lock_state(&self) -> MutexGuard<'_, ClaimPermitState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the key that shares the workers.
    pub(super) fn share_key(&self) -> &str {
        &self.key
    }

    /// Acquires a worker, unless the saga has one or waits.
    pub(super) async fn acquire_worker(&self) {
        {
            let state = self.lock_state();
            if state.worker.is_some() || state.waits > 0 {
                return;
            }
        }
        // The queue of a key is as long as its permits, so no saga is refused.
        let slot = self.workers.0.slots.acquire(&self.key).await.ok();
        let mut state = self.lock_state();
        if std::mem::take(&mut state.is_starting) {
            self.workers.update_load(|load| load.starting -= 1);
        }
        if state.waits == 0 && state.worker.is_none() {
            state.worker = slot;
        }
    }

    /// Releases the worker until the returned guard is dropped. Several waits may run at once.
    pub(super) fn yield_worker(&self) -> WorkerYield<'_> {
        let given_back = {
            let mut state = self.lock_state();
            state.waits += 1;
            if state.waits == 1 {
                self.workers.update_load(|load| {
                    if let Some(of_key) = load.keys.get_mut(&self.key) {
                        of_key.waiting += 1;
                    }
                });
            }
            state.worker.take()
        };
        drop(given_back);
        WorkerYield(self)
    }
}

impl Drop for ClaimPermit {
    fn drop(&mut self) {
        let is_entering = self.lock_state().is_starting;
        self.workers.update_load(|load| {
            load.claims -= 1;
            load.starting -= usize::from(is_entering);
            if let Some(of_key) = load.keys.get_mut(&self.key) {
                of_key.claims -= 1;
                if of_key.claims == 0 {
                    load.keys.remove(&self.key);
                }
            }
        });
    }
}

/// See `ClaimPermit::yield_worker`.
pub(super) struct WorkerYield<'a>(&'a ClaimPermit);

impl Drop for WorkerYield<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock_state();
        state.waits -= 1;
        if state.waits == 0 {
            self.0.workers.update_load(|load| {
                if let Some(of_key) = load.keys.get_mut(&self.0.key) {
                    of_key.waiting -= 1;
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn working(workers: &WorkerPool, key: &str) -> Option<ClaimPermit> {
        let permit = workers.admit_claim(key);
        permit.acquire_worker().now_or_never().map(|()| permit)
    }

    #[tokio::test]
    async fn one_key_gets_at_most_its_share_of_workers() {
        let workers = WorkerPool::new();
        let greedy: Vec<ClaimPermit> = (0..MAX_WORKERS_PER_KEY)
            .map(|_| working(&workers, "greedy").unwrap())
            .collect();
        assert_eq!(workers.compute_admission().unwrap().full, ["greedy"]);
        assert!(
            working(&workers, "greedy").is_none(),
            "no worker beyond the share"
        );
        assert!(working(&workers, "other").is_some());
        drop(greedy);
        assert!(workers.compute_admission().unwrap().full.is_empty());
    }

    #[tokio::test]
    async fn waiting_saga_holds_permit_but_no_worker() {
        let workers = WorkerPool::new();
        let waiting: Vec<ClaimPermit> = (0..MAX_CLAIMS_PER_KEY)
            .map(|n| {
                let permit =
                    working(&workers, "greedy").unwrap_or_else(|| panic!("number {n} gets no worker"));
                std::mem::forget(permit.yield_worker());
                permit
            })
            .collect();
        assert_eq!(
            workers.compute_admission().unwrap().full,
            ["greedy"],
            "no permit beyond the share"
        );
        assert!(working(&workers, "other").is_some());
        drop(waiting);
        assert!(
            workers.lock_load().keys.is_empty(),
            "nothing is remembered of who is gone"
        );
        assert_eq!(workers.lock_load().claims, 0);
    }

    #[tokio::test]
    async fn concurrent_waits_yield_and_reacquire_one_worker() {
        let workers = WorkerPool::new();
        let permit = working(&workers, "a").unwrap();
        let (first, second) = (permit.yield_worker(), permit.yield_worker());
        assert_eq!(workers.0.slots.count_held_by(&"a".into()), 0);
        drop(first);
        permit.acquire_worker().now_or_never().unwrap();
        assert_eq!(
            workers.0.slots.count_held_by(&"a".into()),
            0,
            "the other one still waits"
        );
        drop(second);
        permit.acquire_worker().now_or_never().unwrap();
        assert_eq!(workers.0.slots.count_held_by(&"a".into()), 1);
    }

    #[tokio::test]
    async fn capacity_is_notified_when_full_key_frees_worker() {
        let workers = WorkerPool::new();
        let mut greedy: Vec<ClaimPermit> = (0..MAX_WORKERS_PER_KEY)
            .map(|_| working(&workers, "greedy").unwrap())
            .collect();
        assert!(!workers.compute_admission().unwrap().full.is_empty());
        assert!(workers.wait_for_capacity().now_or_never().is_none());
        greedy.pop();
        assert!(workers.wait_for_capacity().now_or_never().is_some());
    }
}
