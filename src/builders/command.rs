//! Runs one command of a build: unprivileged, in a process group of its own, with its output line by line.
//! The command and all its children are killed when the build is cancelled, times out or is dropped.
//!
//! A build must not outlive Tancho either. Each command therefore has a supervisor (`sandbox::supervisor`),
//! whose exit proves that no process of the command is left, and which kills the command when Tancho exits.
//! Without the exec stage there is only a watcher: a shell that reads from a pipe whose other end Tancho
//! holds. When Tancho dies, for whatever reason, the pipe closes and the watcher kills its process group.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::PipeWriter;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::process::Child;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::output::{BuildOutput, LineSplitter};
use super::tree::ScratchFolder;
use super::{BuildError, BuildLimits};
use crate::kernel::byte_size::ByteSize;
use crate::sandbox::exec_stage::{ExecStage, prefix_env};
use crate::sandbox::shell::shell_for;

/// How long the processes of a command may take to exit after they were signalled.
const KILL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long to read output from processes that left the group, after the group is dead.
const OUTPUT_GRACE: Duration = Duration::from_secs(1);
/// The limit on captured output, in bytes.
const MAX_CAPTURED_BYTES: usize = 64 << 10;

/// Runs before each command, in its group: starts the watcher, then executes the command. Builds are less
/// urgent than requests, hence `nice`.
pub(super) const GUARD_SCRIPT: &str = r#"umask 027
exec 3<&0 </dev/null
( exec >/dev/null 2>&1; read -r _ <&3; kill -9 0 ) &
exec 3<&-
mkdir -p "$HOME" 2>/dev/null
exec nice -n 5 "$@"
"#;

/// When a build must stop.
#[derive(Clone)]
pub(super) struct StopCondition {
    pub(super) cancel: CancellationToken,
    pub(super) deadline: Instant,
    pub(super) time_limit: Duration,
    /// Cancelled when the build has written more than `max_disk`.
    pub(super) disk_full: CancellationToken,
    pub(super) max_disk: ByteSize,
}

impl StopCondition {
    /// The condition of a build that begins now: it is also met when `cancel` is cancelled.
    pub(super) fn begin(cancel: CancellationToken, limits: &BuildLimits) -> Self {
        Self {
            cancel,
            deadline: Instant::now() + limits.deadline,
            time_limit: limits.deadline,
            disk_full: CancellationToken::new(),
            max_disk: ByteSize(limits.disk_bytes),
        }
    }

    /// Resolves when the build must stop.
    pub(super) async fn wait_until_met(&self) {
        tokio::select! {
            () = self.cancel.cancelled() => {}
            () = self.disk_full.cancelled() => {}
            () = tokio::time::sleep_until(self.deadline) => {}
        }
    }

    pub(super) fn is_met(&self) -> bool {
        self.cancel.is_cancelled() || self.disk_full.is_cancelled() || Instant::now() >= self.deadline
    }

    /// Errors: `Cancelled`, `TooLarge` or `TimedOut` when the build must stop.
    pub(super) fn fail_if_met(&self) -> Result<(), BuildError> {
        if self.is_met() {
            Err(self.stop_error())
        } else {
            Ok(())
        }
    }

    pub(super) fn stop_error(&self) -> BuildError {
        if self.cancel.is_cancelled() {
            BuildError::Cancelled
        } else if self.disk_full.is_cancelled() {
            BuildError::TooLarge(self.max_disk)
        } else {
            BuildError::TimedOut(self.time_limit)
        }
    }
}

/// The settings that all commands of a build share.
pub(super) struct CommandRunner<'a> {
    pub(super) dir: &'a Path,
    pub(super) user: Option<u32>,
    pub(super) env: &'a BTreeMap<OsString, OsString>,
    pub(super) stop: &'a StopCondition,
    pub(super) scratch: &'a Arc<ScratchFolder>,
    /// The sandbox: the program with the exec stage, and the stage's parameters.
    pub(super) stage: Option<(PathBuf, ExecStage)>,
}

/// How a command ended.
pub(super) struct CommandExit {
    pub(super) status: ExitStatus,
    /// Its output if that was captured, else empty.
    pub(super) output: String,
}

impl CommandExit {
    /// Describes the exit status: `exited with status 2`, `was killed by signal 9`.
    pub(super) fn describe_status(&self) -> String {
        match (self.status.code(), self.status.signal()) {
            // The exit statuses by which a shell reports that its command was killed or not found.
            (Some(137), _) => {
                "exited with status 137 (a program was killed, as happens when memory runs out)".to_owned()
            }
            (Some(127), _) => "exited with status 127 (a program was not found)".to_owned(),
            (Some(code), _) => format!("exited with status {code}"),
            (None, Some(signal)) => format!("was killed by signal {signal}"),
            (None, None) => "ended with an unknown status".to_owned(),
        }
    }
}

/// What happens to standard output; standard error is always streamed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum OutputMode {
    Streamed,
    Captured,
}

