//! The disk limit of a build. The kernel limits only the size of single files, so the folders are measured
//! every few seconds; in between they may exceed the limit.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::build_session::run_blocking;
use super::command::StopCondition;
use super::tree::{ScratchFolder, remove_tree};
use crate::sandbox::disk_usage::{self, DiskLimit};

const MIN_PAUSE: Duration = Duration::from_secs(5);
/// Measuring takes at most one part in this many of the time.
const PAUSE_FACTOR: u32 = 20;
/// High, because folders of modules have very many files; the limit is for builds that only create files.
const MAX_FILES: u64 = 3_000_000;

/// Measures the folders until this future is dropped, and stops the build when they exceed the limit. Caches
/// that exceed it are emptied, or the next build would fail as well.
pub(super) async fn watch_disk(
    scratch: &Arc<ScratchFolder>,
    cache: &Path,
    stop: &StopCondition,
) -> Infallible {
    let mut pause = MIN_PAUSE;
    loop {
        tokio::time::sleep(pause).await;
        let began = Instant::now();
        let (scratch, cache, limit) = (Arc::clone(scratch), cache.to_owned(), stop.disk_limit());
        let measured = run_blocking(move || {
            let caches = disk_usage::exceeds_limit(&cache, &[], limit);
            if caches {
                let _next_time = remove_tree(&cache);
            }
            Ok(caches || disk_usage::exceeds_limit(scratch.path(), &[], limit))
        });
        if matches!(measured.await, Ok(true)) {
            stop.disk_full.cancel();
        }
        pause = MIN_PAUSE.max(began.elapsed() * PAUSE_FACTOR);
    }
}

impl StopCondition {
    fn disk_limit(&self) -> DiskLimit {
        DiskLimit {
            bytes: self.max_disk.0,
            files: MAX_FILES,
        }
    }
}
