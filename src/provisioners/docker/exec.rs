//! Commands in a running container.
//!
//! The engine does not end a command whose caller has gone. Each gets a variable of its own, which its descendants
//! inherit, and is ended by a second command that looks for it: so no process number of the host is needed, and
//! what has moved to the background ends too. That needs a shell in the image, as nearly all commands do.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bollard::container::LogOutput;
use bollard::errors::Error;
use bollard::exec::{StartExecOptions, StartExecResults};
use bollard::models::ExecConfig;
use bollard::query_parameters::ResizeExecOptionsBuilder;
use futures_util::{Stream, StreamExt};
use tokio::io::{AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::sync::watch;

use super::engine::{EngineClient, EngineError};
use super::{
    ASK_TIMEOUT, CHANGE_TIMEOUT, DockerRunner, ExecProgram, ExecRequest, ExecSession, ExecStreams,
    ProvisionError, TerminalSize, UnitId, UnitSpec,
};

/// Names a command to its descendants.
const EXEC_VARIABLE: &str = "TANCHO_EXEC";
/// Bytes on their way between the engine and the caller, per stream.
const PIPE_BYTES: usize = 64 * 1024;
/// How long a hook may take that runs beside the unit.
const HOOK_TIMEOUT: Duration = Duration::from_secs(3600);
/// Between two questions whether a command has ended whose output has.
const END_INTERVAL: Duration = Duration::from_millis(20);

/// The output of a command as the engine sends it.
type OutputStream = Pin<Box<dyn Stream<Item = Result<LogOutput, Error>> + Send>>;

fn command_words(program: &ExecProgram) -> Vec<String> {
    let shell = |line: &str| vec!["/bin/sh".to_owned(), "-c".to_owned(), line.to_owned()];
    match program {
        ExecProgram::Argv(argv) => argv.clone(),
        ExecProgram::ShellLine(line) => shell(line),
        ExecProgram::InteractiveShell => {
            shell("if command -v bash >/dev/null 2>&1; then exec bash -l; else exec sh -l; fi")
        }
    }
}

/// Starts a command in the container of a unit.
pub(super) async fn start_exec(
    runner: &DockerRunner,
    unit: &UnitId,
    request: &ExecRequest,
) -> Result<ExecSession, ProvisionError> {
    let container = runner.find_running(unit).await?.id.unwrap_or_default();
    let mark = uuid::Uuid::new_v4().simple().to_string();
    let terminal = match &request.streams {
        ExecStreams::Terminal(terminal) => Some(terminal),
        ExecStreams::Separate | ExecStreams::Merged => None,
    };
    let mut env = vec![format!("{EXEC_VARIABLE}={mark}")];
    env.extend(terminal.map(|terminal| format!("TERM={}", terminal.term)));
    let config = ExecConfig {
        attach_stdin: Some(true),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        tty: Some(terminal.is_some()),
        env: Some(env),
        cmd: Some(command_words(&request.program)),
        privileged: Some(false),
        ..ExecConfig::default()
    };
    let docker = runner.engine.connect().await?;
    let creating = docker.create_exec(&container, config);
    let exec = match runner.engine.ask(ASK_TIMEOUT, creating).await {
        Ok(created) => created.id,
        Err(EngineError::Missing(_) | EngineError::Conflict(_)) => return Err(super::unit_gone(unit)),
        Err(error) => return Err(error.into()),
    };
    let guard = KillGuard::new(runner, &container, &mark);
    let options = StartExecOptions {
        tty: terminal.is_some(),
        ..StartExecOptions::default()
    };
    let starting = docker.start_exec(&exec, Some(options));
    let StartExecResults::Attached { output, input } = runner.engine.ask(CHANGE_TIMEOUT, starting).await?
    else {
        return Err(ProvisionError::Transient(
            "The command cannot be attached.".into(),
        ));
    };
    let resize = terminal.map(|terminal| spawn_resizes(runner, &exec, terminal.size));
    let is_merged = !matches!(request.streams, ExecStreams::Separate);
    Ok(connect_streams(
        runner,
        exec,
        (output, input),
        (is_merged, resize),
        guard,
    ))
}

fn connect_streams(
    runner: &DockerRunner,
    exec: String,
    (output, input): (OutputStream, Pin<Box<dyn AsyncWrite + Send>>),
    (is_merged, resize): (bool, Option<watch::Sender<TerminalSize>>),
    guard: KillGuard,
) -> ExecSession {
    let (to_command, from_caller) = tokio::io::duplex(PIPE_BYTES);
    let (to_output, from_output) = tokio::io::duplex(PIPE_BYTES);
    let (to_errors, from_errors) = tokio::io::duplex(PIPE_BYTES);
    let forwarding = runner.tasks.spawn(forward_input(from_caller, input));
    let errors_to = (!is_merged).then_some(to_errors);
    let copying = runner.tasks.spawn(copy_output(output, to_output, errors_to));
    let engine = runner.engine.clone();
    let end = async move {
        let mut guard = guard;
        // The task is never cancelled while its caller waits.
        let _ = copying.await;
        forwarding.abort();
        let status = wait_for_status(&engine, &exec).await;
        guard.has_ended = status.is_ok();
        status
    };
    ExecSession {
        input: Box::pin(to_command),
        output: Box::pin(from_output),
        errors: Box::pin(from_errors),
        resize: resize.map(|sizes| -> super::super::ResizeTerminal {
            Box::new(move |size| sizes.send_modify(|known| *known = size))
        }),
        end: Box::pin(end),
    }
}

/// Copies what a caller writes; closes the command's input at the end of it.
async fn forward_input(mut from: DuplexStream, mut to: Pin<Box<dyn AsyncWrite + Send>>) {
    // A command that has ended reads nothing any more.
    let _ = tokio::io::copy(&mut from, &mut to).await;
    let _ = to.shutdown().await;
}

/// Copies what a command writes, until it ends or nobody reads.
async fn copy_output(mut from: OutputStream, mut output: DuplexStream, mut errors: Option<DuplexStream>) {
    while let Some(Ok(part)) = from.next().await {
        let written = match (&part, errors.as_mut()) {
            (LogOutput::StdErr { message }, Some(errors)) => errors.write_all(message).await,
            _ => output.write_all(part.as_ref()).await,
        };
        if written.is_err() {
            // The other stream may still be read: what is for nobody is dropped.
            continue;
        }
    }
}

async fn wait_for_status(engine: &EngineClient, exec: &str) -> Result<i32, ProvisionError> {
    let docker = engine.connect().await?;
    let deadline = tokio::time::Instant::now() + CHANGE_TIMEOUT;
    loop {
        let found = match engine.ask(ASK_TIMEOUT, docker.inspect_exec(exec)).await {
            Ok(found) => found,
            Err(EngineError::Missing(_)) => {
                return Err(ProvisionError::Gone("The unit of the command has ended.".into()));
            }
            Err(error) => return Err(error.into()),
        };
        if found.running != Some(true) {
            let status = found.exit_code.and_then(|code| i32::try_from(code).ok());
            return status.ok_or_else(|| {
                ProvisionError::Transient("The command has ended with an unknown status.".into())
            });
        }
        if tokio::time::Instant::now() > deadline {
            return Err(ProvisionError::Transient(
                "The command has closed its output and does not end.".into(),
            ));
        }
        tokio::time::sleep(END_INTERVAL).await;
    }
}

/// Tells the engine of each new size; of several at once, the last.
fn spawn_resizes(runner: &DockerRunner, exec: &str, first: TerminalSize) -> watch::Sender<TerminalSize> {
    let (sender, mut sizes) = watch::channel(first);
    sizes.mark_changed();
    let (engine, exec) = (runner.engine.clone(), exec.to_owned());
    runner.tasks.spawn(async move {
        while sizes.changed().await.is_ok() {
            let size = *sizes.borrow_and_update();
            let options = ResizeExecOptionsBuilder::new()
                .w(i32::from(size.cols))
                .h(i32::from(size.rows))
                .build();
            let Ok(docker) = engine.connect().await else {
                return;
            };
            if let Err(error) = engine.ask(ASK_TIMEOUT, docker.resize_exec(&exec, options)).await {
                tracing::debug!(%error, "cannot change the size of a terminal");
            }
        }
    });
    sender
}

/// Ends a command when it is dropped before the command has ended.
struct KillGuard {
    runner: DockerRunner,
    container: String,
    mark: String,
    has_ended: bool,
}

impl KillGuard {
    fn new(runner: &DockerRunner, container: &str, mark: &str) -> Self {
        Self {
            runner: runner.clone(),
            container: container.to_owned(),
            mark: mark.to_owned(),
            has_ended: false,
        }
    }
}

impl Drop for KillGuard {
    fn drop(&mut self) {
        if self.has_ended {
            return;
        }
        let (runner, container, mark) = (self.runner.clone(), self.container.clone(), self.mark.clone());
        let tasks = runner.tasks.clone();
        tasks.spawn(async move {
            let script = format!(
                "for p in /proc/[0-9]*; do grep -qs {EXEC_VARIABLE}={mark} \"$p/environ\" && kill -9 \"${{p#/proc/}}\"; done"
            );
            let argv = vec!["/bin/sh".to_owned(), "-c".to_owned(), script];
            if let Err(error) = run_detached(&runner, &container, argv).await {
                tracing::debug!(%error, "a command in a container is left to end by itself");
            }
        });
    }
}

async fn run_detached(
    runner: &DockerRunner,
    container: &str,
    argv: Vec<String>,
) -> Result<String, EngineError> {
    let docker = runner.engine.connect().await?;
    let config = ExecConfig {
        cmd: Some(argv),
        ..ExecConfig::default()
    };
    let created = runner
        .engine
        .ask(ASK_TIMEOUT, docker.create_exec(container, config))
        .await?;
    let options = StartExecOptions {
        detach: true,
        ..StartExecOptions::default()
    };
    runner
        .engine
        .ask(CHANGE_TIMEOUT, docker.start_exec(&created.id, Some(options)))
        .await?;
    Ok(created.id)
}

/// Runs the hooks that follow the start of a unit, in order; failures are only logged.
pub(super) fn spawn_hooks(runner: &DockerRunner, spec: &UnitSpec) {
    if spec.after.is_empty() {
        return;
    }
    let (runner, unit) = (runner.clone(), spec.unit.clone());
    let hooks: Arc<[String]> = spec.after.clone().into();
    let tasks = runner.tasks.clone();
    tasks.spawn(async move {
        for hook in hooks.iter() {
            let done = tokio::time::timeout(HOOK_TIMEOUT, run_hook(&runner, &unit, hook)).await;
            match done {
                Ok(Ok(0)) => {}
                Ok(Ok(status)) => {
                    tracing::warn!(%unit, status, "a hook after the start of a unit has failed")
                }
                Ok(Err(error)) => {
                    tracing::warn!(%unit, %error, "a hook after the start of a unit cannot run")
                }
                Err(_) => tracing::warn!(%unit, "a hook after the start of a unit takes too long"),
            }
        }
    });
}

async fn run_hook(runner: &DockerRunner, unit: &UnitId, hook: &str) -> Result<i32, ProvisionError> {
    let request = ExecRequest {
        program: ExecProgram::ShellLine(hook.to_owned()),
        streams: ExecStreams::Merged,
    };
    let mut session = start_exec(runner, unit, &request).await?;
    drop(session.input);
    let mut nowhere = tokio::io::sink();
    let drain = tokio::io::copy(&mut session.output, &mut nowhere);
    let (_, status) = tokio::join!(drain, session.end);
    status
}
