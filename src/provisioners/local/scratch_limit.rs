//! The limit of a unit's scratch home. A plain process has no quota, so the shim measures every few seconds;
//! a unit that exceeds the limit is killed, its scratch home is emptied, and it restarts. Between two
//! measurements it may exceed the limit; a single file never can.

use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::thread;
use std::time::{Duration, Instant};

use super::processes::ShimEvent;
use super::volume_limit::ForcedEnd;
use crate::kernel::byte_size::ByteSize;
use crate::sandbox::disk_usage::{self, DiskLimit};
use crate::sandbox::{cgroup, proc};

const MIN_PAUSE: Duration = Duration::from_secs(5);
/// Each file uses space beside its bytes.
const MAX_FILES: u64 = 200_000;
/// Measuring takes at most one part in this many of the time.
const PAUSE_FACTOR: u32 = 20;

/// Measures as long as the shim lives, and sends an event whenever the limit is exceeded.
pub(super) fn watch_scratch(home: &Path, cgroup: Option<&PathBuf>, bytes: u64, sender: &Sender<ShimEvent>) {
    let limit = DiskLimit {
        bytes,
        files: MAX_FILES,
    };
    let cause = ForcedEnd::ScratchFull {
        limit: ByteSize(bytes),
    };
    let mut pause = MIN_PAUSE;
    loop {
        thread::sleep(pause);
        let began = Instant::now();
        let pids = cgroup.map_or_else(proc::list_descendants, |cgroup| cgroup::list_members(cgroup));
        if disk_usage::exceeds_limit(home, &pids, limit)
            && sender.send(ShimEvent::MustEnd(cause.clone())).is_err()
        {
            return;
        }
        pause = MIN_PAUSE.max(began.elapsed() * PAUSE_FACTOR);
    }
}
