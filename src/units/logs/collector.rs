//! The log collector: reads log lines from the provisioners. The log of a unit that writes is read several
//! times a second, that of a silent unit ever more rarely, so that many silent units cost little.
//!
//! Lines of many units are written in one transaction. A failure of one app never affects the others: an app
//! whose log is locked by a poster is left out until the next read, and if a batch cannot be written, each
//! app is written separately.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt;

use crate::core::Core;
use crate::kernel::error::{Error, ErrorKind};
use crate::kernel::ids::AppId;
use crate::provisioners::{LogPosition, UnitId, UnitRef};
use crate::units::logs::batch::{Batch, LogRead};
use crate::units::logs::rates;
use crate::units::logs::store::{self, LogAdvance};
use crate::units::model::Unit;

/// Read interval of a unit that writes.
const TICK: Duration = Duration::from_millis(200);
/// Maximum read interval of a silent unit, while there are few units.
const MAX_INTERVAL: Duration = Duration::from_secs(2);
/// Maximum number of reads per second with many units.
const MAX_READS_PER_SECOND: u32 = 300;
/// Maximum number of lines per read.
const MAX_LINES: usize = 1000;
/// Maximum number of reads of the log of a unit that has ended.
const MAX_DRAIN_READS: usize = 100;
/// Maximum number of units per transaction.
const UNITS_PER_BATCH: usize = 64;
/// Maximum number of concurrent reads.
const MAX_CONCURRENT_READS: usize = 8;
/// Time limit for a provisioner to read a log.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// A unit whose log is collected.
#[derive(Clone, Debug)]
struct CollectedUnit {
    unit: UnitRef,
    app_id: AppId,
    process: String,
    interval: Duration,
    /// Time of the next read; a queue entry with another time is void.
    next_at: Instant,
}

/// The log collector of one host; see the module.
pub struct LogCollector {
    core: Core,
    state: Mutex<CollectorState>,
}

#[derive(Default)]
struct CollectorState {
    targets: HashMap<UnitId, CollectedUnit>,
    due: BinaryHeap<Reverse<(Instant, UnitId)>>,
    positions: HashMap<UnitId, i64>,
    /// Number of lines of each app since its log was last trimmed.
    written: HashMap<AppId, usize>,
    /// Apps whose lines could not be written, with the error: logged once.
    broken: HashMap<AppId, String>,
    max_interval: Duration,
}

/// What to do about an app whose log is locked by a poster.
#[derive(Clone, Copy, PartialEq, Eq)]
enum WhenBusy {
    Wait,
    LeaveOut,
}

/// Collects lines until the core stops.
pub(in crate::units) async fn run_collector(collector: Arc<LogCollector>) {
    let stop = collector.core.stop.clone();
    loop {
        tokio::select! {
            () = tokio::time::sleep(TICK) => {}
            () = stop.cancelled() => return,
        }
        for piece in collector.pop_due_units().chunks(UNITS_PER_BATCH) {
            if let Err(error) = collector.collect_units(piece, WhenBusy::LeaveOut).await {
                tracing::warn!(error = %error.report(), "cannot collect log lines");
                collector.lock_state().positions.clear();
            }
        }
    }
}

impl LogCollector {
    /// Creates a collector of nothing.
    pub fn new(core: Core) -> Self {
        Self {
            core,
            state: Mutex::default(),
        }
    }

    fn lock_state(&self) -> MutexGuard<'_, CollectorState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts to collect the log of a unit.
    pub(in crate::units) fn track_unit(&self, row: &Unit) {
        let state = self.lock_state();
        if state.targets.contains_key(&row.id) {
            return;
        }
        let unit = match UnitRef::for_app(row.app_id, &row.process, row.release, row.id.clone()) {
            Ok(unit) => unit,
            Err(error) => {
                tracing::warn!(unit = %row.id, error = %error.report(), "cannot collect the log of a unit");
                return;
            }
        };
        drop(state);
        self.track_output(row.app_id, &row.process, unit);
    }

