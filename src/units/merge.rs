//! Combines the rows with the observed state for the planner, and collects the writes of a round.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use chrono::{DateTime, SubsecRound, Utc};

use crate::kernel::error::Error;
use crate::kernel::ids::AppId;
use crate::provisioners::{FoundUnit, UnitId, UnitReport, UnitState};
use crate::units::health::{HealthChecker, UnitIncarnation};
use crate::units::model::{DesiredRelease, DesiredSide, ObservedState, Unit, UnitPhase};
use crate::units::planner::{self, PlanStep};
use crate::units::store::{DesiredRow, UnitsByProcess};
use crate::units::tasks::UnitTasks;

/// An app with its desired units.
pub(super) struct ReconciledApp {
    pub(super) id: AppId,
    pub(super) name: String,
    pub(super) provisioner: String,
    sides: BTreeMap<i32, DesiredSide>,
    /// Release → version and side.
    versions: HashMap<i64, (i32, i32)>,
}

impl ReconciledApp {
    /// Combines the sides of an app. `None`: there is none.
    pub(super) fn from_rows(rows: &[DesiredRow]) -> Option<Self> {
        let first = rows.first()?;
        let mut app = Self {
            id: first.app_id,
            name: first.name.clone(),
            provisioner: first.provisioner.clone(),
            sides: BTreeMap::new(),
            versions: HashMap::new(),
        };
        for row in rows {
            app.add_side(row);
        }
        Some(app)
    }

    fn add_side(&mut self, row: &DesiredRow) {
        let mut read = |release: Option<i64>, version: Option<i32>, is_local, units: &UnitsByProcess| {
            let release = release?;
            self.versions.insert(release, (version?, row.side));
            Some(DesiredRelease {
                release,
                is_local,
                units: units.0.clone(),
            })
        };
        let current = read(
            row.current,
            row.current_version,
            row.current_here,
            &row.current_units,
        );
        let candidate = read(
            row.candidate,
            row.candidate_version,
            row.candidate_here,
            &row.candidate_units,
        );
        self.sides.insert(row.side, DesiredSide { current, candidate });
    }

    /// Plans the steps of all sides. Nothing is desired of a side that the app has no more.
    pub(super) fn plan_steps(&self, units: Vec<planner::ObservedUnit>, drain: Duration) -> Vec<PlanStep> {
        let mut by_side: BTreeMap<i32, Vec<planner::ObservedUnit>> =
            self.sides.keys().map(|side| (*side, Vec::new())).collect();
        for unit in units {
            by_side.entry(unit.side).or_default().push(unit);
        }
        let nothing = DesiredSide::default();
        let plan = |(side, units): (i32, Vec<planner::ObservedUnit>)| {
            planner::plan_steps(self.sides.get(&side).unwrap_or(&nothing), &units, drain)
        };
        by_side.into_iter().flat_map(plan).collect()
    }
}

/// Returns true if a report differs from the row.
pub(super) fn report_differs(row: &Unit, report: &UnitReport) -> bool {
    row.observed.state != report.state.as_str()
        || row.observed.address != report.address
        || is_another_run(row, report)
        || row.observed.restarts != restart_count(report)
}

/// Returns true if the unit was started again since its row was written. A row that an older version of Tancho
/// wrote does not say when that was.
fn is_another_run(row: &Unit, report: &UnitReport) -> bool {
    let known = row.observed.started_at;
    known.is_some() && known != run_start(report)
}

/// Returns when the run of a unit was started, as precisely as rows keep it.
pub(super) fn run_start(report: &UnitReport) -> Option<DateTime<Utc>> {
    report.started_at.map(|at| at.trunc_subsecs(6))
}

fn restart_count(report: &UnitReport) -> i32 {
    i32::try_from(report.restarts).unwrap_or(i32::MAX)
}

/// Updates rows from the observed state, records the changes, and returns the units for the planner. `busy`
/// was read before `observed`, so an operation that ended in between still counts as running.
pub(super) fn diff_units(
    rows: &mut [Unit],
    host: &str,
    (observed, busy): (&HashMap<UnitId, FoundUnit>, &HashSet<UnitId>),
    tasks: &UnitTasks,
    health: &HealthChecker,
    change: &mut RoundWrites,
) -> Vec<planner::ObservedUnit> {
    let mut seen = Vec::with_capacity(rows.len());
    for row in rows {
        let is_local = row.host == host;
        let mut must_replace = false;
        if is_local {
            let now = match observed.get(&row.id) {
                Some(found) => {
                    let verdict = health.find_verdict(&row.id, &UnitIncarnation::from_report(&found.report));
                    must_replace = verdict.as_ref().is_some_and(|v| v.must_replace);
                    let failing = verdict.as_ref().map_or(String::new(), |v| v.reason.clone());
                    let ready = verdict.map(|v| v.ready);
                    observe_present(row, &found.report, ready, failing)
                }
                None => observe_absent(row, tasks.last_failure(&row.id)),
            };
            change.record_observed(row, now);
        }
        seen.push(planner::ObservedUnit {
            id: row.id.clone(),
            release: row.release,
            side: row.side,
            process: row.process.clone(),
            phase: row.phase,
            is_local,
            is_provisioned: !is_local
                || observed
                    .get(&row.id)
                    .is_some_and(|found| is_present(row.phase, &found.report)),
            is_busy: busy.contains(&row.id),
            ready: row.observed.ready,
            is_web: row.is_web,
            must_replace,
            phase_age: row.phase_age,
        });
    }
    seen
}

