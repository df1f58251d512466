//! Property tests of the planner: a model of one app in which any event may happen between two plans.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const DRAIN: Duration = Duration::from_secs(3);
const PROCESSES: [&str; 2] = ["web", "worker"];

#[derive(Clone, Debug)]
struct PlannerModel {
    current: Option<i64>,
    candidate: Option<i64>,
    counts: BTreeMap<String, u32>,
    stopped: bool,
    units: Vec<ObservedUnit>,
    releases: i64,
    ids: u32,
}

#[derive(Clone, Debug)]
enum ModelEvent {
    Round,
    Ensured(usize),
    Ready(usize),
    Unhealthy(usize),
    Lost(usize),
    MustReplace(usize),
    Killed(usize),
    Removed(usize),
    Scale(usize, u32),
    StartCandidate,
    PromoteCandidate,
    DiscardCandidate,
    Stop,
    Start,
    Wait,
}

fn any_event() -> impl Strategy<Value = ModelEvent> {
    let unit = 0..20_usize;
    prop_oneof![
        8 => Just(ModelEvent::Round),
        4 => unit.clone().prop_map(ModelEvent::Ensured),
        6 => unit.clone().prop_map(ModelEvent::Ready),
        2 => unit.clone().prop_map(ModelEvent::Unhealthy),
        1 => unit.clone().prop_map(ModelEvent::Lost),
        1 => unit.clone().prop_map(ModelEvent::MustReplace),
        1 => unit.clone().prop_map(ModelEvent::Killed),
        3 => unit.prop_map(ModelEvent::Removed),
        2 => (0..2_usize, 0..5_u32).prop_map(|(p, n)| ModelEvent::Scale(p, n)),
        2 => Just(ModelEvent::StartCandidate),
        2 => Just(ModelEvent::PromoteCandidate),
        1 => Just(ModelEvent::DiscardCandidate),
        1 => Just(ModelEvent::Stop),
        1 => Just(ModelEvent::Start),
        3 => Just(ModelEvent::Wait),
    ]
}

impl PlannerModel {
    fn new() -> Self {
        Self {
            current: Some(1),
            candidate: None,
            counts: PROCESSES.iter().map(|p| ((*p).to_owned(), 2)).collect(),
            stopped: false,
            units: Vec::new(),
            releases: 1,
            ids: 0,
        }
    }

    fn desired_release(&self, release: i64) -> DesiredRelease {
        let units = self.counts.iter().map(|(process, n)| {
            let n = if self.stopped { 0 } else { *n };
            (process.clone(), n)
        });
        DesiredRelease {
            release,
            is_local: true,
            units: units.collect(),
        }
    }

    fn desired(&self) -> DesiredSide {
        DesiredSide {
            current: self.current.map(|r| self.desired_release(r)),
            candidate: self.candidate.map(|r| self.desired_release(r)),
        }
    }

    fn plan(&self) -> Vec<PlanStep> {
        plan_steps(&self.desired(), &self.units, DRAIN)
    }

    fn find_unit(&self, id: &UnitId) -> usize {
        self.units
            .iter()
            .position(|u| u.id == *id)
            .expect("steps name existing units")
    }

    fn count_live(&self, release: i64, process: &str) -> usize {
        let of = |u: &&ObservedUnit| u.phase.is_live() && u.release == release && u.process == process;
        self.units.iter().filter(of).count()
    }

    fn count_serving(&self, release: i64, process: &str) -> usize {
        let of = |u: &&ObservedUnit| {
            u.phase == UnitPhase::Serving && u.ready && u.release == release && u.process == process
        };
        self.units.iter().filter(of).count()
    }

    fn set_phase(&mut self, id: &UnitId, phase: UnitPhase) -> UnitPhase {
        let at = self.find_unit(id);
        let was = std::mem::replace(&mut self.units[at].phase, phase);
        if was != phase {
            self.units[at].phase_age = Duration::ZERO;
        }
        was
    }

    fn take_step(&mut self, step: &PlanStep) {
        match step {
            PlanStep::Start { process, release } => {
                self.ids += 1;
                self.units.push(ObservedUnit {
                    id: UnitId::parse(&format!("u{}", self.ids)).unwrap(),
                    release: *release,
                    side: 0,
                    process: process.clone(),
                    phase: UnitPhase::Starting,
                    is_local: true,
                    is_provisioned: false,
                    is_busy: true,
                    ready: false,
                    is_web: process == "web",
                    must_replace: false,
                    phase_age: Duration::ZERO,
                });
            }
            PlanStep::Ensure(id) => {
                let at = self.find_unit(id);
                assert!(!self.units[at].is_provisioned && !self.units[at].is_busy);
                self.units[at].is_busy = true;
            }
            PlanStep::Serve(id) => assert_eq!(self.set_phase(id, UnitPhase::Serving), UnitPhase::Starting),
            PlanStep::Drain(id) => assert_eq!(self.set_phase(id, UnitPhase::Draining), UnitPhase::Serving),
            PlanStep::Stop(id) => {
                let unit = self.units[self.find_unit(id)].clone();
                let idle = unit.phase != UnitPhase::Serving || !unit.is_web;
                assert!(idle, "a unit that gets requests drains first");
                let drained = unit.phase != UnitPhase::Draining || unit.phase_age >= DRAIN;
                assert!(
                    drained || !unit.is_web || !unit.is_provisioned,
                    "stopped too soon"
                );
                self.set_phase(id, UnitPhase::Stopping);
            }
            PlanStep::Delete(id) => {
                let at = self.find_unit(id);
                let unit = self.units.remove(at);
                assert!(unit.phase == UnitPhase::Stopping && !unit.is_provisioned && !unit.is_busy);
            }
        }
    }

