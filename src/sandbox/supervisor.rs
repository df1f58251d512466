//! A supervisor: the parent of one untrusted command, for which Tancho waits instead. When the command has
//! ended, when the supervisor gets SIGTERM, or when Tancho has exited, it kills every descendant of the
//! command, and exits only when none is left. Its exit therefore proves that all have ended.
//!
//! It finds them even without a cgroup: as a child subreaper it adopts every orphan among its descendants, so
//! when it has no child it has no descendant. It runs as Tancho's user and outside of the command's cgroups,
//! so the command cannot kill it if users differ or if Landlock scopes signals.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getppid};

use super::exec_stage::{ExecStage, FAILED};
use super::{cgroup, proc};

/// How often children are killed without a pause: this catches a process that keeps starting a child and
/// exiting.
const QUICK_KILL_ROUNDS: u32 = 200;
const MIN_PAUSE: Duration = Duration::from_millis(1);
const MAX_PAUSE: Duration = Duration::from_millis(100);

/// Runs the command as a child, and returns its exit status once none of its descendants is left.
pub(super) fn run_supervised(stage: &ExecStage, argv: &[OsString]) -> ExitCode {
    let ended = match start_command(stage, argv) {
        Ok((command, signals, parent)) => wait_for_end(command, &signals, parent),
        Err(error) => {
            let _nobody_listens =
                io::Write::write_all(&mut io::stderr(), format!("tancho: {error}\n").as_bytes());
            SupervisedEnd::Status(FAILED)
        }
    };
    kill_descendants(&stage.ends);
    if matches!(ended, SupervisedEnd::Terminated)
        && stage
            .parent
            .is_none_or(|parent| getppid() != Pid::from_raw(parent))
    {
        // No other process is left to do it.
        for group in &stage.ends {
            cgroup::kill_and_remove(group);
        }
    }
    match ended {
        SupervisedEnd::Status(status) => ExitCode::from(u8::try_from(status).unwrap_or(1)),
        SupervisedEnd::Signal(signal) => raise_same_signal(signal),
        SupervisedEnd::Terminated => raise_same_signal(Signal::SIGKILL),
    }
}

enum SupervisedEnd {
    Status(i32),
    Signal(Signal),
    /// Stopped by Tancho, or because Tancho has exited.
    Terminated,
}

fn start_command(stage: &ExecStage, argv: &[OsString]) -> io::Result<(Pid, SigSet, Option<Pid>)> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM] {
        signals.add(signal);
    }
    signals.thread_block()?;
    prctl::set_child_subreaper(true)?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    let parent = stage.parent.map(Pid::from_raw);
    if let Some(parent) = parent {
        // Also sent when the thread that started this process ends: then the parent still exists.
        prctl::set_pdeathsig(Signal::SIGHUP)?;
        if getppid() != parent {
            return Err(io::Error::other("Tancho has exited"));
        }
    }
    let inner = ExecStage {
        supervised: false,
        parent: Some(Pid::this().as_raw()),
        ..stage.clone()
    };
    let mut command = Command::new("/proc/self/exe");
    command.arg0("tancho").args(inner.command_args(&[])?).args(argv);
    // The leader of a process group cannot begin a session.
    if !stage.terminal {
        command.process_group(0);
    }
    let pid = command.spawn()?.id();
    let pid = i32::try_from(pid).map_err(io::Error::other)?;
    Ok((Pid::from_raw(pid), signals, parent))
}

fn wait_for_end(command: Pid, signals: &SigSet, parent: Option<Pid>) -> SupervisedEnd {
    loop {
        match signals.wait() {
            Ok(Signal::SIGCHLD) => {
                if let Some(ended) = reap_children(command) {
                    return ended;
                }
            }
            Ok(Signal::SIGHUP) if parent.is_some_and(|parent| getppid() == parent) => {}
            Ok(_) => return SupervisedEnd::Terminated,
            Err(_) => {}
        }
    }
}

/// Reaps all children that have ended; returns how the command ended if it is among them.
fn reap_children(command: Pid) -> Option<SupervisedEnd> {
    let mut ended = None;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, status)) if pid == command => {
                ended = Some(SupervisedEnd::Status(status))
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == command => {
                ended = Some(SupervisedEnd::Signal(signal))
            }
            Ok(WaitStatus::StillAlive) => return ended,
            Err(Errno::ECHILD) => return Some(ended.unwrap_or(SupervisedEnd::Signal(Signal::SIGKILL))),
            // Other children; a signal that nix has no name for; an interruption.
            Ok(_) | Err(_) => {}
        }
    }
}

/// Kills all descendants of this process; returns when none is left.
fn kill_descendants(cgroups: &[PathBuf]) {
    let mut pause = MIN_PAUSE;
    loop {
        for group in cgroups {
            cgroup::kill_members(group);
        }
        for _ in 0..QUICK_KILL_ROUNDS {
            proc::kill_each(proc::list_children());
            if !has_children() {
                return;
            }
        }
        thread::sleep(pause);
        pause = (pause * 2).min(MAX_PAUSE);
    }
}

/// Reaps children that have ended; returns whether any is left.
fn has_children() -> bool {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => return true,
            Err(Errno::ECHILD) => return false,
            Ok(_) | Err(_) => {}
        }
    }
}

/// Ends by the same signal as the command, so that the parent sees it.
fn raise_same_signal(signal: Signal) -> ExitCode {
    let mut this = SigSet::empty();
    this.add(signal);
    let _no_core = raise(signal);
    // The signal stays pending until now if it is one of the blocked ones.
    let _delivered = this.thread_unblock();
    ExitCode::from(u8::try_from(128 + signal as i32).unwrap_or(1))
}