impl CommandRunner<'_> {
    /// Runs a command to its end. Errors: `Cancelled`, `TimedOut`, `TooLarge`, or `Internal` if it cannot be
    /// started.
    pub(super) async fn run_command(
        &self,
        argv: &[&OsStr],
        output: OutputMode,
        build_output: &mut BuildOutput,
    ) -> Result<CommandExit, BuildError> {
        self.stop.fail_if_met()?;
        let (mut running, out, err) = self.spawn_command(argv, output).map_err(BuildError::internal)?;
        let finished = tokio::select! {
            ended = running.forward_output(out, err, build_output) => Some(ended),
            () = self.stop.wait_until_met() => None,
        };
        match finished {
            Some(ended) => ended.map_err(BuildError::internal),
            None => {
                running.kill_and_wait().await.map_err(BuildError::internal)?;
                Err(self.stop.stop_error())
            }
        }
    }

    /// Builds the guard script with the command, as its user, in the sandbox if there is one.
    fn build_command(&self, argv: &[&OsStr]) -> std::io::Result<std::process::Command> {
        let shell = [shell_for(self.env.keys()), "-c", GUARD_SCRIPT, "sh"].map(OsStr::new);
        let (mut command, rest) = match &self.stage {
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
                command.args(stage.command_args(&[])?);
                command.env_clear().envs(prefix_env(self.env));
                (command, &shell[..])
            }
        };
        command.args(rest).args(argv);
        Ok(command)
    }

    /// Spawns the command. Standard error shares the pipe of standard output unless output is captured.
    fn spawn_command(
        &self,
        argv: &[&OsStr],
        output: OutputMode,
    ) -> std::io::Result<(RunningCommand, Receiver, Option<Receiver>)> {
        let (out, out_end) = std::io::pipe()?;
        let (err, err_end) = match output {
            OutputMode::Streamed => (None, out_end.try_clone()?),
            OutputMode::Captured => {
                let (err, end) = std::io::pipe()?;
                (Some(Receiver::from_owned_fd(err.into())?), end)
            }
        };
        let (alive, alive_end) = std::io::pipe()?;
        let mut command = self.build_command(argv)?;
        command
            .process_group(0)
            .stdin(Stdio::from(alive))
            .stdout(Stdio::from(out_end))
            .stderr(Stdio::from(err_end));
        let child = tokio::process::Command::from(command).spawn()?;
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        let group = id
            .map(Pid::from_raw)
            .ok_or_else(|| std::io::Error::other("no process id"))?;
        let running = RunningCommand {
            child: Some(child),
            group,
            supervised: self.stage.is_some(),
            scratch: Arc::clone(self.scratch),
            _alive: alive_end,
        };
        Ok((running, Receiver::from_owned_fd(out.into())?, err))
    }
}

/// A running command. Dropping it kills it; the build's folder stays until it has exited.
struct RunningCommand {
    child: Option<Child>,
    group: Pid,
    supervised: bool,
    scratch: Arc<ScratchFolder>,
    /// The watcher reads from the other end until this is closed.
    _alive: PipeWriter,
}

impl RunningCommand {
    /// Forwards the output until the command has ended and its group is dead.
    async fn forward_output(
        &mut self,
        mut out: Receiver,
        err: Option<Receiver>,
        build_output: &mut BuildOutput,
    ) -> std::io::Result<CommandExit> {
        let captured = err.is_some();
        let mut output = Vec::new();
        let (mut out_open, mut err_open) = (true, captured);
        let mut err = err;
        let mut lines = LineSplitter::default();
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
                        let room = MAX_CAPTURED_BYTES.saturating_sub(output.len());
                        output.extend_from_slice(&chunk[..n.min(room)]);
                    } else {
                        write_lines(lines.push_bytes(&chunk[..n]), build_output).await;
                    }
                }
                read = read_if_open(&mut err, &mut chunk_err), if err_open => {
                    let n = read?;
                    err_open = n > 0;
                    write_lines(lines.push_bytes(&chunk_err[..n]), build_output).await;
                }
                ended = wait_for_child(&mut self.child), if status.is_none() => {
                    status = Some(ended?);
                    if !self.supervised {
                        self.signal_group();
                    }
                    grace.as_mut().reset(Instant::now() + OUTPUT_GRACE);
                }
                () = &mut grace, if status.is_some() => break,
            }
        }
        write_lines(lines.finish_output().into_iter().collect(), build_output).await;
        let status = status.ok_or_else(|| std::io::Error::other("no exit status"))?;
        let output = String::from_utf8_lossy(&output).into_owned();
        Ok(CommandExit { status, output })
    }

    /// Signals the supervisor, or kills the group. The watcher keeps the group id in use until it dies with
    /// the group, so that no unrelated process is hit.
    fn signal_group(&self) {
        let _ = match self.supervised {
            true => kill(self.group, Signal::SIGTERM),
            false => killpg(self.group, Signal::SIGKILL),
        };
    }

    /// Kills the command and waits until none of its processes is left.
    async fn kill_and_wait(&mut self) -> std::io::Result<()> {
        self.signal_group();
        let ended = tokio::time::timeout(KILL_TIMEOUT, wait_for_child(&mut self.child)).await;
        ended.map_err(|_| std::io::Error::other("processes of the build did not exit"))??;
        let until = Instant::now() + OUTPUT_GRACE;
        while !self.supervised && killpg(self.group, None).is_ok() && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }
}

async fn wait_for_child(child: &mut Option<Child>) -> std::io::Result<ExitStatus> {
    match child {
        Some(child) => child.wait().await,
        None => Err(std::io::Error::other("no process")),
    }
}

impl Drop for RunningCommand {
    fn drop(&mut self) {
        // Without an id it was reaped: the pid may have been reused.
        let Some(mut child) = self.child.take().filter(|child| child.id().is_some()) else {
            return;
        };
        self.signal_group();
        let scratch = Arc::clone(&self.scratch);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let _ended_or_given_up = tokio::time::timeout(KILL_TIMEOUT, child.wait()).await;
                // Removes the folder if this is the last reference.
                let _removed = tokio::task::spawn_blocking(move || drop(scratch)).await;
            });
        }
    }
}

async fn read_if_open(from: &mut Option<Receiver>, chunk: &mut [u8]) -> std::io::Result<usize> {
    match from {
        Some(from) => from.read(chunk).await,
        None => Ok(0),
    }
}

async fn write_lines(lines: Vec<String>, build_output: &mut BuildOutput) {
    for line in lines {
        build_output.write_line(&line).await;
    }
}
