//! Reconcilers: what must stay true. A reconciler takes no input; it looks at what should be and at
//! what is, and goes one step nearer. It runs at start, when nudged, and on a timer; a failed round is
//! simply followed by the next.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use crate::db::listen::{Channel, Notices};
use crate::kernel::problem::Problem;

/// What a round did, for the healers' report.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// One line for each thing done.
    pub done: Vec<String>,
    /// True if there is more to do at once.
    pub again: bool,
}

/// See the module.
#[async_trait]
pub trait Reconciler: Send + Sync + 'static {
    /// Its name among the healers.
    fn name(&self) -> &'static str;

    /// Notices that nudge it.
    fn channels(&self) -> &'static [Channel];

    /// How long it rests when nobody nudges it.
    fn period(&self) -> Duration;

    /// One round. It may run on several replicas at once, and must do no harm then.
    async fn round(&self) -> Result<Report, Problem>;

    /// What it has before it and is not done with, a line each, for operators.
    async fn open(&self) -> Result<Vec<String>, Problem> {
        Ok(Vec::new())
    }
}

/// Runs a reconciler until stopped.
pub async fn supervise(reconciler: Arc<dyn Reconciler>, notices: Notices, stop: CancellationToken) {
    let mut nudges = notices.subscribe();
    loop {
        let rest = match reconciler.round().await {
            Ok(report) if report.again => Duration::from_millis(100),
            Ok(_) => reconciler.period(),
            Err(problem) => {
                tracing::warn!(reconciler = reconciler.name(), problem = %problem.chain(), "a round failed");
                reconciler.period().min(Duration::from_secs(1))
            }
        };
        tokio::select! {
            _ = nudges.wait(reconciler.channels(), rest) => {}
            () = stop.cancelled() => return,
        }
    }
}
