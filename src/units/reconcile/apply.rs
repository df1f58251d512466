//! Plans for apps, writes the steps, and applies them.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use sqlx::{Connection, PgConnection, Postgres, Transaction};

use crate::db::{self, notices::NoticeChannel};
use crate::kernel::error::{Error, ErrorKind};
use crate::kernel::ids::AppId;
use crate::provisioners::{FoundUnits, UnitId};
use crate::sagas::ReconcileReport;
use crate::units::merge::{self, RoundWrites};
use crate::units::model::{Unit, UnitPhase};
use crate::units::planner::PlanStep;
use crate::units::reconcile::{ReconcilerState, UnitReconciler};
use crate::units::store::{self, UnitResults};

/// The work of one round for one app.
struct AppTurn {
    app: merge::ReconciledApp,
    rows: Vec<Unit>,
    steps: Vec<PlanStep>,
    change: RoundWrites,
}

/// Begins a transaction whose statements all see the same snapshot.
const BEGIN_SNAPSHOT: &str = "begin isolation level repeatable read read only";

impl UnitReconciler {
    /// Plans for some apps and applies the steps.
    pub(super) async fn reconcile_apps(
        &self,
        state: &mut ReconcilerState,
        seen: (&FoundUnits, &HashSet<UnitId>),
        apps: &[AppId],
        report: &mut ReconcileReport,
    ) -> Result<(), Error> {
        let host = self.core.host.as_str();
        let Some(mut lock) = state.lock.take() else {
            return Ok(());
        };
        // The connection is put back only if nothing failed on it. Both queries read one snapshot: a
        // promotion in between would take units over.
        let read = async {
            let mut tx = lock.begin_with(BEGIN_SNAPSHOT).await?;
            let desired = store::list_desired(&mut *tx, host, apps).await?;
            let rows = store::list_units(&mut *tx, host, Some(apps)).await?;
            tx.commit().await?;
            Ok::<_, Error>((desired, rows))
        };
        let (desired, rows) = read.await?;
        let mut units = group_by_app(state, rows);
        let mut turns = Vec::with_capacity(desired.len());
        let mut gone: HashSet<AppId> = apps.iter().copied().collect();
        for sides in desired.chunk_by(|a, b| a.app_id == b.app_id) {
            let Some(app) = merge::ReconciledApp::from_rows(sides) else {
                continue;
            };
            let (id, name) = (app.id, app.name.clone());
            gone.remove(&id);
            let rows = units.remove(&id).unwrap_or_else(|| Ok(Vec::new()));
            if let Some(why) = state.silent_provisioners.get(app.provisioner.as_str()) {
                let silent = Error::unavailable(why.clone());
                state.mark_failed(id, &name, &silent);
                continue;
            }
            match rows.and_then(|rows| self.plan_app(app, rows, seen)) {
                Ok(turn) => turns.push(turn),
                Err(error) => state.mark_failed(id, &name, &error),
            }
        }
        for app in gone {
            // Its rows were deleted with it.
            state.unsettled.remove(&app);
            state.failed_apps.remove(&app);
        }
        let turns = write_turns(&mut lock, state, turns).await?;
        state.lock = Some(lock);
        for turn in turns {
            let (app, steps) = (turn.app, turn.steps);
            let is_settled = steps.is_empty() && merge::is_settled(&turn.rows, &app);
            match is_settled {
                true => state.unsettled.remove(&app.id),
                false => state.unsettled.insert(app.id),
            };
            state.failed_apps.remove(&app.id);
            report
                .done
                .extend(steps.iter().map(|s| format!("{}: {s:?}", app.name)));
            self.apply_steps(state, app, turn.rows, &steps, seen.0);
        }
        Ok(())
    }

    fn plan_app(
        &self,
        app: merge::ReconciledApp,
        mut rows: Vec<Unit>,
        seen: (&FoundUnits, &HashSet<UnitId>),
    ) -> Result<AppTurn, Error> {
        let host = self.core.host.as_str();
        let mut change = RoundWrites::default();
        let seen = merge::diff_units(&mut rows, host, seen, &self.tasks, &self.health, &mut change);
        let steps = app.plan_steps(seen, self.core.settings.apps.drain_timeout);
        change.record_steps(&app, &mut rows, &steps, host)?;
        Ok(AppTurn {
            app,
            rows,
            steps,
            change,
        })
    }

