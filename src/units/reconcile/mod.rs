//! The reconciler: looks at what should run and what does, plans, and takes the steps.
//!
//! It keeps what it last read of this host's rows only to notice what has changed; every decision is made
//! on rows read in the same round. All its writes go through the one connection that holds the host's
//! lock, so whoever has lost the lock can write nothing.

mod apply;
mod look;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use sqlx::PgConnection;
use tokio::sync::Notify;

use crate::core::Core;
use crate::db::listen::Channel;
use crate::kernel::ids::AppId;
use crate::kernel::problem::Problem;
use crate::provisioners::{Provisioner, UnitId, UnitReport};
use crate::sagas::{Reconciler, Report};
use crate::units::health::Health;
use crate::units::logs::{self, Taker};
use crate::units::model::Row;
use crate::units::store;
use crate::units::work::Works;

/// How often the host's row is renewed.
const RENEW: Duration = Duration::from_secs(5);
/// How often provisioners are asked though they tell of no change.
const LOOK: Duration = Duration::from_secs(5);
/// For one round; it waits for nothing but the database and what is above.
const LONGEST: Duration = Duration::from_secs(60);
/// How often everything is looked at.
const FULL: Duration = Duration::from_secs(15);
/// A look at everything that takes longer than this is followed by a rest.
const CHEAP: Duration = Duration::from_millis(20);

/// How patient a reconciler is.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// A unit without a row is removed when it has been seen for this long.
    pub stray: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            stray: Duration::from_secs(30),
        }
    }
}

/// See the module. One for a process; any number of processes on a host.
pub struct Units {
    core: Core,
    pace: Pace,
    works: Works,
    health: Health,
    logs: Arc<Taker>,
    nudge: Arc<Notify>,
    hints: Mutex<Hints>,
    state: tokio::sync::Mutex<State>,
}

/// Apps that somebody says have changed.
#[derive(Default)]
struct Hints {
    all: bool,
    apps: HashSet<AppId>,
}

#[derive(Default)]
struct State {
    /// Holds the lock of the host.
    lock: Option<PgConnection>,
    renewed: Option<Instant>,
    /// When everything was looked at, and how long that took.
    full: Option<(Instant, Duration)>,
    /// This host's rows as last read.
    rows: HashMap<UnitId, Row>,
    /// What the provisioners' counters of changes were, and when.
    marks: Option<(Instant, Vec<u64>)>,
    unsettled: HashSet<AppId>,
    strays: HashMap<UnitId, Instant>,
    /// Draining units that a router still sent requests to when last looked.
    late: HashMap<UnitId, Instant>,
}

/// What a provisioner has to say of a unit.
pub(super) struct Found {
    pub(super) provisioner: Arc<dyn Provisioner>,
    pub(super) report: UnitReport,
}

type Observed = HashMap<UnitId, Found>;

impl Units {
    /// A reconciler for this host.
    pub fn new(core: &Core, pace: Pace) -> Arc<Self> {
        let nudge = Arc::new(Notify::new());
        let logs = Arc::new(Taker::new(core.clone()));
        Arc::new(Self {
            core: core.clone(),
            pace,
            works: Works::new(core.clone(), Arc::clone(&logs), Arc::clone(&nudge)),
            health: Health::new(core.clone(), Arc::clone(&nudge)),
            logs,
            nudge,
            hints: Mutex::default(),
            state: tokio::sync::Mutex::default(),
        })
    }

    /// Runs until the core stops: a round whenever somebody nudges, and every period.
    pub async fn run(self: Arc<Self>) {
        let stop = self.core.stop.clone();
        self.core.tasks.spawn(logs::take(Arc::clone(&self.logs)));
        for provisioner in self.core.provisioners.values() {
            let mut changes = provisioner.changes();
            let (nudge, stop) = (Arc::clone(&self.nudge), stop.clone());
            self.core.tasks.spawn(async move {
                loop {
                    tokio::select! {
                        changed = changes.changed() => match changed {
                            Ok(()) => nudge.notify_one(),
                            Err(_) => return,
                        },
                        () = stop.cancelled() => return,
                    }
                }
            });
        }
        let mut notices = self.core.notices.subscribe();
        loop {
            if let Err(problem) = self.step().await {
                tracing::warn!(problem = %problem.chain(), "a round of the units failed");
            }
            let rest = tokio::time::sleep(self.period());
            tokio::pin!(rest);
            loop {
                tokio::select! {
                    told = notices.next() => match told {
                        Some((Channel::Units, app)) => self.hint(&app),
                        Some(_) => continue,
                        None => self.hint(""),
                    },
                    () = self.nudge.notified() => {}
                    () = &mut rest => {}
                    () = stop.cancelled() => return,
                }
                break;
            }
        }
    }

