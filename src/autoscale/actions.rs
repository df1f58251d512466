//! Actions on rules, and the change that a decision makes.

use serde_json::json;
use sqlx::PgConnection;

use crate::apps::{self, App, AppScaleRule, ScaleRule};
use crate::autoscale::decide::ScaleMemory;
use crate::autoscale::store::{self, DueRule};
use crate::core::Core;
use crate::events::{self, NewEvent};
use crate::kernel::error::{Error, ErrorKind};
use crate::kernel::names::{AppName, ProcessName};
use crate::kernel::permission::Permission;
use crate::kernel::request_context::RequestContext;
use crate::releases::{self, ReleaseSide};
use crate::units;

/// The rules of an app that the caller may read.
pub(super) async fn list_rules(
    core: &Core,
    call: &RequestContext,
    name: &AppName,
) -> Result<Vec<AppScaleRule>, Error> {
    let app = apps::find_authorized_app(core, call, name, Permission::APP_READ_INFO).await?;
    Ok(store::list_rules(&core.db, app.id).await?)
}

fn new_rule_event(app: &App, kind: Permission, data: serde_json::Value) -> NewEvent {
    NewEvent::new(app.event_target(), kind, app.permission_contexts(), data)
}

/// Returns the side that is meant: the main one, or that of a version that runs.
async fn find_side(tx: &mut PgConnection, app: &App, version: Option<i64>) -> Result<ReleaseSide, Error> {
    let Some(version) = version else {
        return Ok(ReleaseSide::Main);
    };
    let sides = releases::list_running_sides(tx, app.id, Some(version)).await?;
    sides.first().copied().ok_or_else(|| {
        Error::invalid(format!(
            "Version {version} of the app {} is not running.",
            app.name
        ))
    })
}

/// Chooses the process: the named one, `web`, or the only one. Errors: `Invalid` for one that the app does not have,
/// `Precondition` before the first deploy.
fn choose_process(known: &[String], named: Option<&ProcessName>) -> Result<String, Error> {
    let wanted = named.map_or("web", ProcessName::as_str);
    match known {
        [] => Err(Error::precondition(
            "The app has no version deployed yet: deploy it first.",
        )),
        [only] if named.is_none() => Ok(only.clone()),
        known if known.iter().any(|process| process == wanted) => Ok(wanted.to_owned()),
        known => Err(Error::invalid(format!(
            "The app has no process {wanted}: it has {}.",
            known.join(", ")
        ))),
    }
}

/// Sets the rule of a process. Errors: `Invalid`, `NotFound`, `Forbidden`, `Precondition` before the first deploy.
pub(super) async fn set_rule(
    core: &Core,
    call: &RequestContext,
    name: &AppName,
    (process, version): (Option<ProcessName>, Option<i64>),
    rule: &ScaleRule,
) -> Result<(), Error> {
    let permission = Permission::APP_UPDATE_UNIT_AUTOSCALE_ADD;
    let app = apps::find_authorized_app(core, call, name, permission).await?;
    apps::ensure_live(&app)?;
    rule.check()?;
    let mut tx = core.db.begin().await?;
    let data = json!({ "process": process, "version": version, "minUnits": rule.min_units, "maxUnits": rule.max_units });
    events::record_event(&mut tx, call, &new_rule_event(&app, permission, data)).await?;
    let side = find_side(&mut tx, &app, version).await?.number();
    let known = store::list_processes(&mut tx, app.id, side).await?;
    let process = choose_process(&known, process.as_ref())?;
    store::upsert_rule(&mut tx, app.id, (side, &process), rule).await?;
    Ok(tx.commit().await?)
}

