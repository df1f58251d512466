//! Runners that keep what they run in memory only, for tests of their callers: they script failures and
//! inspect the recorded calls. Clones share their units, so a clone acts as the next Tancho process.
//!
//! A command that begins with `echo WORDS;` writes those words to the log of its unit, and one that ends with `exit N`
//! ends a unit that is not restarted; nothing else of a command is interpreted. Of what is run in a unit, `exit N` and `false` end with a status, `sleep` does not end, an interactive
//! shell sends back what it gets, and anything else is printed.

mod units;
mod workloads;

use std::net::Ipv4Addr;

use super::{
    ExecProgram, ExecRequest, ExecSession, LogLine, LogPosition, LogStream, ProvisionError, UnitId,
    UnitReport, UnitState, WorkloadId,
};
use crate::kernel::host_clock::host_now;

pub use units::FakeUnitRunner;
pub use workloads::FakeWorkloadRunner;

/// A recorded call of a fake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FakeCall {
    /// `ensure_unit` of this unit.
    Ensure(UnitId),
    /// `remove_unit` of this unit.
    Remove(UnitId),
    /// A command in this unit.
    Exec(UnitId, Vec<String>),
    /// `apply_workload` of this workload.
    Apply(WorkloadId),
    /// `delete_workload` of this workload.
    Delete(WorkloadId),
}

/// A unit of a fake, and its log.
struct FakeUnit {
    report: UnitReport,
    log: Vec<LogLine>,
}

impl FakeUnit {
    /// Starts a unit; `number` makes its port.
    fn start(unit: UnitId, state: UnitState, number: u32, command: &str) -> Self {
        let port = 20_000 + u16::try_from(number % 40_000).unwrap_or_default();
        let report = UnitReport {
            unit,
            state,
            address: Some((Ipv4Addr::LOCALHOST, port).into()),
            restarts: 0,
            reason: None,
            exit: None,
            started_at: Some(host_now()),
        };
        let mut started = Self {
            report,
            log: Vec::new(),
        };
        let text = command
            .strip_prefix("echo ")
            .and_then(|rest| rest.split_once(';'));
        if let Some((text, _)) = text {
            started.write_line(LogStream::Stdout, text);
        }
        started
    }

    /// Ends at once with the status N of a command that ends with `exit N`.
    fn end_by_command(&mut self, command: &str) {
        let status = command
            .rsplit_once("exit ")
            .and_then(|(_, status)| status.parse().ok());
        if let Some(status) = status {
            self.report.state = UnitState::Stopped;
            self.report.exit = Some(status);
            self.report.reason = Some(format!("exited with status {status}"));
        }
    }

    fn crash(&mut self, exit: i32) {
        self.report.restarts += 1;
        self.report.exit = Some(exit);
        self.report.started_at = Some(host_now());
    }

    fn write_line(&mut self, stream: LogStream, message: &str) {
        self.log.push(LogLine {
            at: host_now(),
            stream,
            message: message.to_owned(),
        });
    }

    fn read_lines(&self, from: LogPosition, max_lines: usize) -> (Vec<LogLine>, LogPosition) {
        let from = usize::try_from(from.0).unwrap_or(usize::MAX);
        let lines: Vec<LogLine> = self.log.iter().skip(from).take(max_lines).cloned().collect();
        let next = from.min(self.log.len()) + lines.len();
        (lines, LogPosition(next as u64))
    }
}

fn unit_gone(unit: &UnitId) -> ProvisionError {
    ProvisionError::Gone(format!("There is no unit {unit}."))
}

/// Returns the words of a command, to be recorded.
fn command_words(request: &ExecRequest) -> Vec<String> {
    match &request.program {
        ExecProgram::Argv(argv) => argv.clone(),
        ExecProgram::ShellLine(line) => vec![line.clone()],
        ExecProgram::InteractiveShell => Vec::new(),
    }
}

/// Runs a command as the module says.
fn run_command(request: &ExecRequest) -> ExecSession {
    match &request.program {
        ExecProgram::Argv(argv) => print_text(&argv.get(1..).unwrap_or_default().join(" "), 0),
        ExecProgram::ShellLine(line) if line == "sleep" => echo_input(),
        ExecProgram::ShellLine(line) => {
            let status = line.strip_prefix("exit ").and_then(|n| n.parse().ok());
            print_text(line, status.unwrap_or(i32::from(line == "false")))
        }
        ExecProgram::InteractiveShell => echo_input(),
    }
}

/// A command that prints a line and ends.
fn print_text(text: &str, status: i32) -> ExecSession {
    ExecSession {
        input: Box::pin(tokio::io::sink()),
        output: Box::pin(std::io::Cursor::new(format!("{text}\n").into_bytes())),
        errors: Box::pin(tokio::io::empty()),
        resize: None,
        end: Box::pin(std::future::ready(Ok(status))),
    }
}

/// A command that sends back what it gets, and never ends.
fn echo_input() -> ExecSession {
    let (output, input) = tokio::io::simplex(4096);
    ExecSession {
        input: Box::pin(input),
        output: Box::pin(output),
        errors: Box::pin(tokio::io::empty()),
        resize: None,
        end: Box::pin(std::future::pending()),
    }
}
