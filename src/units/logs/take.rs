//! Taking lines over from provisioners. A unit that writes is looked at several times a second, one that
//! is silent ever more rarely, so that many silent units cost little.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt;

use crate::core::Core;
use crate::kernel::ids::AppId;
use crate::kernel::problem::Problem;
use crate::provisioners::{LogLine, LogPosition, UnitId};
use crate::units::logs::store::{self, Advance};
use crate::units::logs::{MAX_MESSAGE, NewLine, PLATFORM, clean};
use crate::units::model::Row;

/// How often units are looked at while they write.
const TICK: Duration = Duration::from_millis(200);
/// The longest a silent unit waits, as long as there are few.
const LONGEST: Duration = Duration::from_secs(2);
/// Looks a second, at most, when there are many units.
const LOOKS: u32 = 300;
/// Lines of one unit in one look.
const MAX_LINES: usize = 1000;
/// Units in one transaction.
const PIECE: usize = 64;
/// Logs read at once.
const READERS: usize = 8;
/// For a provisioner to read a log.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// Lines a second that an app may write; twice as many in a burst.
const RATE: f64 = 1000.0;

/// A unit whose log is taken over.
#[derive(Clone, Debug)]
struct Target {
    app_id: AppId,
    process: String,
    rest: Duration,
    /// When it is looked at next; an entry in the queue with another time is void.
    next: Instant,
}

/// See the module.
pub(in crate::units) struct Taker {
    core: Core,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    targets: HashMap<UnitId, Target>,
    due: BinaryHeap<Reverse<(Instant, UnitId)>>,
    positions: HashMap<UnitId, i64>,
    flows: HashMap<AppId, Flow>,
    longest: Duration,
}

/// How much an app may still write, and what it has written since its log was last trimmed.
struct Flow {
    tokens: f64,
    at: Instant,
    written: usize,
}

/// What a look has brought.
struct Look {
    unit: UnitId,
    target: Target,
    from: i64,
    to: i64,
    lines: Vec<LogLine>,
}

/// Takes lines over until the core stops.
pub(in crate::units) async fn take(taker: Arc<Taker>) {
    let stop = taker.core.stop.clone();
    loop {
        tokio::select! {
            () = tokio::time::sleep(TICK) => {}
            () = stop.cancelled() => return,
        }
        for piece in taker.due().chunks(PIECE) {
            if let Err(problem) = taker.take(piece).await {
                tracing::warn!(problem = %problem.chain(), "log lines could not be taken over");
                taker.state().positions.clear();
            }
        }
    }
}

