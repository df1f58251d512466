//! One command of a build: unprivileged, in a process group of its own, its output line by line, ended
//! with all its children when the build is cancelled, late, or dropped.
//!
//! A build must not outlive Tancho either. So each group has a watcher, a shell that reads from a pipe
//! whose other end is ours: when we die, however that happens, the pipe ends and the watcher kills its
//! group.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::PipeWriter;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::process::Child;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::BuildError;
use super::output::{Splitter, Voice};
use crate::confine::stage::{Stage, wrapped};
use crate::kernel::size::Bytes;

/// How long output may still come from a process that has left the group, after the group is dead.
const GRACE: Duration = Duration::from_secs(1);
/// The most that is kept of a captured output, in bytes.
const CAPTURED: usize = 64 << 10;

/// Runs before each command, in its group: starts the watcher, then becomes the command. Builds are
/// less urgent than requests, hence `nice`.
pub(super) const GUARD: &str = r#"umask 027
exec 3<&0 </dev/null
( exec >/dev/null 2>&1; read -r _ <&3; kill -9 0 ) &
exec 3<&-
mkdir -p "$HOME" 2>/dev/null
exec nice -n 5 "$@"
"#;

/// When a build must stop.
#[derive(Clone)]
pub(super) struct Watch {
    pub(super) cancel: CancellationToken,
    pub(super) deadline: Instant,
    pub(super) allowed: Duration,
    /// Cancelled when the build has written more than `room`.
    pub(super) full: CancellationToken,
    pub(super) room: Bytes,
}

impl Watch {
    /// Resolves when the build must stop.
    pub(super) async fn over(&self) {
        tokio::select! {
            () = self.cancel.cancelled() => {}
            () = self.full.cancelled() => {}
            () = tokio::time::sleep_until(self.deadline) => {}
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.cancel.is_cancelled() || self.full.is_cancelled() || Instant::now() >= self.deadline
    }

    /// Errors: `Cancelled`, `TooLarge` or `TimedOut` when the build must stop.
    pub(super) fn check(&self) -> Result<(), BuildError> {
        if self.is_over() { Err(self.why()) } else { Ok(()) }
    }

    pub(super) fn why(&self) -> BuildError {
        if self.cancel.is_cancelled() {
            BuildError::Cancelled
        } else if self.full.is_cancelled() {
            BuildError::TooLarge(self.room)
        } else {
            BuildError::TimedOut(self.allowed)
        }
    }
}

/// How to run commands: the same for all steps of a build.
pub(super) struct Runner<'a> {
    pub(super) dir: &'a Path,
    pub(super) user: Option<u32>,
    pub(super) env: &'a BTreeMap<OsString, OsString>,
    pub(super) watch: &'a Watch,
    /// How commands are shut in: the program with the step, and what it is told.
    pub(super) step: Option<(PathBuf, Stage)>,
}

/// How a command ended.
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    /// Its output when that was captured, else empty.
    pub(super) output: String,
}

impl Ended {
    /// `exited with status 2`, `was killed by signal 9`.
    pub(super) fn words(&self) -> String {
        match (self.status.code(), self.status.signal()) {
            (Some(code), _) => format!("exited with status {code}"),
            (None, Some(signal)) => format!("was killed by signal {signal}"),
            (None, None) => "ended in an unknown way".to_owned(),
        }
    }
}

/// Where the standard output goes; errors are always said.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    Said,
    Captured,
}

