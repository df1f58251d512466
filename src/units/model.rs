//! The types of units; pure.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::kernel::error::Error;
use crate::kernel::ids::AppId;
use crate::provisioners::UnitId;

/// The desired phase of a unit; see `units`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UnitPhase {
    /// Gets no requests yet.
    Starting,
    /// Gets requests while it is ready.
    Serving,
    /// Gets no new requests.
    Draining,
    /// The provisioner removes it.
    Stopping,
}

impl UnitPhase {
    /// Returns the name in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            UnitPhase::Starting => "starting",
            UnitPhase::Serving => "serving",
            UnitPhase::Draining => "draining",
            UnitPhase::Stopping => "stopping",
        }
    }

    /// Returns true while the unit counts towards the desired number.
    pub fn is_live(self) -> bool {
        matches!(self, UnitPhase::Starting | UnitPhase::Serving)
    }
}

impl FromStr for UnitPhase {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        [
            UnitPhase::Starting,
            UnitPhase::Serving,
            UnitPhase::Draining,
            UnitPhase::Stopping,
        ]
        .into_iter()
        .find(|phase| phase.as_str() == name)
        .ok_or_else(|| Error::internal(format!("unknown unit phase {name:?}")))
    }
}

/// The desired units of one release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredRelease {
    /// The release.
    pub release: i64,
    /// Whether its files are on this host, which then starts its units.
    pub is_local: bool,
    /// Number of units by process; 0 for a stopped process.
    pub units: BTreeMap<String, u32>,
}

impl DesiredRelease {
    /// Returns the desired number of units of a process; 0 if the release does not have it.
    pub fn desired_count(&self, process: &str) -> usize {
        self.units.get(process).map_or(0, |n| *n as usize)
    }
}

/// The desired units of one side of an app: of its main one, or of a version that runs beside it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DesiredSide {
    /// The release that runs.
    pub current: Option<DesiredRelease>,
    /// The release that is being rolled out.
    pub candidate: Option<DesiredRelease>,
}

/// The state of a unit as last reported by the provisioner and the health check, as stored in its row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObservedState {
    /// State, as the API names it.
    pub state: String,
    /// Why it is not ready; empty if it is.
    pub reason: String,
    pub address: Option<SocketAddr>,
    /// When its command was started, to the microsecond, as the row has it.
    pub started_at: Option<DateTime<Utc>>,
    pub restarts: i32,
    /// Its health check passes.
    pub ready: bool,
}

/// The row of a unit.
#[derive(Clone, Debug)]
pub struct Unit {
    pub id: UnitId,
    pub app_id: AppId,
    pub release: i64,
    pub process: String,
    pub version: i32,
    /// The side of its release.
    pub side: i32,
    pub host: String,
    pub phase: UnitPhase,
    pub phase_age: Duration,
    /// It belongs to the process that gets the requests.
    pub is_web: bool,
    /// Its version configures a health check.
    pub has_check: bool,
    /// It drains, and at least one live router still has it in its routes.
    pub awaits_routers: bool,
    pub observed: ObservedState,
}

impl Unit {
    /// Returns a unit to start, with a new id.
    pub fn new(
        app_id: AppId,
        app: &str,
        release: i64,
        (version, side): (i32, i32),
        process: &str,
        host: &str,
    ) -> Result<Self, Error> {
        Ok(Self {
            id: new_unit_id(app, process)?,
            app_id,
            release,
            process: process.to_owned(),
            version,
            side,
            host: host.to_owned(),
            phase: UnitPhase::Starting,
            phase_age: Duration::ZERO,
            is_web: false,
            has_check: false,
            awaits_routers: false,
            observed: ObservedState {
                state: "created".into(),
                ..ObservedState::default()
            },
        })
    }
}

/// Maximum length of the readable part of a unit id. With the random part, an id is also a DNS label and fits
/// into the path of a Unix socket.
const MAX_READABLE_CHARS: usize = 54;

/// Returns a new unit id: a readable part from the app and the process, and a random part. Names of apps and
/// processes are ASCII.
pub fn new_unit_id(app: &str, process: &str) -> Result<UnitId, Error> {
    let random = Uuid::new_v4().simple().to_string();
    let readable: String = format!("{app}-{process}")
        .chars()
        .take(MAX_READABLE_CHARS)
        .collect();
    UnitId::parse(&format!("{readable}-{}", &random[..8]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_ids_have_at_most_63_characters() {
        for (app, process, begins) in [
            ("crane".to_owned(), "web".to_owned(), "crane-web-".to_owned()),
            ("a".repeat(63), "p".repeat(60), "a".repeat(MAX_READABLE_CHARS)),
            (
                "a".repeat(5),
                "p".repeat(60),
                format!("aaaaa-{}", "p".repeat(MAX_READABLE_CHARS - 6)),
            ),
        ] {
            let id = new_unit_id(&app, &process).unwrap();
            assert!(id.as_str().len() <= 63, "{id}");
            assert!(id.as_str().starts_with(&begins), "{id}");
            assert_ne!(id, new_unit_id(&app, &process).unwrap());
        }
    }

    #[test]
    fn phases_round_trip_through_strings() {
        for phase in [
            UnitPhase::Starting,
            UnitPhase::Serving,
            UnitPhase::Draining,
            UnitPhase::Stopping,
        ] {
            assert_eq!(phase.as_str().parse::<UnitPhase>().unwrap(), phase);
        }
    }
}
