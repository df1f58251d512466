//! Room on disk: how much may still come into a repository, and one after the other, so that no two fill the same
//! room.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use tokio::time::Instant;

use crate::kernel::problem::Problem;
use crate::repositories::disk;

/// How long one waits for the other.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between looks whether the other is ready.
const LOOK: Duration = Duration::from_millis(50);

/// Something of a repository that no two may do at once. It ends when dropped, and with the process.
pub(super) struct Turn(#[expect(dead_code, reason = "held, not read")] Flock<File>);

impl Turn {
    /// To receive objects that are pushed: by the next one's turn, they are there and counted. Errors: `Unavailable`
    /// when another push does not come to an end.
    pub(super) async fn to_receive(repository: &Path) -> Result<Self, Problem> {
        let busy = "Another push to this repository is still coming in: push again in a moment.";
        Self::wait(repository, "tancho.receive", busy).await
    }

    /// To write packs beside those that are there. Errors: as `to_receive`.
    pub(super) async fn to_pack(repository: &Path) -> Result<Self, Problem> {
        let busy = "The repository is being fetched into or packed: this goes on in a moment.";
        Self::wait(repository, "tancho.pack", busy).await
    }

    async fn wait(repository: &Path, name: &str, busy: &'static str) -> Result<Self, Problem> {
        let (path, end) = (repository.join(name), Instant::now() + PATIENCE);
        loop {
            if let Some(turn) = take(&path).map_err(Problem::internal)? {
                return Ok(turn);
            }
            if Instant::now() >= end {
                return Err(Problem::unavailable(busy));
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// `None`: somebody else has it.
fn take(path: &Path) -> io::Result<Option<Turn>> {
    let mut options = File::options();
    let file = options.create(true).write(true).truncate(false).open(path)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(file) => Ok(Some(Turn(file))),
        Err((_, Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, error)) => Err(error.into()),
    }
}

/// The bytes that a repository may still grow by.
pub(super) async fn left(repository: &Path, most: u64) -> Result<u64, Problem> {
    let used = disk::size(repository).await?;
    Ok(most.saturating_sub(used.unsigned_abs()))
}
