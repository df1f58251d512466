//! Use cases of pools: list, create, update, remove, and the teams that may use them.

use serde_json::json;
use sqlx::PgConnection;

use crate::core::Core;
use crate::db;
use crate::events;
use crate::kernel::error::Error;
use crate::kernel::names::{PoolName, TeamName};
use crate::kernel::permission::{ContextKind, Permission};
use crate::kernel::request_context::RequestContext;
use crate::pools::model::{CreatePool, Pool, PoolPatch, check_labels, pool_context, pool_event};
use crate::pools::store::{self, PoolScopes};
use crate::provisioners::registry;
use crate::teams;

/// Lists the pools that the caller may create apps in or read, or only the named one. They name only teams
/// that the caller may see.
pub async fn list_visible_pools(
    core: &Core,
    call: &RequestContext,
    named: Option<&PoolName>,
) -> Result<Vec<Pool>, Error> {
    let scopes = match call.has_global_permission(Permission::POOL_READ) {
        true => None,
        false => call
            .visible_scopes(Permission::APP_CREATE, ContextKind::Team)
            .map(|teams| PoolScopes {
                teams,
                pools: call
                    .visible_scopes(Permission::POOL_READ, ContextKind::Pool)
                    .unwrap_or_default(),
            }),
    };
    let shown_teams = match call.has_global_permission(Permission::TEAM_READ) {
        true => None,
        false => Some(
            call.caller_teams()
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>(),
        ),
    };
    let pools = store::list_pools(&core.db, named, scopes.as_ref(), shown_teams.as_deref()).await?;
    pools.into_iter().map(Pool::try_from).collect()
}

/// Creates a pool. Errors: `Forbidden`, `Invalid`, `Conflict` for a taken name, or for a second default pool
/// without `force`.
pub(super) async fn create_pool(core: &Core, call: &RequestContext, new: &CreatePool) -> Result<(), Error> {
    call.authorize(Permission::POOL_CREATE, &[])?;
    let provisioner = new.provisioner.as_deref().unwrap_or(registry::DEFAULT);
    core.provisioners.check_name(provisioner)?;
    check_labels(&new.labels)?;
    let mut tx = core.db.begin().await?;
    let data = json!({
        "name": new.name, "provisioner": provisioner, "public": new.is_public, "default": new.is_default,
        "force": new.force, "labels": new.labels,
    });
    let event = pool_event(&new.name, Permission::POOL_CREATE, data);
    events::record_event(&mut tx, call, &event).await?;
    if new.is_default {
        clear_default(&mut tx, &new.name, new.force).await?;
    }
    let labels = json!(new.labels);
    match store::insert_pool(&mut tx, &new.name, provisioner, new.is_default, &labels).await {
        Err(error) if db::violates_constraint(&error, "pool_one_default") => {
            return Err(default_just_changed());
        }
        inserted => {
            db::map_constraint_violation(inserted, "pool_pkey", || Error::conflict("Pool already exists."))?
        }
    }
    if new.is_public || new.is_default {
        store::set_public(&mut tx, &new.name).await?;
    }
    tx.commit().await?;
    Ok(())
}

/// Ends the present default pool, if it is another one. Errors: `Conflict` without `force`.
async fn clear_default(tx: &mut PgConnection, next: &PoolName, force: bool) -> Result<(), Error> {
    match store::find_other_default(&mut *tx, next).await? {
        None => Ok(()),
        Some(_) if force => Ok(store::clear_default(tx, next).await?),
        Some(present) => Err(Error::conflict(format!(
            "Default pool already exists: it is {present}. Use force to make {next} the default pool instead."
        ))),
    }
}

fn default_just_changed() -> Error {
    Error::conflict("The default pool was just changed; try again.")
}

/// Changes a pool. To become public, or the default one, opens a pool to all teams; no longer to be public
/// closes it to all. Errors: `NotFound`, `Forbidden`, `Invalid`, `Conflict` for a second default pool without
/// `force`.
pub(super) async fn update_pool(
    core: &Core,
    call: &RequestContext,
    name: &PoolName,
    patch: &PoolPatch,
) -> Result<(), Error> {
    call.authorize(Permission::POOL_UPDATE, &[pool_context(name)])?;
    if patch.is_default.is_some() {
        // It changes which pool the apps of everybody get.
        call.authorize(Permission::POOL_UPDATE, &[])?;
    }
    if let Some(labels) = &patch.labels {
        check_labels(labels)?;
    }
    let mut tx = core.db.begin().await?;
    let data = json!({
        "public": patch.is_public, "default": patch.is_default, "force": patch.force, "labels": patch.labels,
    });
    events::record_event(&mut tx, call, &pool_event(name, Permission::POOL_UPDATE, data)).await?;
    if patch.is_default == Some(true) {
        clear_default(&mut tx, name, patch.force).await?;
    }
    let labels = patch.labels.as_ref().map(|labels| json!(labels));
    let updated = store::update_pool(&mut tx, name, patch.is_default, labels.as_ref()).await;
    if !db::map_constraint_violation(updated, "pool_one_default", default_just_changed)? {
        return Err(Error::pool_not_found(name));
    }
    match (patch.is_public, patch.is_default) {
        (Some(true), _) | (None, Some(true)) => store::set_public(&mut tx, name).await?,
        (Some(false), _) => store::set_private(&mut tx, name).await?,
        (None, _) => {}
    }
    tx.commit().await?;
    Ok(())
}

