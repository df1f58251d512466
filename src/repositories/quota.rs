//! Quota: how many bytes a repository may still grow. Pushes and fetches receive objects one after the other,
//! so that no two compute the same remaining quota and both use it.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use tokio::time::Instant;

use crate::kernel::error::Error;
use crate::repositories::disk;
use crate::repositories::waiting::WAIT_TIMEOUT;

/// The interval between attempts to take a lock.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// An exclusive lock on one kind of operation in a repository. Released when dropped, and when the process
/// ends.
pub(super) struct RepositoryLock(#[expect(dead_code, reason = "held, not read")] Flock<File>);

impl RepositoryLock {
    /// Locks receiving objects, by a push or a fetch: the next holder sees the objects and their size.
    /// Callers that also need the packing lock take that one first. Errors: `Unavailable` if another holder
    /// does not end in time.
    pub(super) async fn for_receiving(repository: &Path) -> Result<Self, Error> {
        let busy = "Another push or fetch into this repository is in progress: try again in a moment.";
        Self::wait_for_lock(repository, "tancho.receive", busy).await
    }

    /// Locks writing packs beside existing ones. Errors: as `for_receiving`.
    pub(super) async fn for_packing(repository: &Path) -> Result<Self, Error> {
        let busy = "A fetch into this repository or its repacking is in progress: try again in a moment.";
        Self::wait_for_lock(repository, "tancho.pack", busy).await
    }

    /// Locks moving refs: no other push moves a ref between the last check and the move.
    pub(super) async fn for_ref_updates(repository: &Path) -> Result<Self, Error> {
        let busy = "Another push to this repository is updating its branches: push again in a moment.";
        Self::wait_for_lock(repository, "tancho.refs", busy).await
    }

    async fn wait_for_lock(repository: &Path, name: &str, busy: &'static str) -> Result<Self, Error> {
        let (path, end) = (repository.join(name), Instant::now() + WAIT_TIMEOUT);
        loop {
            if let Some(turn) = try_lock(&path).map_err(Error::internal)? {
                return Ok(turn);
            }
            if Instant::now() >= end {
                return Err(Error::unavailable(busy));
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

/// Returns `None` if another holder has the lock.
fn try_lock(path: &Path) -> io::Result<Option<RepositoryLock>> {
    let mut options = File::options();
    let file = options.create(true).write(true).truncate(false);
    // The folder belongs to git's user, and this process may write where git may not.
    let file = file.mode(0o600).custom_flags(nix::libc::O_NOFOLLOW).open(path)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(file) => Ok(Some(RepositoryLock(file))),
        Err((_, Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, error)) => Err(error.into()),
    }
}

/// Returns the bytes by which a repository may still grow.
pub(super) async fn remaining_bytes(repository: &Path, most: u64) -> Result<u64, Error> {
    let used = disk::measure_folder(repository).await?;
    Ok(most.saturating_sub(used.unsigned_abs()))
}
