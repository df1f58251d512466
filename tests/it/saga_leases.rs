//! A replica cannot renew the lease of a saga: its step is interrupted, and repeated by the next claim.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tancho::kernel::error::{Error, ErrorKind};
use tancho::sagas::{self, Saga, SagaQueue, SagaRegistry, SagaRunner, SagaStep, StepContext, StepError};

use crate::test_server::TestServer;

/// What the step and its undo have recorded.
#[derive(Default)]
struct WaitingSagaLog {
    runs: AtomicU32,
    interruptions: AtomicU32,
    undos: AtomicU32,
}

/// Its only step waits until it is cancelled, and completes when it runs again.
struct WaitingSaga(Arc<WaitingSagaLog>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct WaitStep;

impl SagaStep for WaitStep {
    const ALL: &'static [Self] = &[Self];

    fn name(self) -> &'static str {
        "wait"
    }
}

#[async_trait::async_trait]
impl Saga for WaitingSaga {
    const KIND: &'static str = "test.waits";
    type Step = WaitStep;
    type Data = ();

    fn queue((): &()) -> SagaQueue {
        SagaQueue::Interactive
    }

    async fn run_step(&self, _: WaitStep, (): &mut (), ctx: &StepContext) -> Result<(), StepError> {
        if self.0.runs.fetch_add(1, Ordering::SeqCst) > 0 {
            return Ok(());
        }
        let cancel = ctx.cancel_token().clone();
        ctx.without_worker(cancel.cancelled()).await;
        self.0.interruptions.fetch_add(1, Ordering::SeqCst);
        Err(StepError::GiveUp(Error::new(ErrorKind::Cancelled, "cancelled")))
    }

    async fn undo_step(&self, _: WaitStep, (): &mut (), _: &StepContext) -> Result<(), StepError> {
        self.0.undos.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

async fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(tokio::time::Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn saga_step_with_an_expired_lease_is_interrupted_and_repeated() {
    let tancho = TestServer::start().await;
    let core = &tancho.running.core;
    let log = Arc::new(WaitingSagaLog::default());
    let registry = SagaRegistry::default().with_saga(WaitingSaga(Arc::clone(&log)));
    let (db, notices, stop) = (core.db.clone(), core.notices.clone(), core.stop.clone());
    SagaRunner::new(db, notices, registry, "test", core.replica, stop).start_workers(&core.tasks);
    let mut tx = core.db.begin().await.unwrap();
    sagas::enqueue_saga::<WaitingSaga>(&mut tx, None, &())
        .await
        .unwrap();
    tx.commit().await.unwrap();
    wait_until("the step does not run", || log.runs.load(Ordering::SeqCst) == 1).await;
    let mut blocking = core.db.begin().await.unwrap();
    sqlx::query("lock table saga in access exclusive mode")
        .execute(&mut *blocking)
        .await
        .unwrap();
    wait_until("the step is not interrupted", || {
        log.interruptions.load(Ordering::SeqCst) == 1
    })
    .await;
    blocking.rollback().await.unwrap();
    wait_until("the step is not repeated", || {
        log.runs.load(Ordering::SeqCst) == 2
    })
    .await;
    let state = "select state from saga where kind = $1";
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        let query = sqlx::query_scalar::<_, String>(state).bind(WaitingSaga::KIND);
        match query.fetch_one(&core.db).await.unwrap().as_str() {
            "done" => break,
            state => assert!(tokio::time::Instant::now() < deadline, "{state}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(log.undos.load(Ordering::SeqCst), 0);
    tancho.running.drain_and_stop().await;
}