impl Runner<'_> {
    /// Runs a command to its end. Errors: `Cancelled`, `TimedOut`, `Internal` when it cannot be started.
    pub(super) async fn run(
        &self,
        argv: &[&OsStr],
        output: Output,
        voice: &mut Voice,
    ) -> Result<Ended, BuildError> {
        self.watch.check()?;
        let (mut running, out, err) = self.start(argv, output).map_err(BuildError::internal)?;
        let finished = tokio::select! {
            ended = running.follow(out, err, voice) => Some(ended),
            () = self.watch.over() => None,
        };
        match finished {
            Some(ended) => ended.map_err(BuildError::internal),
            None => {
                running.end().await;
                Err(self.watch.why())
            }
        }
    }

    /// The guard with the command, as its user, shut in if that is wished.
    fn command(&self, argv: &[&OsStr]) -> std::io::Result<std::process::Command> {
        let shell = ["/bin/sh", "-c", GUARD, "sh"].map(OsStr::new);
        let (mut command, rest) = match &self.step {
            None => {
                let mut command = std::process::Command::new(shell[0]);
                command.current_dir(self.dir).env_clear().envs(self.env);
                if let Some(uid) = self.user {
                    command.gid(uid).uid(uid);
                }
                (command, &shell[1..])
            }
            Some((program, stage)) => {
                let mut command = std::process::Command::new(program);
                command.args(stage.arguments(&[])?);
                command.env_clear().envs(wrapped(self.env));
                (command, &shell[..])
            }
        };
        command.args(rest).args(argv);
        Ok(command)
    }

    /// Spawns it. The pipe of standard output is also that of errors, unless it is captured.
    fn start(
        &self,
        argv: &[&OsStr],
        output: Output,
    ) -> std::io::Result<(Running, Receiver, Option<Receiver>)> {
        let (out, out_end) = std::io::pipe()?;
        let (err, err_end) = match output {
            Output::Said => (None, out_end.try_clone()?),
            Output::Captured => {
                let (err, end) = std::io::pipe()?;
                (Some(Receiver::from_owned_fd(err.into())?), end)
            }
        };
        let (alive, alive_end) = std::io::pipe()?;
        let mut command = self.command(argv)?;
        command
            .process_group(0)
            .stdin(Stdio::from(alive))
            .stdout(Stdio::from(out_end))
            .stderr(Stdio::from(err_end));
        let mut command = tokio::process::Command::from(command);
        let child = command.kill_on_drop(true).spawn()?;
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        let group = id
            .map(Pid::from_raw)
            .ok_or_else(|| std::io::Error::other("no process id"))?;
        let running = Running {
            child,
            group,
            _alive: alive_end,
        };
        Ok((running, Receiver::from_owned_fd(out.into())?, err))
    }
}

/// A command under way; dropping it kills its group.
struct Running {
    child: Child,
    group: Pid,
    /// The watcher waits for the end of this.
    _alive: PipeWriter,
}

impl Running {
    /// Passes the output on until the command has ended and its group is dead.
    async fn follow(
        &mut self,
        mut out: Receiver,
        err: Option<Receiver>,
        voice: &mut Voice,
    ) -> std::io::Result<Ended> {
        let captured = err.is_some();
        let mut output = Vec::new();
        let (mut out_open, mut err_open) = (true, captured);
        let mut err = err;
        let mut lines = Splitter::default();
        let mut status = None;
        let (mut chunk, mut chunk_err) = (vec![0; 16 << 10], vec![0; 16 << 10]);
        let grace = tokio::time::sleep(Duration::MAX);
        tokio::pin!(grace);
        while status.is_none() || out_open || err_open {
            tokio::select! {
                read = out.read(&mut chunk), if out_open => {
                    let n = read?;
                    out_open = n > 0;
                    if captured {
                        let room = CAPTURED.saturating_sub(output.len());
                        output.extend_from_slice(&chunk[..n.min(room)]);
                    } else {
                        say_all(lines.push(&chunk[..n]), voice).await;
                    }
                }
                read = read_maybe(&mut err, &mut chunk_err), if err_open => {
                    let n = read?;
                    err_open = n > 0;
                    say_all(lines.push(&chunk_err[..n]), voice).await;
                }
                ended = self.child.wait(), if status.is_none() => {
                    status = Some(ended?);
                    self.kill();
                    grace.as_mut().reset(Instant::now() + GRACE);
                }
                () = &mut grace, if status.is_some() => break,
            }
        }
        say_all(lines.finish().into_iter().collect(), voice).await;
        let status = status.ok_or_else(|| std::io::Error::other("no exit status"))?;
        let output = String::from_utf8_lossy(&output).into_owned();
        Ok(Ended { status, output })
    }

    /// The watcher keeps the group's number taken until it dies with it, so no stranger is hit.
    fn kill(&self) {
        let _ = killpg(self.group, Signal::SIGKILL);
    }

    /// Kills the group and waits, a second at most, until it is gone.
    async fn end(&mut self) {
        self.kill();
        let _ = self.child.wait().await;
        let until = Instant::now() + GRACE;
        while killpg(self.group, None).is_ok() && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Ended and reaped: the number may be another's by now.
        if self.child.id().is_some() {
            self.kill();
        }
    }
}

async fn read_maybe(from: &mut Option<Receiver>, chunk: &mut [u8]) -> std::io::Result<usize> {
    match from {
        Some(from) => from.read(chunk).await,
        None => Ok(0),
    }
}

async fn say_all(lines: Vec<String>, voice: &mut Voice) {
    for line in lines {
        voice.say(&line).await;
    }
}
