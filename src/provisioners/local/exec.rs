//! A command beside a running unit. The spec is read from the unit's shim, so this works for units
//! that an earlier Tancho started.

use std::fs::File;
use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use super::folder::Folder;
use super::handover::{Handover, environment};
use super::{ExecRequest, ProvisionError, Session, UnitId, gone};
use crate::confine::stage::wrapped;

/// Starts the command. Blocks for a moment; needs a runtime around it.
pub(super) fn exec(
    folder: &Folder,
    exe: &Path,
    unit: &UnitId,
    request: &ExecRequest,
) -> Result<Session, ProvisionError> {
    if request.argv.is_empty() {
        return Err(ProvisionError::Permanent("Say which command to run.".into()));
    }
    let mut command = plan(folder, exe, unit, request)?;
    // A terminal, once there is one, takes the place of these three pipes.
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    let mut running = Running(command.spawn().map_err(refused)?);
    let (input, output, errors) = (
        running.0.stdin.take(),
        running.0.stdout.take(),
        running.0.stderr.take(),
    );
    let (Some(input), Some(output), Some(errors)) = (input, output, errors) else {
        return Err(refused(io::Error::other("it has no pipes")));
    };
    let end = async move { running.0.wait().await.map(exit_number).map_err(refused) };
    Ok(Session {
        input: Box::pin(input),
        output: Box::pin(output),
        errors: Box::pin(errors),
        end: Box::pin(end),
    })
}

fn refused(error: io::Error) -> ProvisionError {
    ProvisionError::Transient(format!("The command cannot be run: {error}."))
}

fn plan(
    folder: &Folder,
    exe: &Path,
    unit: &UnitId,
    request: &ExecRequest,
) -> Result<Command, ProvisionError> {
    let refused =
        |error: io::Error| ProvisionError::Transient(format!("The command cannot be run: {error}."));
    let state = folder.read_state().map_err(|_| gone(unit))?;
    let shim = state
        .living_shim()
        .filter(|_| !state.stopping)
        .ok_or_else(|| gone(unit))?;
    let handover = File::open(format!("/proc/{}/fd/0", shim.pid))
        .and_then(Handover::read)
        .map_err(refused)?;
    let bounds = handover.bounds.clone();
    let spec = handover.into_spec();
    let stage = bounds.stage(&spec, &state, folder, None);
    let arguments = stage
        .arguments(&request.argv)
        .map_err(|error| refused(error.into()))?;
    let port = state.port.unwrap_or_default();
    let mut command = Command::new(exe);
    command
        .args(arguments)
        .env_clear()
        .envs(wrapped(environment(&spec, &folder.home(), port)));
    Ok(command)
}

/// Kills the whole group of a command whose session was dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Without an id it was waited for, and its number may be another's.
        if let Some(pid) = self.0.id().and_then(|pid| i32::try_from(pid).ok()) {
            let _gone_already = killpg(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

fn exit_number(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status
        .code()
        .or(status.signal().map(|signal| 128 + signal))
        .unwrap_or(1)
}
