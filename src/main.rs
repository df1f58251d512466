use std::process::ExitCode;

use tancho::builders::static_server;
use tancho::provisioners::local::{shim, stage};
use tancho::{cli, commands};

fn main() -> ExitCode {
    // The long-lived companions of local units: before any runtime, log or command line exists.
    match std::env::args_os().nth(1) {
        Some(first) if first == "unit-shim" => return shim::main(),
        Some(first) if first == "unit-exec" => return stage::main(),
        _ => {}
    }
    cli::close_inherited();
    let invocation = cli::parse(std::env::args_os()).unwrap_or_else(|error| error.exit());
    commands::run(invocation)
}
