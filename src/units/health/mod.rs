//! Health checks: whether a unit is ready. A unit is checked often until it is ready, and then at the
//! interval of its `tsuru.yaml`. Without a check there, a unit of the main process is ready once its port
//! accepts connections, a unit of any other process after one second of uptime; neither is checked again,
//! since the provisioner reports whether it runs.
//!
//! Checks of one app never wait for checks of another.
//!
//! A verdict is about one *incarnation* of a unit; after a restart the unit is checked from the start.

mod probe;

pub use probe::list_adjustments;

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use crate::core::Core;
use crate::kernel::fair_slots::{FairSlots, SlotLimits};
use crate::kernel::ids::AppId;
use crate::provisioners::{UnitId, UnitReport};
use crate::units::health::probe::{CheckKind, HealthCheck};
use crate::units::merge;
use crate::units::model::Unit;

/// Maximum number of concurrent checks of one release. A check is little more than a socket, so there is no
/// global limit that one app could exhaust: a unit has one check at a time, and each check has a timeout
/// (`probe::MAX_CHECK_TIMEOUT`).
const CHECKS_PER_RELEASE: usize = 16;
/// Check interval of a new unit.
const FAST_INTERVAL: Duration = Duration::from_millis(200);
/// Check interval of a unit that is not ready after `FAST_PERIOD`, or no longer ready.
const SLOW_INTERVAL: Duration = Duration::from_secs(2);
/// How long a new unit is checked at `FAST_INTERVAL`.
const FAST_PERIOD: Duration = Duration::from_secs(90);

/// One run of a unit, between two restarts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UnitIncarnation {
    started_at: Option<DateTime<Utc>>,
    restarts: i32,
    address: Option<SocketAddr>,
}

impl UnitIncarnation {
    pub(super) fn from_report(report: &UnitReport) -> Self {
        Self {
            started_at: merge::run_start(report),
            restarts: i32::try_from(report.restarts).unwrap_or(i32::MAX),
            address: report.address,
        }
    }

    fn from_unit(row: &Unit) -> Self {
        Self {
            started_at: row.observed.started_at,
            restarts: row.observed.restarts,
            address: row.observed.address,
        }
    }
}

/// The result of the checks of a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HealthVerdict {
    pub(super) ready: bool,
    /// Why it is not ready.
    pub(super) reason: String,
    /// The unit must be replaced.
    pub(super) must_replace: bool,
}

struct WatchedUnit {
    incarnation: UnitIncarnation,
    verdict: Option<HealthVerdict>,
    _task: Option<AbortOnDropHandle<()>>,
}

/// The health checker of one host; see the module.
#[derive(Clone)]
pub(super) struct HealthChecker(Arc<HealthCheckerInner>);

struct HealthCheckerInner {
    core: Core,
    wakeup: Arc<Notify>,
    units: Mutex<HashMap<UnitId, WatchedUnit>>,
    changed: Mutex<HashSet<UnitId>>,
    /// By release: hanging checks of the current release do not delay the candidate.
    slots: FairSlots<(AppId, i64)>,
    checks: moka::future::Cache<(AppId, i32, String), Arc<HealthCheck>>,
    http: Option<reqwest::Client>,
}

impl HealthChecker {
    pub(super) fn new(core: Core, wakeup: Arc<Notify>) -> Self {
        Self(Arc::new(HealthCheckerInner {
            core,
            wakeup,
            units: Mutex::default(),
            changed: Mutex::default(),
            slots: FairSlots::new(SlotLimits {
                total: usize::MAX,
                per_key: CHECKS_PER_RELEASE,
                waiting_per_key: usize::MAX,
            }),
            checks: moka::future::Cache::new(1000),
            http: probe::build_client(),
        }))
    }

    fn lock_units(&self) -> MutexGuard<'_, HashMap<UnitId, WatchedUnit>> {
        self.0.units.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts or stops the checks of a unit, as its row requires.
    pub(super) fn watch_unit(&self, row: Unit) {
        if row.observed.state != "started" || !row.phase.is_live() {
            self.lock_units().remove(&row.id);
            return;
        }
        let incarnation = UnitIncarnation::from_unit(&row);
        let mut units = self.lock_units();
        if units.get(&row.id).is_some_and(|w| w.incarnation == incarnation) {
            return;
        }
        let task = (!row.observed.ready || row.has_check).then(|| {
            let task = run_checks(Arc::downgrade(&self.0), row.clone(), incarnation.clone());
            AbortOnDropHandle::new(tokio::spawn(task))
        });
        let watched = WatchedUnit {
            incarnation,
            verdict: None,
            _task: task,
        };
        units.insert(row.id, watched);
    }

