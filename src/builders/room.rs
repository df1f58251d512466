//! The bound on what a build writes. Its processes have none beyond that of a single file, so the folders
//! are looked at every few seconds; between two looks they may hold more.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::building::blocking;
use super::run::Watch;
use super::tree::{Scratch, remove_tree};
use crate::confine::usage::{self, Room};

const SHORTEST: Duration = Duration::from_secs(5);
/// Looking takes at most this share of the time.
const SHARE: u32 = 20;
/// A tree of modules has very many; this is for those who make nothing but files.
const MOST_FILES: u64 = 3_000_000;

/// Looks for as long as it is awaited, and stops the build once too much is there. Caches that have grown
/// too large are emptied: the next build would meet them again.
pub(super) async fn look(scratch: &Arc<Scratch>, cache: &Path, watch: &Watch) -> Infallible {
    let mut pause = SHORTEST;
    loop {
        tokio::time::sleep(pause).await;
        let began = Instant::now();
        let (scratch, cache, room) = (Arc::clone(scratch), cache.to_owned(), watch.room());
        let looked = blocking(move || {
            let caches = usage::is_over(&cache, &[], room);
            if caches {
                let _next_time = remove_tree(&cache);
            }
            Ok(caches || usage::is_over(scratch.path(), &[], room))
        });
        if matches!(looked.await, Ok(true)) {
            watch.full.cancel();
        }
        pause = SHORTEST.max(began.elapsed() * SHARE);
    }
}

impl Watch {
    fn room(&self) -> Room {
        Room {
            bytes: self.room.0,
            files: MOST_FILES,
        }
    }
}
