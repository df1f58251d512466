//! The planner: computes the next steps for one side of an app from its desired and its observed units. It is pure, so
//! that property tests can check its promises over long histories.
//!
//! The steps of one plan are applied together. If nothing changes from outside and units become ready, plans
//! become empty after a few rounds.

use std::time::Duration;

use crate::provisioners::UnitId;
use crate::units::model::{DesiredRelease, DesiredSide, UnitPhase};

/// A unit as observed: its row, the provisioner's report and the health check's verdict.
#[derive(Clone, Debug)]
pub struct ObservedUnit {
    pub id: UnitId,
    pub release: i64,
    /// The side of its release.
    pub side: i32,
    pub process: String,
    pub phase: UnitPhase,
    /// It runs on this host, so this host may change it.
    pub is_local: bool,
    /// The provisioner has it. A unit that should live counts only if it has not been stopped.
    pub is_provisioned: bool,
    /// An operation on it is running, or is in backoff after a failure.
    pub is_busy: bool,
    /// Its health check passes.
    pub ready: bool,
    /// It belongs to the process that gets the requests.
    pub is_web: bool,
    /// Its health check has failed so often that it must be replaced.
    pub must_replace: bool,
    /// Time since it entered its phase.
    pub phase_age: Duration,
}

/// One step of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlanStep {
    /// Insert a row and start its unit.
    Start { process: String, release: i64 },
    /// Start the unit of an existing row again: the provisioner does not have it.
    Ensure(UnitId),
    /// Starting → serving.
    Serve(UnitId),
    /// Serving → draining.
    Drain(UnitId),
    /// Any phase → stopping; the provisioner is asked to remove the unit.
    Stop(UnitId),
    /// The unit is gone: delete its row.
    Delete(UnitId),
}

/// Plans one round for one side of an app. `units` are all units of the side on all hosts, the oldest first. Units drain
/// for `drain` before they are stopped.
pub fn plan_steps(desired: &DesiredSide, units: &[ObservedUnit], drain: Duration) -> Vec<PlanStep> {
    let mut plan = UnitPlan {
        units,
        leaving: vec![false; units.len()],
        steps: Vec::new(),
    };
    plan.advance_ending(drain);
    plan.replace_unhealthy();
    let current = desired.current.as_ref();
    // A release that is current is no candidate any more, whatever the row says.
    let candidate = desired
        .candidate
        .as_ref()
        .filter(|c| current.is_none_or(|cur| cur.release != c.release));
    for wanted in candidate.into_iter().chain(current) {
        plan.scale_release(wanted);
    }
    plan.serve_ready(current);
    plan.retire_old(current, candidate);
    plan.restart_missing();
    plan.steps
}

struct UnitPlan<'a> {
    units: &'a [ObservedUnit],
    /// By index: units that this plan removes; they no longer count as live.
    leaving: Vec<bool>,
    steps: Vec<PlanStep>,
}

