//! Worlds of one app, in which anything may happen between two plans.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const DRAIN: Duration = Duration::from_secs(3);
const PROCESSES: [&str; 2] = ["web", "worker"];

#[derive(Clone, Debug)]
struct World {
    current: Option<i64>,
    candidate: Option<i64>,
    counts: BTreeMap<String, u32>,
    stopped: bool,
    units: Vec<Seen>,
    releases: i64,
    ids: u32,
}

#[derive(Clone, Debug)]
enum Happens {
    Round,
    Ensured(usize),
    Ready(usize),
    Sick(usize),
    Lost(usize),
    Condemned(usize),
    Killed(usize),
    Removed(usize),
    Scale(usize, u32),
    Try,
    Adopt,
    Drop,
    Stop,
    Start,
    Wait,
}

fn happens() -> impl Strategy<Value = Happens> {
    let unit = 0..20_usize;
    prop_oneof![
        8 => Just(Happens::Round),
        4 => unit.clone().prop_map(Happens::Ensured),
        6 => unit.clone().prop_map(Happens::Ready),
        2 => unit.clone().prop_map(Happens::Sick),
        1 => unit.clone().prop_map(Happens::Lost),
        1 => unit.clone().prop_map(Happens::Condemned),
        1 => unit.clone().prop_map(Happens::Killed),
        3 => unit.prop_map(Happens::Removed),
        2 => (0..2_usize, 0..5_u32).prop_map(|(p, n)| Happens::Scale(p, n)),
        2 => Just(Happens::Try),
        2 => Just(Happens::Adopt),
        1 => Just(Happens::Drop),
        1 => Just(Happens::Stop),
        1 => Just(Happens::Start),
        3 => Just(Happens::Wait),
    ]
}

impl World {
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

    fn wanted(&self, release: i64) -> Wanted {
        let units = self.counts.iter().map(|(process, n)| {
            let n = if self.stopped { 0 } else { *n };
            (process.clone(), n)
        });
        Wanted {
            release,
            here: true,
            units: units.collect(),
        }
    }

    fn desired(&self) -> Desired {
        Desired {
            current: self.current.map(|r| self.wanted(r)),
            candidate: self.candidate.map(|r| self.wanted(r)),
        }
    }

    fn plan(&self) -> Vec<Step> {
        plan(&self.desired(), &self.units, DRAIN)
    }

    fn find(&self, id: &UnitId) -> usize {
        self.units
            .iter()
            .position(|u| u.id == *id)
            .expect("steps name units that there are")
    }

    fn live(&self, release: i64, process: &str) -> usize {
        let of = |u: &&Seen| u.phase.is_live() && u.release == release && u.process == process;
        self.units.iter().filter(of).count()
    }

    fn able(&self, release: i64, process: &str) -> usize {
        let of =
            |u: &&Seen| u.phase == Phase::Serving && u.ready && u.release == release && u.process == process;
        self.units.iter().filter(of).count()
    }

