//! Looking: what provisioners say, which apps may have changed, which units nothing asks for.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use crate::kernel::ids::AppId;
use crate::kernel::problem::Problem;
use crate::provisioners::UnitId;
use crate::units::merge;
use crate::units::model::Phase;
use crate::units::reconcile::{CHEAP, FULL, Found, Observed, State, Units};
use crate::units::store;

/// For a provisioner to tell what it has.
const OBSERVE_TIMEOUT: Duration = Duration::from_secs(10);

impl Units {
    pub(super) async fn observe(&self) -> Result<Observed, Problem> {
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
    pub(super) async fn due(
        &self,
        state: &mut State,
        observed: &Observed,
    ) -> Result<HashSet<AppId>, Problem> {
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

    pub(super) fn drop_row(&self, state: &mut State, unit: &UnitId) {
        state.rows.remove(unit);
        state.late.remove(unit);
        self.health.drop_unit(unit);
        self.logs.drop_unit(unit);
    }

    /// Removes units that no row knows, once they have been seen for a while.
    pub(super) async fn strays(&self, state: &mut State, observed: &Observed) -> Result<(), Problem> {
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
}