    /// Starts to collect the output of a unit, as lines of this source.
    pub fn track_output(&self, app_id: AppId, source: &str, unit: UnitRef) {
        let (id, next) = (unit.unit.clone(), Instant::now());
        let mut state = self.lock_state();
        if state.targets.contains_key(&id) {
            return;
        }
        let target = CollectedUnit {
            unit,
            app_id,
            process: source.to_owned(),
            interval: TICK,
            next_at: next,
        };
        state.targets.insert(id.clone(), target);
        state.due.push(Reverse((next, id)));
    }

    /// Collects all that an ended unit has written, up to a number of reads.
    pub async fn drain_unit(&self, unit: &UnitId) {
        for _ in 0..MAX_DRAIN_READS {
            let before = self.lock_state().positions.get(unit).copied();
            self.collect_unit(unit).await;
            if before.is_some() && self.lock_state().positions.get(unit).copied() == before {
                return;
            }
        }
    }

    /// Stops collecting the log of a unit.
    pub fn drop_unit(&self, unit: &UnitId) {
        let mut state = self.lock_state();
        state.targets.remove(unit);
        state.positions.remove(unit);
    }

    /// Forgets all units.
    pub(in crate::units) fn clear_units(&self) {
        *self.lock_state() = CollectorState::default();
    }

    /// Sets the maximum read interval for this number of units.
    pub(in crate::units) fn set_max_interval(&self, units: usize) {
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        self.lock_state().max_interval =
            MAX_INTERVAL.max(Duration::from_secs(1) * (units / MAX_READS_PER_SECOND));
    }

    /// Collects what one unit has written so far.
    pub async fn collect_unit(&self, unit: &UnitId) {
        if let Err(error) = self
            .collect_units(std::slice::from_ref(unit), WhenBusy::Wait)
            .await
        {
            tracing::debug!(%unit, error = %error.report(), "cannot collect the last log lines of a unit");
            self.lock_state().positions.remove(unit);
        }
    }

    fn pop_due_units(&self) -> Vec<UnitId> {
        let mut state = self.lock_state();
        let now = Instant::now();
        let mut due = Vec::new();
        while let Some(Reverse((at, _))) = state.due.peek()
            && *at <= now
        {
            let Some(Reverse((at, unit))) = state.due.pop() else {
                break;
            };
            let longest = state.max_interval.max(TICK);
            let Some(target) = state.targets.get_mut(&unit).filter(|t| t.next_at == at) else {
                continue;
            };
            target.interval = (target.interval * 2).min(longest);
            target.next_at = now + target.interval;
            let next = target.next_at;
            due.push(unit.clone());
            state.due.push(Reverse((next, unit)));
        }
        due
    }

    /// Collects what units have written so far. Errors: the database is unavailable.
    async fn collect_units(&self, units: &[UnitId], when_busy: WhenBusy) -> Result<(), Error> {
        self.load_positions(units).await?;
        let reads = self.read_logs(units).await;
        if reads.is_empty() {
            return Ok(());
        }
        let lines = rates::limit_lines(&self.core.caller_limits.log_rates, &reads);
        let mut batch = Batch { reads, lines };
        match self.write_batch(&mut batch, when_busy).await {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::Unavailable => return Err(error),
            Err(error) => {
                tracing::debug!(error = %error.report(), "cannot write log lines of several apps in one transaction; trying each app");
            }
        }
        for (app, mut batch) in batch.split() {
            match self.write_batch(&mut batch, when_busy).await {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::Unavailable => return Err(error),
                Err(error) => self.mark_broken(app, &batch, &error),
            }
        }
        Ok(())
    }

    async fn read_logs(&self, units: &[UnitId]) -> Vec<LogRead> {
        let wanted: Vec<(UnitId, CollectedUnit, i64)> = {
            let state = self.lock_state();
            let find = |unit: &UnitId| {
                let target = state.targets.get(unit)?.clone();
                let from = state.positions.get(unit).copied()?;
                Some((unit.clone(), target, from))
            };
            units.iter().filter_map(find).collect()
        };
        futures_util::stream::iter(wanted)
            .map(|(unit, target, from)| self.read_log(unit, target, from))
            .buffer_unordered(MAX_CONCURRENT_READS)
            .filter_map(std::future::ready)
            .collect()
            .await
    }

