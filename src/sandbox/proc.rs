//! Processes in `/proc`. A process is identified by its pid and start time, because pids are reused.

use std::fs;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// One process, unique until the host reboots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessHandle {
    pub(crate) pid: i32,
    /// Start time in clock ticks since boot.
    began: u64,
}

/// Fields of `/proc/<pid>/stat`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProcessStat {
    pub(crate) pid: i32,
    pub(crate) parent: i32,
    pub(crate) group: i32,
    pub(crate) session: i32,
    began: u64,
    /// The time of a processor that it and those of its children that have ended have used.
    pub(crate) cpu_time: Duration,
}

impl ProcessHandle {
    /// This process.
    pub(crate) fn current() -> Option<Self> {
        let stat = read_stat(Pid::this().as_raw())?;
        Some(Self {
            pid: stat.pid,
            began: stat.began,
        })
    }

    /// Returns true while the process exists.
    pub(crate) fn is_alive(self) -> bool {
        read_stat(self.pid).is_some_and(|stat| stat.began == self.began)
    }

    /// Sends a signal if the process still exists.
    pub(crate) fn send_signal(self, signal: Signal) -> bool {
        self.is_alive() && kill(Pid::from_raw(self.pid), signal).is_ok()
    }
}

/// The id of the current boot: no process outlives it.
pub(crate) fn boot_id() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_owned()
}

fn read_stat(pid: i32) -> Option<ProcessStat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program name may contain spaces and parentheses; the fields after the last parenthesis are numbers.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<i32>().ok();
    if matches!(*fields.first()?, "Z" | "X") {
        return None;
    }
    Some(ProcessStat {
        pid,
        parent: number(1)?,
        group: number(2)?,
        session: number(3)?,
        began: fields.get(19)?.parse().ok()?,
        cpu_time: fields
            .get(11..15)
            .unwrap_or_default()
            .iter()
            .map(|ticks| Duration::from_millis(ticks.parse::<u64>().unwrap_or(0) * TICK_MILLIS))
            .sum(),
    })
}

/// One hundred in a second, on all architectures.
const TICK_MILLIS: u64 = 10;

/// Lists all processes that are not zombies.
pub(crate) fn list_processes() -> Vec<ProcessStat> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(read_stat)
        .collect()
}

/// Lists the children of this process, including orphaned descendants if it is a subreaper.
pub(crate) fn list_children() -> Vec<i32> {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let mut lists = tasks.map(|task| fs::read_to_string(task.path().join("children")));
    let listed = lists.try_fold(Vec::new(), |mut all, list| {
        all.extend(list?.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
        Ok::<_, std::io::Error>(all)
    });
    // Not every kernel has these lists.
    listed.unwrap_or_else(|_| {
        let me = Pid::this().as_raw();
        let all = list_processes().into_iter().filter(|stat| stat.parent == me);
        all.map(|stat| stat.pid).collect()
    })
}

/// Lists all living descendants of this process.
pub(crate) fn list_descendants() -> Vec<i32> {
    let all = list_processes();
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

/// Sends SIGKILL to these processes.
pub(crate) fn kill_each(pids: impl IntoIterator<Item = i32>) {
    for pid in pids {
        let _gone_already = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}
