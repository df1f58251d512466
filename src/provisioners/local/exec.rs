//! Runs a command in a running unit. The spec is read from the unit's shim, so this works for units that an
//! earlier Tancho process started.
//!
//! The command gets what the processes of the unit get: user, sandbox, cgroups, environment, folder, home. It may do
//! nothing that the unit may not. It ends, with all its descendants, when its session is dropped, when the unit ends, and
//! when Tancho exits.

use std::fs::File;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::sync::watch;

use super::folder::{ShimState, UnitFolder};
use super::spec_transfer::{ShimSpec, unit_env};
use super::terminal::{TerminalIo, open_terminal};
use super::{
    ExecProgram, ExecRequest, ExecSession, ExecStreams, ExecTerminal, LocalRunnerConfig, ProvisionError,
    UnitId, unit_gone,
};
use crate::sandbox::exec_stage::prefix_env;
use crate::sandbox::proc::ProcessHandle;
use crate::sandbox::shell::{interactive_shell, shell_for};

/// Starts the command. Blocks briefly; needs a runtime. `changes` is that of the provisioner.
pub(super) fn start_exec(
    settings: &LocalRunnerConfig,
    unit: &UnitId,
    request: &ExecRequest,
    changes: watch::Receiver<u64>,
) -> Result<ExecSession, ProvisionError> {
    let folder = UnitFolder::for_unit(&settings.root, unit);
    let (state, shim) = read_running_state(&folder, unit)?;
    let spec = File::open(format!("/proc/{}/fd/0", shim.pid))
        .and_then(ShimSpec::read_from)
        .map_err(exec_refused)?;
    // The pid may have been reused before the file was opened.
    if !shim.is_alive() {
        return Err(unit_gone(unit));
    }
    let target = EnteredUnit {
        spec,
        state,
        folder,
        shim,
        changes,
    };
    target.start(&settings.exe, request)
}

/// Returns the state of a unit that runs and is not stopping, and its shim.
fn read_running_state(
    folder: &UnitFolder,
    unit: &UnitId,
) -> Result<(ShimState, ProcessHandle), ProvisionError> {
    let state = folder.read_state().map_err(|_| unit_gone(unit))?;
    let shim = state.live_shim().filter(|_| !state.stopping);
    let shim = shim.ok_or_else(|| unit_gone(unit))?;
    Ok((state, shim))
}

fn exec_refused(error: impl Into<io::Error>) -> ProvisionError {
    ProvisionError::Transient(format!("The command cannot be run: {}.", error.into()))
}

/// The unit in which a command starts.
struct EnteredUnit {
    spec: ShimSpec,
    state: ShimState,
    folder: UnitFolder,
    shim: ProcessHandle,
    changes: watch::Receiver<u64>,
}

impl EnteredUnit {
    fn start(self, exe: &Path, request: &ExecRequest) -> Result<ExecSession, ProvisionError> {
        let spec = self.spec;
        let parent = i32::try_from(std::process::id()).ok();
        let mut stage = spec.limits.build_stage(&spec, &self.state, &self.folder, parent);
        // Its cgroups are those of the unit, which continues: leftovers are found as descendants of the
        // supervisor.
        stage.supervised = true;
        let mut env = unit_env(
            &spec,
            &self.folder.home_dir(),
            self.state.port.unwrap_or_default(),
        );
        if let ExecStreams::Terminal(terminal) = &request.streams {
            stage.terminal = true;
            env.retain(|(name, _)| name != "TERM");
            env.push(("TERM".to_owned(), terminal.term.clone()));
        }
        let argv = build_argv(&request.program, &spec)?;
        let mut command = Command::new(exe);
        command
            .args(stage.command_args(&argv).map_err(exec_refused)?)
            .env_clear()
            .envs(prefix_env(env))
            .process_group(0);
        let started = match &request.streams {
            ExecStreams::Separate => start_with_pipes(command),
            ExecStreams::Merged => start_merged(command),
            ExecStreams::Terminal(terminal) => start_in_terminal(command, terminal, spec.user),
        };
        Ok(started
            .map_err(exec_refused)?
            .into_session(self.shim, self.changes))
    }
}