    /// Runs one round and checks all invariants.
    fn run_round(&mut self) -> usize {
        let before = self.clone();
        let steps = self.plan();
        for step in &steps {
            self.take_step(step);
        }
        let desired = self.desired();
        for wanted in desired.current.iter().chain(&desired.candidate) {
            for process in PROCESSES {
                assert!(
                    self.count_live(wanted.release, process) <= wanted.desired_count(process),
                    "more {process} of release {} than desired: {steps:?}",
                    wanted.release
                );
            }
        }
        if self.stopped {
            assert!(
                !self.units.iter().any(|u| u.phase.is_live()),
                "a stopped app has no live units"
            );
        }
        before.check_leaving(&desired, &steps);
        self.check_service(&before, &desired);
        steps.len()
    }

    fn check_leaving(&self, desired: &DesiredSide, steps: &[PlanStep]) {
        let current = desired.current.as_ref();
        for step in steps {
            let (PlanStep::Drain(id) | PlanStep::Stop(id) | PlanStep::Serve(id)) = step else {
                continue;
            };
            let unit = &self.units[self.find_unit(id)];
            let is_current = current.is_some_and(|c| c.release == unit.release);
            if matches!(step, PlanStep::Serve(_)) {
                assert!(
                    is_current && unit.ready,
                    "only ready units of the current release serve"
                );
                continue;
            }
            if unit.phase != UnitPhase::Serving || unit.must_replace || !unit.ready {
                continue;
            }
            let Some(current) = current else { continue };
            if is_current {
                let live = self.count_live(current.release, &unit.process);
                assert!(
                    live > current.desired_count(&unit.process),
                    "a desired unit is removed"
                );
            } else {
                let stands = |p: &str| self.count_serving(current.release, p) >= current.desired_count(p);
                let stands = match current.desired_count(&unit.process) {
                    0 => PROCESSES.into_iter().all(stands),
                    _ => stands(&unit.process),
                };
                assert!(stands, "an old unit is removed before the new ones replace it");
            }
        }
    }

    /// Checks that an app that could serve before a round can serve after it.
    fn check_service(&self, before: &PlannerModel, desired: &DesiredSide) {
        let Some(current) = &desired.current else { return };
        let able = |model: &PlannerModel| {
            let able =
                |u: &&ObservedUnit| u.phase == UnitPhase::Serving && u.ready && u.is_web && !u.must_replace;
            model.units.iter().filter(able).count()
        };
        if current.desired_count("web") > 0 && able(before) > 0 {
            assert!(able(self) > 0, "the app was reachable and no longer is");
        }
    }

    fn apply_event(&mut self, what: &ModelEvent) {
        let count = self.units.len();
        let pick = |n: &usize| (count > 0).then(|| n % count.max(1));
        match what {
            ModelEvent::Round => drop(self.run_round()),
            ModelEvent::Ensured(n) => {
                if let Some(unit) = pick(n).map(|n| &mut self.units[n]).filter(|u| u.is_busy) {
                    unit.is_busy = false;
                    unit.is_provisioned = true;
                }
            }
            ModelEvent::Ready(n) => {
                if let Some(unit) = pick(n).map(|n| &mut self.units[n]).filter(|u| u.is_provisioned) {
                    unit.ready = true;
                    unit.must_replace = false;
                }
            }
            ModelEvent::Unhealthy(n) => {
                if let Some(n) = pick(n) {
                    self.units[n].ready = false;
                }
            }
            ModelEvent::Lost(n) => {
                if let Some(n) = pick(n) {
                    self.units[n].ready = false;
                    self.units[n].is_provisioned = false;
                }
            }
            ModelEvent::MustReplace(n) => {
                if let Some(n) = pick(n) {
                    self.units[n].ready = false;
                    self.units[n].must_replace = true;
                }
            }
            ModelEvent::Killed(n) => {
                if let Some(unit) = pick(n)
                    .map(|n| self.units[n].clone())
                    .filter(|u| u.phase.is_live())
                {
                    self.set_phase(&unit.id, UnitPhase::Draining);
                }
            }
            ModelEvent::Removed(n) => {
                let stopping = |u: &&mut ObservedUnit| u.phase == UnitPhase::Stopping && !u.is_busy;
                if let Some(unit) = pick(n).map(|n| &mut self.units[n]).filter(stopping) {
                    unit.is_provisioned = false;
                }
            }
            ModelEvent::Wait => {
                for unit in &mut self.units {
                    unit.phase_age += DRAIN;
                }
            }
            _ => self.apply_user_change(what),
        }
    }

