//! Sagas: durable operations with steps outside the database.
//!
//! A saga is a row with a kind, its data and the name of its current step. A replica claims it with a
//! **lease** on the database's clock and gets a **fence**, a number that grows with each claim. Every later
//! write names the fence, so a replica that has lost its lease changes nothing more. When a replica dies, its
//! lease expires and another one (or the next start) continues at the recorded step.
//!
//! A step is a variant of the saga's enum (`saga_steps!`), and its data is a type. The effect of a step and
//! its progress are written in one transaction: `StepContext::checkpoint`. A row at a step, or with data,
//! that this version does not know was written by a newer one, and is left to it (`unreadable`).
//!
//! States: `forward` → `done`; or, when a step gives up or the event is cancelled, `undoing` → `undone`.
//! `stuck` is a saga whose undo, or whose forward-only step, failed for good; it waits for an operator
//! (`operator`).
//!
//! Requirements on a step: it may run twice (the process can die between its effect and its record), and its
//! undo may run although the step never ran, or ran in part. A step that is forward only is repeated, with
//! pauses, until it succeeds; a user cannot cancel it any more.
//!
//! A saga whose steps need files of one host is bound to that host (`Saga::host`, or `StepContext::pin_to_host` after
//! a step has created them), never to the host that answered the request.
//!
//! Promises of this module: each step runs at least once, in order; on failure, the undos run from the failed
//! step backwards; the end of the saga and the end of its event are one transaction.
//!
//! The two queues, *interactive* and *background*, have separate workers, so that neither starves the other.
//!
//! **Workers are shared fairly by key** (`workers`). The share key of a saga is the user of the request; for
//! what an app's token or Tancho itself began, it is the user who owns the app. Users are what an attacker
//! can multiply least: apps, services, binds and tokens cost one request each, whereas accounts are limited
//! by who may register, and how often from one address.
//!
//! **A waiting saga holds no worker.** A step waits only with `StepContext::wait_until` (for a condition that
//! notices announce) or `StepContext::without_worker` (for anything else: a build, the response of a
//! service). Both end with `StepError::Interrupted` when the work is to stop; the engine finds out why.

mod execution;
mod failpoints;
mod keyed_tasks;
mod leases;
pub mod modern;
pub mod operator;
mod reconcile;
mod runner;
mod start;
mod step_context;
mod steps;
mod store;
mod unreadable;
mod workers;

use async_trait::async_trait;
use sqlx::PgConnection;

pub use keyed_tasks::KeyedTasks;
pub use operator::UnsettledSaga;
pub use reconcile::{ReconcileReport, Reconciler, run_reconciler};
pub use runner::{SagaRegistry, SagaRunner};
pub use start::{enqueue_saga, move_saga, start_saga};
pub use step_context::{StepContext, StepError};
pub(crate) use steps::saga_steps;
pub use steps::{SagaData, SagaStep};
pub use store::{SagaCounts, count_sagas, release_claims};

use crate::events::EventOutcome;
use crate::kernel::error::Error;
use crate::kernel::ids::AppId;

/// The queue of a saga, which selects its workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SagaQueue {
    /// Users wait for it.
    Interactive,
    /// Nobody waits for it.
    Background,
}

impl SagaQueue {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            SagaQueue::Interactive => "interactive",
            SagaQueue::Background => "background",
        }
    }
}

/// A kind of saga. The implementor holds the dependencies of its steps.
#[async_trait]
pub trait Saga: Send + Sync + 'static {
    /// The name of the kind in its rows; never changed.
    const KIND: &'static str;

    /// The steps, in order.
    type Step: SagaStep;

    /// The data that the steps read and write.
    type Data: SagaData;

    /// Returns the queue of the saga.
    fn queue(_data: &Self::Data) -> SagaQueue {
        SagaQueue::Interactive
    }

    /// Returns the only host that may run the saga, because it needs files on its disk. `None`: any host.
    fn host(_data: &Self::Data) -> Option<&str> {
        None
    }

    /// Returns the app whose owner shares the workers, for a saga without an event.
    fn app(_data: &Self::Data) -> Option<AppId> {
        None
    }

    /// Returns the key by which the workers are shared, for a saga with neither an event nor an app. `None`: all
    /// sagas of the kind share one.
    fn share_key(_data: &Self::Data) -> Option<&str> {
        None
    }

    /// Runs a step. It may run again after a crash. Changes of `data` are stored when the step ends,
    /// successfully or not.
    async fn run_step(
        &self,
        step: Self::Step,
        data: &mut Self::Data,
        ctx: &StepContext,
    ) -> Result<(), StepError>;

    /// Undoes a step, whether it was done, done in part or not at all.
    async fn undo_step(
        &self,
        step: Self::Step,
        data: &mut Self::Data,
        ctx: &StepContext,
    ) -> Result<(), StepError>;

    /// Returns whether there is no way back any more: a failed step is repeated instead of undone. Called
    /// before a step and after its failure, with the data that the saga has stored by then.
    fn is_forward_only(&self, _step: Self::Step, _data: &Self::Data) -> bool {
        false
    }

    /// Writes additional changes in the transaction that ends the saga and its event.
    async fn on_finish(
        &self,
        _tx: &mut PgConnection,
        _data: &Self::Data,
        _ctx: &StepContext,
        _outcome: &EventOutcome,
    ) -> Result<(), Error> {
        Ok(())
    }
}
