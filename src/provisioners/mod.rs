//! Provisioners: where units run. A provisioner knows units, not apps: it is told that a unit should
//! be there (`ensure`) or should not (`remove`), and reports what is really there (`observe`).
//!
//! A unit is `created` (accepted, nothing runs yet), `starting` (its hooks run), `started` (its
//! command runs; whether it answers is for health checks, above), `error` (it ended or could not
//! start; the provisioner tries again with back-off) or `stopped`.
//!
//! Promises, which one contract suite checks on every provisioner: both verbs are idempotent by unit
//! id; reports tell of every unit on this host, whoever started it, so that a new Tancho adopts what
//! an old one left running; no secret of a unit reaches a disk, a command line, a report or an error.
//! A provisioner never decides what should run, and keeps no registry that must be right.

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

use crate::kernel::names::{AppName, EnvName, ProcessName};
use crate::kernel::problem::Problem;
use crate::kernel::secret::Secret;

#[cfg(test)]
mod contract;
pub mod fake;
pub mod local;

/// A unit's name, unique in a provisioner: also a safe file name (it never begins with a dot).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct UnitId(String);

impl UnitId {
    /// Checks the rule. Errors: `Invalid`, one sentence that states the rule.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let head = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let rest = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        if (1..=128).contains(&text.len()) && text.starts_with(head) && text.chars().all(rest) {
            Ok(Self(text.to_owned()))
        } else {
            Err(Problem::invalid(
                "That is not a unit: use 1 to 128 letters, digits and _ . -, a lower-case letter or digit first.",
            ))
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for UnitId {
    type Error = Problem;

    fn try_from(text: String) -> Result<Self, Problem> {
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

/// What a unit should be.
#[derive(Clone, Debug)]
pub struct UnitSpec {
    /// Its name.
    pub unit: UnitId,
    /// The app it belongs to, for reports and people.
    pub app: AppName,
    /// Which process of the app it runs.
    pub process: ProcessName,
    /// The number of the app's version.
    pub version: i32,
    /// The version's files; the unit's working folder.
    pub dir: PathBuf,
    /// Hooks that must succeed, in turn, before the command: shell lines of the app's owner.
    pub before: Vec<String>,
    /// The shell line that is the unit.
    pub command: String,
    /// Hooks that run, in turn, once the command runs; their failure is logged only.
    pub after: Vec<String>,
    /// The environment. `PORT` and `port` are the provisioner's own.
    pub env: Vec<(EnvName, Secret)>,
    /// How much memory all its processes may use together, in bytes; 0 = as much as there is.
    pub memory_bytes: u64,
    /// Its share of the processors, in thousandths of one; 0 = as that of one.
    pub cpu_milli: u32,
    /// The uid, and gid, to run under; `None` = as Tancho itself.
    pub user: Option<u32>,
    /// How long it may take to end by itself once asked.
    pub grace: Duration,
}

/// What tsuru calls the status of a unit.
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
    /// It does not run, and nobody tries.
    Stopped,
}

impl UnitState {
    /// tsuru's word.
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

/// What a unit is, as found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitReport {
    /// Its name.
    pub unit: UnitId,
    /// Its state.
    pub state: UnitState,
    /// Where it is meant to listen.
    pub address: Option<SocketAddr>,
    /// The process that runs its command.
    pub pid: Option<u32>,
    /// How often it was started again.
    pub restarts: u32,
    /// Why it is in `error` or `stopped`; of one that was started again, why it had ended.
    pub reason: Option<String>,
    /// How its last process ended: the exit status, or 128 + the signal.
    pub exit: Option<i32>,
    /// When its present or last process was started.
    pub started_at: Option<DateTime<Utc>>,
}

/// A place in a unit's log. Grows with the log and outlives its rotation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LogPosition(pub u64);

impl LogPosition {
    /// The oldest line that is still kept.
    pub const START: Self = Self(0);
}

/// Which stream a line was written to.
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
    /// Where it was written to.
    pub stream: LogStream,
    /// The text: valid, without control characters, of bounded length.
    pub message: String,
}

/// The size of a terminal, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Characters in a line.
    pub cols: u16,
    /// Lines.
    pub rows: u16,
}

/// What to run beside a unit.
#[derive(Clone, Debug)]
pub struct ExecRequest {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Asks for a terminal of this size. A provisioner without terminals ignores it.
    pub window: Option<Window>,
}

/// A running command beside a unit. Dropping `end` kills the command.
pub struct Session {
    /// Its standard input; dropping it closes it.
    pub input: Pin<Box<dyn AsyncWrite + Send>>,
    /// Its standard output.
    pub output: Pin<Box<dyn AsyncRead + Send>>,
    /// Its standard error.
    pub errors: Pin<Box<dyn AsyncRead + Send>>,
    /// Its exit status, or 128 + the signal.
    pub end: BoxFuture<'static, Result<i32, ProvisionError>>,
}

/// Why a provisioner could not do it. The words may be shown to users.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProvisionError {
    /// The same request may pass later.
    #[error("{0}")]
    Transient(String),
    /// The same request will fail again.
    #[error("{0}")]
    Permanent(String),
    /// There is no such unit, or it does not run.
    #[error("{0}")]
    Gone(String),
}

/// See the module.
#[async_trait::async_trait]
pub trait Provisioner: Send + Sync {
    /// The word by which settings and pools name it.
    fn name(&self) -> &'static str;

    /// Sees to it that the unit runs. A unit that runs already is left alone, whatever the spec says.
    async fn ensure(&self, spec: &UnitSpec) -> Result<(), ProvisionError>;

    /// Stops the unit (asked nicely first, by force after its grace) and removes what it left. Returns
    /// when it is gone, at most about two seconds after the grace; fine if it was gone before.
    async fn remove(&self, unit: &UnitId) -> Result<(), ProvisionError>;

    /// Everything of this provisioner on this host, whoever started it.
    async fn observe(&self) -> Result<Vec<UnitReport>, ProvisionError>;

    /// Changes its value whenever `observe` may have something new to tell.
    fn changes(&self) -> watch::Receiver<u64>;

    /// At most `max_lines` of the unit's log from a place on, and the place after them. Asking again
    /// from there continues without gap unless the lines were rotated away meanwhile.
    async fn read_log(
        &self,
        unit: &UnitId,
        from: LogPosition,
        max_lines: usize,
    ) -> Result<(Vec<LogLine>, LogPosition), ProvisionError>;

    /// Runs a command beside a running unit: same files, user, environment and limits.
    async fn exec(&self, unit: &UnitId, request: &ExecRequest) -> Result<Session, ProvisionError>;
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
    fn states_speak_tsurus_words() {
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
