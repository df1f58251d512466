//! Units, and the runners that start and stop them one by one on a host.
//!
//! A unit is `created` (accepted, nothing runs yet), `starting` (its hooks run), `started` (its command runs;
//! whether it responds is decided by health checks, above), `error` (it ended or could not start; the
//! runner retries with back-off) or `stopped`.
//!
//! Promises, which `contract/units.rs` checks for every runner: `ensure_unit` and `remove_unit` are idempotent
//! by unit id; reports cover every unit on this host, whoever started it, so that a new Tancho process adopts
//! the units of the one before; no secret of a unit reaches a disk (but the folder of an engine, which only root
//! reads), a command line, a report or an error. A
//! runner never decides what should run, and keeps no registry that must be correct.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{ExecRequest, ExecSession, ImageStore, LogLine, LogPosition, ProvisionError, UnitVolume};
use crate::kernel::artifact::Artifact;
use crate::kernel::error::Error;
use crate::kernel::ids::{AppId, VolumeId};
use crate::kernel::names::{AppName, EnvName, ProcessName};
use crate::kernel::secret::Secret;

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

/// The app of a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitApp {
    pub id: AppId,
    /// Its number, from which a host derives what it keeps for the app alone; no app has the number 0.
    pub number: i32,
    /// Its name, for people.
    pub name: AppName,
}

/// The desired state of a unit.
#[derive(Clone, Debug)]
pub struct UnitSpec {
    /// Its id.
    pub unit: UnitId,
    /// Its app.
    pub app: UnitApp,
    /// The process of the app that it runs.
    pub process: ProcessName,
    /// The number of the app's version.
    pub version: i32,
    /// The content of that version, in which the unit runs.
    pub artifact: Artifact,
    /// Hooks that must succeed, in order, before the command; shell command lines of the app's owner.
    pub before: Vec<String>,
    /// The shell command line of the unit.
    pub command: String,
    /// Hooks that run, in order, once the command runs; failures are only logged.
    pub after: Vec<String>,
    /// The environment. The runner sets `PORT` and `port`.
    pub env: Vec<(EnvName, Secret)>,
    /// The memory limit of all its processes together, in bytes; 0 = no limit.
    pub memory_bytes: u64,
    /// Its CPU share, in thousandths of a processor; 0 = the share of one processor.
    pub cpu_milli: u32,
    /// How long it may take to exit after SIGTERM.
    pub grace: Duration,
    /// What happens when its command ends.
    pub restart: RestartPolicy,
    /// Its volumes, each at a path of its own.
    pub volumes: Vec<UnitVolume>,
}

/// What happens when the command of a unit ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RestartPolicy {
    /// It is started again, after a pause that grows.
    #[default]
    Always,
    /// The unit is `stopped`, with the exit status. It is reported until it is removed, and never started again.
    Never,
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
    /// How often it was restarted.
    pub restarts: u32,
    /// Why it is in `error` or `stopped`; for a restarted unit, why it had ended.
    pub reason: Option<String>,
    /// The exit status of its last process, or 128 + the signal.
    pub exit: Option<i32>,
    /// When its current or last process was started. It differs for every start of its command.
    pub started_at: Option<DateTime<Utc>>,
}

/// Runs units on this host; see the module.
#[async_trait::async_trait]
pub trait UnitRunner: Send + Sync {
    /// Ensures that the unit runs. A unit that runs already is left alone, whatever the spec is, and so is one that
    /// has run and is not to be restarted. Errors: `Permanent` for content that this runner cannot run.
    async fn ensure_unit(&self, spec: &UnitSpec) -> Result<(), ProvisionError>;

    /// Stops the unit (by SIGTERM, and by SIGKILL after its grace period) and removes its files. Returns when
    /// it is gone, at most about two seconds after the grace period; a missing unit is fine.
    async fn remove_unit(&self, unit: &UnitId) -> Result<(), ProvisionError>;

    /// Stops every unit on this host concurrently and waits for them; those that have not ended after `grace`
    /// (or their own grace period, if shorter) are killed. The stopped units are reported until they are
    /// removed. Errors: of the first unit that did not end, after all others were stopped.
    async fn stop_all_units(&self, grace: Duration) -> Result<(), ProvisionError>;

    /// Reports all units of this runner on this host, whoever started them.
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

    /// Returns how much time of a processor units have used since they were started; those of which that is not known are
    /// left out.
    async fn measure_cpu(&self, units: &[UnitId]) -> Result<Vec<(UnitId, Duration)>, ProvisionError>;

    /// Removes a volume of this host with its data; one that there is not is fine. No unit may use it any more.
    async fn remove_volume(&self, volume: VolumeId) -> Result<(), ProvisionError>;

    /// Returns what keeps the images of versions; `None`: units run from folders, not from images.
    fn image_store(&self) -> Option<&dyn ImageStore> {
        None
    }
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
