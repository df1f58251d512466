//! Runs a command in the units of an app, one after the other, and passes on what it prints.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;

use crate::apps::{self, App};
use crate::core::Core;
use crate::envs;
use crate::events::{EventOutcome, EventTarget, NewEvent};
use crate::exec::command_mask::mask_command;
use crate::exec::lease::{self, ExecLease, SessionRequest};
use crate::exec::model::{RunRequest, ShellCommand};
use crate::exec::targets::{ExecTarget, UnitChoice, error_for_user};
use crate::kernel::error::{Error, ErrorKind};
use crate::kernel::ids::EventId;
use crate::kernel::permission::Permission;
use crate::kernel::request_context::RequestContext;
use crate::provisioners::{ExecProgram, ExecRequest, ExecStreams};

/// Of the whole run, over all units.
const TIME_LIMIT: Duration = Duration::from_secs(600);
/// Pieces of output that may wait for the client; then the command waits.
const WAITING_PIECES: usize = 16;
const PIECE_BYTES: usize = 16 * 1024;

/// What a command prints: pieces, then `None` at its end, or its failure.
pub(super) type RunOutput = mpsc::Receiver<Result<Option<Bytes>, Error>>;

/// A command that was started.
pub(super) struct StartedRun {
    pub(super) event: EventId,
    /// Dropping it ends the command.
    pub(super) output: RunOutput,
}

/// Starts a command. Errors: as `find_authorized_app`; `Conflict`, `Locked`, `NotFound`, `TooMany`, `Unavailable`.
pub(super) async fn run_command(
    core: &Core,
    call: &RequestContext,
    request: &RunRequest,
) -> Result<StartedRun, Error> {
    let permission = Permission::APP_RUN;
    let app = apps::find_authorized_app(core, call, &request.app, permission).await?;
    apps::ensure_live(&app)?;
    let session = SessionRequest {
        app: &app,
        permission,
        event: new_event(core, &app, request).await?,
        locks_app: true,
        choice: match (request.isolated, request.once) {
            (true, _) => UnitChoice::Isolated(None),
            (false, true) => UnitChoice::Any,
            (false, false) => UnitChoice::All,
        },
    };
    let (lease, targets) = lease::begin_session(core, call, session).await?;
    let event = lease.event().clone();
    let (sender, output) = mpsc::channel(WAITING_PIECES);
    let run = CommandRun {
        core: core.clone(),
        lease,
        targets,
        request: ExecRequest {
            program: ExecProgram::ShellLine(request.command.as_str().to_owned()),
            streams: ExecStreams::Merged,
        },
        sender,
    };
    core.tasks.spawn(run.run_to_end(TIME_LIMIT));
    Ok(StartedRun { event, output })
}

async fn new_event(core: &Core, app: &App, request: &RunRequest) -> Result<NewEvent, Error> {
    let command = mask_app_secrets(core, app, &request.command).await?;
    let data = json!({ "command": command, "once": request.once, "isolated": request.isolated });
    let (target, contexts) = (EventTarget::for_app(&app.name), app.permission_contexts());
    Ok(NewEvent::new(target, Permission::APP_RUN, contexts, data).allow_cancel())
}

async fn mask_app_secrets(core: &Core, app: &App, command: &ShellCommand) -> Result<String, Error> {
    let mut connection = core.db.acquire().await?;
    let env = envs::effective_environment(core, &mut connection, app.id, &app.name).await?;
    let private = env.iter().filter(|var| !var.public);
    let private: Vec<_> = private.map(|var| var.value.clone()).collect();
    Ok(mask_command(command.as_str(), &private))
}

struct CommandRun {
    core: Core,
    lease: ExecLease,
    targets: Vec<ExecTarget>,
    request: ExecRequest,
    sender: mpsc::Sender<Result<Option<Bytes>, Error>>,
}

impl CommandRun {
    async fn run_to_end(self, limit: Duration) {
        let result = tokio::select! {
            result = self.run_in_units() => result,
            error = self.lease.wait_for_revocation() => Err(error),
            () = self.sender.closed() => Err(client_gone()),
            () = tokio::time::sleep(limit) => Err(Error::failed(format!(
                "The command took longer than {} minutes and was ended.",
                limit.as_secs() / 60
            ))),
            () = self.core.stop_requests.cancelled() => Err(Error::unavailable(
                "The server is stopping, and the command was ended; run it again in a moment.",
            )),
        };
        // First, so that the app is unlocked when the caller hears of the end.
        self.lease.finish(&EventOutcome::from(&result)).await;
        let _the_client_has_gone = self.sender.send(result.map(|()| None)).await;
    }

    /// Ends with the first unit in which the command fails.
    async fn run_in_units(&self) -> Result<(), Error> {
        for target in &self.targets {
            let status = self.run_in_unit(target).await?;
            if status != 0 {
                let unit = match self.targets.len() {
                    1 => String::new(),
                    _ => format!("unit {}: ", target.unit.unit),
                };
                return Err(Error::failed(format!("{unit}exit status {status}")));
            }
        }
        Ok(())
    }

    async fn run_in_unit(&self, target: &ExecTarget) -> Result<i32, Error> {
        let mut session = target.exec(&self.request).await?;
        drop(session.input);
        let reading = async {
            loop {
                let mut piece = BytesMut::with_capacity(PIECE_BYTES);
                if session
                    .output
                    .read_buf(&mut piece)
                    .await
                    .map_err(Error::internal)?
                    == 0
                {
                    return Ok::<_, Error>(());
                }
                let sent = self.sender.send(Ok(Some(piece.freeze()))).await;
                sent.map_err(|_| client_gone())?;
            }
        };
        // Both: the end has to be waited for while the output is read, so that the command ends with its unit.
        let ((), status) = tokio::try_join!(reading, async { session.end.await.map_err(error_for_user) })?;
        Ok(status)
    }
}

fn client_gone() -> Error {
    Error::new(
        ErrorKind::Cancelled,
        "The client has disconnected, and the command was ended.",
    )
}
