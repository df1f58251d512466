//! One question to the database for all reads that wait at one time.

use chrono::{DateTime, Utc};
use tokio::sync::{mpsc, oneshot};

use crate::apps::info::store;
use crate::core::Core;
use crate::db::Db;
use crate::kernel::error::Error;
use crate::kernel::ids::AppId;

/// How many reads wait before further ones are held back.
const MAX_WAITING: usize = 1024;

/// The state of the database that a description shows, or a newer one.
#[derive(Clone)]
pub(super) struct KeptMark {
    snapshot: String,
    read_at: DateTime<Utc>,
}

/// The answer to a check.
pub(super) struct CheckedInfo {
    /// The description that was asked for is still valid.
    pub(super) is_unchanged: bool,
    /// The state of the database at the check.
    pub(super) mark: KeptMark,
}

/// A read that waits: the description that it would like to use, if there is one.
struct PendingCheck {
    kept: Option<(AppId, KeptMark)>,
    answer: oneshot::Sender<Result<CheckedInfo, Error>>,
}

/// Asks for all that wait. Clones share the questions.
#[derive(Clone)]
pub(super) struct ChangeChecks(mpsc::Sender<PendingCheck>);

impl ChangeChecks {
    /// Starts the task that asks; it ends when the server stops.
    pub(super) fn start(core: &Core) -> Self {
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        core.tasks
            .spawn(answer_checks(core.db.clone(), receiver, core.stop.clone()));
        Self(sender)
    }

    /// Checks a description. The state of the database that is looked at is never older than this call.
    pub(super) async fn check(&self, db: &Db, kept: Option<(AppId, KeptMark)>) -> Result<CheckedInfo, Error> {
        let (answer, answered) = oneshot::channel();
        match self.0.send(PendingCheck { kept, answer }).await {
            Ok(()) => answered
                .await
                .unwrap_or_else(|_| Err(Error::unavailable("The server has stopped: try again."))),
            // The task has ended, since the server is stopping: the last requests ask by themselves.
            Err(mpsc::error::SendError(pending)) => {
                check_all(db, vec![pending]).await;
                answered
                    .await
                    .unwrap_or_else(|_| Err(Error::internal("a check without an answer")))
            }
        }
    }
}

async fn answer_checks(
    db: Db,
    mut waiting: mpsc::Receiver<PendingCheck>,
    stop: tokio_util::sync::CancellationToken,
) {
    let mut batch = Vec::new();
    loop {
        let count = tokio::select! {
            count = waiting.recv_many(&mut batch, MAX_WAITING) => count,
            // Those that wait already are answered.
            () = stop.cancelled(), if !waiting.is_closed() => {
                waiting.close();
                continue;
            }
        };
        if count == 0 {
            return;
        }
        check_all(&db, std::mem::take(&mut batch)).await;
    }
}

async fn check_all(db: &Db, batch: Vec<PendingCheck>) {
    let (mut apps, mut snapshots, mut times) = (Vec::new(), Vec::new(), Vec::new());
    // A read without a description has no place in the question, only the mark of its answer.
    for (id, mark) in batch.iter().filter_map(|pending| pending.kept.as_ref()) {
        apps.push(id.0);
        snapshots.push(mark.snapshot.clone());
        times.push(mark.read_at);
    }
    let found = match store::find_unchanged(db, &apps, &snapshots, &times).await {
        Ok(found) => found,
        Err(error) => return answer_failure(batch, error.into()),
    };
    let mut place = 0;
    for pending in batch {
        place += i64::from(pending.kept.is_some());
        let is_unchanged = pending.kept.is_some() && found.unchanged.binary_search(&place).is_ok();
        let mark = KeptMark {
            snapshot: found.snapshot.clone(),
            read_at: found.read_at,
        };
        // The caller may have gone.
        let _ = pending.answer.send(Ok(CheckedInfo { is_unchanged, mark }));
    }
}

/// Tells all that wait the same.
fn answer_failure(batch: Vec<PendingCheck>, error: Error) {
    for pending in batch {
        let same = Error::new(error.kind(), error.message().to_owned());
        let _ = pending.answer.send(Err(same));
    }
}
