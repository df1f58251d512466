//! The settings of an app's processes: a plan of their own, and their metadata.
//!
//! A process without its own plan has the plan of the app, with the app's override. Before the first deploy,
//! any process may have settings. Later a process must be one that the app has, or that has settings already,
//! so that a misspelt name is noticed. Settings stay while no version has the process.

mod store;

use std::collections::BTreeSet;

use sqlx::PgConnection;

use crate::apps::metadata::{AppMetadata, MetadataPatch};
use crate::apps::model::AppDescription;
use crate::db::{Db, map_constraint_violation};
use crate::kernel::error::Error;
use crate::kernel::ids::AppId;
use crate::kernel::names::{PlanName, PoolName, ProcessName};
use crate::pools::{self, ConstraintField};

/// Maximum number of processes of an app that have settings.
const MAX_PROCESSES: usize = 100;

/// A change of the settings of one process.
#[derive(Clone, Debug)]
pub struct ProcessChange {
    pub name: ProcessName,
    /// `None` leaves the plan.
    pub plan: Option<ProcessPlan>,
    pub metadata: MetadataPatch,
}

/// Which plan a process has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProcessPlan {
    /// That of the app.
    OfApp,
    Own(PlanName),
}

/// Checks changes for an app of a pool. Errors: `Invalid` for a process that is named twice, and for a
/// plan that does not exist or that the pool does not allow.
pub(super) async fn check_changes(db: &Db, pool: &PoolName, changes: &[ProcessChange]) -> Result<(), Error> {
    let mut named = BTreeSet::new();
    for change in changes {
        if !named.insert(&change.name) {
            return Err(Error::invalid(format!(
                "The process {} is given twice: give it once.",
                change.name
            )));
        }
    }
    let (_, plans) = own_plans(changes);
    if let Some(plan) = store::find_missing_plan(db, &plans).await? {
        return Err(Error::invalid(format!("Plan {plan:?} does not exist.")));
    }
    pools::check_all_allowed(db, pool.as_str(), ConstraintField::Plan, &plans).await
}

/// Checks changes against the app as it is. Errors: `Invalid` for an unknown process, and for too many.
pub(super) fn check_known(full: &AppDescription, changes: &[ProcessChange]) -> Result<(), Error> {
    let mut with_settings: BTreeSet<String> = AppMetadata::from_stored(full.app.metadata.clone())?
        .processes
        .into_keys()
        .collect();
    with_settings.extend(full.process_plans.iter().map(|(process, _)| process.clone()));
    let is_deployed = full.app.current_release.is_some();
    for change in changes {
        let is_process = full
            .processes
            .iter()
            .any(|scale| scale.process == change.name.as_str());
        let is_new = with_settings.insert(change.name.to_string());
        if is_new && is_deployed && !is_process {
            return Err(Error::invalid(format!(
                "The app has no process {}: use one of its processes.",
                change.name
            )));
        }
    }
    match with_settings.len() > MAX_PROCESSES && !changes.is_empty() {
        true => Err(Error::invalid(format!(
            "At most {MAX_PROCESSES} processes of an app may have settings."
        ))),
        false => Ok(()),
    }
}

/// Saves the plans of processes. Returns the processes that have another plan than before.
pub(super) async fn save_plans(
    tx: &mut PgConnection,
    app: AppId,
    changes: &[ProcessChange],
) -> Result<Vec<String>, Error> {
    let (processes, plans) = own_plans(changes);
    let saved = store::upsert_plans(tx, app, &processes, &plans).await;
    let gone = || Error::invalid("A plan does not exist any more: use another one.");
    let mut changed = map_constraint_violation(saved, "process_plan_plan_fkey", gone)?;
    let reset: Vec<String> = changes
        .iter()
        .filter(|change| change.plan == Some(ProcessPlan::OfApp))
        .map(|change| change.name.to_string())
        .collect();
    changed.extend(store::delete_plans(tx, app, &reset).await?);
    Ok(changed)
}

/// Returns the processes that are given a plan of their own, and the plans.
fn own_plans(changes: &[ProcessChange]) -> (Vec<String>, Vec<String>) {
    let own = |change: &ProcessChange| match &change.plan {
        Some(ProcessPlan::Own(plan)) => Some((change.name.to_string(), plan.to_string())),
        _ => None,
    };
    changes.iter().filter_map(own).unzip()
}
