//! Notices changes by looking at the folders: when a state was replaced, and whether a lock is held.
//! It looks rarely enough to cost at most a twentieth of one core, however many units there are.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::folder::{Folder, units};

const SHORTEST: Duration = Duration::from_millis(250);
const SHARE: u32 = 20;

/// Looks until told to stop. Rests while nobody listens.
pub(super) async fn look(root: PathBuf, changes: watch::Sender<u64>, stop: CancellationToken) {
    let mut seen = 0;
    let mut pause = SHORTEST;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        if changes.receiver_count() == 0 {
            continue;
        }
        let (root, began) = (root.clone(), Instant::now());
        let Ok(found) = tokio::task::spawn_blocking(move || glance(&root)).await else {
            return;
        };
        pause = SHORTEST.max(began.elapsed() * SHARE);
        if found != seen {
            seen = found;
            changes.send_modify(|n| *n += 1);
        }
    }
}

/// A number that differs when anything did; the order of the folders does not matter.
fn glance(root: &Path) -> u64 {
    let mut sum = 0_u64;
    for unit in units(root).unwrap_or_default() {
        let folder = Folder::of(root, &unit);
        let mut hash = DefaultHasher::new();
        unit.hash(&mut hash);
        if let Ok(state) = std::fs::metadata(folder.state_path()) {
            (state.ino(), state.mtime(), state.mtime_nsec()).hash(&mut hash);
        }
        folder.is_locked().hash(&mut hash);
        sum = sum.wrapping_add(hash.finish());
    }
    sum
}
