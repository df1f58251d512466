//! The reconciler: looks at what should run and what does, plans, and takes the steps.
//!
//! It keeps what it last read of this host's rows only to notice what has changed; every decision is made
//! on rows read in the same round. All its writes go through the one connection that holds the host's
//! lock, so whoever has lost the lock can write nothing.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use sqlx::postgres::{PgConnection, Postgres};
use sqlx::{Connection, Transaction};
use tokio::sync::Notify;

use crate::core::Core;
use crate::db::{self, listen::Channel};
use crate::kernel::ids::AppId;
use crate::kernel::problem::Problem;
use crate::provisioners::{Provisioner, UnitId, UnitReport};
use crate::sagas::{Reconciler, Report};
use crate::units::health::Health;
use crate::units::logs::{self, Taker};
use crate::units::merge::{self, Change};
use crate::units::model::{Phase, Row};
use crate::units::planner::{self, Step};
use crate::units::store;
use crate::units::work::Works;

/// How often the host's row is renewed.
const RENEW: Duration = Duration::from_secs(5);
/// How often provisioners are asked though they tell of no change.
const LOOK: Duration = Duration::from_secs(5);
/// For a provisioner to tell what it has.
const OBSERVE_TIMEOUT: Duration = Duration::from_secs(10);
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

    async fn observe(&self) -> Result<Observed, Problem> {
        let mut observed = Observed::new();
        for provisioner in self.core.provisioners.values() {
            let reports = tokio::time::timeout(OBSERVE_TIMEOUT, provisioner.observe())
                .await
                .map_err(|_| Problem::unavailable("The provisioner does not tell what it runs."))?
                .map_err(Problem::internal)?;
            for report in reports {
                let found = Found {
                    provisioner: Arc::clone(provisioner),
                    report,
                };
                observed.insert(found.report.unit.clone(), found);
            }
        }
        Ok(observed)
    }

    /// Apps of which something has changed since the last round.
    async fn due(&self, state: &mut State, observed: &Observed) -> Result<HashSet<AppId>, Problem> {
        let hints = std::mem::take(&mut *self.hints.lock().unwrap_or_else(PoisonError::into_inner));
        let mut apps = hints.apps;
        let now = Instant::now();
        let all = state.full.is_none_or(|(at, took)| {
            let rest = if took < CHEAP { Duration::ZERO } else { took * 20 };
            at.elapsed() >= if hints.all { rest } else { FULL.max(rest) }
        });
        if hints.all && !all {
            self.hint("");
        }
        if all {
            let Some(lock) = &mut state.lock else {
                return Ok(apps);
            };
            apps.extend(store::list_unsettled(&mut *lock, &self.core.host).await?);
            let ids: HashSet<String> = store::list_ids(&mut *lock, &self.core.host)
                .await?
                .into_iter()
                .collect();
            let gone: Vec<UnitId> = state
                .rows
                .keys()
                .filter(|id| !ids.contains(id.as_str()))
                .cloned()
                .collect();
            for id in gone {
                self.drop_row(state, &id);
            }
            state.full = Some((now, now.elapsed()));
        }
        for row in state.rows.values() {
            let changed = match observed.get(&row.id) {
                Some(found) => merge::differs(row, &found.report),
                None => row.phase != Phase::Stopping && row.seen.state == "started",
            };
            if changed {
                apps.insert(row.app_id);
            }
        }
        for unit in self.health.changed() {
            if let Some(row) = state.rows.get(&unit) {
                apps.insert(row.app_id);
            }
        }
        Ok(apps)
    }

    fn drop_row(&self, state: &mut State, unit: &UnitId) {
        state.rows.remove(unit);
        self.health.drop_unit(unit);
        self.logs.drop_unit(unit);
    }

    /// Removes units that no row knows, once they have been seen for a while.
    async fn strays(&self, state: &mut State, observed: &Observed) -> Result<(), Problem> {
        state
            .strays
            .retain(|id, _| observed.contains_key(id) && !state.rows.contains_key(id));
        let mut old = Vec::new();
        for id in observed.keys().filter(|id| !state.rows.contains_key(*id)) {
            let since = *state.strays.entry(id.clone()).or_insert_with(Instant::now);
            if since.elapsed() >= self.pace.stray && !self.works.is_busy(id) {
                old.push(id.clone());
            }
        }
        if old.is_empty() {
            return Ok(());
        }
        let Some(lock) = &mut state.lock else {
            return Ok(());
        };
        let ids: HashSet<String> = store::list_ids(lock, &self.core.host)
            .await?
            .into_iter()
            .collect();
        for id in old {
            match ids.contains(id.as_str()) {
                true => self.hint(""),
                false => {
                    tracing::info!(unit = %id, "a unit that nothing asks for is removed");
                    self.works.remove(Arc::clone(&observed[&id].provisioner), id);
                }
            }
        }
        Ok(())
    }

    /// Plans for some apps and takes the steps.
    async fn reconcile(
        &self,
        state: &mut State,
        (observed, busy): (&Observed, &HashSet<UnitId>),
        apps: &[AppId],
        report: &mut Report,
    ) -> Result<(), Problem> {
        let host = self.core.host.as_str();
        let Some(mut lock) = state.lock.take() else {
            return Ok(());
        };
        // Given back only if nothing went wrong on it.
        let read = async {
            let desired = store::list_desired(&mut lock, host, apps).await?;
            let rows = store::list_units(&mut lock, host, Some(apps)).await?;
            Ok::<_, Problem>((desired, rows))
        };
        let (desired, rows) = read.await?;
        let mut units: HashMap<AppId, Vec<Row>> = HashMap::new();
        for row in rows {
            units.entry(row.app_id).or_default().push(row);
        }
        let mut change = Change::default();
        let mut views = BTreeMap::new();
        for app in desired {
            let app = merge::App::read(app)?;
            let mut rows = units.remove(&app.id).unwrap_or_default();
            let seen = merge::look(
                &mut rows,
                host,
                (observed, busy),
                &self.works,
                &self.health,
                &mut change,
            );
            let steps = planner::plan(&app.desired, &seen, self.core.settings.apps.drain);
            let settled = steps.is_empty() && merge::is_settled(&rows, &app.desired);
            change.add(&app, &mut rows, &steps, host)?;
            match settled {
                true => state.unsettled.remove(&app.id),
                false => state.unsettled.insert(app.id),
            };
            views.insert(app.id, (app, rows, steps));
        }
        for app in apps.iter().filter(|app| !views.contains_key(*app)) {
            // Its rows went with it.
            state.unsettled.remove(app);
        }
        if !change.is_empty() {
            let mut tx = lock.begin().await?;
            write(&mut tx, &change).await?;
            tx.commit().await?;
        }
        state.lock = Some(lock);
        for (app, rows, steps) in views.into_values() {
            report
                .done
                .extend(steps.iter().map(|s| format!("{}: {s:?}", app.name)));
            self.follow(state, app, rows, &steps, observed);
        }
        Ok(())
    }

    /// What comes after the rows are written.
    fn follow(
        &self,
        state: &mut State,
        app: merge::App,
        rows: Vec<Row>,
        steps: &[Step],
        observed: &Observed,
    ) {
        let local = self.core.provisioners.get(&app.provisioner);
        let of = |unit: &UnitId| {
            let found = observed.get(unit).map(|f| &f.provisioner);
            found.or(local).cloned()
        };
        let mine = |row: &Row| row.host == self.core.host;
        let (gone, rows): (Vec<Row>, Vec<Row>) = rows
            .into_iter()
            .partition(|row| steps.contains(&Step::Forget(row.id.clone())));
        for row in gone {
            self.drop_row(state, &row.id);
        }
        let rows: Vec<Row> = rows.into_iter().filter(mine).collect();
        let known: HashSet<&UnitId> = rows.iter().map(|r| &r.id).collect();
        let lost: Vec<UnitId> = state
            .rows
            .values()
            .filter(|r| r.app_id == app.id && !known.contains(&r.id))
            .map(|r| r.id.clone())
            .collect();
        for id in lost {
            self.drop_row(state, &id);
        }
        for row in &rows {
            let new = row.phase == Phase::Starting && !state.rows.contains_key(&row.id);
            let ensure = steps.contains(&Step::Ensure(row.id.clone()))
                || (new && !observed.contains_key(&row.id) && !self.works.is_busy(&row.id));
            match of(&row.id) {
                Some(provisioner) if ensure => self.works.ensure(provisioner, row.id.clone()),
                Some(provisioner) if row.phase == Phase::Stopping && observed.contains_key(&row.id) => {
                    self.works.remove(provisioner, row.id.clone());
                }
                _ => {}
            }
            state.rows.insert(row.id.clone(), row.clone());
        }
        self.watch(state, rows);
    }

    /// Tells those who follow units which there are.
    fn watch(&self, state: &State, rows: Vec<Row>) {
        for row in rows {
            self.logs.set(&row);
            self.health.set(row);
        }
        self.logs.spread(state.rows.len());
    }
}

async fn write(tx: &mut Transaction<'_, Postgres>, change: &Change) -> Result<(), Problem> {
    if !change.seen.is_empty() {
        store::update_seen(tx, &change.seen.iter().collect::<Vec<_>>()).await?;
    }
    if !change.start.is_empty() {
        store::insert_units(tx, &change.start).await?;
    }
    if !change.phases.is_empty() {
        store::update_phases(tx, &change.phases).await?;
    }
    if !change.gone.is_empty() {
        store::delete_units(tx, &change.gone).await?;
    }
    if change.routes {
        db::notify(tx, Channel::Routes, "").await?;
    }
    for app in &change.told {
        db::notify(tx, Channel::Units, &app.to_string()).await?;
    }
    Ok(())
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
