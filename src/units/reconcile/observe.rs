//! Observation: the apps that may have changed, the unmanaged units.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use crate::kernel::error::Error;
use crate::kernel::ids::AppId;
use crate::provisioners::{FoundUnits, UnitId};
use crate::units::merge;
use crate::units::model::UnitPhase;
use crate::units::reconcile::{
    CHEAP_SCAN, FULL_SCAN_INTERVAL, MAX_SCAN_PAUSE, ReconcilerState, UnitReconciler,
};
use crate::units::store;

impl UnitReconciler {
    /// Returns the apps that have changed since the last round, or all unsettled ones if a full scan is due.
    pub(super) async fn find_due_apps(
        &self,
        state: &mut ReconcilerState,
        observed: &FoundUnits,
    ) -> Result<HashSet<AppId>, Error> {
        let hints = std::mem::take(&mut *self.changed.lock().unwrap_or_else(PoisonError::into_inner));
        let mut apps = hints.apps;
        let now = Instant::now();
        let all = state.last_full_scan.is_none_or(|(at, took)| {
            let pause = if took < CHEAP_SCAN {
                Duration::ZERO
            } else {
                (took * 20).min(MAX_SCAN_PAUSE)
            };
            at.elapsed()
                >= if hints.all {
                    pause
                } else {
                    FULL_SCAN_INTERVAL.max(pause)
                }
        });
        if hints.all && !all {
            self.mark_changed("");
        }
        if all {
            let Some(lock) = &mut state.lock else {
                return Ok(apps);
            };
            apps.extend(store::list_unsettled(&mut *lock, &self.core.host).await?);
            let ids: HashSet<String> = store::list_unit_ids(&mut *lock, &self.core.host)
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
            state.last_full_scan = Some((now, now.elapsed()));
        }
        for row in state.rows.values() {
            let changed = match observed.get(&row.id) {
                Some(found) => merge::report_differs(row, &found.report),
                None => row.phase != UnitPhase::Stopping && row.observed.state == "started",
            };
            if changed {
                apps.insert(row.app_id);
            }
        }
        for unit in self.health.take_changed() {
            if let Some(row) = state.rows.get(&unit) {
                apps.insert(row.app_id);
            }
        }
        Ok(apps)
    }

    pub(super) fn drop_row(&self, state: &mut ReconcilerState, unit: &UnitId) {
        state.rows.remove(unit);
        state.still_routed.remove(unit);
        self.health.drop_unit(unit);
        self.logs.drop_unit(unit);
    }

    /// Removes units without a row, once they have been observed for `unmanaged_after`. Units that were started for one
    /// command have none: they stay as long as that command runs.
    pub(super) async fn remove_unmanaged(
        &self,
        state: &mut ReconcilerState,
        observed: &FoundUnits,
    ) -> Result<(), Error> {
        state
            .unmanaged
            .retain(|id, _| observed.contains_key(id) && !state.rows.contains_key(id));
        let mut old = Vec::new();
        for id in observed.keys().filter(|id| !state.rows.contains_key(*id)) {
            let since = *state.unmanaged.entry(id.clone()).or_insert_with(Instant::now);
            if since.elapsed() >= self.timing.unmanaged_after && !self.tasks.is_busy(id) {
                old.push(id.clone());
            }
        }
        if old.is_empty() {
            return Ok(());
        }
        let Some(lock) = &mut state.lock else {
            return Ok(());
        };
        let ids: HashSet<String> = store::list_unit_ids(&mut *lock, &self.core.host)
            .await?
            .into_iter()
            .collect();
        let one_offs = store::list_one_off_ids(&mut *lock, &self.core.host).await?;
        for id in old {
            match ids.contains(id.as_str()) {
                true => self.mark_changed(""),
                false if one_offs.iter().any(|one_off| one_off == id.as_str()) => {
                    state.unmanaged.insert(id, Instant::now());
                }
                false => {
                    tracing::info!(unit = %id, "removing an unmanaged unit");
                    self.tasks
                        .remove_unit(Arc::clone(&observed[&id].runner), None, id);
                }
            }
        }
        Ok(())
    }
}