    fn hint(&self, app: &str) {
        let mut hints = self.hints.lock().unwrap_or_else(PoisonError::into_inner);
        match app.parse() {
            Ok(app) => drop(hints.apps.insert(app)),
            Err(_) => hints.all = true,
        }
    }

    /// One round over what may have changed.
    async fn step(&self) -> Result<Report, Problem> {
        let mut state = self.state.lock().await;
        let went = tokio::time::timeout(LONGEST, self.go(&mut state)).await;
        let result =
            went.unwrap_or_else(|_| Err(Problem::unavailable("A round of the units took too long.")));
        if result.is_err() {
            // Whatever was lost, look at everything again; and let another process try.
            state.lock = None;
        }
        result
    }

    async fn go(&self, state: &mut State) -> Result<Report, Problem> {
        if !self.hold(state).await? {
            return Ok(Report::default());
        }
        let marks = self.marks();
        if self.is_quiet(state, &marks) {
            return Ok(Report::default());
        }
        state.marks = Some((Instant::now(), marks));
        // Read first: what ends meanwhile counts as under way, so nothing is judged by an older report.
        let busy = self.works.busy();
        let observed = self.observe().await?;
        let mut apps = self.due(state, &observed).await?;
        self.strays(state, &observed).await?;
        apps.extend(state.unsettled.iter());
        if apps.is_empty() {
            return Ok(Report::default());
        }
        let apps: Vec<AppId> = apps.into_iter().collect();
        let mut report = Report::default();
        // In pieces, so that no transaction grows without bound.
        for apps in apps.chunks(500) {
            self.reconcile(state, (&observed, &busy), apps, &mut report)
                .await?;
        }
        report.again = !report.done.is_empty();
        Ok(report)
    }

    /// True if this process is the one that works for the host; takes the lock if it is free.
    async fn hold(&self, state: &mut State) -> Result<bool, Problem> {
        let host = &self.core.host;
        if state.lock.is_none() {
            let mut connection = self.core.db.acquire().await?.detach();
            if !store::try_lock(&mut connection, host).await? {
                return Ok(false);
            }
            *state = State {
                lock: Some(connection),
                ..State::default()
            };
            let rows = store::list_units(&self.core.db, host, None).await?;
            for row in rows {
                state.rows.insert(row.id.clone(), row);
            }
            self.health.forget();
            self.logs.forget();
            self.watch(state, state.rows.values().cloned().collect());
        }
        if state.renewed.is_none_or(|at| at.elapsed() >= RENEW) {
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

    fn marks(&self) -> Vec<u64> {
        let provisioners = self.core.provisioners.values();
        provisioners.map(|p| *p.changes().borrow()).collect()
    }

    /// True if nobody has said that anything has changed, and it is not yet time to look by ourselves.
    fn is_quiet(&self, state: &State, marks: &[u64]) -> bool {
        let hints = self.hints.lock().unwrap_or_else(PoisonError::into_inner);
        let told = hints.all || !hints.apps.is_empty() || self.health.has_changed();
        let open = !state.unsettled.is_empty() || !state.strays.is_empty() || self.works.is_any_busy();
        let seen = |(at, seen): &(Instant, Vec<u64>)| at.elapsed() < LOOK && seen == marks;
        let looked = |(at, _): &(Instant, Duration)| at.elapsed() < FULL;
        !told && !open && state.marks.as_ref().is_some_and(seen) && state.full.as_ref().is_some_and(looked)
    }
}

#[async_trait]
impl Reconciler for Units {
    fn name(&self) -> &'static str {
        "units"
    }

    fn channels(&self) -> &'static [Channel] {
        &[Channel::Units]
    }

    fn period(&self) -> Duration {
        Duration::from_secs(1)
    }

    /// A round over everything.
    async fn round(&self) -> Result<Report, Problem> {
        self.hint("");
        self.step().await
    }
}
