//! What the kernel says of processes. A process is known by its pid and when it began, because pids
//! are used again.

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// One process, for the life of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Process {
    pub(super) pid: i32,
    /// Clock ticks after the start of the host.
    began: u64,
}

/// What `/proc/<pid>/stat` says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stat {
    pub(super) pid: i32,
    pub(super) parent: i32,
    pub(super) group: i32,
    pub(super) session: i32,
    began: u64,
}

impl Process {
    /// This process.
    pub(super) fn current() -> Option<Self> {
        let stat = stat(Pid::this().as_raw())?;
        Some(Self {
            pid: stat.pid,
            began: stat.began,
        })
    }

    /// True while it exists.
    pub(super) fn is_there(self) -> bool {
        stat(self.pid).is_some_and(|stat| stat.began == self.began)
    }

    /// Sends a signal, if it is still there.
    pub(super) fn signal(self, signal: Signal) -> bool {
        self.is_there() && kill(Pid::from_raw(self.pid), signal).is_ok()
    }
}

/// The name of this boot: nothing outlives it.
pub(super) fn boot() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_owned()
}

fn stat(pid: i32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name of the program may hold blanks and brackets; what follows the last one is numbers.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<i32>().ok();
    if matches!(*fields.first()?, "Z" | "X") {
        return None;
    }
    Some(Stat {
        pid,
        parent: number(1)?,
        group: number(2)?,
        session: number(3)?,
        began: fields.get(19)?.parse().ok()?,
    })
}

/// All processes that are not dead.
pub(super) fn all() -> Vec<Stat> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(stat)
        .collect()
}

/// Every living process that descends from this one.
pub(super) fn descendants() -> Vec<i32> {
    let all = all();
    let mut family = vec![Pid::this().as_raw()];
    let mut next = 0;
    while let Some(parent) = family.get(next).copied() {
        family.extend(
            all.iter()
                .filter(|stat| stat.parent == parent)
                .map(|stat| stat.pid),
        );
        next += 1;
    }
    family.split_off(1)
}

/// Kills these processes.
pub(super) fn kill_each(pids: impl IntoIterator<Item = i32>) {
    for pid in pids {
        let _gone_already = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}