    pub(super) fn drop_unit(&self, unit: &UnitId) {
        self.lock_units().remove(unit);
    }

    /// Forgets all units.
    pub(super) fn clear_units(&self) {
        self.lock_units().clear();
    }

    /// Returns the verdict on this incarnation of the unit; `None` if there is none yet.
    pub(super) fn find_verdict(&self, unit: &UnitId, incarnation: &UnitIncarnation) -> Option<HealthVerdict> {
        let units = self.lock_units();
        let watched = units.get(unit).filter(|w| w.incarnation == *incarnation)?;
        watched.verdict.clone()
    }

    /// Returns true if there are new verdicts.
    pub(super) fn has_changed(&self) -> bool {
        let changed = self.0.changed.lock().unwrap_or_else(PoisonError::into_inner);
        !changed.is_empty()
    }

    /// Returns the units with new verdicts since the last call.
    pub(super) fn take_changed(&self) -> HashSet<UnitId> {
        std::mem::take(&mut *self.0.changed.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl HealthCheckerInner {
    fn record_verdict(&self, unit: &UnitId, incarnation: &UnitIncarnation, verdict: HealthVerdict) {
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
        self.wakeup.notify_one();
    }

    async fn find_check(&self, row: &Unit) -> Option<Arc<HealthCheck>> {
        let key = (row.app_id, row.version, row.process.clone());
        if let Some(check) = self.checks.get(&key).await {
            return Some(check);
        }
        match probe::load_check(&self.core.db, row).await {
            Ok(check) => {
                let check = Arc::new(check);
                self.checks.insert(key, Arc::clone(&check)).await;
                Some(check)
            }
            Err(error) => {
                tracing::warn!(unit = %row.id, error = %error.report(), "cannot read the health check of a unit");
                None
            }
        }
    }

    /// Runs one check. Errors: a message for users.
    async fn run_check(&self, check: &HealthCheck, row: &Unit, began: Instant) -> Result<(), String> {
        let _slot = match check.kind {
            // No connection is made.
            CheckKind::Uptime { .. } => None,
            _ => self.slots.acquire(&(row.app_id, row.release)).await.ok(),
        };
        let asked = probe::run_check(&self.core, self.http.as_ref(), check, row, began);
        match tokio::time::timeout(check.timeout, asked).await {
            Ok(result) => result,
            Err(_) => Err(format!(
                "its health check timed out after {} s",
                check.timeout.as_secs()
            )),
        }
    }
}

/// Runs the checks of one incarnation of one unit.
async fn run_checks(inner: std::sync::Weak<HealthCheckerInner>, row: Unit, incarnation: UnitIncarnation) {
    let began = Instant::now();
    let mut ready = row.observed.ready;
    let mut failures = 0;
    let mut delay = if ready { SLOW_INTERVAL } else { Duration::ZERO };
    loop {
        tokio::time::sleep(delay).await;
        let Some(inner) = inner.upgrade() else { return };
        let Some(check) = inner.find_check(&row).await else {
            delay = SLOW_INTERVAL;
            continue;
        };
        let asked = inner.run_check(&check, &row, began).await;
        let verdict = match asked {
            Ok(()) => {
                (ready, failures) = (true, 0);
                HealthVerdict {
                    ready,
                    reason: String::new(),
                    must_replace: false,
                }
            }
            Err(reason) => {
                failures += 1;
                let was = ready;
                ready = ready && failures < check.allowed_failures.max(1);
                HealthVerdict {
                    ready,
                    reason: if ready { String::new() } else { reason },
                    must_replace: was && !ready && check.force_restart,
                }
            }
        };
        inner.record_verdict(&row.id, &incarnation, verdict);
        delay = match (ready, &check.kind) {
            (true, CheckKind::Uptime { .. } | CheckKind::TcpConnect { .. }) => return,
            (true, _) => check.interval,
            (false, _) if began.elapsed() < FAST_PERIOD && !row.observed.ready => FAST_INTERVAL,
            (false, _) => SLOW_INTERVAL,
        };
    }
}
