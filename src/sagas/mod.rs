//! Durable operations: what a user asked for that has steps outside the database.
//!
//! A saga is a row with a kind, its data and the number of the step it is at. A replica claims it with
//! a **lease** on the database's clock and gets a **fence**, a number that grows with each claim; every
//! later write names the fence, so a replica that lost its lease changes nothing more. When a replica
//! dies, the lease ends and another one (or the next start) goes on at the recorded step.
//!
//! States: `forward` → `done`; or, when a step gives up or the event is cancelled, `undoing` → `undone`;
//! `stuck` is an undo that failed for good and waits for an operator (`operator`).
//!
//! What a step promises: it may be run twice (the process can die between its effect and its record),
//! and its undo may be run though the step never ran, or ran in part. A step that says that it is forward
//! only is repeated, with pauses, until it is done; a user's wish to cancel comes too late for it.
//! What this module promises: each step runs at least once in order; on failure the undos run from the
//! failed step backwards; the saga's end and its event's end are one transaction.
//!
//! Two lanes, *people* and *housekeeping*, have workers of their own, so that neither starves the other.

mod drill;
pub mod operator;
mod reconcile;
mod run;
mod runner;
mod store;

use async_trait::async_trait;
use serde::Serialize;
use sqlx::PgConnection;

pub use reconcile::{Reconciler, Report, supervise};
pub use run::{Run, StepError};
pub use runner::{Registry, Runner};
pub use store::{Counts, Unsettled, counts, release_claims};

use crate::db::{self, listen::Channel};
use crate::events::Outcome;
use crate::kernel::ids::{EventId, SagaId};
use crate::kernel::problem::Problem;

/// Which workers run a saga.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Somebody waits for it.
    People,
    /// Nobody does.
    Housekeeping,
}

impl Lane {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Lane::People => "people",
            Lane::Housekeeping => "housekeeping",
        }
    }
}

/// A kind of saga. The implementor holds what its steps need.
#[async_trait]
pub trait Saga: Send + Sync + 'static {
    /// The name under which its rows are kept; never changed.
    fn kind(&self) -> &'static str;

    /// Who waits for it.
    fn lane(&self) -> Lane {
        Lane::People
    }

    /// The steps in order, by name. New steps go to the end or get a new kind: rows remember numbers.
    fn steps(&self) -> &'static [&'static str];

    /// Does a step. It may run again after a crash.
    async fn forward(&self, step: &'static str, run: &mut Run) -> Result<(), StepError>;

    /// Takes a step back, whether it was done, done in part or not at all.
    async fn undo(&self, step: &'static str, run: &mut Run) -> Result<(), StepError>;

    /// Whether there is no way back any more: what fails here is repeated instead of undone. Asked before a
    /// step and when it has failed, of what the saga has written down by then.
    fn forward_only(&self, _step: &'static str, _run: &Run) -> bool {
        false
    }

    /// Last words, in the transaction that ends the saga and its event.
    async fn ended(&self, _tx: &mut PgConnection, _run: &Run, _outcome: &Outcome) -> Result<(), Problem> {
        Ok(())
    }
}

/// A saga to be enqueued.
#[derive(Debug)]
pub struct NewSaga<'a, D: Serialize> {
    pub kind: &'static str,
    pub lane: Lane,
    /// The event that it ends.
    pub event: Option<&'a EventId>,
    /// Only this host may run it.
    pub host: Option<&'a str>,
    /// What the steps read; no secrets.
    pub data: &'a D,
}

/// Puts a saga into the caller's transaction; it starts once that commits.
pub async fn enqueue<D: Serialize>(tx: &mut PgConnection, new: NewSaga<'_, D>) -> Result<SagaId, Problem> {
    let id = SagaId::new();
    let data = serde_json::to_value(new.data).map_err(Problem::internal)?;
    store::insert(tx, id, new.kind, new.lane, new.event, new.host, &data).await?;
    db::notify(tx, Channel::Saga, new.lane.as_str()).await?;
    Ok(id)
}