impl Taker {
    pub(in crate::units) fn new(core: Core) -> Self {
        Self {
            core,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at a unit from now on.
    pub(in crate::units) fn set(&self, row: &Row) {
        let mut state = self.state();
        if state.targets.contains_key(&row.id) {
            return;
        }
        let next = Instant::now();
        let target = Target {
            app_id: row.app_id,
            process: row.process.clone(),
            rest: TICK,
            next,
        };
        state.targets.insert(row.id.clone(), target);
        state.due.push(Reverse((next, row.id.clone())));
    }

    /// Looks at a unit no more.
    pub(in crate::units) fn drop_unit(&self, unit: &UnitId) {
        let mut state = self.state();
        state.targets.remove(unit);
        state.positions.remove(unit);
    }

    /// Forgets all units.
    pub(in crate::units) fn forget(&self) {
        *self.state() = State::default();
    }

    /// Sets how rarely silent units are looked at when there are so many.
    pub(in crate::units) fn spread(&self, units: usize) {
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        self.state().longest = LONGEST.max(Duration::from_secs(1) * (units / LOOKS));
    }

    /// Takes over what one unit has written until now.
    pub(in crate::units) async fn take_one(&self, unit: &UnitId) {
        if let Err(problem) = self.take(std::slice::from_ref(unit)).await {
            tracing::debug!(%unit, problem = %problem.chain(), "the last lines of a unit were not taken over");
            self.state().positions.remove(unit);
        }
    }

    fn due(&self) -> Vec<UnitId> {
        let mut state = self.state();
        let now = Instant::now();
        let mut due = Vec::new();
        while let Some(Reverse((at, _))) = state.due.peek()
            && *at <= now
        {
            let Some(Reverse((at, unit))) = state.due.pop() else {
                break;
            };
            let longest = state.longest.max(TICK);
            let Some(target) = state.targets.get_mut(&unit).filter(|t| t.next == at) else {
                continue;
            };
            target.rest = (target.rest * 2).min(longest);
            target.next = now + target.rest;
            let next = target.next;
            due.push(unit.clone());
            state.due.push(Reverse((next, unit)));
        }
        due
    }

    async fn take(&self, units: &[UnitId]) -> Result<(), Problem> {
        self.load_positions(units).await?;
        let wanted: Vec<(UnitId, Target, i64)> = {
            let state = self.state();
            let find = |unit: &UnitId| {
                let target = state.targets.get(unit)?.clone();
                let from = state.positions.get(unit).copied()?;
                Some((unit.clone(), target, from))
            };
            units.iter().filter_map(find).collect()
        };
        let looks: Vec<Look> = futures_util::stream::iter(wanted)
            .map(|(unit, target, from)| self.look(unit, target, from))
            .buffer_unordered(READERS)
            .filter_map(std::future::ready)
            .collect()
            .await;
        if looks.is_empty() {
            return Ok(());
        }
        let lines = self.admit(&looks);
        let moves: Vec<Advance> = looks
            .iter()
            .map(|look| Advance {
                unit: look.unit.to_string(),
                from: look.from,
                to: look.to,
            })
            .collect();
        let apps: HashSet<AppId> = lines.iter().map(|line| line.app_id).collect();
        let apps: Vec<AppId> = apps.into_iter().collect();
        let mut tx = self.core.db.begin().await?;
        store::lock(&mut tx, &apps).await?;
        if !store::advance(&mut tx, &moves).await? {
            // Somebody else has taken them over: read again from where they are.
            let mut state = self.state();
            for look in &looks {
                state.positions.remove(&look.unit);
            }
            return Ok(());
        }
        store::insert(&mut tx, &lines).await?;
        store::notify(&mut tx, &apps).await?;
        tx.commit().await?;
        self.took(&looks);
        self.trim(&apps).await
    }

    async fn load_positions(&self, units: &[UnitId]) -> Result<(), Problem> {
        let missing: Vec<String> = {
            let state = self.state();
            let missing = units.iter().filter(|u| !state.positions.contains_key(*u));
            missing.map(ToString::to_string).collect()
        };
        if missing.is_empty() {
            return Ok(());
        }
        let found: HashMap<String, i64> = store::list_positions(&self.core.db, &missing)
            .await?
            .into_iter()
            .collect();
        let mut state = self.state();
        for unit in missing {
            let position = found.get(&unit).copied().unwrap_or(0);
            if let Ok(unit) = UnitId::parse(&unit) {
                state.positions.insert(unit, position);
            }
        }
        Ok(())
    }

    /// Reads one log; `None` when there is nothing new.
    async fn look(&self, unit: UnitId, target: Target, from: i64) -> Option<Look> {
        let place = LogPosition(u64::try_from(from).unwrap_or(0));
        for provisioner in self.core.provisioners.values() {
            let read = provisioner.read_log(&unit, place, MAX_LINES);
            let Ok(Ok((lines, next))) = tokio::time::timeout(READ_TIMEOUT, read).await else {
                continue;
            };
            let to = i64::try_from(next.0).unwrap_or(i64::MAX);
            return (to != from || !lines.is_empty()).then_some(Look {
                unit,
                target,
                from,
                to,
                lines,
            });
        }
        None
    }

    /// The lines that may be kept.
    fn admit(&self, looks: &[Look]) -> Vec<NewLine> {
        let mut state = self.state();
        let now = Instant::now();
        let mut kept = Vec::new();
        let mut dropped: HashMap<AppId, usize> = HashMap::new();
        for look in looks {
            let app_id = look.target.app_id;
            let flow = state.flows.entry(app_id).or_insert_with(|| Flow {
                tokens: 2.0 * RATE,
                at: now,
                written: 0,
            });
            let passed = now.saturating_duration_since(flow.at).as_secs_f64();
            flow.tokens = (flow.tokens + passed * RATE).min(2.0 * RATE);
            flow.at = now;
            for line in &look.lines {
                if flow.tokens < 1.0 {
                    *dropped.entry(app_id).or_default() += 1;
                    continue;
                }
                flow.tokens -= 1.0;
                kept.push(NewLine {
                    app_id,
                    at: Some(line.at),
                    source: look.target.process.clone(),
                    unit: look.unit.to_string(),
                    message: clean(&line.message, MAX_MESSAGE),
                });
            }
        }
        for (app_id, count) in dropped {
            kept.push(NewLine {
                app_id,
                at: None,
                source: PLATFORM.into(),
                unit: String::new(),
                message: format!("{count} lines were dropped: an app may write {RATE} lines a second"),
            });
        }
        kept
    }

    fn took(&self, looks: &[Look]) {
        let mut state = self.state();
        let now = Instant::now();
        for look in looks {
            state.positions.insert(look.unit.clone(), look.to);
            if let Some(flow) = state.flows.get_mut(&look.target.app_id) {
                flow.written += look.lines.len();
            }
            if let Some(target) = state.targets.get_mut(&look.unit) {
                target.rest = TICK / 2;
                let full = look.lines.len() == MAX_LINES;
                target.next = if full { now } else { now + TICK };
                let next = target.next;
                state.due.push(Reverse((next, look.unit.clone())));
            }
        }
    }

    async fn trim(&self, apps: &[AppId]) -> Result<(), Problem> {
        let keep = self.core.settings.apps.log_lines;
        let often = (keep / 10).max(100);
        let due: Vec<AppId> = {
            let mut state = self.state();
            let mut is_due = |app: &&AppId| {
                let Some(flow) = state.flows.get_mut(*app) else {
                    return false;
                };
                let due = flow.written >= often;
                flow.written = if due { 0 } else { flow.written };
                due
            };
            apps.iter().filter(&mut is_due).copied().collect()
        };
        for app in due {
            store::trim(&self.core.db, app, keep).await?;
        }
        Ok(())
    }
}
