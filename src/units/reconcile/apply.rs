//! Planning for some apps, writing the steps, and taking them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Instant;

use sqlx::{Connection, Postgres, Transaction};

use crate::db::{self, listen::Channel};
use crate::kernel::ids::AppId;
use crate::kernel::problem::Problem;
use crate::provisioners::UnitId;
use crate::sagas::Report;
use crate::units::merge::{self, Change};
use crate::units::model::{Phase, Row};
use crate::units::planner::{self, Step};
use crate::units::reconcile::{Observed, State, Units};
use crate::units::store;

impl Units {
    /// Plans for some apps and takes the steps.
    pub(super) async fn reconcile(
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
        for mut row in rows {
            // A unit drains from when no router sends it requests any more.
            if row.unseen {
                state.late.insert(row.id.clone(), Instant::now());
            }
            if let Some(at) = state.late.get(&row.id) {
                row.phase_age = row.phase_age.min(at.elapsed());
            }
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
    pub(super) fn watch(&self, state: &State, rows: Vec<Row>) {
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
