use std::io::Write;
use std::process::ExitCode;

use tancho::builders::static_server;
use tancho::config::of_process;
use tancho::confine::stage;
use tancho::provisioners::local::shim;
use tancho::{cli, commands};

fn main() -> ExitCode {
    // The long-lived companions of local units: before any runtime, log or command line exists.
    match std::env::args_os().nth(1) {
        Some(first) if first == "unit-shim" => return shim::main(),
        Some(first) if first == "unit-exec" => return stage::main(),
        Some(first) if first == "static-server" => return serve_files(),
        _ => {}
    }
    cli::close_inherited();
    let invocation = cli::parse(std::env::args_os()).unwrap_or_else(|error| error.exit());
    commands::run(invocation)
}

/// `static-server <dir>` in a unit of the platform `static`, on the unit's port.
fn serve_files() -> ExitCode {
    let dir = std::env::args_os().nth(2).unwrap_or_else(|| ".".into());
    let port = of_process("PORT").and_then(|port| port.parse().ok());
    match static_server::main(dir.as_ref(), port.unwrap_or(8888)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "static-server: {error}");
            ExitCode::FAILURE
        }
    }
}
