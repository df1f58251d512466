//! Actions on the environment and on what runs: read, set and unset variables, restart.
//!
//! Each change is an event that ends when the new release runs; a caller that waits follows the event.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use sqlx::PgConnection;

use crate::apps::{self, App, AppKind};
use crate::core::Core;
use crate::envs::{self, EnvVar, Environment, RESERVED_NAMES, VarSource};
use crate::events::{self, EventOutcome, NewEvent};
use crate::kernel::error::Error;
use crate::kernel::ids::EventId;
use crate::kernel::names::{AppName, EnvName, ProcessName};
use crate::kernel::permission::Permission;
use crate::kernel::request_context::RequestContext;
use crate::kernel::secret::Secret;
use crate::releases::saga::{RolloutData, RolloutSaga};
use crate::releases::sides;
use crate::sagas;

/// Maximum length of the name of a manager of variables.
const MAX_MANAGER_BYTES: usize = 255;
/// Maximum number of variables of an app.
const MAX_VARS: usize = 1000;

/// A variable to set.
#[derive(Debug)]
pub struct NewVar {
    pub name: EnvName,
    pub value: Secret,
    pub alias: String,
    /// Its value is not shown.
    pub private: bool,
}

/// Variables to set.
#[derive(Debug, Default)]
pub struct EnvChange {
    pub vars: Vec<NewVar>,
    pub managed_by: String,
    /// Removes the variables that the same manager has set before and does not set now.
    pub prune: bool,
    pub no_restart: bool,
    /// Silently skips private variables (contract/classic 1.1.7) instead of setting them.
    pub skip_private: bool,
}

/// Returns the present environment of an app.
pub async fn read_environment(
    core: &Core,
    call: &RequestContext,
    name: &AppName,
) -> Result<Environment, Error> {
    let app = apps::find_authorized_app(core, call, name, Permission::APP_READ_ENV).await?;
    read_environment_of(core, &app).await
}

/// Returns the present environment of an app or a job that the caller may read.
pub async fn read_environment_of(core: &Core, app: &App) -> Result<Environment, Error> {
    let mut conn = core.db.acquire().await?;
    envs::effective_environment(core, &mut conn, app.id, &app.name).await
}

/// Sets variables, all or none. Returns the event to follow.
pub async fn set_env(
    core: &Core,
    call: &RequestContext,
    name: &AppName,
    change: EnvChange,
) -> Result<EventId, Error> {
    let app = apps::find_authorized_app(core, call, name, Permission::APP_UPDATE_ENV_SET).await?;
    set_env_of(core, call, &app, Permission::APP_UPDATE_ENV_SET, change).await
}

/// Sets variables of an app or a job on which the caller holds the permission. Returns the event to follow.
pub async fn set_env_of(
    core: &Core,
    call: &RequestContext,
    app: &App,
    permission: Permission,
    change: EnvChange,
) -> Result<EventId, Error> {
    apps::ensure_live(app)?;
    for var in &change.vars {
        check_var(&var.name, &var.value)?;
    }
    check_manager(&change.managed_by)?;
    let mut tx = core.db.begin().await?;
    let names: Vec<&EnvName> = change.vars.iter().map(|var| &var.name).collect();
    let data = json!({ "names": names, "private": change.vars.iter().any(|var| var.private), "noRestart": change.no_restart });
    let new = new_app_event(app, permission, data);
    let event = events::begin_event(&mut tx, call, &new).await?;
    let before = envs::effective_environment(core, &mut tx, app.id, &app.name).await?;
    let upserts = build_upserts(&before, &change)?;
    envs::store::upsert_vars(&mut tx, &core.keys, app.id, &upserts).await?;
    let mut lines: Vec<String> = upserts
        .iter()
        .map(|upsert| format!(" ---> {} is set", upsert.name))
        .collect();
    if change.prune && !change.managed_by.is_empty() {
        let gone = list_pruned(&before, &change);
        envs::store::delete_user_vars(&mut tx, app.id, &gone).await?;
        lines.extend(gone.iter().map(|name| format!(" ---> {name} is unset")));
    }
    let after = envs::effective_environment(core, &mut tx, app.id, &app.name).await?;
    refuse_growth(&before, &after)?;
    events::append_log_lines(&mut *tx, &event, &lines).await?;
    roll_out_or_end(&mut tx, &event, app, change.no_restart || lines.is_empty()).await?;
    tx.commit().await?;
    Ok(event)
}

/// Returns the writes of a change; of two values for one name the later one. A private variable stays private
/// unless it is set again with an explicit choice. Errors: `Conflict` for a variable of a service.
fn build_upserts<'a>(
    before: &Environment,
    change: &'a EnvChange,
) -> Result<Vec<envs::store::EnvVarUpsert<'a>>, Error> {
    let mut upserts = BTreeMap::new();
    for var in &change.vars {
        let old = before.get(var.name.as_str());
        refuse_bound(old)?;
        if change.skip_private && old.is_some_and(|old| !old.public) {
            continue;
        }
        let upsert = envs::store::EnvVarUpsert {
            name: &var.name,
            value: &var.value,
            public: !var.private,
            managed_by: &change.managed_by,
            alias: &var.alias,
        };
        upserts.insert(&var.name, upsert);
    }
    Ok(upserts.into_values().collect())
}

