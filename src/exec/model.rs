//! The requests for commands and shells.

use crate::kernel::error::Error;
use crate::kernel::names::AppName;
use crate::provisioners::TerminalSize;

/// A kernel passes no longer argument to a program.
const MAX_COMMAND_BYTES: usize = 64 * 1024;
const MAX_TERM_CHARS: usize = 64;
const DEFAULT_TERM: &str = "xterm";
/// The size of a terminal whose client does not know it.
const DEFAULT_SIZE: TerminalSize = TerminalSize { cols: 80, rows: 24 };
const MAX_TERMINAL_SIDE: i64 = 4096;

/// A command line to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ShellCommand(String);

impl ShellCommand {
    /// Parses a command line. Errors: `Invalid` if there is none, or it is too long to be run.
    pub(super) fn parse(line: &str) -> Result<Self, Error> {
        if line.trim().is_empty() {
            return Err(Error::invalid("You must provide the command to run."));
        }
        if line.len() > MAX_COMMAND_BYTES {
            return Err(Error::invalid(format!(
                "The command is longer than {MAX_COMMAND_BYTES} bytes: deploy it as a script and run that."
            )));
        }
        if line.contains('\0') {
            return Err(Error::invalid("A command cannot contain a NUL byte."));
        }
        Ok(Self(line.to_owned()))
    }

    /// Returns the line.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// A request to run a command.
#[derive(Clone, Debug)]
pub(super) struct RunRequest {
    pub(super) app: AppName,
    pub(super) command: ShellCommand,
    /// In one unit instead of all.
    pub(super) once: bool,
    /// In a unit of its own.
    pub(super) isolated: bool,
}

/// A request for a shell.
#[derive(Clone, Debug)]
pub(super) struct ShellRequest {
    pub(super) app: AppName,
    /// The unit; `None`: any.
    pub(super) unit: Option<String>,
    /// In a unit of its own, of the version of `unit` if that is given.
    pub(super) isolated: bool,
    pub(super) size: TerminalSize,
    pub(super) term: String,
}

/// Returns a usable size of a terminal: clients without a terminal send zeros.
pub(super) fn terminal_size(width: Option<i64>, height: Option<i64>) -> TerminalSize {
    let side = |given: Option<i64>, default: u16| {
        let given = given.filter(|side| (1..=MAX_TERMINAL_SIDE).contains(side));
        given.and_then(|side| u16::try_from(side).ok()).unwrap_or(default)
    };
    TerminalSize {
        cols: side(width, DEFAULT_SIZE.cols),
        rows: side(height, DEFAULT_SIZE.rows),
    }
}

/// Returns the type of the terminal as programs look it up; a common one instead of what is no name of a type.
pub(super) fn terminal_type(given: Option<String>) -> String {
    let is_name = |term: &String| {
        (1..=MAX_TERM_CHARS).contains(&term.len())
            && term
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_+.".contains(&b))
    };
    given.filter(is_name).unwrap_or_else(|| DEFAULT_TERM.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_that_cannot_be_run_is_refused() {
        for bad in ["", " \n\t", "a\0b", &"x".repeat(MAX_COMMAND_BYTES + 1)] {
            assert!(ShellCommand::parse(bad).is_err());
        }
        let line = "echo $HOME && ls | wc -l";
        assert_eq!(ShellCommand::parse(line).unwrap().as_str(), line);
    }

    #[test]
    fn terminal_without_a_usable_size_or_type_gets_the_default() {
        for (width, height, cols, rows) in [
            (Some(120), Some(40), 120, 40),
            (None, None, 80, 24),
            (Some(0), Some(-1), 80, 24),
            (Some(100_000), Some(50), 80, 50),
        ] {
            assert_eq!(terminal_size(width, height), TerminalSize { cols, rows });
        }
        for (given, used) in [
            (Some("xterm-256color"), "xterm-256color"),
            (None, DEFAULT_TERM),
            (Some(""), DEFAULT_TERM),
            (Some("a b"), DEFAULT_TERM),
            (Some("../../x\u{1b}"), DEFAULT_TERM),
        ] {
            assert_eq!(terminal_type(given.map(str::to_owned)), used);
        }
    }
}
