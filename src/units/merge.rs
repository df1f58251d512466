//! What was read and what was seen, brought together for the planner; and what a round writes.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::Value;

use crate::builders::Process;
use crate::kernel::ids::AppId;
use crate::kernel::problem::Problem;
use crate::provisioners::{UnitId, UnitReport, UnitState};
use crate::units::health::{Health, Incarnation};
use crate::units::model::{self, Desired, Phase, Row, Seen, Wanted};
use crate::units::planner::{self, Step};
use crate::units::reconcile::Found;
use crate::units::store::DesiredRow;
use crate::units::work::Works;

/// An app with what should run of it.
pub(super) struct App {
    pub(super) id: AppId,
    pub(super) name: String,
    pub(super) provisioner: String,
    pub(super) desired: Desired,
    /// Release → version.
    versions: HashMap<i64, i32>,
}

impl App {
    pub(super) fn read(row: DesiredRow) -> Result<Self, Problem> {
        let counts: BTreeMap<String, Option<u32>> =
            serde_json::from_value(row.counts).map_err(Problem::internal)?;
        let mut versions = HashMap::new();
        let mut read = |release: Option<i64>, version: Option<i32>, here, processes: Option<Value>| {
            let (Some(release), Some(version), Some(processes)) = (release, version, processes) else {
                return Ok(None);
            };
            versions.insert(release, version);
            let names = names(processes)?;
            Ok::<Option<Wanted>, Problem>(Some(model::wanted(release, here, &names, &counts)))
        };
        let current = read(
            row.current,
            row.current_version,
            row.current_here,
            row.current_processes,
        )?;
        let candidate = read(
            row.candidate,
            row.candidate_version,
            row.candidate_here,
            row.candidate_processes,
        )?;
        Ok(Self {
            id: row.app_id,
            name: row.name,
            provisioner: row.provisioner,
            desired: Desired { current, candidate },
            versions,
        })
    }
}

/// The names of a version's processes.
pub(super) fn names(processes: Value) -> Result<Vec<String>, Problem> {
    let processes: Vec<Process> = serde_json::from_value(processes).map_err(Problem::internal)?;
    Ok(processes.into_iter().map(|p| p.name.to_string()).collect())
}

/// True if a report says something that the row does not.
pub(super) fn differs(row: &Row, report: &UnitReport) -> bool {
    row.seen.state != report.state.as_str()
        || row.seen.address != report.address
        || row.seen.pid != report.pid.and_then(|p| p.try_into().ok())
        || row.seen.restarts != restarts(report)
}

fn restarts(report: &UnitReport) -> i32 {
    i32::try_from(report.restarts).unwrap_or(i32::MAX)
}

/// Brings rows up to date with what was seen, notes what has changed, and shows them to the planner.
/// `busy` was read before `observed`, so what ended in between still counts as under way.
pub(super) fn look(
    rows: &mut [Row],
    host: &str,
    (observed, busy): (&HashMap<UnitId, Found>, &HashSet<UnitId>),
    works: &Works,
    health: &Health,
    change: &mut Change,
) -> Vec<planner::Seen> {
    let mut seen = Vec::with_capacity(rows.len());
    for row in rows {
        let here = row.host == host;
        let mut condemned = false;
        if here {
            let now = match observed.get(&row.id) {
                Some(found) => {
                    let verdict = health.verdict(&row.id, &Incarnation::of_report(&found.report));
                    condemned = verdict.as_ref().is_some_and(|v| v.condemned);
                    let sick = verdict.as_ref().map_or(String::new(), |v| v.reason.clone());
                    let ready = verdict.map(|v| v.ready);
                    present(row, &found.report, ready, sick)
                }
                None => absent(row, works.failure(&row.id)),
            };
            change.look(row, now);
        }
        seen.push(planner::Seen {
            id: row.id.clone(),
            release: row.release,
            process: row.process.clone(),
            phase: row.phase,
            here,
            known: !here
                || observed
                    .get(&row.id)
                    .is_some_and(|found| has(row.phase, &found.report)),
            busy: busy.contains(&row.id),
            ready: row.seen.ready,
            routed: row.routed,
            condemned,
            phase_age: row.phase_age,
        });
    }
    seen
}