fn build_argv(program: &ExecProgram, spec: &ShimSpec) -> Result<Vec<String>, ProvisionError> {
    let shell = || shell_for(spec.env.iter().map(|(name, _)| name.as_str())).to_owned();
    match program {
        ExecProgram::Argv(argv) if argv.is_empty() => {
            Err(ProvisionError::Permanent("Say which command to run.".into()))
        }
        ExecProgram::Argv(argv) => Ok(argv.clone()),
        ExecProgram::ShellLine(line) => Ok(vec![shell(), "-c".to_owned(), line.clone()]),
        ExecProgram::InteractiveShell => Ok(vec![interactive_shell().to_owned()]),
    }
}

/// A command that was started, and Tancho's side of its streams.
struct StartedExec {
    child: RunningExec,
    input: Box<dyn AsyncWrite + Send>,
    output: Box<dyn AsyncRead + Send>,
    errors: Box<dyn AsyncRead + Send>,
    terminal: Option<TerminalIo>,
}

fn start_with_pipes(mut command: Command) -> io::Result<StartedExec> {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = RunningExec(command.spawn()?);
    let pipes = (child.0.stdin.take(), child.0.stdout.take(), child.0.stderr.take());
    let (Some(input), Some(output), Some(errors)) = pipes else {
        return Err(io::Error::other("the command has no pipes"));
    };
    Ok(StartedExec {
        child,
        input: Box::new(input),
        output: Box::new(output),
        errors: Box::new(errors),
        terminal: None,
    })
}

fn start_merged(mut command: Command) -> io::Result<StartedExec> {
    let (output, writer) = io::pipe()?;
    command
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer);
    let child = RunningExec(command.spawn()?);
    // Has the other end of the pipe, which would never be closed.
    drop(command);
    Ok(StartedExec {
        child,
        input: Box::new(tokio::io::sink()),
        output: Box::new(pipe::Receiver::from_owned_fd(output.into())?),
        errors: Box::new(tokio::io::empty()),
        terminal: None,
    })
}

fn start_in_terminal(
    mut command: Command,
    terminal: &ExecTerminal,
    user: Option<u32>,
) -> io::Result<StartedExec> {
    let (ours, theirs) = open_terminal(terminal.size, user)?;
    command
        .stdin(theirs.try_clone()?)
        .stdout(theirs.try_clone()?)
        .stderr(theirs);
    let child = RunningExec(command.spawn()?);
    // Has the command's side of the terminal, which would never be closed.
    drop(command);
    Ok(StartedExec {
        child,
        input: Box::new(ours.clone()),
        output: Box::new(ours.clone()),
        errors: Box::new(tokio::io::empty()),
        terminal: Some(ours),
    })
}

impl StartedExec {
    fn into_session(self, shim: ProcessHandle, changes: watch::Receiver<u64>) -> ExecSession {
        let mut child = self.child;
        let end = async move {
            tokio::select! {
                status = child.0.wait() => return status.map(exit_code).map_err(exec_refused),
                () = wait_for_unit_end(shim, changes) => child.terminate(),
            }
            child.0.wait().await.map(exit_code).map_err(exec_refused)
        };
        let resize = self.terminal.map(|terminal| -> super::ResizeTerminal {
            Box::new(move |size| {
                let _ended_already = terminal.resize(size);
            })
        });
        ExecSession {
            input: Box::into_pin(self.input),
            output: Box::into_pin(self.output),
            errors: Box::into_pin(self.errors),
            resize,
            end: Box::pin(end),
        }
    }
}

/// Waits until the shim of the unit has ended. Where there is no cgroup, the shim does not find the command.
async fn wait_for_unit_end(shim: ProcessHandle, mut changes: watch::Receiver<u64>) {
    while shim.is_alive() {
        if changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Kills a command whose session was dropped, with all its descendants.
struct RunningExec(Child);

impl RunningExec {
    /// Makes the supervisor kill the command.
    fn terminate(&self) {
        // Without an id it was reaped, and the pid may have been reused.
        if let Some(pid) = self.0.id().and_then(|pid| i32::try_from(pid).ok()) {
            let _gone_already = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
    }
}

impl Drop for RunningExec {
    fn drop(&mut self) {
        self.terminate();
    }
}

fn exit_code(status: ExitStatus) -> i32 {
    status
        .code()
        .or(status.signal().map(|signal| 128 + signal))
        .unwrap_or(1)
}
