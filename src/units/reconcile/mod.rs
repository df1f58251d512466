//! The reconciler: reads the desired and the observed state, plans, and applies the steps.
//!
//! Its copy of this host's rows serves only to detect changes; every decision is based on rows read in the
//! same round. All its writes use the one connection that holds the host's lock, so a process that has lost
//! the lock cannot write.
//!
//! An app that cannot be read, planned or written never fails the round: its error is logged once, and the
//! app is retried with every full scan.

mod apply;
mod observe;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use sqlx::PgConnection;
use tokio::sync::Notify;

use crate::core::Core;
use crate::db::notices::NoticeChannel;
use crate::kernel::error::Error;
use crate::kernel::ids::AppId;
use crate::provisioners::UnitId;
use crate::sagas::{ReconcileReport, Reconciler};
use crate::units::health::HealthChecker;
use crate::units::logs::{self, LogCollector};
use crate::units::model::Unit;
use crate::units::store;
use crate::units::tasks::UnitTasks;

/// Interval of renewing the host's row.
const RENEW_INTERVAL: Duration = Duration::from_secs(5);
/// Interval of querying provisioners that report no change.
const OBSERVE_INTERVAL: Duration = Duration::from_secs(5);
/// Time limit of one round. A round waits only for the database and for calls with their own time limits.
const ROUND_TIMEOUT: Duration = Duration::from_secs(60);
/// Interval of full scans.
const FULL_SCAN_INTERVAL: Duration = Duration::from_secs(15);
/// A full scan that takes longer than this is followed by a pause.
const CHEAP_SCAN: Duration = Duration::from_millis(20);
/// Maximum pause: a scan that was slow because the database was unavailable is not expensive.
const MAX_SCAN_PAUSE: Duration = Duration::from_secs(10);

/// Time settings of a reconciler.
#[derive(Clone, Copy, Debug)]
pub struct ReconcileTiming {
    /// A unit without a row is removed after it has been observed for this long.
    pub unmanaged_after: Duration,
}

impl Default for ReconcileTiming {
    fn default() -> Self {
        Self {
            unmanaged_after: Duration::from_secs(30),
        }
    }
}

/// The reconciler of a process; see the module. A host may have any number of processes.
pub struct UnitReconciler {
    core: Core,
    timing: ReconcileTiming,
    tasks: UnitTasks,
    health: HealthChecker,
    logs: Arc<LogCollector>,
    wakeup: Arc<Notify>,
    changed: Mutex<ChangedApps>,
    state: tokio::sync::Mutex<ReconcilerState>,
}

/// Apps with a notice of a change.
#[derive(Default)]
struct ChangedApps {
    all: bool,
    apps: HashSet<AppId>,
}

#[derive(Default)]
struct ReconcilerState {
    /// The connection that holds the lock of the host.
    lock: Option<PgConnection>,
    renewed: Option<Instant>,
    /// When the last full scan was, and how long it took.
    last_full_scan: Option<(Instant, Duration)>,
    /// This host's rows as last read.
    rows: HashMap<UnitId, Unit>,
    /// The change counters of the provisioners when last read.
    change_counters: Option<(Instant, Vec<u64>)>,
    unsettled: HashSet<AppId>,
    /// Provisioners that did not say what runs, in this round, and why. Nothing is concluded of their apps.
    silent_provisioners: HashMap<&'static str, String>,
    /// Apps that could not be reconciled, with the error: logged once.
    failed_apps: HashMap<AppId, String>,
    unmanaged: HashMap<UnitId, Instant>,
    /// Draining units that a router still had in its routes when last checked.
    still_routed: HashMap<UnitId, Instant>,
}

impl UnitReconciler {
    /// Creates the reconciler of this host.
    pub fn new(core: &Core, timing: ReconcileTiming) -> Arc<Self> {
        let wakeup = Arc::new(Notify::new());
        let logs = Arc::new(LogCollector::new(core.clone()));
        Arc::new(Self {
            core: core.clone(),
            timing,
            tasks: UnitTasks::new(core.clone(), Arc::clone(&logs), Arc::clone(&wakeup)),
            health: HealthChecker::new(core.clone(), Arc::clone(&wakeup)),
            logs,
            wakeup,
            changed: Mutex::default(),
            state: tokio::sync::Mutex::default(),
        })
    }

    /// Runs until the core stops: a round on every wakeup, and every period.
    pub async fn run(self: Arc<Self>) {
        let stop = self.core.stop.clone();
        self.core.work.spawn(logs::run_collector(Arc::clone(&self.logs)));
        for (_, runner) in self.core.provisioners.unit_runners() {
            let mut changes = runner.subscribe_changes();
            let (wakeup, stop) = (Arc::clone(&self.wakeup), stop.clone());
            self.core.work.spawn(async move {
                loop {
                    tokio::select! {
                        changed = changes.changed() => match changed {
                            Ok(()) => wakeup.notify_one(),
                            Err(_) => return,
                        },
                        () = stop.cancelled() => return,
                    }
                }
            });
        }
        let mut notices = self.core.notices.subscribe();
        loop {
            if let Err(error) = self.run_round().await {
                tracing::warn!(error = %error.report(), "a reconcile round failed");
            }
            let pause = tokio::time::sleep(self.period());
            tokio::pin!(pause);
            loop {
                tokio::select! {
                    notice = notices.next_notice() => match notice {
                        Some((NoticeChannel::Units, app)) => self.mark_changed(&app),
                        Some(_) => continue,
                        None => self.mark_changed(""),
                    },
                    () = self.wakeup.notified() => {}
                    () = &mut pause => {}
                    () = stop.cancelled() => {
                        // Another process of this host may go on at once.
                        self.state.lock().await.lock = None;
                        return;
                    }
                }
                break;
            }
        }
    }

