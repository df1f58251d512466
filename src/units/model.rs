//! What units are made of; pure.

use std::collections::BTreeMap;
use std::str::FromStr;

use crate::kernel::problem::Problem;

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
