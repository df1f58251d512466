use std::io::Write;
use std::process::ExitCode;

use tancho::builders::static_server;
use tancho::commands::ActivationSockets;
use tancho::config::process_variable;
use tancho::provisioners::local::shim;
use tancho::sandbox::exec_stage;
use tancho::{cli, commands};

/// Gives back what a burst of work needed. With the allocator of glibc each hashing thread kept the memory of its
/// hashes: 700 MiB after 120 sign-ups and 400 log-ins.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // The helper processes of local units run before any runtime, log or command line exists.
    match std::env::args_os().nth(1) {
        Some(first) if first == "unit-shim" => return shim::run_shim(),
        Some(first) if first == "unit-exec" => return exec_stage::run_exec_stage(),
        Some(first) if first == "static-server" => return serve_static_files(),
        _ => {}
    }
    let activation = ActivationSockets::from_environment();
    cli::close_inherited_descriptors(&activation.descriptors());
    let invocation = cli::parse_command_line(std::env::args_os()).unwrap_or_else(|error| error.exit());
    commands::run_command(invocation, activation)
}

/// Runs `static-server <dir>` in a unit of the platform `static`, on the unit's port.
fn serve_static_files() -> ExitCode {
    let dir = std::env::args_os().nth(2).unwrap_or_else(|| ".".into());
    let port = process_variable("PORT").and_then(|port| port.parse().ok());
    match static_server::run_server(dir.as_ref(), port.unwrap_or(8888)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "static-server: {error}");
            ExitCode::FAILURE
        }
    }
}