    /// Writes a batch in one transaction; with `LeaveOut`, without the apps whose logs are locked.
    async fn write_batch(&self, batch: &mut Batch, when_busy: WhenBusy) -> Result<(), Error> {
        let mut apps = batch.apps();
        let mut tx = self.core.db.begin().await?;
        match when_busy {
            WhenBusy::Wait => store::lock_logs(&mut tx, &apps).await?,
            WhenBusy::LeaveOut => {
                apps = store::try_lock(&mut tx, &apps).await?;
                batch.retain_apps(&apps);
            }
        }
        if batch.reads.is_empty() {
            return Ok(());
        }
        let moves: Vec<LogAdvance> = batch
            .reads
            .iter()
            .map(|read| LogAdvance {
                unit: read.unit.to_string(),
                from: read.from,
                to: read.to,
            })
            .collect();
        if !store::advance_positions(&mut tx, &moves).await? {
            // Another process has collected them: read again from the current position.
            self.forget_positions(batch);
            return Ok(());
        }
        store::insert_lines(&mut tx, &batch.lines).await?;
        store::notify_new_lines(&mut tx, &apps).await?;
        tx.commit().await?;
        rates::charge_lines(&self.core.caller_limits.log_rates, &batch.lines);
        self.record_collected(&batch.reads);
        self.trim_logs(&apps).await;
        Ok(())
    }

    fn forget_positions(&self, batch: &Batch) {
        let mut state = self.lock_state();
        for read in &batch.reads {
            state.positions.remove(&read.unit);
        }
    }

    fn mark_broken(&self, app: AppId, batch: &Batch, error: &Error) {
        self.forget_positions(batch);
        let why = error.report().to_string();
        let mut state = self.lock_state();
        if state.broken.get(&app) != Some(&why) {
            tracing::error!(%app, error = why, "cannot write log lines of an app");
            state.broken.insert(app, why);
        }
    }

    async fn load_positions(&self, units: &[UnitId]) -> Result<(), Error> {
        let missing: Vec<String> = {
            let state = self.lock_state();
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
        let mut state = self.lock_state();
        for unit in missing {
            let position = found.get(&unit).copied().unwrap_or(0);
            if let Ok(unit) = UnitId::parse(&unit) {
                state.positions.insert(unit, position);
            }
        }
        Ok(())
    }

    /// Reads one log; returns `None` if there is nothing new.
    async fn read_log(&self, unit: UnitId, target: CollectedUnit, from: i64) -> Option<LogRead> {
        let position = LogPosition(u64::try_from(from).unwrap_or(0));
        for (_, runner) in self.core.provisioners.runners() {
            let read = runner.read_log(&target.unit, position, MAX_LINES);
            let Ok(Ok((lines, next))) = tokio::time::timeout(READ_TIMEOUT, read).await else {
                continue;
            };
            let to = i64::try_from(next.0).unwrap_or(i64::MAX);
            return (to != from || !lines.is_empty()).then_some(LogRead {
                unit,
                app_id: target.app_id,
                process: target.process,
                from,
                to,
                lines,
            });
        }
        None
    }

    fn record_collected(&self, reads: &[LogRead]) {
        let mut state = self.lock_state();
        let now = Instant::now();
        for read in reads {
            state.positions.insert(read.unit.clone(), read.to);
            *state.written.entry(read.app_id).or_default() += read.lines.len();
            state.broken.remove(&read.app_id);
            if let Some(target) = state.targets.get_mut(&read.unit) {
                target.interval = TICK / 2;
                let full = read.lines.len() == MAX_LINES;
                target.next_at = if full { now } else { now + TICK };
                let next = target.next_at;
                state.due.push(Reverse((next, read.unit.clone())));
            }
        }
    }

    async fn trim_logs(&self, apps: &[AppId]) {
        let keep = self.core.settings.apps.log_lines;
        let often = (keep / 10).max(100);
        let due: Vec<AppId> = {
            let mut state = self.lock_state();
            let mut is_due = |app: &&AppId| {
                let due = state.written.get(app).is_some_and(|written| *written >= often);
                if due {
                    state.written.remove(app);
                }
                due
            };
            apps.iter().filter(&mut is_due).copied().collect()
        };
        for app in due {
            // The lines are kept; the next trim removes more.
            if let Err(error) = store::trim_log(&self.core.db, app, keep).await {
                tracing::warn!(%app, %error, "cannot trim the log of an app");
            }
        }
    }
}
