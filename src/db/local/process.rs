//! The server's processes: detection and signals.
//!
//! The pid file may be stale and its pid reused by another process. Where there is `/proc`, a process counts
//! only if its working directory is the folder, as for all Postgres processes; so no other process is
//! signalled, and no other process prevents a start.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use super::SOCKET_NAME;

const PID_FILE: &str = "postmaster.pid";

/// The main process of a running server.
#[derive(Debug)]
pub(super) struct Postmaster {
    pub(super) pid: i32,
    /// It reports that it accepts connections.
    pub(super) is_ready: bool,
}

impl Postmaster {
    /// Finds the server running on the folder.
    pub(super) fn find_running(folder: &Path) -> Option<Self> {
        let found = read_pid_file(folder)?;
        works_in_folder(found.pid, folder).then_some(found)
    }

    /// Sends a signal; succeeds if the process is gone.
    pub(super) fn send_signal(&self, signal: Signal) {
        if let Err(error) = kill(Pid::from_raw(self.pid), signal) {
            tracing::debug!(pid = self.pid, %error, "cannot signal Postgres");
        }
    }
}

/// The first line is the pid, the eighth the state. The single-user mode writes a negative pid.
fn read_pid_file(folder: &Path) -> Option<Postmaster> {
    let text = read_pid_text(folder)?;
    let mut lines = text.lines();
    let pid = lines.next()?.trim().parse().ok().filter(|pid| *pid > 1)?;
    let is_ready = lines.nth(6).is_some_and(|state| state.trim() == "ready");
    Some(Postmaster { pid, is_ready })
}

fn read_pid_text(folder: &Path) -> Option<String> {
    let mut text = String::new();
    let file = File::open(folder.join(PID_FILE)).ok()?;
    file.take(4096).read_to_string(&mut text).ok()?;
    Some(text)
}

/// Returns the process that the pid file names, of a server or of the single-user mode.
fn read_pid_owner(folder: &Path) -> Option<i32> {
    let text = read_pid_text(folder)?;
    let pid: i32 = text.lines().next()?.trim().parse().ok()?;
    pid.checked_abs().filter(|pid| *pid > 1)
}

fn works_in_folder(pid: i32, folder: &Path) -> bool {
    if !has_procfs() {
        return is_alive(pid);
    }
    // For an exited process, reaped or not, this link cannot be read.
    fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == folder)
}

fn is_alive(pid: i32) -> bool {
    let pid = Pid::from_raw(pid);
    // If Tancho is the first process of a container, an orphaned server becomes its child.
    let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG));
    matches!(kill(pid, None), Ok(()) | Err(Errno::EPERM))
}

fn has_procfs() -> bool {
    Path::new("/proc/self/cwd").symlink_metadata().is_ok()
}

/// True if any server process works in the folder: the main one, one left behind by a killed server, or one
/// that is about to become a server. Without `/proc`: false.
pub(super) fn is_busy(folder: &Path) -> bool {
    !find_workers(folder).is_empty()
}

/// Signals the processes that a killed server left behind to quit.
pub(super) fn signal_leftovers(folder: &Path) {
    for pid in find_workers(folder) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGQUIT);
    }
}

fn find_workers(folder: &Path) -> Vec<i32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| works_in_folder(*pid, folder) && is_postgres(*pid))
        .collect()
}

/// By name: a user's shell may also have the folder as working directory. `sh` is what `pg_ctl` starts the
/// server with.
fn is_postgres(pid: i32) -> bool {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    ["postgres", "postmaster", "pg_ctl", "sh"].contains(&name.trim())
}

/// Removes stale lock files. After a reboot, the pid in the files of an earlier server may be another
/// program's, and Postgres would refuse to start. Called only when no server process is left on the folder.
pub(super) fn remove_stale_locks(folder: &Path, socket: &Path) {
    // Without `/proc` the owner of the pid is unknown, so Postgres decides.
    if !has_procfs() || is_busy(folder) {
        return;
    }
    remove_stale_file(&socket.join(SOCKET_NAME));
    remove_stale_file(&socket.join(format!("{SOCKET_NAME}.lock")));
    // The pid file of an exited process stays: Postgres reads from it which shared memory to release.
    if let Some(pid) = read_pid_owner(folder).filter(|pid| is_alive(*pid)) {
        tracing::info!(pid, "the pid file of Postgres names another process; removing it");
        remove_stale_file(&folder.join(PID_FILE));
    }
}

/// If the file cannot be removed, Postgres refuses to start and reports the reason.
fn remove_stale_file(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "cannot remove a stale Postgres file");
        }
        _ => {}
    }
}