/// Ends the rules of a process, which keeps its number of units. Errors: `NotFound`, also if it has none.
pub(super) async fn unset_rule(
    core: &Core,
    call: &RequestContext,
    name: &AppName,
    process: Option<ProcessName>,
) -> Result<(), Error> {
    let permission = Permission::APP_UPDATE_UNIT_AUTOSCALE_REMOVE;
    let app = apps::find_authorized_app(core, call, name, permission).await?;
    let mut tx = core.db.begin().await?;
    let data = json!({ "process": process });
    events::record_event(&mut tx, call, &new_rule_event(&app, permission, data)).await?;
    let rules = store::list_rules(&mut *tx, app.id).await?;
    let scaled: Vec<String> = rules.into_iter().map(|rule| rule.process).collect();
    let process = match (&process, scaled.as_slice()) {
        (None, [only]) => only.clone(),
        (named, _) => named.as_ref().map_or("web", ProcessName::as_str).to_owned(),
    };
    if !store::delete_rules(&mut tx, app.id, &process).await? {
        return Err(Error::not_found(format!(
            "The process {process} of the app {name} is not scaled automatically."
        )));
    }
    Ok(tx.commit().await?)
}

/// Moves the rules of an app to a version that runs. Errors: `Invalid` for another one, `NotFound` if there are no rules.
pub(super) async fn swap_rules(
    core: &Core,
    call: &RequestContext,
    name: &AppName,
    version: i64,
) -> Result<(), Error> {
    let permission = Permission::APP_UPDATE_UNIT_AUTOSCALE_SWAP;
    let app = apps::find_authorized_app(core, call, name, permission).await?;
    apps::ensure_live(&app)?;
    let mut tx = core.db.begin().await?;
    let data = json!({ "version": version });
    events::record_event(&mut tx, call, &new_rule_event(&app, permission, data)).await?;
    let side = find_side(&mut tx, &app, Some(version)).await?;
    if store::list_rules(&mut *tx, app.id).await?.is_empty() {
        return Err(Error::not_found(format!(
            "No process of the app {name} is scaled automatically."
        )));
    }
    store::move_rules(&mut tx, app.id, side.number()).await?;
    Ok(tx.commit().await?)
}

/// Writes a decision, and changes the number of units from what it was made for. Returns whether it did: not if users or a
/// deploy change the app at this time, or if its quota does not allow it.
pub(super) async fn apply_decision(
    core: &Core,
    due: &DueRule,
    (before, after): (i32, i32),
    (memory, note): (&ScaleMemory, &str),
) -> Result<bool, Error> {
    let key = (due.app, due.side, due.process.as_str());
    if before == after {
        let mut connection = core.db.acquire().await?;
        store::write_memory(&mut connection, key, memory, note).await?;
        return Ok(false);
    }
    let Some(app) = apps::read_app(&mut *core.db.acquire().await?, &due.name).await? else {
        return Ok(false);
    };
    let mut tx = core.db.begin().await?;
    let data = json!({ "process": due.process, "before": before, "after": after });
    let event = new_rule_event(&app, Permission::APP_UPDATE_UNIT_AUTOSCALE, data).ignore_blocks();
    let call = RequestContext::new_internal();
    match events::record_event(&mut tx, &call, &event).await {
        Err(error) if error.kind() == ErrorKind::Locked => return Ok(false),
        recorded => drop(recorded?),
    }
    let side = ReleaseSide::from_number(due.side);
    match units::scale::set_scaled_units(&mut tx, app.id, (side, &due.process), (before, after)).await {
        Ok(true) => {}
        Ok(false) => return Ok(false),
        Err(error) if error.kind() == ErrorKind::QuotaExceeded => {
            drop(tx);
            let mut connection = core.db.acquire().await?;
            let note = format!("{after} units are needed, but the quota of the app does not allow them.");
            store::write_memory(&mut connection, key, memory, &note).await?;
            return Ok(false);
        }
        Err(error) => return Err(error),
    }
    store::write_memory(&mut tx, key, memory, note).await?;
    tx.commit().await?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_is_the_named_one_or_web_or_the_only_one() {
        let known = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let named = |name: &str| ProcessName::parse(name).unwrap();
        assert_eq!(choose_process(&known(&["api"]), None).unwrap(), "api");
        assert_eq!(choose_process(&known(&["api", "web"]), None).unwrap(), "web");
        assert_eq!(
            choose_process(&known(&["api", "web"]), Some(&named("api"))).unwrap(),
            "api"
        );
        assert!(choose_process(&known(&["api", "worker"]), None).is_err());
        assert!(choose_process(&known(&["api"]), Some(&named("web"))).is_err());
        assert!(choose_process(&[], Some(&named("web"))).is_err());
    }
}