/// Refuses a change that leaves the environment with too many variables, or too large for a process. An
/// environment that was over a limit before may be made smaller step by step.
fn refuse_growth(before: &Environment, after: &Environment) -> Result<(), Error> {
    if after.iter().count() > MAX_VARS.max(before.iter().count()) {
        return Err(Error::invalid(format!(
            "An app has at most {MAX_VARS} variables."
        )));
    }
    match before.check_stays_fit() {
        Err(_) if after.most_bytes() < before.most_bytes() => Ok(()),
        _ => after.check_stays_fit(),
    }
}

/// Refuses a manager name that is reserved for the platform, whose variables cannot be unset.
fn check_manager(managed_by: &str) -> Result<(), Error> {
    if managed_by.eq_ignore_ascii_case(&VarSource::Platform.managed_by()) {
        return Err(Error::invalid(format!(
            "{managed_by:?} is reserved for the platform: use another name in managedBy."
        )));
    }
    if managed_by.len() > MAX_MANAGER_BYTES || managed_by.contains(char::is_control) {
        return Err(Error::invalid(format!(
            "managedBy may have at most {MAX_MANAGER_BYTES} bytes and no control characters."
        )));
    }
    Ok(())
}

fn check_var(name: &EnvName, value: &Secret) -> Result<(), Error> {
    if RESERVED_NAMES.contains(&name.as_str()) {
        return Err(Error::invalid(format!(
            "{name} is reserved for the platform and cannot be set."
        )));
    }
    if value.expose_secret().contains('\0') {
        return Err(Error::invalid(format!(
            "The value of {name} contains a NUL byte: remove it."
        )));
    }
    Ok(())
}

fn refuse_bound(old: Option<&EnvVar>) -> Result<(), Error> {
    match old.map(|old| (&old.name, &old.source)) {
        Some((name, VarSource::Service { service, instance })) => Err(Error::conflict(format!(
            "{name} comes from the bound service instance {service}/{instance} and cannot be set: unbind the instance first."
        ))),
        _ => Ok(()),
    }
}

fn list_pruned(before: &Environment, change: &EnvChange) -> Vec<String> {
    let kept = |name: &EnvName| change.vars.iter().any(|var| var.name == *name);
    before
        .iter()
        .filter(|var| {
            var.source
                == VarSource::User {
                    managed_by: change.managed_by.clone(),
                }
                && !kept(&var.name)
        })
        .map(|var| var.name.to_string())
        .collect()
}

/// Removes variables that users have set; other and unknown variables are ignored. With `public_only`,
/// private ones are ignored too (contract/classic 1.1.8). Values that this uncovers were counted for the
/// limits when they were set. Returns the event to follow.
pub async fn unset_env(
    core: &Core,
    call: &RequestContext,
    name: &AppName,
    names: &[String],
    no_restart: bool,
    public_only: bool,
) -> Result<EventId, Error> {
    let permission = Permission::APP_UPDATE_ENV_UNSET;
    let app = apps::find_authorized_app(core, call, name, permission).await?;
    unset_env_of(core, call, (&app, permission), names, no_restart, public_only).await
}

/// Removes variables of an app or a job on which the caller holds the permission. Returns the event to follow.
pub async fn unset_env_of(
    core: &Core,
    call: &RequestContext,
    (app, permission): (&App, Permission),
    names: &[String],
    no_restart: bool,
    public_only: bool,
) -> Result<EventId, Error> {
    apps::ensure_live(app)?;
    let mut tx = core.db.begin().await?;
    let data = json!({ "names": names, "noRestart": no_restart });
    let new = new_app_event(app, permission, data);
    let event = events::begin_event(&mut tx, call, &new).await?;
    let set = envs::store::list_app_vars(&mut *tx, &core.keys, app.id).await?;
    let gone: Vec<String> = set
        .iter()
        .filter(|var| matches!(var.source, VarSource::User { .. }) && (var.public || !public_only))
        .map(|var| var.name.to_string())
        .filter(|name| names.contains(name))
        .collect();
    envs::store::delete_user_vars(&mut tx, app.id, &gone).await?;
    let lines: Vec<String> = gone.iter().map(|name| format!(" ---> {name} is unset")).collect();
    events::append_log_lines(&mut *tx, &event, &lines).await?;
    roll_out_or_end(&mut tx, &event, app, no_restart || gone.is_empty()).await?;
    tx.commit().await?;
    Ok(event)
}