    fn enter(&mut self, id: &UnitId, phase: Phase) -> Phase {
        let at = self.find(id);
        let was = std::mem::replace(&mut self.units[at].phase, phase);
        if was != phase {
            self.units[at].phase_age = Duration::ZERO;
        }
        was
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Start { process, release } => {
                self.ids += 1;
                self.units.push(Seen {
                    id: UnitId::parse(&format!("u{}", self.ids)).unwrap(),
                    release: *release,
                    process: process.clone(),
                    phase: Phase::Starting,
                    here: true,
                    known: false,
                    busy: true,
                    ready: false,
                    routed: process == "web",
                    condemned: false,
                    phase_age: Duration::ZERO,
                });
            }
            Step::Ensure(id) => {
                let at = self.find(id);
                assert!(!self.units[at].known && !self.units[at].busy);
                self.units[at].busy = true;
            }
            Step::Serve(id) => assert_eq!(self.enter(id, Phase::Serving), Phase::Starting),
            Step::Drain(id) => assert_eq!(self.enter(id, Phase::Draining), Phase::Serving),
            Step::Stop(id) => {
                let unit = self.units[self.find(id)].clone();
                let idle = unit.phase != Phase::Serving || !unit.routed;
                assert!(idle, "a unit that gets requests drains first");
                let drained = unit.phase != Phase::Draining || unit.phase_age >= DRAIN;
                assert!(drained || !unit.routed || !unit.known, "stopped too soon");
                self.enter(id, Phase::Stopping);
            }
            Step::Forget(id) => {
                let at = self.find(id);
                let unit = self.units.remove(at);
                assert!(unit.phase == Phase::Stopping && !unit.known && !unit.busy);
            }
        }
    }

    /// One round, and all that must be true of it.
    fn round(&mut self) -> usize {
        let before = self.clone();
        let steps = self.plan();
        for step in &steps {
            self.take(step);
        }
        let desired = self.desired();
        for wanted in desired.current.iter().chain(&desired.candidate) {
            for process in PROCESSES {
                assert!(
                    self.live(wanted.release, process) <= wanted.of(process),
                    "more {process} of release {} than asked: {steps:?}",
                    wanted.release
                );
            }
        }
        if self.stopped {
            assert!(
                !self.units.iter().any(|u| u.phase.is_live()),
                "a stopped app gets none"
            );
        }
        before.check_leaving(&desired, &steps);
        self.check_service(&before, &desired);
        steps.len()
    }

    fn check_leaving(&self, desired: &Desired, steps: &[Step]) {
        let current = desired.current.as_ref();
        for step in steps {
            let (Step::Drain(id) | Step::Stop(id) | Step::Serve(id)) = step else {
                continue;
            };
            let unit = &self.units[self.find(id)];
            let is_current = current.is_some_and(|c| c.release == unit.release);
            if matches!(step, Step::Serve(_)) {
                assert!(
                    is_current && unit.ready,
                    "only ready units of the current release serve"
                );
                continue;
            }
            if unit.phase != Phase::Serving || unit.condemned || !unit.ready {
                continue;
            }
            let Some(current) = current else { continue };
            if is_current {
                let live = self.live(current.release, &unit.process);
                assert!(live > current.of(&unit.process), "a unit that is wanted leaves");
            } else {
                let stands = |p: &str| self.able(current.release, p) >= current.of(p);
                let stands = match current.of(&unit.process) {
                    0 => PROCESSES.into_iter().all(stands),
                    _ => stands(&unit.process),
                };
                assert!(stands, "an old unit leaves before the new ones can do its work");
            }
        }
    }

    /// Who can serve before a round can serve after it.
    fn check_service(&self, before: &World, desired: &Desired) {
        let Some(current) = &desired.current else { return };
        let able = |world: &World| {
            let able = |u: &&Seen| u.phase == Phase::Serving && u.ready && u.routed && !u.condemned;
            world.units.iter().filter(able).count()
        };
        if current.of("web") > 0 && able(before) > 0 {
            assert!(able(self) > 0, "the app was reachable and is not any more");
        }
    }

    fn happen(&mut self, what: &Happens) {
        let count = self.units.len();
        let pick = |n: &usize| (count > 0).then(|| n % count.max(1));
        match what {
            Happens::Round => drop(self.round()),
            Happens::Ensured(n) => {
                if let Some(unit) = pick(n).map(|n| &mut self.units[n]).filter(|u| u.busy) {
                    unit.busy = false;
                    unit.known = true;
                }
            }
            Happens::Ready(n) => {
                if let Some(unit) = pick(n).map(|n| &mut self.units[n]).filter(|u| u.known) {
                    unit.ready = true;
                    unit.condemned = false;
                }
            }
            Happens::Sick(n) => {
                if let Some(n) = pick(n) {
                    self.units[n].ready = false;
                }
            }
            Happens::Lost(n) => {
                if let Some(n) = pick(n) {
                    self.units[n].ready = false;
                    self.units[n].known = false;
                }
            }
            Happens::Condemned(n) => {
                if let Some(n) = pick(n) {
                    self.units[n].ready = false;
                    self.units[n].condemned = true;
                }
            }
            Happens::Killed(n) => {
                if let Some(unit) = pick(n)
                    .map(|n| self.units[n].clone())
                    .filter(|u| u.phase.is_live())
                {
                    self.enter(&unit.id, Phase::Draining);
                }
            }
            Happens::Removed(n) => {
                let stopping = |u: &&mut Seen| u.phase == Phase::Stopping && !u.busy;
                if let Some(unit) = pick(n).map(|n| &mut self.units[n]).filter(stopping) {
                    unit.known = false;
                }
            }
            Happens::Wait => {
                for unit in &mut self.units {
                    unit.phase_age += DRAIN;
                }
            }
            _ => self.change(what),
        }
    }

    fn change(&mut self, what: &Happens) {
        match what {
            Happens::Scale(p, n) => drop(self.counts.insert(PROCESSES[*p].to_owned(), *n)),
            Happens::Try => {
                self.releases += 1;
                self.candidate = Some(self.releases);
            }
            Happens::Adopt => {
                if let Some(candidate) = self.candidate.take() {
                    self.current = Some(candidate);
                }
            }
            Happens::Drop => self.candidate = None,
            Happens::Stop => self.stopped = true,
            Happens::Start => self.stopped = false,
            _ => unreachable!("the others are not changes of what is desired"),
        }
    }

    /// Everybody does what is expected of them.
    fn all_goes_well(&mut self) {
        for unit in &mut self.units {
            unit.phase_age += DRAIN;
            if unit.phase == Phase::Stopping {
                unit.known = false;
            } else if unit.busy || unit.known {
                unit.known = true;
                unit.ready = true;
                unit.condemned = false;
            }
            unit.busy = false;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_promises_hold_and_the_world_settles(
        history in proptest::collection::vec(happens(), 0..60),
    ) {
        let mut world = World::new();
        for what in &history {
            world.happen(what);
        }
        let mut rounds = 0;
        while world.round() > 0 || world.units.iter().any(|u| u.busy || !u.ready || u.phase == Phase::Draining) {
            world.all_goes_well();
            rounds += 1;
            prop_assert!(rounds < 15, "it does not settle: {world:?}");
        }
        let desired = world.desired();
        for wanted in desired.current.iter().chain(&desired.candidate) {
            for process in PROCESSES {
                prop_assert_eq!(world.live(wanted.release, process), wanted.of(process));
            }
        }
        let expected: usize = desired
            .current
            .iter()
            .chain(&desired.candidate)
            .map(|w| PROCESSES.iter().map(|p| w.of(p)).sum::<usize>())
            .sum();
        prop_assert_eq!(world.units.len(), expected);
        for unit in &world.units {
            let phase = if Some(unit.release) == world.current { Phase::Serving } else { Phase::Starting };
            prop_assert_eq!(unit.phase, phase);
        }
    }
}

/// A world whose current release runs and is ready.
fn settled() -> World {
    let mut world = World::new();
    while world.round() > 0 {
        world.all_goes_well();
    }
    world
}

#[test]
fn scaling_down_takes_the_youngest_that_is_not_ready_then_the_youngest() {
    let mut world = settled();
    world.counts.insert("worker".into(), 0);
    world.counts.insert("web".into(), 4);
    while world.round() > 0 {
        world.all_goes_well();
    }
    let ids: Vec<UnitId> = world.units.iter().map(|u| u.id.clone()).collect();
    world.units[1].ready = false;
    world.counts.insert("web".into(), 2);
    assert_eq!(
        world.plan(),
        [Step::Drain(ids[1].clone()), Step::Drain(ids[3].clone())]
    );
}

#[test]
fn a_rollout_switches_without_a_gap_and_takes_the_old_ones_last() {
    let mut world = settled();
    world.candidate = Some(2);
    world.round();
    world.all_goes_well();
    assert_eq!(world.plan(), [], "ready candidates wait for the switch");
    (world.current, world.candidate) = (Some(2), None);
    let steps = world.plan();
    assert_eq!(steps.len(), 4);
    assert!(steps.iter().all(|s| matches!(s, Step::Serve(_))), "{steps:?}");
    world.round();
    let steps = world.plan();
    assert_eq!(steps.iter().filter(|s| matches!(s, Step::Drain(_))).count(), 2);
    // Workers get no requests, so they need not drain.
    assert_eq!(steps.iter().filter(|s| matches!(s, Step::Stop(_))).count(), 2);
}

#[test]
fn a_dropped_candidate_goes_at_once() {
    let mut world = settled();
    world.candidate = Some(2);
    world.round();
    world.candidate = None;
    let steps = world.plan();
    assert_eq!(steps.len(), 4);
    assert!(steps.iter().all(|s| matches!(s, Step::Stop(_))), "{steps:?}");
}

#[test]
fn units_of_another_host_count_but_are_left_to_it() {
    let mut world = settled();
    for unit in &mut world.units {
        unit.here = false;
        unit.ready = false;
        unit.known = false;
    }
    world.stopped = true;
    assert_eq!(world.plan(), []);
    world.stopped = false;
    world.counts.insert("web".into(), 3);
    assert_eq!(world.plan().len(), 1, "one of ours is started");
}
