//! The bound on a unit's scratch home. A plain process has none, so the shim looks every few seconds; a
//! unit that holds more is ended, its scratch is emptied, and it begins again. Between two looks it may hold
//! more; one file alone never can.

use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::thread;
use std::time::{Duration, Instant};

use super::family::Note;
use super::{cgroup, proc};
use crate::confine::usage::{self, Room};

const SHORTEST: Duration = Duration::from_secs(5);
/// Each file takes room beside its bytes.
const MOST_FILES: u64 = 200_000;
/// Looking takes at most this share of the time.
const SHARE: u32 = 20;

/// Looks for as long as the shim lives, and tells it each time that too much is there.
pub(super) fn watch(home: &Path, cgroup: Option<&PathBuf>, bytes: u64, tell: &Sender<Note>) {
    let room = Room {
        bytes,
        files: MOST_FILES,
    };
    let mut pause = SHORTEST;
    loop {
        thread::sleep(pause);
        let began = Instant::now();
        let pids = cgroup.map_or_else(proc::descendants, |cgroup| cgroup::members(cgroup));
        if usage::is_over(home, &pids, room) && tell.send(Note::Full).is_err() {
            return;
        }
        pause = SHORTEST.max(began.elapsed() * SHARE);
    }
}