/// What to restart.
#[derive(Clone, Debug, Default)]
pub struct RestartTarget {
    /// `None`: all processes.
    pub process: Option<ProcessName>,
    /// `None`, or the version that runs.
    pub version: Option<i64>,
}

/// Restarts the units of an app, or of one of its processes, with the present environment. Returns the event
/// to follow. Errors: `Invalid` for a process or version that is not running.
pub async fn restart_app(
    core: &Core,
    call: &RequestContext,
    name: &AppName,
    target: &RestartTarget,
) -> Result<EventId, Error> {
    let app = apps::find_authorized_app(core, call, name, Permission::APP_UPDATE_RESTART).await?;
    apps::ensure_live(&app)?;
    let data = json!({ "process": target.process, "version": target.version });
    let new = new_app_event(&app, Permission::APP_UPDATE_RESTART, data);
    sagas::start_saga::<RolloutSaga>(&core.db, call, &new, async |tx, event| {
        // Under the event's lock: no deploy changes the processes meanwhile.
        let (processes, version) = check_target(tx, &app, target).await?;
        let line = match &target.process {
            Some(process) => format!("---- Restarting the process {process} of {name} ----"),
            None => format!("---- Restarting {name} ----"),
        };
        events::append_log(&mut *tx, event, &line).await?;
        Ok(RolloutData::new(app.id, processes).limit_to_version(version))
    })
    .await
}

/// Returns the processes to restart, `None` for all, and of which version, `None` for every one that runs.
async fn check_target(
    tx: &mut PgConnection,
    app: &App,
    target: &RestartTarget,
) -> Result<(Option<Vec<String>>, Option<i32>), Error> {
    if target.process.is_none() && target.version.is_none() {
        return Ok((None, None));
    }
    let running = sides::store::list_processes(tx, app.id).await?;
    if running.is_empty() {
        return Err(Error::precondition(
            "The app has no version deployed yet: deploy it first.",
        ));
    }
    let is_meant = |version: i32| target.version.is_none_or(|asked| asked == i64::from(version));
    let meant: Vec<_> = running
        .iter()
        .filter(|running| is_meant(running.version))
        .collect();
    if let (Some(asked), []) = (target.version, meant.as_slice()) {
        return Err(version_not_running(
            asked,
            running.iter().map(|running| running.version),
        ));
    }
    let processes: BTreeSet<&str> = meant
        .iter()
        .flat_map(|running| running.processes.iter().map(String::as_str))
        .collect();
    if let Some(process) = &target.process
        && !processes.contains(process.as_str())
    {
        return Err(Error::invalid(format!(
            "The app has no process {process}: it has {}.",
            processes.into_iter().collect::<Vec<_>>().join(", ")
        )));
    }
    let processes = target.process.as_ref().map(|process| vec![process.to_string()]);
    let version = target
        .version
        .map(|_| meant.first().map(|running| running.version));
    Ok((processes, version.flatten()))
}

/// The error for a version that is asked for and does not run.
pub fn version_not_running(asked: i64, running: impl Iterator<Item = i32>) -> Error {
    let running: Vec<String> = running.map(|version| version.to_string()).collect();
    let what = match running.as_slice() {
        [version] => format!("version {version}"),
        _ => format!("the versions {}", running.join(", ")),
    };
    Error::invalid(format!("Version {asked} is not running: the app runs {what}."))
}

fn new_app_event(app: &App, permission: Permission, data: serde_json::Value) -> NewEvent {
    NewEvent::new(app.event_target(), permission, app.permission_contexts(), data).allow_cancel()
}

/// Hands the event to a rollout, or ends it here if `skip_rollout`.
pub async fn roll_out_or_end(
    tx: &mut PgConnection,
    event: &EventId,
    app: &App,
    skip_rollout: bool,
) -> Result<(), Error> {
    // The next run of a job begins with what is set then.
    if skip_rollout || app.kind == AppKind::Job {
        return events::end_event(tx, event, &EventOutcome::Done, None).await;
    }
    let data = RolloutData::new(app.id, None);
    sagas::enqueue_saga::<RolloutSaga>(tx, Some(event), &data)
        .await
        .map(drop)
}

/// Hands the event to a rollout of some processes, or ends it here if the app runs none of them.
pub async fn roll_out_processes(
    tx: &mut PgConnection,
    event: &EventId,
    app: &App,
    processes: Vec<String>,
) -> Result<(), Error> {
    let running = sides::store::list_processes(tx, app.id).await?;
    let current: BTreeSet<String> = running
        .into_iter()
        .flat_map(|running| running.processes)
        .collect();
    let processes: Vec<String> = processes
        .into_iter()
        .filter(|process| current.contains(process))
        .collect();
    if processes.is_empty() {
        return events::end_event(tx, event, &EventOutcome::Done, None).await;
    }
    let data = RolloutData::new(app.id, Some(processes));
    sagas::enqueue_saga::<RolloutSaga>(tx, Some(event), &data)
        .await
        .map(drop)
}
