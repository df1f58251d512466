//! Provisioners: where units run. A provisioner knows units, not apps: callers start units (`ensure_unit`)
//! and remove them (`remove_unit`), and it reports the actual units (`observe_units`).
//!
//! A unit is `created` (accepted, nothing runs yet), `starting` (its hooks run), `started` (its command runs;
//! whether it responds is decided by health checks, above), `error` (it ended or could not start; the
//! provisioner retries with back-off) or `stopped`.
//!
//! Promises, which one contract test suite checks for every provisioner: both operations are idempotent by
//! unit id; reports cover every unit on this host, whoever started it, so that a new Tancho process adopts
//! the units of the one before; no secret of a unit reaches a disk, a command line, a report or an error. A
//! provisioner never decides what should run, and keeps no registry that must be correct.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use crate::kernel::error::Error;
use crate::kernel::excerpt::quote_excerpt;
use crate::kernel::names::{AppName, EnvName, ProcessName};
use crate::kernel::secret::Secret;

#[cfg(test)]
mod contract;
pub mod fake;
pub mod local;

/// The provisioner of a pool that names none.
pub const DEFAULT: &str = "local";

/// The provisioners that a pool may name. This is what the program can do: a host without units runs none of
/// them.
pub const NAMES: &[&str] = &[DEFAULT];

/// Checks that there is a provisioner of this name. Errors: `Invalid`, with those that there are.
pub fn check_provisioner(name: &str) -> Result<(), Error> {
    match NAMES.contains(&name) {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "This server has no provisioner {:?}: use one of {}.",
            quote_excerpt(name),
            NAMES.join(", ")
        ))),
    }
}

/// The id of a unit, unique in a provisioner. It is also a safe file name (it never begins with a dot).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct UnitId(String);

impl UnitId {
    /// Parses an id. Errors: `Invalid`, one sentence that states the rule.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let head = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let rest = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        if (1..=128).contains(&text.len()) && text.starts_with(head) && text.chars().all(rest) {
            Ok(Self(text.to_owned()))
        } else {
            Err(Error::invalid(
                "Invalid unit name: use 1 to 128 letters, digits and _ . -, a lower-case letter or digit first.",
            ))
        }
    }

    /// Returns the id as a string.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for UnitId {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        Self::parse(&text)
    }
}

impl fmt::Display for UnitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for UnitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The desired state of a unit.
#[derive(Clone, Debug)]
pub struct UnitSpec {
    /// Its id.
    pub unit: UnitId,
    /// Its app, for reports and for people.
    pub app: AppName,
    /// The process of the app that it runs.
    pub process: ProcessName,
    /// The number of the app's version.
    pub version: i32,
    /// The version's folder; the unit's working directory.
    pub dir: PathBuf,
    /// Hooks that must succeed, in order, before the command; shell command lines of the app's owner.
    pub before: Vec<String>,
    /// The shell command line of the unit.
    pub command: String,
    /// Hooks that run, in order, once the command runs; failures are only logged.
    pub after: Vec<String>,
    /// The environment. The provisioner sets `PORT` and `port`.
    pub env: Vec<(EnvName, Secret)>,
    /// The memory limit of all its processes together, in bytes; 0 = no limit.
    pub memory_bytes: u64,
    /// Its CPU share, in thousandths of a processor; 0 = the share of one processor.
    pub cpu_milli: u32,
    /// The uid and gid to run as; `None` = those of Tancho.
    pub user: Option<u32>,
    /// How long it may take to exit after SIGTERM.
    pub grace: Duration,
}

/// The states of a unit, as in tsuru.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnitState {
    /// Accepted; nothing runs yet.
    Created,
    /// Its hooks run.
    Starting,
    /// Its command runs.
    Started,
    /// It ended or could not start, and waits for the next attempt.
    Error,
    /// It does not run, and is not restarted.
    Stopped,
}

impl UnitState {
    /// Returns the name that tsuru uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Starting => "starting",
            Self::Started => "started",
            Self::Error => "error",
            Self::Stopped => "stopped",
        }
    }
}

impl fmt::Display for UnitState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The observed state of a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitReport {
    /// Its id.
    pub unit: UnitId,
    /// Its state.
    pub state: UnitState,
    /// The address on which it should listen.
    pub address: Option<SocketAddr>,
    /// The pid of its command.
    pub pid: Option<u32>,
    /// How often it was restarted.
    pub restarts: u32,
    /// Why it is in `error` or `stopped`; for a restarted unit, why it had ended.
    pub reason: Option<String>,
    /// The exit status of its last process, or 128 + the signal.
    pub exit: Option<i32>,
    /// When its current or last process was started.
    pub started_at: Option<DateTime<Utc>>,
}

/// A position in a unit's log. It grows with the log and survives rotation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LogPosition(pub u64);

impl LogPosition {
    /// The oldest line that still exists.
    pub const START: Self = Self(0);
}