    /// Applies the steps after they are written.
    fn apply_steps(
        &self,
        state: &mut ReconcilerState,
        app: merge::ReconciledApp,
        rows: Vec<Unit>,
        steps: &[PlanStep],
        observed: &FoundUnits,
    ) {
        let local = self.core.provisioners.find_unit_runner(&app.provisioner);
        let of = |unit: &UnitId| {
            let found = observed.get(unit).map(|f| &f.runner);
            found.or(local).cloned()
        };
        let mine = |row: &Unit| row.host == self.core.host;
        let (gone, rows): (Vec<Unit>, Vec<Unit>) = rows
            .into_iter()
            .partition(|row| steps.contains(&PlanStep::Delete(row.id.clone())));
        for row in gone {
            self.drop_row(state, &row.id);
        }
        let rows: Vec<Unit> = rows.into_iter().filter(mine).collect();
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
            let new = row.phase == UnitPhase::Starting && !state.rows.contains_key(&row.id);
            let ensure = steps.contains(&PlanStep::Ensure(row.id.clone()))
                || (new && !observed.contains_key(&row.id) && !self.tasks.is_busy(&row.id));
            match of(&row.id) {
                Some(runner) if ensure => self.tasks.start_unit(runner, app.id, row.id.clone()),
                Some(runner) if row.phase == UnitPhase::Stopping && observed.contains_key(&row.id) => {
                    self.tasks.remove_unit(runner, Some(app.id), row.id.clone());
                }
                _ => {}
            }
            state.rows.insert(row.id.clone(), row.clone());
        }
        self.watch_units(state, rows);
    }

    /// Passes the units to the log collector and the health checker.
    pub(super) fn watch_units(&self, state: &ReconcilerState, rows: Vec<Unit>) {
        for row in rows {
            self.logs.track_unit(&row);
            self.health.watch_unit(row);
        }
        self.logs.set_max_interval(state.rows.len());
    }
}

impl ReconcilerState {
    /// Leaves an app as it is until the next full scan; logs a new error.
    fn mark_failed(&mut self, app: AppId, name: &str, error: &Error) {
        self.unsettled.remove(&app);
        let why = error.report().to_string();
        if self.failed_apps.get(&app) != Some(&why) {
            tracing::error!(app = name, error = why, "cannot reconcile the units of an app");
            self.failed_apps.insert(app, why);
        }
    }
}

/// Groups rows by app; an error where a row of the app cannot be read.
fn group_by_app(state: &mut ReconcilerState, rows: UnitResults) -> HashMap<AppId, Result<Vec<Unit>, Error>> {
    let mut units: HashMap<AppId, Result<Vec<Unit>, Error>> = HashMap::new();
    for row in rows {
        let app = match &row {
            Ok(row) => row.app_id,
            Err((app, _)) => *app,
        };
        let of_app = units.entry(app).or_insert_with(|| Ok(Vec::new()));
        match (row, &mut *of_app) {
            (Ok(mut row), Ok(rows)) => {
                // The drain time starts when no router has the unit in its routes any more.
                if row.awaits_routers {
                    state.still_routed.insert(row.id.clone(), Instant::now());
                }
                if let Some(at) = state.still_routed.get(&row.id) {
                    row.phase_age = row.phase_age.min(at.elapsed());
                }
                rows.push(row);
            }
            (Err((_, error)), Ok(_)) => *of_app = Err(error),
            (_, Err(_)) => {}
        }
    }
    units
}

/// Writes the changes of all apps in one transaction; if that fails, app by app, so that the data of one app
/// never blocks another. Returns the apps whose changes are written. Errors: the database is unavailable.
async fn write_turns(
    lock: &mut PgConnection,
    state: &mut ReconcilerState,
    turns: Vec<AppTurn>,
) -> Result<Vec<AppTurn>, Error> {
    let all = turns.iter().map(|turn| &turn.change);
    match write_changes(lock, all).await {
        Ok(()) => return Ok(turns),
        Err(error) if error.kind() == ErrorKind::Unavailable => return Err(error),
        Err(error) => {
            tracing::warn!(error = %error.report(), "cannot write changes of several apps in one transaction; trying each app");
        }
    }
    let mut written = Vec::with_capacity(turns.len());
    for turn in turns {
        match write_changes(lock, std::iter::once(&turn.change)).await {
            Ok(()) => written.push(turn),
            Err(error) if error.kind() == ErrorKind::Unavailable => return Err(error),
            Err(error) => state.mark_failed(turn.app.id, &turn.app.name, &error),
        }
    }
    Ok(written)
}

async fn write_changes(
    lock: &mut PgConnection,
    changes: impl Iterator<Item = &RoundWrites>,
) -> Result<(), Error> {
    let mut all = RoundWrites::default();
    for change in changes {
        all.merge_from(change);
    }
    if all.is_empty() {
        return Ok(());
    }
    let mut tx = lock.begin().await?;
    write_change(&mut tx, &all).await?;
    Ok(tx.commit().await?)
}

async fn write_change(tx: &mut Transaction<'_, Postgres>, change: &RoundWrites) -> Result<(), Error> {
    if !change.observed.is_empty() {
        store::update_observed(tx, &change.observed.iter().collect::<Vec<_>>()).await?;
    }
    if !change.new_units.is_empty() {
        store::insert_units(tx, &change.new_units).await?;
    }
    if !change.phases.is_empty() {
        store::update_phases(tx, &change.phases).await?;
    }
    if !change.deleted.is_empty() {
        store::delete_units(tx, &change.deleted).await?;
    }
    if change.routes_changed {
        db::send_notice(tx, NoticeChannel::Routes, "").await?;
    }
    for app in &change.changed_apps {
        db::send_notice(tx, NoticeChannel::Units, &app.to_string()).await?;
    }
    Ok(())
}
