//! What units are made of; pure.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use uuid::Uuid;

use crate::kernel::ids::AppId;
use crate::kernel::problem::Problem;
use crate::provisioners::UnitId;

/// What we want of a unit; see the module above.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Gets no requests yet.
    Starting,
    /// Gets requests while it is ready.
    Serving,
    /// Gets no new requests.
    Draining,
    /// Asked to end.
    Stopping,
}

impl Phase {
    /// The word in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Starting => "starting",
            Phase::Serving => "serving",
            Phase::Draining => "draining",
            Phase::Stopping => "stopping",
        }
    }

    /// True while the unit counts among those that were asked for.
    pub fn is_live(self) -> bool {
        matches!(self, Phase::Starting | Phase::Serving)
    }
}

impl FromStr for Phase {
    type Err = Problem;

    fn from_str(word: &str) -> Result<Self, Problem> {
        [Phase::Starting, Phase::Serving, Phase::Draining, Phase::Stopping]
            .into_iter()
            .find(|phase| phase.as_str() == word)
            .ok_or_else(|| Problem::internal(format!("{word:?} is no phase of a unit")))
    }
}

/// How many units of each process of a release should run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The release.
    pub release: i64,
    /// Whether its files are on this host, so that its units are ours to start.
    pub here: bool,
    /// By process; a process that is stopped wants none.
    pub units: BTreeMap<String, u32>,
}

impl Wanted {
    /// How many units of a process are wanted; none of one that the release does not have.
    pub fn of(&self, process: &str) -> usize {
        self.units.get(process).map_or(0, |n| *n as usize)
    }
}

/// What should run of one app.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// What gets the requests.
    pub current: Option<Wanted>,
    /// What is being tried.
    pub candidate: Option<Wanted>,
}

/// What the provisioner and the health check say of a unit, as kept in its row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// In the words of the API.
    pub state: String,
    /// Why it is not well; empty when it is.
    pub reason: String,
    pub address: Option<SocketAddr>,
    pub pid: Option<i32>,
    pub restarts: i32,
    /// It can do its work.
    pub ready: bool,
}

/// The row of a unit.
#[derive(Clone, Debug)]
pub struct Row {
    pub id: UnitId,
    pub app_id: AppId,
    pub release: i64,
    pub process: String,
    pub version: i32,
    pub host: String,
    pub phase: Phase,
    pub phase_age: Duration,
    /// It is of the process that requests go to.
    pub routed: bool,
    /// Its version asks for health checks.
    pub checked: bool,
    /// It drains, and a router at work does not know yet.
    pub unseen: bool,
    pub seen: Seen,
}

impl Row {
    /// A unit that is to be started, with a new name.
    pub fn new(
        app_id: AppId,
        app: &str,
        release: i64,
        version: i32,
        process: &str,
        host: &str,
    ) -> Result<Self, Problem> {
        let random = Uuid::new_v4().simple().to_string();
        Ok(Self {
            id: UnitId::parse(&format!("{app}-{process}-{}", &random[..8]))?,
            app_id,
            release,
            process: process.to_owned(),
            version,
            host: host.to_owned(),
            phase: Phase::Starting,
            phase_age: Duration::ZERO,
            routed: false,
            checked: false,
            unseen: false,
            seen: Seen {
                state: "created".into(),
                ..Seen::default()
            },
        })
    }
}

/// The wanted units of a release: those of the processes that it has. A process nobody has scaled has one
/// unit, unless the whole app is stopped. `counts` is by process, `None` for stopped ones.
pub fn wanted(
    release: i64,
    here: bool,
    processes: &[String],
    counts: &BTreeMap<String, Option<u32>>,
) -> Wanted {
    let stopped = !counts.is_empty() && counts.values().all(Option::is_none);
    let count = |process: &String| match counts.get(process) {
        Some(count) => count.unwrap_or(0),
        None => u32::from(!stopped),
    };
    Wanted {
        release,
        here,
        units: processes.iter().map(|p| (p.clone(), count(p))).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(processes: &[&str], counts: &[(&str, Option<u32>)]) -> Vec<u32> {
        let processes: Vec<String> = processes.iter().map(|p| (*p).to_owned()).collect();
        let counts = counts.iter().map(|(p, n)| ((*p).to_owned(), *n)).collect();
        let wanted = wanted(1, true, &processes, &counts);
        processes.iter().map(|p| wanted.units[p]).collect()
    }

    #[test]
    fn a_process_nobody_scaled_has_one_unit_unless_the_app_is_stopped() {
        assert_eq!(count(&["web", "new"], &[]), [1, 1]);
        assert_eq!(count(&["web", "new"], &[("web", Some(3))]), [3, 1]);
        assert_eq!(count(&["web", "new"], &[("web", Some(0))]), [0, 1]);
        assert_eq!(count(&["web", "new"], &[("web", None), ("old", None)]), [0, 0]);
        assert_eq!(count(&["web", "new"], &[("web", None), ("old", Some(1))]), [0, 1]);
    }

    #[test]
    fn phases_keep_their_words() {
        for phase in [Phase::Starting, Phase::Serving, Phase::Draining, Phase::Stopping] {
            assert_eq!(phase.as_str().parse::<Phase>().unwrap(), phase);
        }
    }
}
