//! Opens a shell with a terminal in a unit.

use serde_json::json;

use crate::apps::{self, App};
use crate::core::Core;
use crate::events::{EventOutcome, EventTarget, NewEvent};
use crate::exec::lease::{self, ExecLease, SessionRequest};
use crate::exec::model::ShellRequest;
use crate::exec::targets::UnitChoice;
use crate::kernel::error::Error;
use crate::kernel::names::AppName;
use crate::kernel::permission::Permission;
use crate::kernel::request_context::RequestContext;
use crate::provisioners::{ExecProgram, ExecRequest, ExecSession, ExecStreams, ExecTerminal};

const PERMISSION: Permission = Permission::APP_RUN_SHELL;

/// A shell that was started; it ends when this is dropped.
pub(super) struct OpenShell {
    core: Core,
    lease: ExecLease,
}

/// Returns the app in which the caller may open shells. Errors: `NotFound`, `Forbidden`, `Conflict`.
pub(super) async fn authorize_shell(
    core: &Core,
    call: &RequestContext,
    name: &AppName,
) -> Result<App, Error> {
    let app = apps::find_authorized_app(core, call, name, PERMISSION).await?;
    apps::ensure_live(&app)?;
    Ok(app)
}

/// Opens a shell. Errors: as `authorize_shell`; `NotFound` for an unknown unit; `Conflict` if none runs; `TooMany`;
/// `Unavailable`.
pub(super) async fn open_shell(
    core: &Core,
    call: &RequestContext,
    request: &ShellRequest,
) -> Result<(OpenShell, ExecSession), Error> {
    let app = authorize_shell(core, call, &request.app).await?;
    let data = json!({ "unit": request.unit, "isolated": request.isolated });
    let (target, contexts) = (EventTarget::for_app(&app.name), app.permission_contexts());
    let session = SessionRequest {
        app: &app,
        permission: PERMISSION,
        event: NewEvent::new(target, PERMISSION, contexts, data).allow_cancel(),
        // Deploys go on beside a shell.
        locks_app: false,
        choice: match (request.isolated, &request.unit) {
            (true, like) => UnitChoice::Isolated(like.clone()),
            (false, Some(unit)) => UnitChoice::Named(unit.clone()),
            (false, None) => UnitChoice::Any,
        },
    };
    let (lease, targets) = lease::begin_session(core, call, session).await?;
    let terminal = ExecTerminal {
        size: request.size,
        term: request.term.clone(),
    };
    let request = ExecRequest {
        program: ExecProgram::InteractiveShell,
        streams: ExecStreams::Terminal(terminal),
    };
    let started = match targets.first() {
        Some(target) => target.exec(&request).await,
        None => Err(Error::internal("no unit was chosen for a shell")),
    };
    match started {
        Ok(session) => {
            let core = core.clone();
            Ok((OpenShell { core, lease }, session))
        }
        Err(error) => {
            lease.finish(&EventOutcome::from(&error)).await;
            Err(error)
        }
    }
}

impl OpenShell {
    /// Returns why the shell must end, once it must.
    pub(super) async fn wait_for_revocation(&self) -> Error {
        tokio::select! {
            error = self.lease.wait_for_revocation() => error,
            () = self.core.stop_requests.cancelled() => Error::unavailable(
                "The server is stopping, and the shell was ended; open it again in a moment.",
            ),
        }
    }

    /// Records the end of the shell.
    pub(super) async fn finish(self, result: &Result<(), Error>) {
        self.lease.finish(&EventOutcome::from(result)).await;
    }
}
