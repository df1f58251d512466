//! Waiting of git clients: for a slot, since git processes are limited and shared fairly among users, and for
//! another push. A waiting client holds no process and no connection to the database, is notified if its
//! protocol allows it, and waits for a limited time.

use std::time::Duration;

use async_trait::async_trait;

use crate::core::Core;
use crate::kernel::error::Error;
use crate::kernel::fair_slots::{FairSlot, QueueFull};
use crate::kernel::ids::UserId;
use crate::kernel::request_context::{Actor, RequestContext};
use crate::repositories::model::GitService;

/// The limit of every wait.
pub(super) const WAIT_TIMEOUT: Duration = Duration::from_secs(120);
/// The time before the first progress message, and between messages.
const FIRST_PROGRESS_AFTER: Duration = Duration::from_secs(2);
const PROGRESS_INTERVAL: Duration = Duration::from_secs(15);

/// Sends progress messages to a client before git starts.
#[async_trait]
pub trait ProgressSink: Send + Sync {
    /// Sends a line. Best effort: it does not wait long for a client that does not read.
    async fn send_progress(&self, line: &str);
}

/// For clients that cannot receive progress messages.
pub(super) struct NoProgress;

#[async_trait]
impl ProgressSink for NoProgress {
    async fn send_progress(&self, _line: &str) {}
}

/// Waits for a future and sends progress messages meanwhile.
pub(super) async fn wait_with_progress<T>(
    waited: impl Future<Output = T>,
    client: &dyn ProgressSink,
    line: &str,
) -> T {
    wait_with_intervals(waited, client, line, [FIRST_PROGRESS_AFTER, PROGRESS_INTERVAL]).await
}

async fn wait_with_intervals<T>(
    waited: impl Future<Output = T>,
    client: &dyn ProgressSink,
    line: &str,
    [first, next]: [Duration; 2],
) -> T {
    tokio::pin!(waited);
    let mut pause = first;
    loop {
        match tokio::time::timeout(pause, &mut waited).await {
            Ok(done) => return done,
            Err(_) => client.send_progress(line).await,
        }
        pause = next;
    }
}

/// The user that a slot is for, also by a token that the user created; Tancho itself counts as one, with the
/// tokens of removed users.
fn slot_key(call: &RequestContext) -> Option<UserId> {
    match &call.actor {
        Actor::User { id, .. } => Some(*id),
        Actor::TeamToken { creator, .. } => creator.as_ref().map(|creator| creator.id),
        _ => None,
    }
}

/// Acquires a slot for a git process of a user. Errors: `TooMany` if too many of the user's requests wait,
/// `Unavailable` on timeout.
pub(super) async fn acquire_slot(
    core: &Core,
    call: &RequestContext,
    service: GitService,
    client: &dyn ProgressSink,
) -> Result<FairSlot<Option<UserId>>, Error> {
    let slots = match service {
        GitService::UploadPack | GitService::UploadArchive => &core.caller_limits.git_reads,
        GitService::ReceivePack => &core.caller_limits.git_pushes,
    };
    let key = slot_key(call);
    let line = "Waiting for your other pushes and fetches to finish.";
    let waiting = tokio::time::timeout(WAIT_TIMEOUT, slots.acquire(&key));
    match wait_with_progress(waiting, client, line).await {
        Ok(Ok(slot)) => Ok(slot),
        Ok(Err(QueueFull)) => Err(Error::too_many(
            "You have too many pushes and fetches in progress: wait for some of them to finish.",
        )),
        Err(_) => Err(Error::unavailable(
            "Your other pushes and fetches did not finish in time: try again when they have.",
        )),
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

    use super::*;

    struct RecordedProgress(UnboundedSender<String>);

    #[async_trait]
    impl ProgressSink for RecordedProgress {
        async fn send_progress(&self, line: &str) {
            self.0.send(line.to_owned()).unwrap();
        }
    }

    #[tokio::test]
    async fn waiting_client_gets_progress_repeatedly_and_others_get_none() {
        let (sender, mut lines) = unbounded_channel();
        let client = RecordedProgress(sender);
        assert_eq!(wait_with_progress(async { 7 }, &client, "waiting").await, 7);
        assert!(lines.try_recv().is_err());
        let three_lines = async {
            for _ in 0..3 {
                assert_eq!(lines.recv().await.unwrap(), "waiting");
            }
            8
        };
        let pauses = [Duration::from_millis(1); 2];
        assert_eq!(
            wait_with_intervals(three_lines, &client, "waiting", pauses).await,
            8
        );
    }
}
