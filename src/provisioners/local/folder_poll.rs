//! Detects changes by polling the folders: whether a state was replaced, and whether a lock is held. The
//! interval is long enough to use at most a twentieth of one core, whatever the number of units.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::folder::{UnitFolder, list_units};

const MIN_PAUSE: Duration = Duration::from_millis(250);
const PAUSE_FACTOR: u32 = 20;

/// Polls until `stop`. Pauses while there are no subscribers.
pub(super) async fn poll_folders(root: PathBuf, changes: watch::Sender<u64>, stop: CancellationToken) {
    let mut seen = 0;
    let mut pause = MIN_PAUSE;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        if changes.receiver_count() == 0 {
            continue;
        }
        let (root, began) = (root.clone(), Instant::now());
        let Ok(found) = tokio::task::spawn_blocking(move || fingerprint_units(&root)).await else {
            return;
        };
        pause = MIN_PAUSE.max(began.elapsed() * PAUSE_FACTOR);
        if found != seen {
            seen = found;
            changes.send_modify(|n| *n += 1);
        }
    }
}

/// Computes a fingerprint of all units, independent of the order of the folders.
fn fingerprint_units(root: &Path) -> u64 {
    let mut sum = 0_u64;
    for unit in list_units(root).unwrap_or_default() {
        let folder = UnitFolder::for_unit(root, &unit);
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
