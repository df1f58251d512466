//! Reconcilers: loops that keep a desired state. A reconciler takes no input; it compares the desired with
//! the actual state, and reduces the difference. It runs at start, on notices and on a timer. A round that
//! fails or panics is followed by the next one.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt;
use tokio_util::sync::CancellationToken;

use crate::db::notices::{NoticeChannel, NoticeHub};
use crate::kernel::error::Error;

/// The result of a round, for the report of the healers.
#[derive(Clone, Debug, Default)]
pub struct ReconcileReport {
    /// One line for each change.
    pub done: Vec<String>,
    /// True if there is more to do at once.
    pub has_more: bool,
}

/// A reconciler; see the module.
#[async_trait]
pub trait Reconciler: Send + Sync + 'static {
    /// Returns its name among the healers.
    fn name(&self) -> &'static str;

    /// Returns the channels whose notices start a round.
    fn channels(&self) -> &'static [NoticeChannel];

    /// Returns the pause between two rounds without a notice.
    fn period(&self) -> Duration;

    /// Runs one round. Rounds may run on several replicas at once, and must do no harm then.
    async fn run_round(&self) -> Result<ReconcileReport, Error>;

    /// Releases, at the end, what would keep another process from running rounds.
    async fn release_claims(&self) {}

    /// Lists the work that is not done, a line each, for operators.
    async fn list_open_work(&self) -> Result<Vec<String>, Error> {
        Ok(Vec::new())
    }
}

/// Runs a reconciler until stopped.
pub async fn run_reconciler(reconciler: Arc<dyn Reconciler>, notices: NoticeHub, stop: CancellationToken) {
    let mut nudges = notices.subscribe();
    loop {
        let rest = match run_round_caught(&*reconciler).await {
            Ok(report) if report.has_more => Duration::from_millis(100),
            Ok(_) => reconciler.period(),
            Err(error) => {
                tracing::warn!(reconciler = reconciler.name(), error = %error.report(), "a reconciler round failed");
                reconciler.period().min(Duration::from_secs(1))
            }
        };
        tokio::select! {
            _ = nudges.wait_for_notice(reconciler.channels(), rest) => {}
            () = stop.cancelled() => break,
        }
    }
    reconciler.release_claims().await;
}

/// Turns a panic in a round, which is a bug, into a failure of that round alone.
async fn run_round_caught(reconciler: &dyn Reconciler) -> Result<ReconcileReport, Error> {
    match AssertUnwindSafe(reconciler.run_round()).catch_unwind().await {
        Ok(result) => result,
        Err(_) => {
            tracing::error!(reconciler = reconciler.name(), "a reconciler round panicked");
            Err(Error::internal("a reconciler round panicked"))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// Panics in its first round.
    #[derive(Default)]
    struct PanickingReconciler(AtomicU32);

    #[async_trait]
    impl Reconciler for PanickingReconciler {
        fn name(&self) -> &'static str {
            "panicking"
        }

        fn channels(&self) -> &'static [NoticeChannel] {
            &[]
        }

        fn period(&self) -> Duration {
            Duration::ZERO
        }

        async fn run_round(&self) -> Result<ReconcileReport, Error> {
            assert!(self.0.fetch_add(1, Ordering::Relaxed) > 0, "the first round");
            Ok(ReconcileReport::default())
        }
    }

    #[tokio::test]
    async fn round_that_panics_is_followed_by_the_next() {
        let reconciler = Arc::new(PanickingReconciler::default());
        let stop = CancellationToken::new();
        let running = tokio::spawn(run_reconciler(
            Arc::clone(&reconciler) as Arc<dyn Reconciler>,
            NoticeHub::detached(),
            stop.clone(),
        ));
        let second_round = async {
            while reconciler.0.load(Ordering::Relaxed) < 2 {
                tokio::task::yield_now().await;
            }
        };
        let ran = tokio::time::timeout(Duration::from_secs(10), second_round).await;
        assert!(ran.is_ok() && !running.is_finished());
        stop.cancel();
        running.await.unwrap();
    }
}