/// True if the provisioner has the unit, as far as its phase asks: one that is to live must not have been
/// stopped (with its host, with all others, with its shim), for nobody else would start it again.
fn has(phase: Phase, report: &UnitReport) -> bool {
    !phase.is_live() || report.state != UnitState::Stopped
}

fn present(row: &Row, report: &UnitReport, ready: Option<bool>, sick: String) -> Seen {
    let runs = report.state == UnitState::Started;
    // A unit that was found well stays so, until it is started anew or its check says otherwise.
    let as_before = row.seen.ready && !differs(row, report);
    let ready = runs && ready.unwrap_or(as_before);
    let reason = match &report.reason {
        Some(reason) if !runs => reason.clone(),
        // A unit that ends again and again is up for a moment in between.
        Some(last) if !ready && sick.is_empty() => last.clone(),
        Some(last) if !ready => format!("{sick} (before that: {last})"),
        _ if runs && !ready => sick,
        _ => String::new(),
    };
    Seen {
        state: report.state.as_str().into(),
        reason,
        address: report.address,
        pid: report.pid.and_then(|p| p.try_into().ok()),
        restarts: restarts(report),
        ready,
    }
}

fn absent(row: &Row, failure: Option<String>) -> Seen {
    let state = match (&failure, row.phase) {
        (_, Phase::Stopping) => "stopped",
        (Some(_), _) => "error",
        (None, _) => "created",
    };
    Seen {
        state: state.into(),
        reason: failure.unwrap_or_default(),
        address: None,
        pid: None,
        restarts: row.seen.restarts,
        ready: false,
    }
}

/// True if nothing is expected to happen to the app by itself.
pub(super) fn is_settled(rows: &[Row], desired: &Desired) -> bool {
    let settled = |row: &Row| row.phase == Phase::Serving && row.seen.ready;
    desired.candidate.is_none() && rows.iter().all(settled)
}

/// What a round writes, all of it at once.
#[derive(Default)]
pub(super) struct Change {
    pub(super) seen: Vec<Row>,
    pub(super) start: Vec<Row>,
    pub(super) phases: Vec<(String, Phase)>,
    pub(super) gone: Vec<String>,
    /// Where requests go may have changed.
    pub(super) routes: bool,
    /// Apps somebody may be waiting for.
    pub(super) told: HashSet<AppId>,
}

impl Change {
    pub(super) fn is_empty(&self) -> bool {
        self.seen.is_empty() && self.start.is_empty() && self.phases.is_empty() && self.gone.is_empty()
    }

    fn look(&mut self, row: &mut Row, now: Seen) {
        if row.seen == now {
            return;
        }
        let was = std::mem::replace(&mut row.seen, now);
        let moved = was.ready != row.seen.ready || was.address != row.seen.address;
        self.routes |= moved && row.phase == Phase::Serving;
        if was.ready != row.seen.ready || was.state != row.seen.state {
            self.told.insert(row.app_id);
        }
        self.seen.push(row.clone());
    }

    /// Notes the steps, in the rows too.
    pub(super) fn add(
        &mut self,
        app: &App,
        rows: &mut Vec<Row>,
        steps: &[Step],
        host: &str,
    ) -> Result<(), Problem> {
        for step in steps {
            match step {
                Step::Start { process, release } => {
                    let version = app.versions.get(release).copied();
                    let version = version.ok_or_else(|| Problem::internal("a release without a version"))?;
                    let row = Row::new(app.id, &app.name, *release, version, process, host)?;
                    self.start.push(row.clone());
                    rows.push(row);
                }
                Step::Ensure(_) => {}
                Step::Serve(id) => self.enter(rows, id, Phase::Serving),
                Step::Drain(id) => self.enter(rows, id, Phase::Draining),
                Step::Stop(id) => self.enter(rows, id, Phase::Stopping),
                Step::Forget(id) => self.gone.push(id.to_string()),
            }
            if !matches!(step, Step::Ensure(_)) {
                self.told.insert(app.id);
            }
        }
        Ok(())
    }

    fn enter(&mut self, rows: &mut [Row], id: &UnitId, phase: Phase) {
        let Some(row) = rows.iter_mut().find(|row| row.id == *id) else {
            return;
        };
        let was = std::mem::replace(&mut row.phase, phase);
        if was != phase {
            self.phases.push((id.to_string(), phase));
            self.routes |= was == Phase::Serving || phase == Phase::Serving;
        }
    }
}