impl UnitPlan<'_> {
    fn push_step(&mut self, at: usize, step: fn(UnitId) -> PlanStep) {
        if self.units[at].is_local {
            self.steps.push(step(self.units[at].id.clone()));
        }
    }

    /// Removes a live unit: drains it first if it may have open requests.
    fn remove_unit(&mut self, at: usize) {
        let unit = &self.units[at];
        self.leaving[at] = true;
        match unit.phase {
            UnitPhase::Serving if unit.is_web => self.push_step(at, PlanStep::Drain),
            _ => self.push_step(at, PlanStep::Stop),
        }
    }

    fn live_units(&self) -> impl Iterator<Item = (usize, &ObservedUnit)> {
        let live = |(at, unit): &(usize, &ObservedUnit)| unit.phase.is_live() && !self.leaving[*at];
        self.units.iter().enumerate().filter(move |pair| live(pair))
    }

    /// Advances ending units: draining → stopping → deleted.
    fn advance_ending(&mut self, drain: Duration) {
        for (at, unit) in self.units.iter().enumerate() {
            match unit.phase {
                UnitPhase::Draining if unit.phase_age >= drain || !unit.is_web || !unit.is_provisioned => {
                    self.push_step(at, PlanStep::Stop);
                }
                UnitPhase::Stopping if unit.is_busy => {}
                UnitPhase::Stopping if unit.is_provisioned => self.push_step(at, PlanStep::Stop),
                UnitPhase::Stopping => self.push_step(at, PlanStep::Delete),
                _ => {}
            }
        }
    }

    fn replace_unhealthy(&mut self) {
        for (at, unit) in self.units.iter().enumerate() {
            if unit.must_replace && unit.phase == UnitPhase::Serving {
                self.remove_unit(at);
            }
        }
    }

    /// Scales each process to its desired count: removes surplus units, starts missing ones.
    fn scale_release(&mut self, wanted: &DesiredRelease) {
        let mut processes: Vec<&str> = wanted.units.keys().map(String::as_str).collect();
        for unit in self.units.iter().filter(|u| u.release == wanted.release) {
            if !processes.contains(&unit.process.as_str()) {
                processes.push(&unit.process);
            }
        }
        for process in processes {
            let live: Vec<usize> = self
                .live_units()
                .filter(|(_, u)| u.release == wanted.release && u.process == process)
                .map(|(at, _)| at)
                .collect();
            let want = wanted.desired_count(process);
            for at in pick_surplus(self.units, &live, want) {
                self.remove_unit(at);
            }
            if wanted.is_local {
                for _ in live.len()..want {
                    self.steps.push(PlanStep::Start {
                        process: process.to_owned(),
                        release: wanted.release,
                    });
                }
            }
        }
    }

    fn serve_ready(&mut self, current: Option<&DesiredRelease>) {
        let Some(current) = current else { return };
        let ready: Vec<usize> = self
            .live_units()
            .filter(|(_, u)| u.phase == UnitPhase::Starting && u.ready && u.release == current.release)
            .map(|(at, _)| at)
            .collect();
        for at in ready {
            self.push_step(at, PlanStep::Serve);
        }
    }

    /// Removes units of other releases: at once if they do not serve, otherwise once the current release
    /// covers their work.
    fn retire_old(&mut self, current: Option<&DesiredRelease>, candidate: Option<&DesiredRelease>) {
        let is = |wanted: Option<&DesiredRelease>, unit: &ObservedUnit| {
            wanted.is_some_and(|w| w.release == unit.release)
        };
        let old: Vec<usize> = self
            .live_units()
            .filter(|(_, u)| !is(current, u))
            .filter(|(_, u)| !is(candidate, u) || u.phase != UnitPhase::Starting)
            .map(|(at, _)| at)
            .collect();
        for at in old {
            let unit = &self.units[at];
            let needed = unit.phase == UnitPhase::Serving
                && unit.ready
                && current.is_some_and(|current| !self.is_covered(current, &unit.process));
            if !needed {
                self.remove_unit(at);
            }
        }
    }

    /// Returns true if the current release does the work of an old unit of the process by itself.
    fn is_covered(&self, current: &DesiredRelease, process: &str) -> bool {
        let full = |process: &str| {
            let serving = |u: &&ObservedUnit| {
                u.release == current.release
                    && u.process == process
                    && u.phase == UnitPhase::Serving
                    && u.ready
            };
            self.live_units().map(|(_, u)| u).filter(serving).count() >= current.desired_count(process)
        };
        match current.desired_count(process) {
            // The process was renamed or is not desired: all processes of the release must be complete.
            0 => current.units.keys().all(|process| full(process)),
            _ => full(process),
        }
    }

    /// Starts live units again that the provisioner does not have.
    fn restart_missing(&mut self) {
        let lost: Vec<usize> = self
            .live_units()
            .filter(|(_, u)| !u.is_provisioned && !u.is_busy)
            .map(|(at, _)| at)
            .collect();
        for at in lost {
            self.push_step(at, PlanStep::Ensure);
        }
    }
}

/// Returns the surplus units: units that are not ready before ready ones, the youngest first.
fn pick_surplus(units: &[ObservedUnit], live: &[usize], want: usize) -> Vec<usize> {
    let too_many = live.len().saturating_sub(want);
    let mut order: Vec<usize> = live.to_vec();
    order.sort_by_key(|at| (units[*at].ready, std::cmp::Reverse(*at)));
    order.truncate(too_many);
    order
}

#[cfg(test)]
mod tests;
