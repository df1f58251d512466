//! The runner: claims sagas of each queue and executes them on its workers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::db::Db;
use crate::db::notices::{NoticeChannel, NoticeHub, NoticeSubscription};
use crate::kernel::ids::ReplicaId;
use crate::sagas::execution::{ReadableSaga, RegisteredSaga, SagaClaim};
use crate::sagas::failpoints;
use crate::sagas::leases::{LeaseTokens, SagaLeases};
use crate::sagas::store::{self, ClaimFilter, ClaimedSaga};
use crate::sagas::unreadable::UnreadableSagas;
use crate::sagas::workers::{ClaimPermit, WorkerPool};
use crate::sagas::{Saga, SagaQueue};

/// Interval between two queries for work without a notice.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// The kinds of sagas that a replica can run.
#[derive(Default)]
pub struct SagaRegistry {
    kinds: HashMap<&'static str, Arc<dyn RegisteredSaga>>,
}

impl SagaRegistry {
    /// Adds a kind.
    #[must_use]
    pub fn with_saga<S: Saga>(mut self, saga: S) -> Self {
        self.kinds.insert(S::KIND, Arc::new(saga));
        self
    }

    /// Lists all kinds, each with the names of its steps.
    pub fn list_kinds(&self) -> Vec<(&'static str, Vec<&'static str>)> {
        self.kinds
            .values()
            .map(|saga| (saga.kind(), saga.step_names()))
            .collect()
    }

    /// Reads a row of one of the kinds. Errors: why this version cannot read it.
    fn read_row(&self, row: &ClaimedSaga) -> Result<Box<dyn ReadableSaga>, String> {
        match self.kinds.get(row.kind.as_str()) {
            Some(saga) => Arc::clone(saga).read_row(row),
            None => Err("its kind is unknown".to_owned()),
        }
    }
}

/// Runs sagas until stopped.
#[derive(Clone)]
pub struct SagaRunner {
    db: Db,
    notices: NoticeHub,
    registry: Arc<SagaRegistry>,
    host: Arc<str>,
    replica: ReplicaId,
    stop: CancellationToken,
}

impl SagaRunner {
    /// Creates a runner for one replica on one host.
    pub fn new(
        db: Db,
        notices: NoticeHub,
        registry: SagaRegistry,
        host: &str,
        replica: ReplicaId,
        stop: CancellationToken,
    ) -> Self {
        Self {
            db,
            notices,
            registry: Arc::new(registry),
            host: Arc::from(host),
            replica,
            stop,
        }
    }

    /// Starts the workers of both queues.
    pub fn start_workers(self, tasks: &TaskTracker) {
        failpoints::write_saga_kinds(&self.registry);
        let leases = SagaLeases::new(&self.db, &self.notices);
        tasks.spawn(leases.clone().run_renewal(self.stop.clone()));
        for queue in [SagaQueue::Interactive, SagaQueue::Background] {
            tasks.spawn(self.clone().run_queue(queue, leases.clone(), tasks.clone()));
        }
    }

    async fn run_queue(self, queue: SagaQueue, leases: SagaLeases, tasks: TaskTracker) {
        let kinds: Vec<String> = self.registry.kinds.keys().map(|k| (*k).to_owned()).collect();
        let workers = WorkerPool::new();
        let mut unreadable = UnreadableSagas::new();
        let mut notices = self.notices.subscribe();
        while !self.stop.is_cancelled() {
            if let Some(admission) = workers.compute_admission() {
                let filter = ClaimFilter {
                    queue,
                    kinds: &kinds,
                    host: &self.host,
                    admission: &admission,
                    excluded: &unreadable.list_excluded(),
                };
                let claimed_at = Instant::now();
                match store::claim_saga(&self.db, self.replica, &filter).await {
                    Ok(Some(claimed)) => {
                        match self.registry.read_row(&claimed) {
                            Ok(saga) => {
                                let permit = workers.admit_claim(&claimed.share_key);
                                let leases = leases.clone();
                                let work = self
                                    .clone()
                                    .execute_saga(saga, claimed, claimed_at, permit, leases);
                                tasks.spawn(work);
                            }
                            Err(why) => unreadable.leave(&self.db, &claimed, &why).await,
                        }
                        continue;
                    }
                    Ok(None) => {}
                    Err(error) => tracing::warn!(%error, "cannot claim sagas"),
                }
            }
            tokio::select! {
                () = wait_for_work(queue, &mut notices) => {}
                () = workers.wait_for_capacity() => {}
                () = self.stop.cancelled() => return,
            }
        }
    }

    /// Runs a claimed saga until it ends, waits for a retry, or is lost.
    async fn execute_saga(
        self,
        saga: Box<dyn ReadableSaga>,
        row: ClaimedSaga,
        claimed_at: Instant,
        permit: ClaimPermit,
        leases: SagaLeases,
    ) {
        let tokens = LeaseTokens::new(&self.stop);
        let event = row.event_id.as_deref().and_then(|id| id.parse().ok());
        let lease = leases.track_lease(row.saga_id, row.fence, event, tokens.clone(), claimed_at);
        let claim = SagaClaim {
            db: self.db.clone(),
            notices: self.notices.clone(),
            row,
            permit,
            tokens,
        };
        saga.execute(claim).await;
        drop(lease);
    }
}

/// Waits until there may be new work in a queue.
async fn wait_for_work(queue: SagaQueue, notices: &mut NoticeSubscription) {
    let poll_at = tokio::time::Instant::now() + POLL_INTERVAL;
    loop {
        let left = poll_at.saturating_duration_since(tokio::time::Instant::now());
        match notices.wait_for_notice(&[NoticeChannel::Saga], left).await {
            Some(other) if other != queue.as_str() => {}
            _ => return,
        }
    }
}
