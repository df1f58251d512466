//! The server's processes: finding out whether one runs, and signals.
//!
//! The pid file may be old and its number somebody else's by now. Where there is `/proc`, a process counts only
//! if it works in the folder, as all of Postgres' do; so nobody else is signalled, and nobody else keeps us from
//! starting.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use super::SOCKET;

const PID_FILE: &str = "postmaster.pid";

/// The main process of a running server.
#[derive(Debug)]
pub(super) struct Postmaster {
    pub(super) pid: i32,
    /// It says that it accepts connections.
    pub(super) is_ready: bool,
}

impl Postmaster {
    /// The server that runs on the folder.
    pub(super) fn find(folder: &Path) -> Option<Self> {
        let found = read_pid_file(folder)?;
        is_at_home(found.pid, folder).then_some(found)
    }

    /// Sends a signal; a process that is gone is fine.
    pub(super) fn signal(&self, signal: Signal) {
        if let Err(error) = kill(Pid::from_raw(self.pid), signal) {
            tracing::debug!(pid = self.pid, %error, "Postgres could not be signalled");
        }
    }
}

/// The first line is the pid, the eighth the state.
fn read_pid_file(folder: &Path) -> Option<Postmaster> {
    let mut text = String::new();
    let file = File::open(folder.join(PID_FILE)).ok()?;
    file.take(4096).read_to_string(&mut text).ok()?;
    let mut lines = text.lines();
    let pid = lines.next()?.trim().parse().ok().filter(|pid| *pid > 1)?;
    let is_ready = lines.nth(6).is_some_and(|state| state.trim() == "ready");
    Some(Postmaster { pid, is_ready })
}

fn is_at_home(pid: i32, folder: &Path) -> bool {
    if !has_proc() {
        return is_alive(pid);
    }
    // Of a process that has ended, waited for or not, this link cannot be read.
    fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == folder)
}

fn is_alive(pid: i32) -> bool {
    let pid = Pid::from_raw(pid);
    // Where we are the first process of a container, the server is our child once its parent is gone.
    let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG));
    matches!(kill(pid, None), Ok(()) | Err(Errno::EPERM))
}

fn has_proc() -> bool {
    Path::new("/proc/self/cwd").symlink_metadata().is_ok()
}

/// Whether any process of a server works in the folder: the main one, one that a killed one left behind, or one
/// that is about to become one. Without `/proc`, nobody can tell: no.
pub(super) fn is_busy(folder: &Path) -> bool {
    !workers(folder).is_empty()
}

/// Tells what a killed server left behind to quit.
pub(super) fn quit_leftovers(folder: &Path) {
    for pid in workers(folder) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGQUIT);
    }
}

fn workers(folder: &Path) -> Vec<i32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| is_at_home(*pid, folder) && is_postgres(*pid))
        .collect()
}

/// By name: somebody's shell may stand in the folder as well. `sh` is what `pg_ctl` starts the server by.
fn is_postgres(pid: i32) -> bool {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    ["postgres", "postmaster", "pg_ctl", "sh"].contains(&name.trim())
}

/// After a reboot, the number in the files of an earlier server may be another program's, and Postgres would
/// refuse to start. Called only when no process of a server is left on the folder.
pub(super) fn remove_stale_locks(folder: &Path, socket: &Path) {
    // Without `/proc` nobody knows whose number it is, so Postgres decides.
    if !has_proc() || is_busy(folder) {
        return;
    }
    remove(&socket.join(SOCKET));
    remove(&socket.join(format!("{SOCKET}.lock")));
    // The pid file of a process that is no more stays: Postgres reads from it which memory to give back.
    if let Some(old) = read_pid_file(folder).filter(|old| is_alive(old.pid)) {
        tracing::info!(
            pid = old.pid,
            "the pid file of Postgres names another process; removing it"
        );
        remove(&folder.join(PID_FILE));
    }
}

/// What cannot be removed makes Postgres refuse, with its reason.
fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "a stale file of Postgres cannot be removed");
        }
        _ => {}
    }
}
