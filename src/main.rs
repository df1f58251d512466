use std::process::ExitCode;

use tancho::provisioners::local::{shim, stage};

fn main() -> ExitCode {
    // The long-lived companions of local units: before any runtime, log or command line exists.
    match std::env::args_os().nth(1) {
        Some(first) if first == "unit-shim" => return shim::main(),
        Some(first) if first == "unit-exec" => return stage::main(),
        _ => {}
    }
    ExitCode::SUCCESS
}