/// Returns true if the provisioner has the unit as its phase requires: a live unit must not be stopped (by a
/// reboot, a stop of all units, or the death of its shim), for nothing else would start it again.
fn is_present(phase: UnitPhase, report: &UnitReport) -> bool {
    !phase.is_live() || report.state != UnitState::Stopped
}

fn observe_present(row: &Unit, report: &UnitReport, ready: Option<bool>, failing: String) -> ObservedState {
    let runs = report.state == UnitState::Started;
    // A ready unit stays ready until it restarts or its check fails.
    let as_before = row.observed.ready && !report_differs(row, report);
    let ready = runs && ready.unwrap_or(as_before);
    let reason = match &report.reason {
        Some(reason) if !runs => reason.clone(),
        // A unit in a crash loop runs for a moment in between.
        Some(last) if !ready && failing.is_empty() => last.clone(),
        Some(last) if !ready => format!("{failing} (previously: {last})"),
        _ if runs && !ready => failing,
        _ => String::new(),
    };
    ObservedState {
        state: report.state.as_str().into(),
        reason,
        address: report.address,
        started_at: run_start(report),
        restarts: restart_count(report),
        ready,
    }
}

fn observe_absent(row: &Unit, failure: Option<String>) -> ObservedState {
    let state = match (&failure, row.phase) {
        (_, UnitPhase::Stopping) => "stopped",
        (Some(_), _) => "error",
        (None, _) => "created",
    };
    ObservedState {
        state: state.into(),
        reason: failure.unwrap_or_default(),
        address: None,
        started_at: None,
        restarts: row.observed.restarts,
        ready: false,
    }
}

/// Returns true if no further change of the app is expected.
pub(super) fn is_settled(rows: &[Unit], app: &ReconciledApp) -> bool {
    let settled = |row: &Unit| row.phase == UnitPhase::Serving && row.observed.ready;
    app.sides.values().all(|side| side.candidate.is_none()) && rows.iter().all(settled)
}

/// The writes of a round.
#[derive(Default)]
pub(super) struct RoundWrites {
    pub(super) observed: Vec<Unit>,
    pub(super) new_units: Vec<Unit>,
    pub(super) phases: Vec<(String, UnitPhase)>,
    pub(super) deleted: Vec<String>,
    /// The routes may have changed.
    pub(super) routes_changed: bool,
    /// Apps to send a notice for: followers may be waiting.
    pub(super) changed_apps: HashSet<AppId>,
}

impl RoundWrites {
    /// Adds the writes of another app.
    pub(super) fn merge_from(&mut self, other: &RoundWrites) {
        self.observed.extend(other.observed.iter().cloned());
        self.new_units.extend(other.new_units.iter().cloned());
        self.phases.extend(other.phases.iter().cloned());
        self.deleted.extend(other.deleted.iter().cloned());
        self.changed_apps.extend(other.changed_apps.iter().copied());
        self.routes_changed |= other.routes_changed;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.observed.is_empty()
            && self.new_units.is_empty()
            && self.phases.is_empty()
            && self.deleted.is_empty()
    }

    fn record_observed(&mut self, row: &mut Unit, now: ObservedState) {
        if row.observed == now {
            return;
        }
        let was = std::mem::replace(&mut row.observed, now);
        let moved = was.ready != row.observed.ready || was.address != row.observed.address;
        self.routes_changed |= moved && row.phase == UnitPhase::Serving;
        if was.ready != row.observed.ready
            || was.state != row.observed.state
            || was.restarts != row.observed.restarts
        {
            self.changed_apps.insert(row.app_id);
        }
        self.observed.push(row.clone());
    }

    /// Records the steps, and applies them to the rows.
    pub(super) fn record_steps(
        &mut self,
        app: &ReconciledApp,
        rows: &mut Vec<Unit>,
        steps: &[PlanStep],
        host: &str,
    ) -> Result<(), Error> {
        for step in steps {
            match step {
                PlanStep::Start { process, release } => {
                    let version = app.versions.get(release).copied();
                    let version = version.ok_or_else(|| Error::internal("a release has no version"))?;
                    let row = Unit::new(app.id, &app.name, *release, version, process, host)?;
                    self.new_units.push(row.clone());
                    rows.push(row);
                }
                PlanStep::Ensure(_) => {}
                PlanStep::Serve(id) => self.record_phase(rows, id, UnitPhase::Serving),
                PlanStep::Drain(id) => self.record_phase(rows, id, UnitPhase::Draining),
                PlanStep::Stop(id) => self.record_phase(rows, id, UnitPhase::Stopping),
                PlanStep::Delete(id) => self.deleted.push(id.to_string()),
            }
            if !matches!(step, PlanStep::Ensure(_)) {
                self.changed_apps.insert(app.id);
            }
        }
        Ok(())
    }

    fn record_phase(&mut self, rows: &mut [Unit], id: &UnitId, phase: UnitPhase) {
        let Some(row) = rows.iter_mut().find(|row| row.id == *id) else {
            return;
        };
        let was = std::mem::replace(&mut row.phase, phase);
        if was != phase {
            self.phases.push((id.to_string(), phase));
            self.routes_changed |= was == UnitPhase::Serving || phase == UnitPhase::Serving;
        }
    }
}