    fn mark_changed(&self, app: &str) {
        let mut hints = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
        match app.parse() {
            Ok(app) => drop(hints.apps.insert(app)),
            Err(_) => hints.all = true,
        }
    }

    /// Runs a round over the apps that may have changed.
    async fn run_round(&self) -> Result<ReconcileReport, Error> {
        let mut state = self.state.lock().await;
        let outcome = tokio::time::timeout(ROUND_TIMEOUT, self.reconcile_changed(&mut state)).await;
        let result = outcome.unwrap_or_else(|_| Err(Error::unavailable("The reconcile round timed out.")));
        if result.is_err() {
            // Start over with a full scan, and let another process take the lock.
            state.lock = None;
        }
        result
    }

    async fn reconcile_changed(&self, state: &mut ReconcilerState) -> Result<ReconcileReport, Error> {
        if !self.hold_host_lock(state).await? {
            return Ok(ReconcileReport::default());
        }
        let counters = self.change_counters();
        if self.is_quiet(state, &counters) {
            return Ok(ReconcileReport::default());
        }
        state.change_counters = Some((Instant::now(), counters));
        // Read first: an operation that ends meanwhile counts as running, so no unit is judged by an older
        // report.
        let busy = self.tasks.busy_units();
        let observation = self.core.provisioners.observe_units().await;
        state.silent_provisioners = observation.silent;
        let observed = observation.found;
        let mut apps = self.find_due_apps(state, &observed).await?;
        self.remove_unmanaged(state, &observed).await?;
        apps.extend(state.unsettled.iter());
        if apps.is_empty() {
            return Ok(ReconcileReport::default());
        }
        let apps: Vec<AppId> = apps.into_iter().collect();
        let mut report = ReconcileReport::default();
        // In chunks, so that transactions stay small.
        for apps in apps.chunks(500) {
            self.reconcile_apps(state, (&observed, &busy), apps, &mut report)
                .await?;
        }
        report.has_more = !report.done.is_empty();
        Ok(report)
    }

    /// Returns true if this process holds the lock of the host; takes it if it is free.
    async fn hold_host_lock(&self, state: &mut ReconcilerState) -> Result<bool, Error> {
        let host = &self.core.host;
        if self.core.stop.is_cancelled() {
            return Ok(false);
        }
        if state.lock.is_none() {
            let mut connection = self.core.db.acquire().await?.detach();
            if !store::try_lock_host(&mut connection, host).await? {
                return Ok(false);
            }
            *state = ReconcilerState {
                lock: Some(connection),
                ..ReconcilerState::default()
            };
            let rows = store::list_units(&self.core.db, host, None).await?;
            // An unreadable row is reported by the round over its app.
            for row in rows.into_iter().flatten() {
                state.rows.insert(row.id.clone(), row);
            }
            self.health.clear_units();
            self.logs.clear_units();
            self.watch_units(state, state.rows.values().cloned().collect());
        }
        if state.renewed.is_none_or(|at| at.elapsed() >= RENEW_INTERVAL) {
            let Some(lock) = &mut state.lock else {
                return Ok(false);
            };
            if let Err(error) = store::renew_host(lock, host).await {
                state.lock = None;
                return Err(error.into());
            }
            state.renewed = Some(Instant::now());
        }
        Ok(true)
    }

    fn change_counters(&self) -> Vec<u64> {
        let runners = self.core.provisioners.unit_runners();
        runners
            .map(|(_, runner)| *runner.subscribe_changes().borrow())
            .collect()
    }

    /// Returns true if no change was reported and no scan is due.
    fn is_quiet(&self, state: &ReconcilerState, counters: &[u64]) -> bool {
        let hints = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
        let notified = hints.all || !hints.apps.is_empty() || self.health.has_changed();
        let open = !state.unsettled.is_empty() || !state.unmanaged.is_empty() || self.tasks.is_any_busy();
        let seen = |(at, seen): &(Instant, Vec<u64>)| at.elapsed() < OBSERVE_INTERVAL && seen == counters;
        let looked = |(at, _): &(Instant, Duration)| at.elapsed() < FULL_SCAN_INTERVAL;
        !notified
            && !open
            && state.change_counters.as_ref().is_some_and(seen)
            && state.last_full_scan.as_ref().is_some_and(looked)
    }
}

#[async_trait]
impl Reconciler for UnitReconciler {
    fn name(&self) -> &'static str {
        "units"
    }

    fn channels(&self) -> &'static [NoticeChannel] {
        &[NoticeChannel::Units]
    }

    fn period(&self) -> Duration {
        Duration::from_secs(1)
    }

    /// Runs a round over all apps.
    async fn run_round(&self) -> Result<ReconcileReport, Error> {
        self.mark_changed("");
        self.run_round().await
    }
}