    fn apply_user_change(&mut self, what: &ModelEvent) {
        match what {
            ModelEvent::Scale(p, n) => drop(self.counts.insert(PROCESSES[*p].to_owned(), *n)),
            ModelEvent::StartCandidate => {
                self.releases += 1;
                self.candidate = Some(self.releases);
            }
            ModelEvent::PromoteCandidate => {
                if let Some(candidate) = self.candidate.take() {
                    self.current = Some(candidate);
                }
            }
            ModelEvent::DiscardCandidate => self.candidate = None,
            ModelEvent::Stop => self.stopped = true,
            ModelEvent::Start => self.stopped = false,
            _ => unreachable!("the others are not changes of what is desired"),
        }
    }

    /// Lets every unit reach the state that was asked for.
    fn run_until_converged(&mut self) {
        for unit in &mut self.units {
            unit.phase_age += DRAIN;
            if unit.phase == UnitPhase::Stopping {
                unit.is_provisioned = false;
            } else if unit.is_busy || unit.is_provisioned {
                unit.is_provisioned = true;
                unit.ready = true;
                unit.must_replace = false;
            }
            unit.is_busy = false;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn invariants_hold_and_plans_converge_after_any_events(
        history in proptest::collection::vec(any_event(), 0..60),
    ) {
        let mut model = PlannerModel::new();
        for what in &history {
            model.apply_event(what);
        }
        let mut rounds = 0;
        while model.run_round() > 0 || model.units.iter().any(|u| u.is_busy || !u.ready || u.phase == UnitPhase::Draining) {
            model.run_until_converged();
            rounds += 1;
            prop_assert!(rounds < 15, "plans do not converge: {model:?}");
        }
        let desired = model.desired();
        for wanted in desired.current.iter().chain(&desired.candidate) {
            for process in PROCESSES {
                prop_assert_eq!(model.count_live(wanted.release, process), wanted.desired_count(process));
            }
        }
        let expected: usize = desired
            .current
            .iter()
            .chain(&desired.candidate)
            .map(|w| PROCESSES.iter().map(|p| w.desired_count(p)).sum::<usize>())
            .sum();
        prop_assert_eq!(model.units.len(), expected);
        for unit in &model.units {
            let phase = if Some(unit.release) == model.current { UnitPhase::Serving } else { UnitPhase::Starting };
            prop_assert_eq!(unit.phase, phase);
        }
    }
}

/// Returns a model whose current release runs and is ready.
fn converged_model() -> PlannerModel {
    let mut model = PlannerModel::new();
    while model.run_round() > 0 {
        model.run_until_converged();
    }
    model
}

#[test]
fn scaling_down_removes_youngest_unready_units_first() {
    let mut model = converged_model();
    model.counts.insert("worker".into(), 0);
    model.counts.insert("web".into(), 4);
    while model.run_round() > 0 {
        model.run_until_converged();
    }
    let ids: Vec<UnitId> = model.units.iter().map(|u| u.id.clone()).collect();
    model.units[1].ready = false;
    model.counts.insert("web".into(), 2);
    assert_eq!(
        model.plan(),
        [PlanStep::Drain(ids[1].clone()), PlanStep::Drain(ids[3].clone())]
    );
}

#[test]
fn rollout_switches_without_gap_and_removes_old_units_last() {
    let mut model = converged_model();
    model.candidate = Some(2);
    model.run_round();
    model.run_until_converged();
    assert_eq!(model.plan(), [], "ready candidate units wait for the switch");
    (model.current, model.candidate) = (Some(2), None);
    let steps = model.plan();
    assert_eq!(steps.len(), 4);
    assert!(steps.iter().all(|s| matches!(s, PlanStep::Serve(_))), "{steps:?}");
    model.run_round();
    let steps = model.plan();
    assert_eq!(
        steps.iter().filter(|s| matches!(s, PlanStep::Drain(_))).count(),
        2
    );
    // Workers get no requests, so they need not drain.
    assert_eq!(steps.iter().filter(|s| matches!(s, PlanStep::Stop(_))).count(), 2);
}

#[test]
fn units_of_discarded_candidate_stop_at_once() {
    let mut model = converged_model();
    model.candidate = Some(2);
    model.run_round();
    model.candidate = None;
    let steps = model.plan();
    assert_eq!(steps.len(), 4);
    assert!(steps.iter().all(|s| matches!(s, PlanStep::Stop(_))), "{steps:?}");
}

#[test]
fn units_of_another_host_are_counted_but_not_changed() {
    let mut model = converged_model();
    for unit in &mut model.units {
        unit.is_local = false;
        unit.ready = false;
        unit.is_provisioned = false;
    }
    model.stopped = true;
    assert_eq!(model.plan(), []);
    model.stopped = false;
    model.counts.insert("web".into(), 3);
    assert_eq!(model.plan().len(), 1, "one unit is started on this host");
}