/// The stream that a line was written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One line of a unit's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// When it was read from the unit.
    pub at: DateTime<Utc>,
    /// Its stream.
    pub stream: LogStream,
    /// The message: valid UTF-8, without control characters, of bounded length.
    pub message: String,
}

/// The size of a terminal, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TerminalSize {
    /// Characters in a line.
    pub cols: u16,
    /// Lines.
    pub rows: u16,
}

/// The terminal of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecTerminal {
    /// Its size at the start.
    pub size: TerminalSize,
    /// The value of `TERM`.
    pub term: String,
}

/// What to run in a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExecProgram {
    /// A program and its arguments.
    Argv(Vec<String>),
    /// A command line of a user, for the shell that runs the command line of the unit.
    ShellLine(String),
    /// An interactive shell.
    InteractiveShell,
}

/// The standard streams of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExecStreams {
    /// Three pipes.
    Separate,
    /// Standard error is written to the pipe of standard output, so that the order of both is kept.
    Merged,
    /// A terminal is all three.
    Terminal(ExecTerminal),
}

/// A command to run in a unit.
#[derive(Clone, Debug)]
pub struct ExecRequest {
    /// What to run.
    pub program: ExecProgram,
    /// Its standard streams.
    pub streams: ExecStreams,
}

impl ExecRequest {
    /// Creates a request for a program with its arguments and three pipes.
    pub fn for_argv(argv: Vec<String>) -> Self {
        Self {
            program: ExecProgram::Argv(argv),
            streams: ExecStreams::Separate,
        }
    }
}

/// Changes the size of the terminal of a running command.
pub type ResizeTerminal = Box<dyn Fn(TerminalSize) + Send + Sync>;

/// A running command in a unit. Dropping `end` kills the command with all its descendants; so does the end of the unit.
pub struct ExecSession {
    /// Its standard input; dropping it closes it.
    pub input: Pin<Box<dyn AsyncWrite + Send>>,
    /// Its standard output.
    pub output: Pin<Box<dyn AsyncRead + Send>>,
    /// Its standard error; empty unless the streams are separate.
    pub errors: Pin<Box<dyn AsyncRead + Send>>,
    /// `None` without a terminal.
    pub resize: Option<ResizeTerminal>,
    /// Its exit status, or 128 + the signal.
    pub end: BoxFuture<'static, Result<i32, ProvisionError>>,
}

/// Why an operation of a provisioner failed. The messages may be shown to users.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProvisionError {
    /// The same request may succeed later.
    #[error("{0}")]
    Transient(String),
    /// The same request will fail again.
    #[error("{0}")]
    Permanent(String),
    /// The unit does not exist or does not run.
    #[error("{0}")]
    Gone(String),
}

/// A provisioner; see the module.
#[async_trait::async_trait]
pub trait Provisioner: Send + Sync {
    /// The name by which settings and pools select it.
    fn name(&self) -> &'static str;

    /// Ensures that the unit runs. A unit that runs already is left alone, whatever the spec is.
    async fn ensure_unit(&self, spec: &UnitSpec) -> Result<(), ProvisionError>;

    /// Stops the unit (by SIGTERM, and by SIGKILL after its grace period) and removes its files. Returns when
    /// it is gone, at most about two seconds after the grace period; a missing unit is fine.
    async fn remove_unit(&self, unit: &UnitId) -> Result<(), ProvisionError>;

    /// Reports all units of this provisioner on this host, whoever started them.
    async fn observe_units(&self) -> Result<Vec<UnitReport>, ProvisionError>;

    /// The value changes whenever `observe_units` may return something new.
    fn subscribe_changes(&self) -> watch::Receiver<u64>;

    /// Reads at most `max_lines` of the unit's log from a position, and returns the position after them.
    /// Reading on from there continues without a gap, unless the lines were rotated away meanwhile.
    async fn read_log(
        &self,
        unit: &UnitId,
        from: LogPosition,
        max_lines: usize,
    ) -> Result<(Vec<LogLine>, LogPosition), ProvisionError>;

    /// Runs a command in a running unit: with the same files, user, environment and limits.
    async fn exec_in_unit(&self, unit: &UnitId, request: &ExecRequest)
    -> Result<ExecSession, ProvisionError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_ids_are_safe_file_names() {
        for good in ["a", "0", "myapp-web-1", "a_b.C-3", &"a".repeat(128)] {
            assert!(UnitId::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            ".a",
            "-a",
            "A",
            "a/b",
            "a b",
            "a\0",
            "é",
            &"a".repeat(129),
        ] {
            assert!(UnitId::parse(bad).is_err(), "{bad}");
        }
        assert!(serde_json::from_str::<UnitId>("\"../x\"").is_err());
    }

    #[test]
    fn unit_states_serialize_as_in_tsuru() {
        for state in [
            UnitState::Created,
            UnitState::Starting,
            UnitState::Started,
            UnitState::Error,
            UnitState::Stopped,
        ] {
            assert_eq!(serde_json::to_string(&state).unwrap(), format!("\"{state}\""));
        }
    }
}
