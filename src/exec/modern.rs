//! Commands and shells in units (contract/modern 1.6, 2.9).

use crate::exec::model::{RunRequest, ShellCommand, ShellRequest, terminal_size, terminal_type};
use crate::exec::{run, shell};
use crate::kernel::error::Error;
use crate::kernel::names::AppName;
use crate::web::answers::{EventStream, WebSocketAnswer};
use crate::web::errors::modern::ModernResult;
use crate::web::output_stream::stream_output;
use crate::web::route_table::AuthPolicy::UserToken;
use crate::web::route_table::{GET, POST, RouteTable};
use crate::web::terminal::serve_terminal;
use crate::web::websocket::PendingUpgrade;
use crate::web::{Ctx, Params, Path};

/// `POST /1.0/apps/{app}/run`: form `command`, `once`, `isolated`.
pub async fn run_command(ctx: Ctx, Path(app): Path<AppName>, params: Params) -> ModernResult<EventStream> {
    let command = params.get_string_or_empty("command")?.unwrap_or_default();
    let request = RunRequest {
        app,
        command: ShellCommand::parse(&command)?,
        once: params.get_bool("once")?,
        isolated: params.get_bool("isolated")?,
    };
    let started = run::run_command(&ctx.core, &ctx.request, &request).await?;
    Ok(stream_output(&started.event, started.output))
}

fn parse_shell_request(app: AppName, params: &Params) -> Result<ShellRequest, Error> {
    let unit = params.get_string("unit")?;
    Ok(ShellRequest {
        app,
        unit: match unit {
            None => params.get_string("container_id")?,
            unit => unit,
        },
        isolated: params.get_bool("isolated")?,
        size: terminal_size(params.get_integer("width")?, params.get_integer("height")?),
        term: terminal_type(params.get_string("term")?),
    })
}

/// `GET /1.0/apps/{app}/shell`: a WebSocket; query `unit` or `container_id`, `isolated`, `width`, `height`, `term`.
pub async fn open_shell(
    ctx: Ctx,
    Path(app): Path<AppName>,
    upgrade: PendingUpgrade,
    params: Params,
) -> ModernResult<WebSocketAnswer> {
    let request = parse_shell_request(app, &params)?;
    if !upgrade.is_requested() {
        shell::authorize_shell(&ctx.core, &ctx.request, &request.app).await?;
        return Err(Error::invalid("A shell is a WebSocket: connect with `tsuru app shell`.").into());
    }
    let (open, session) = shell::open_shell(&ctx.core, &ctx.request, &request).await?;
    let tasks = ctx.core.tasks.clone();
    Ok(upgrade.accept(move |socket| {
        tasks.track_future(async move {
            let result = serve_terminal(socket, session, open.wait_for_revocation()).await;
            open.finish(&result).await;
        })
    })?)
}

/// The modern routes of this slice.
#[rustfmt::skip]
pub fn routes(table: RouteTable) -> RouteTable {
    table
        .add_versioned_route("1.0", POST, "/apps/{app}/run", UserToken, run_command)
        .add_versioned_route("1.0", GET, "/apps/{app}/shell", UserToken, open_shell).use_websocket()
}
