//! The planner: from what should run of one app and what does, to a few steps. Pure, so that its
//! promises can be tested on worlds that would take years to happen.
//!
//! The steps of one plan are taken together. If nothing changes from outside and units become ready,
//! plans become empty after a few rounds.

use std::time::Duration;

use crate::provisioners::UnitId;
use crate::units::model::{Desired, Phase, Wanted};

/// A unit as found: its row, and what the provisioner and its health check say of it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub id: UnitId,
    pub release: i64,
    pub process: String,
    pub phase: Phase,
    /// It runs on this host, so it is ours to change.
    pub here: bool,
    /// The provisioner has it.
    pub known: bool,
    /// Something is being done about it right now, or rests after a failure.
    pub busy: bool,
    /// It can do its work.
    pub ready: bool,
    /// It is of the process that requests go to.
    pub routed: bool,
    /// Its health check has failed for so long that it is to be replaced.
    pub condemned: bool,
    /// How long it has been in its phase.
    pub phase_age: Duration,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Write a new row and start its unit.
    Start { process: String, release: i64 },
    /// Start the unit of a row again: the provisioner does not have it.
    Ensure(UnitId),
    /// Starting → serving.
    Serve(UnitId),
    /// Serving → draining.
    Drain(UnitId),
    /// To stopping, if it is not there already, and ask the provisioner to end it.
    Stop(UnitId),
    /// It is gone: delete the row.
    Forget(UnitId),
}

/// Plans one round for one app. `units` are all units of the app on all hosts, the oldest first; units
/// drain for `drain` before they are stopped.
pub fn plan(desired: &Desired, units: &[Seen], drain: Duration) -> Vec<Step> {
    let mut plan = Plan {
        units,
        leaving: vec![false; units.len()],
        steps: Vec::new(),
    };
    plan.end(drain);
    plan.condemn();
    let current = desired.current.as_ref();
    // What is current is tried no more, whatever the row says.
    let candidate = desired
        .candidate
        .as_ref()
        .filter(|c| current.is_none_or(|cur| cur.release != c.release));
    for wanted in candidate.into_iter().chain(current) {
        plan.fit(wanted);
    }
    plan.serve(current);
    plan.retire(current, candidate);
    plan.revive();
    plan.steps
}

struct Plan<'a> {
    units: &'a [Seen],
    /// By index: does not count among the live any more.
    leaving: Vec<bool>,
    steps: Vec<Step>,
}

impl Plan<'_> {
    fn push(&mut self, at: usize, step: fn(UnitId) -> Step) {
        if self.units[at].here {
            self.steps.push(step(self.units[at].id.clone()));
        }
    }

    /// Takes a live unit away: through draining if requests may be under way.
    fn leave(&mut self, at: usize) {
        let unit = &self.units[at];
        self.leaving[at] = true;
        match unit.phase {
            Phase::Serving if unit.routed => self.push(at, Step::Drain),
            _ => self.push(at, Step::Stop),
        }
    }

    fn live(&self) -> impl Iterator<Item = (usize, &Seen)> {
        let live = |(at, unit): &(usize, &Seen)| unit.phase.is_live() && !self.leaving[*at];
        self.units.iter().enumerate().filter(move |pair| live(pair))
    }

    /// Draining → stopping → gone.
    fn end(&mut self, drain: Duration) {
        for (at, unit) in self.units.iter().enumerate() {
            match unit.phase {
                Phase::Draining if unit.phase_age >= drain || !unit.routed || !unit.known => {
                    self.push(at, Step::Stop);
                }
                Phase::Stopping if unit.busy => {}
                Phase::Stopping if unit.known => self.push(at, Step::Stop),
                Phase::Stopping => self.push(at, Step::Forget),
                _ => {}
            }
        }
    }

    fn condemn(&mut self) {
        for (at, unit) in self.units.iter().enumerate() {
            if unit.condemned && unit.phase == Phase::Serving {
                self.leave(at);
            }
        }
    }

    /// As many units of each process as wanted: surplus ones leave, missing ones are started.
    fn fit(&mut self, wanted: &Wanted) {
        let mut processes: Vec<&str> = wanted.units.keys().map(String::as_str).collect();
        for unit in self.units.iter().filter(|u| u.release == wanted.release) {
            if !processes.contains(&unit.process.as_str()) {
                processes.push(&unit.process);
            }
        }
        for process in processes {
            let live: Vec<usize> = self
                .live()
                .filter(|(_, u)| u.release == wanted.release && u.process == process)
                .map(|(at, _)| at)
                .collect();
            let want = wanted.of(process);
            for at in surplus(self.units, &live, want) {
                self.leave(at);
            }
            if wanted.here {
                for _ in live.len()..want {
                    self.steps.push(Step::Start {
                        process: process.to_owned(),
                        release: wanted.release,
                    });
                }
            }
        }
    }

    fn serve(&mut self, current: Option<&Wanted>) {
        let Some(current) = current else { return };
        let ready: Vec<usize> = self
            .live()
            .filter(|(_, u)| u.phase == Phase::Starting && u.ready && u.release == current.release)
            .map(|(at, _)| at)
            .collect();
        for at in ready {
            self.push(at, Step::Serve);
        }
    }

    /// Units of other releases go: at once if they serve nobody, else when the current ones can.
    fn retire(&mut self, current: Option<&Wanted>, candidate: Option<&Wanted>) {
        let is = |wanted: Option<&Wanted>, unit: &Seen| wanted.is_some_and(|w| w.release == unit.release);
        let old: Vec<usize> = self
            .live()
            .filter(|(_, u)| !is(current, u))
            .filter(|(_, u)| !is(candidate, u) || u.phase != Phase::Starting)
            .map(|(at, _)| at)
            .collect();
        for at in old {
            let unit = &self.units[at];
            let needed = unit.phase == Phase::Serving
                && unit.ready
                && current.is_some_and(|current| !self.covered(current, &unit.process));
            if !needed {
                self.leave(at);
            }
        }
    }

    /// True if the current release does by itself what an old unit of the process does.
    fn covered(&self, current: &Wanted, process: &str) -> bool {
        let full = |process: &str| {
            let serving = |u: &&Seen| {
                u.release == current.release && u.process == process && u.phase == Phase::Serving && u.ready
            };
            self.live().map(|(_, u)| u).filter(serving).count() >= current.of(process)
        };
        match current.of(process) {
            // The process has another name now, or is not wanted: the release as a whole must stand.
            0 => current.units.keys().all(|process| full(process)),
            _ => full(process),
        }
    }

    /// Units that should be there and are not.
    fn revive(&mut self) {
        let lost: Vec<usize> = self
            .live()
            .filter(|(_, u)| !u.known && !u.busy)
            .map(|(at, _)| at)
            .collect();
        for at in lost {
            self.push(at, Step::Ensure);
        }
    }
}

/// Which of the live units are too many: the youngest that are not ready first, then the youngest.
fn surplus(units: &[Seen], live: &[usize], want: usize) -> Vec<usize> {
    let too_many = live.len().saturating_sub(want);
    let mut order: Vec<usize> = live.to_vec();
    order.sort_by_key(|at| (units[*at].ready, std::cmp::Reverse(*at)));
    order.truncate(too_many);
    order
}

#[cfg(test)]
mod tests;
