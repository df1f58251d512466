//! Health: whether a unit can do its work. A unit is checked often until it is ready, and then as often
//! as its `tsuru.yaml` says; without a check in it, a unit of the main process is ready once its port
//! takes connections, any other once it has run for a second, and is checked no more: that it runs is
//! the provisioner's to say.
//!
//! Verdicts are about one *incarnation* of a unit; started anew, it has to prove itself anew.

mod probe;

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, Semaphore};
use tokio_util::task::AbortOnDropHandle;

use crate::core::Core;
use crate::kernel::ids::AppId;
use crate::provisioners::{UnitId, UnitReport};
use crate::units::health::probe::{Check, Kind};
use crate::units::model::Row;

/// Checks at once.
const ROOM: usize = 64;
/// Between checks of a new unit.
const QUICK: Duration = Duration::from_millis(200);
/// Between checks of a unit that has not become ready for long, or is not any more.
const SLOW: Duration = Duration::from_secs(2);
/// How long a new unit is checked quickly.
const PATIENCE: Duration = Duration::from_secs(90);

/// One life of a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Incarnation {
    pid: Option<i32>,
    restarts: i32,
    address: Option<SocketAddr>,
}

impl Incarnation {
    pub(super) fn of_report(report: &UnitReport) -> Self {
        Self {
            pid: report.pid.and_then(|p| p.try_into().ok()),
            restarts: i32::try_from(report.restarts).unwrap_or(i32::MAX),
            address: report.address,
        }
    }

    fn of_row(row: &Row) -> Self {
        Self {
            pid: row.seen.pid,
            restarts: row.seen.restarts,
            address: row.seen.address,
        }
    }
}

/// What the checks say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) ready: bool,
    /// Why it is not.
    pub(super) reason: String,
    /// To be replaced.
    pub(super) condemned: bool,
}

struct Watched {
    incarnation: Incarnation,
    verdict: Option<Verdict>,
    _task: Option<AbortOnDropHandle<()>>,
}

/// See the module.
#[derive(Clone)]
pub(super) struct Health(Arc<Inner>);

struct Inner {
    core: Core,
    nudge: Arc<Notify>,
    units: Mutex<HashMap<UnitId, Watched>>,
    changed: Mutex<HashSet<UnitId>>,
    room: Semaphore,
    checks: moka::future::Cache<(AppId, i32, String), Arc<Check>>,
    http: Option<reqwest::Client>,
}

impl Health {
    pub(super) fn new(core: Core, nudge: Arc<Notify>) -> Self {
        Self(Arc::new(Inner {
            core,
            nudge,
            units: Mutex::default(),
            changed: Mutex::default(),
            room: Semaphore::new(ROOM),
            checks: moka::future::Cache::new(1000),
            http: probe::client(),
        }))
    }

    fn units(&self) -> MutexGuard<'_, HashMap<UnitId, Watched>> {
        self.0.units.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks after a unit from now on, or no more, as its row says.
    pub(super) fn set(&self, row: Row) {
        if row.seen.state != "started" || !row.phase.is_live() {
            self.units().remove(&row.id);
            return;
        }
        let incarnation = Incarnation::of_row(&row);
        let mut units = self.units();
        if units.get(&row.id).is_some_and(|w| w.incarnation == incarnation) {
            return;
        }
        let task = (!row.seen.ready || row.checked).then(|| {
            let task = watch(Arc::downgrade(&self.0), row.clone(), incarnation.clone());
            AbortOnDropHandle::new(tokio::spawn(task))
        });
        let watched = Watched {
            incarnation,
            verdict: None,
            _task: task,
        };
        units.insert(row.id, watched);
    }

    pub(super) fn drop_unit(&self, unit: &UnitId) {
        self.units().remove(unit);
    }

    /// Forgets all units.
    pub(super) fn forget(&self) {
        self.units().clear();
    }

    /// What the checks say of this life of the unit; `None` if nothing yet.
    pub(super) fn verdict(&self, unit: &UnitId, incarnation: &Incarnation) -> Option<Verdict> {
        let units = self.units();
        let watched = units.get(unit).filter(|w| w.incarnation == *incarnation)?;
        watched.verdict.clone()
    }

    /// True if there are new verdicts.
    pub(super) fn has_changed(&self) -> bool {
        let changed = self.0.changed.lock().unwrap_or_else(PoisonError::into_inner);
        !changed.is_empty()
    }

    /// The units with new verdicts since this was last asked.
    pub(super) fn changed(&self) -> HashSet<UnitId> {
        std::mem::take(&mut *self.0.changed.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Inner {
    fn say(&self, unit: &UnitId, incarnation: &Incarnation, verdict: Verdict) {
        {
            let mut units = self.units.lock().unwrap_or_else(PoisonError::into_inner);
            match units.get_mut(unit) {
                Some(watched) if watched.incarnation == *incarnation => {
                    if watched.verdict.as_ref() == Some(&verdict) {
                        return;
                    }
                    watched.verdict = Some(verdict);
                }
                _ => return,
            }
        }
        let mut changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
        changed.insert(unit.clone());
        self.nudge.notify_one();
    }

    async fn check(&self, row: &Row) -> Option<Arc<Check>> {
        let key = (row.app_id, row.version, row.process.clone());
        if let Some(check) = self.checks.get(&key).await {
            return Some(check);
        }
        match probe::check_of(&self.core.db, row).await {
            Ok(check) => {
                let check = Arc::new(check);
                self.checks.insert(key, Arc::clone(&check)).await;
                Some(check)
            }
            Err(problem) => {
                tracing::warn!(unit = %row.id, problem = %problem.chain(), "its check cannot be read");
                None
            }
        }
    }

    /// One check; the text of a failure is for people.
    async fn ask(&self, check: &Check, row: &Row, began: Instant) -> Result<(), String> {
        let _permit = self.room.acquire().await;
        let asked = probe::ask(&self.core, self.http.as_ref(), check, row, began);
        match tokio::time::timeout(check.timeout, asked).await {
            Ok(result) => result,
            Err(_) => Err(format!(
                "its health check took longer than {} s",
                check.timeout.as_secs()
            )),
        }
    }
}

/// Looks after one life of one unit.
async fn watch(inner: std::sync::Weak<Inner>, row: Row, incarnation: Incarnation) {
    let began = Instant::now();
    let mut ready = row.seen.ready;
    let mut failures = 0;
    let mut rest = if ready { SLOW } else { Duration::ZERO };
    loop {
        tokio::time::sleep(rest).await;
        let Some(inner) = inner.upgrade() else { return };
        let Some(check) = inner.check(&row).await else {
            rest = SLOW;
            continue;
        };
        let asked = inner.ask(&check, &row, began).await;
        let verdict = match asked {
            Ok(()) => {
                (ready, failures) = (true, 0);
                Verdict {
                    ready,
                    reason: String::new(),
                    condemned: false,
                }
            }
            Err(reason) => {
                failures += 1;
                let was = ready;
                ready = ready && failures < check.allowed_failures.max(1);
                Verdict {
                    ready,
                    reason: if ready { String::new() } else { reason },
                    condemned: was && !ready && check.force_restart,
                }
            }
        };
        inner.say(&row.id, &incarnation, verdict);
        rest = match (ready, &check.kind) {
            (true, Kind::Runs { .. } | Kind::Listens { .. }) => return,
            (true, _) => check.interval,
            (false, _) if began.elapsed() < PATIENCE && !row.seen.ready => QUICK,
            (false, _) => SLOW,
        };
    }
}
