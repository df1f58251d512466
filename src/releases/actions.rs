//! What a user does to the environment and to what runs: read, set and unset variables, restart.
//!
//! Each change is an event that goes on until the new release runs; whoever waits follows the event.

use serde_json::json;
use sqlx::PgConnection;

use crate::apps::{self, App};
use crate::core::Core;
use crate::envs::{self, Environment, RESERVED, Source, Var};
use crate::events::{self, NewEvent, Outcome, Target};
use crate::kernel::call::Call;
use crate::kernel::ids::EventId;
use crate::kernel::names::{AppName, EnvName};
use crate::kernel::permission::Permission;
use crate::kernel::problem::Problem;
use crate::kernel::secret::Secret;
use crate::releases::saga::{Rollout, RolloutData};
use crate::sagas::{self, Lane, NewSaga};

/// Longest value of a variable, in bytes: what a process can be started with is bounded.
const MAX_VALUE: usize = 64 * 1024;
/// Variables of an app, at most.
const MAX_VARS: usize = 1000;

/// Variables to set.
#[derive(Debug, Default)]
pub struct EnvChange {
    pub vars: Vec<(EnvName, Secret, String)>,
    pub private: bool,
    pub managed_by: String,
    /// Removes what the same manager had set before and does not set now.
    pub prune: bool,
    pub no_restart: bool,
    /// Leaves private variables silently as they are (contract/classic 1.1.7) instead of setting them.
    pub skip_private: bool,
}

/// The environment of an app as it is now.
pub async fn environment_of(core: &Core, call: &Call, name: &AppName) -> Result<Environment, Problem> {
    let app = apps::find_for(core, call, name, Permission::APP_READ_ENV).await?;
    let mut conn = core.db.acquire().await?;
    envs::effective(core, &mut conn, app.id, &app.name).await
}

/// Sets variables, all or none. Answers the event to follow.
pub async fn set_env(
    core: &Core,
    call: &Call,
    name: &AppName,
    change: EnvChange,
) -> Result<EventId, Problem> {
    let app = apps::find_for(core, call, name, Permission::APP_UPDATE_ENV_SET).await?;
    apps::ensure_live(&app)?;
    for (name, value, _) in &change.vars {
        check(name, value)?;
    }
    let mut tx = core.db.begin().await?;
    let names: Vec<&EnvName> = change.vars.iter().map(|(name, ..)| name).collect();
    let data = json!({ "names": names, "private": change.private, "noRestart": change.no_restart });
    let event = begin(&mut tx, call, &app, Permission::APP_UPDATE_ENV_SET, data).await?;
    let before = envs::effective(core, &mut tx, app.id, &app.name).await?;
    let mut lines = Vec::new();
    for (var, value, alias) in &change.vars {
        let old = before.get(var.as_str());
        refuse_bound(old)?;
        if change.skip_private && old.is_some_and(|old| !old.public) {
            continue;
        }
        // What was private stays so, unless it is set anew with the choice made.
        let public = !change.private;
        let put = envs::store::Put {
            name: var,
            value,
            public,
            managed_by: &change.managed_by,
            alias,
        };
        envs::store::put(&mut tx, &core.keys, app.id, &put).await?;
        lines.push(format!(" ---> {var} is set"));
    }
    if change.prune && !change.managed_by.is_empty() {
        let gone = pruned(&before, &change);
        envs::store::delete(&mut tx, app.id, &gone).await?;
        lines.extend(gone.iter().map(|name| format!(" ---> {name} is gone")));
    }
    if before.iter().count() + change.vars.len() > MAX_VARS {
        return Err(Problem::invalid(format!(
            "An app has at most {MAX_VARS} variables."
        )));
    }
    tell(&mut tx, &event, &lines).await?;
    roll_out(&mut tx, &event, &app, change.no_restart || lines.is_empty()).await?;
    tx.commit().await?;
    Ok(event)
}

fn check(name: &EnvName, value: &Secret) -> Result<(), Problem> {
    if RESERVED.contains(&name.as_str()) {
        return Err(Problem::invalid(format!(
            "{name} belongs to the platform and cannot be set."
        )));
    }
    if value.expose().len() > MAX_VALUE {
        return Err(Problem::invalid(format!(
            "The value of {name} is longer than {} KiB.",
            MAX_VALUE / 1024
        )));
    }
    if value.expose().contains('\0') {
        return Err(Problem::invalid(format!(
            "The value of {name} has a zero character in it."
        )));
    }
    Ok(())
}