/// Removes a pool without apps. Errors: `NotFound`; `Forbidden`, also while the pool has apps.
pub(super) async fn remove_pool(core: &Core, call: &RequestContext, name: &PoolName) -> Result<(), Error> {
    call.authorize(Permission::POOL_DELETE, &[pool_context(name)])?;
    let mut tx = core.db.begin().await?;
    let event = pool_event(name, Permission::POOL_DELETE, json!({ "name": name }));
    events::record_event(&mut tx, call, &event).await?;
    let removed = store::delete_pool(&mut tx, name).await;
    if let Err(error) = &removed
        && db::violates_constraint(error, "volume_pool_fkey")
    {
        return Err(Error::forbidden(
            "This pool has volumes: remove them before removing the pool.",
        ));
    }
    let removed = db::map_constraint_violation(removed, "app_pool_fkey", || {
        Error::forbidden("This pool has apps: remove them before removing the pool.")
    })?;
    if !removed {
        return Err(Error::pool_not_found(name));
    }
    tx.commit().await?;
    Ok(())
}

/// Lets teams use a pool. Errors: `NotFound`, `Forbidden`, `Invalid` for no team or an unknown one, and for a
/// pool that is open to all teams or denies some; `Conflict` for a team that may use it already.
pub(super) async fn add_teams(
    core: &Core,
    call: &RequestContext,
    name: &PoolName,
    teams: &[TeamName],
) -> Result<(), Error> {
    call.authorize(Permission::POOL_UPDATE_TEAM_ADD, &[pool_context(name)])?;
    check_any_team(teams)?;
    let added: Vec<String> = teams.iter().map(ToString::to_string).collect();
    if let Some(unknown) = teams::find_unknown_team(&core.db, &added).await? {
        return Err(Error::invalid(format!("Team {unknown} does not exist.")));
    }
    let mut tx = core.db.begin().await?;
    let present = begin_team_change(&mut tx, call, name, Permission::POOL_UPDATE_TEAM_ADD, teams).await?;
    if present.iter().any(|team| team == "*") {
        return Err(Error::invalid(
            "The pool is public: all teams may use it already.",
        ));
    }
    if let Some(team) = teams
        .iter()
        .find(|team| present.iter().any(|known| known == team.as_str()))
    {
        return Err(Error::conflict(format!(
            "Team {team} may already use pool {name}."
        )));
    }
    store::append_to_constraint(&mut tx, name.as_str(), "team", &added, false).await?;
    tx.commit().await?;
    Ok(())
}

/// Takes a pool from teams. Their apps in it stay. Errors: `NotFound`, also for a team that may not use the
/// pool; `Forbidden`; `Invalid` for no team, and for a pool that denies some teams.
pub(super) async fn remove_teams(
    core: &Core,
    call: &RequestContext,
    name: &PoolName,
    teams: &[TeamName],
) -> Result<(), Error> {
    call.authorize(Permission::POOL_UPDATE_TEAM_REMOVE, &[pool_context(name)])?;
    check_any_team(teams)?;
    let mut tx = core.db.begin().await?;
    let present = begin_team_change(&mut tx, call, name, Permission::POOL_UPDATE_TEAM_REMOVE, teams).await?;
    if let Some(team) = teams
        .iter()
        .find(|team| !present.iter().any(|known| known == team.as_str()))
    {
        return Err(Error::not_found(format!(
            "Team {team} is not in the list of teams of pool {name}."
        )));
    }
    let removed: Vec<String> = teams.iter().map(ToString::to_string).collect();
    store::remove_from_constraint(&mut tx, name.as_str(), "team", &removed).await?;
    tx.commit().await?;
    Ok(())
}

fn check_any_team(teams: &[TeamName]) -> Result<(), Error> {
    match teams.is_empty() {
        true => Err(Error::invalid("You must provide the team.")),
        false => Ok(()),
    }
}

/// Records the event, locks the pool and returns the teams that its own constraint allows. Errors: `NotFound`;
/// `Invalid` for a constraint that denies teams.
async fn begin_team_change(
    tx: &mut PgConnection,
    call: &RequestContext,
    name: &PoolName,
    kind: Permission,
    teams: &[TeamName],
) -> Result<Vec<String>, Error> {
    events::record_event(tx, call, &pool_event(name, kind, json!({ "team": teams }))).await?;
    if !store::lock_pool(tx, name).await? {
        return Err(Error::pool_not_found(name));
    }
    match store::find_constraint(tx, name.as_str(), "team").await? {
        None => Ok(Vec::new()),
        Some(found) if found.is_denylist => Err(Error::invalid(
            "The pool has a constraint that denies teams: change that instead.",
        )),
        Some(found) => Ok(found.names),
    }
}
