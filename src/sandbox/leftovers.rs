//! Processes of an app's user without a supervisor: what a killed supervisor left where no cgroup could be
//! created. Used when an app is removed.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::proc::{self, ProcessStat};

/// How long to try.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(10);

/// Kills the processes of this user that have no supervisor of any Tancho; those of another Tancho that uses
/// the same uids are left alone. Needs root. Returns false if some are left.
pub fn kill_leftovers_of_user(user: u32) -> bool {
    let deadline = Instant::now() + KILL_TIMEOUT;
    loop {
        let found = find_user_processes(user);
        if found.supervised == 0 {
            // All in one call, which also hits a process that keeps changing its pid.
            kill_all_of_user(user);
        } else {
            proc::kill_each(found.leftovers.iter().copied());
        }
        if found.leftovers.is_empty() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        thread::sleep(PAUSE);
    }
}

struct UserProcesses {
    leftovers: Vec<i32>,
    supervised: usize,
}

fn find_user_processes(user: u32) -> UserProcesses {
    let all = proc::list_processes();
    let of_user = all.iter().filter(|stat| belongs_to(stat.pid, user));
    let (supervised, leftovers): (Vec<&ProcessStat>, Vec<&ProcessStat>) =
        of_user.partition(|stat| is_supervised(stat, &all, user));
    UserProcesses {
        leftovers: leftovers.into_iter().map(|stat| stat.pid).collect(),
        supervised: supervised.len(),
    }
}

/// Reads the status: the owner of a `/proc` folder is root if the process is not dumpable.
fn belongs_to(pid: i32, user: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    let mut numbers = line.unwrap_or_default().split_whitespace();
    numbers.any(|number| number.parse() == Ok(user))
}

/// Returns whether the nearest ancestor with another user is a supervisor, a shim, or this process.
fn is_supervised(stat: &ProcessStat, all: &[ProcessStat], user: u32) -> bool {
    let mut parent = stat.parent;
    // Reused pids could form a cycle, because the list is not a consistent snapshot.
    for _ in 0..all.len() {
        if !belongs_to(parent, user) {
            break;
        }
        let Some(above) = all.iter().find(|stat| stat.pid == parent) else {
            return false;
        };
        parent = above.parent;
    }
    let line = fs::read(format!("/proc/{parent}/cmdline")).unwrap_or_default();
    let command = line.split(|byte| *byte == 0).nth(1).unwrap_or_default();
    parent == nix::unistd::Pid::this().as_raw() || [&b"unit-shim"[..], b"unit-exec"].contains(&command)
}

/// Signals every process of the user in one call, which a fork cannot evade.
fn kill_all_of_user(user: u32) {
    let killed = Command::new("/bin/sh")
        .args(["-c", "kill -KILL -1"])
        .uid(user)
        .gid(user)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if let Err(error) = killed {
        tracing::warn!(%error, user, "cannot kill the processes of an app");
    }
}