fn refuse_bound(old: Option<&Var>) -> Result<(), Problem> {
    match old.map(|old| (&old.name, &old.source)) {
        Some((name, Source::Service { service, instance })) => Err(Problem::conflict(format!(
            "{name} comes from the bound service instance {service}/{instance} and cannot be set."
        ))),
        _ => Ok(()),
    }
}

fn pruned(before: &Environment, change: &EnvChange) -> Vec<String> {
    let kept = |name: &EnvName| change.vars.iter().any(|(n, ..)| n == name);
    before
        .iter()
        .filter(|var| {
            var.source
                == Source::User {
                    managed_by: change.managed_by.clone(),
                }
                && !kept(&var.name)
        })
        .map(|var| var.name.to_string())
        .collect()
}

/// Removes variables that users have set; others, and unknown ones, are left alone. With
/// `public_only`, private ones too are left alone (contract/classic 1.1.8). Answers the event to follow.
pub async fn unset_env(
    core: &Core,
    call: &Call,
    name: &AppName,
    names: &[String],
    no_restart: bool,
    public_only: bool,
) -> Result<EventId, Problem> {
    let app = apps::find_for(core, call, name, Permission::APP_UPDATE_ENV_UNSET).await?;
    apps::ensure_live(&app)?;
    let mut tx = core.db.begin().await?;
    let data = json!({ "names": names, "noRestart": no_restart });
    let event = begin(&mut tx, call, &app, Permission::APP_UPDATE_ENV_UNSET, data).await?;
    let before = envs::store::list_set(&mut *tx, &core.keys, app.id).await?;
    let gone: Vec<String> = before
        .iter()
        .filter(|var| matches!(var.source, Source::User { .. }) && (var.public || !public_only))
        .map(|var| var.name.to_string())
        .filter(|name| names.contains(name))
        .collect();
    envs::store::delete(&mut tx, app.id, &gone).await?;
    let lines: Vec<String> = gone.iter().map(|name| format!(" ---> {name} is gone")).collect();
    tell(&mut tx, &event, &lines).await?;
    roll_out(&mut tx, &event, &app, no_restart || gone.is_empty()).await?;
    tx.commit().await?;
    Ok(event)
}

/// Starts all units anew, with the environment as it is now. Answers the event to follow.
pub async fn restart(core: &Core, call: &Call, name: &AppName) -> Result<EventId, Problem> {
    let app = apps::find_for(core, call, name, Permission::APP_UPDATE_RESTART).await?;
    apps::ensure_live(&app)?;
    let mut tx = core.db.begin().await?;
    let event = begin(&mut tx, call, &app, Permission::APP_UPDATE_RESTART, json!({})).await?;
    tell(&mut tx, &event, &[format!("---- Restarting {name} ----")]).await?;
    roll_out(&mut tx, &event, &app, false).await?;
    tx.commit().await?;
    Ok(event)
}

async fn begin(
    tx: &mut PgConnection,
    call: &Call,
    app: &App,
    permission: Permission,
    data: serde_json::Value,
) -> Result<EventId, Problem> {
    let event = NewEvent::new(Target::app(&app.name), permission, app.contexts(), data).cancelable();
    events::begin(tx, call, &event).await
}

/// Hands the event to a rollout, or ends it here when nothing is to be started anew.
async fn roll_out(tx: &mut PgConnection, event: &EventId, app: &App, quiet: bool) -> Result<(), Problem> {
    if quiet {
        return events::end(tx, event, &Outcome::Done, None).await;
    }
    let data = RolloutData {
        app: app.id,
        release: None,
        switched: false,
    };
    let new = NewSaga {
        kind: Rollout::KIND,
        lane: Lane::People,
        event: Some(event),
        host: None,
        data: &data,
    };
    sagas::enqueue(tx, new).await.map(drop)
}

async fn tell(tx: &mut PgConnection, event: &EventId, lines: &[String]) -> Result<(), Problem> {
    for line in lines {
        events::say(&mut *tx, event, line).await?;
    }
    Ok(())
}
