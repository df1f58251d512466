//! Actions on volumes: create, list, find, update, delete.

use std::collections::BTreeMap;

use serde_json::json;
use sqlx::PgConnection;

use crate::config::VolumePlan;
use crate::core::Core;
use crate::db::{self, map_constraint_violation, notices::NoticeChannel};
use crate::events::{self, NewEvent};
use crate::kernel::error::{Error, ErrorKind};
use crate::kernel::ids::VolumeId;
use crate::kernel::names::{PoolName, TeamName, VolumeName};
use crate::kernel::permission::{ContextKind, Permission};
use crate::kernel::request_context::RequestContext;
use crate::pools::{self, ConstraintField};
use crate::teams;
use crate::volumes::model::{Volume, check_options, find_plan, volume_contexts, volume_target};
use crate::volumes::store::{self, VolumeFilter, VolumeWrite};

/// What a request says of a volume; what it leaves open is chosen or stays.
#[derive(Debug)]
pub(super) struct VolumeRequest {
    pub(super) plan: Option<String>,
    pub(super) pool: Option<PoolName>,
    pub(super) team_owner: Option<TeamName>,
    /// By name; empty: none, or as before.
    pub(super) options: BTreeMap<String, String>,
}

/// Returns the plans by provisioner, of those that this server has.
pub(super) fn list_plans(
    core: &Core,
    call: &RequestContext,
) -> Result<BTreeMap<&'static str, Vec<VolumePlan>>, Error> {
    let scopes = [ContextKind::Team, ContextKind::Pool]
        .map(|kind| call.visible_scopes(Permission::VOLUME_CREATE, kind));
    if scopes
        .iter()
        .all(|scope| scope.as_ref().is_some_and(Vec::is_empty))
    {
        call.authorize(Permission::VOLUME_CREATE, &[])?;
    }
    let plans_of = |name: &'static str| -> (&'static str, Vec<VolumePlan>) {
        (name, core.settings.volumes.list_plans(name).cloned().collect())
    };
    let all = core.provisioners.names().into_iter().map(plans_of);
    Ok(all.filter(|(_, plans)| !plans.is_empty()).collect())
}

/// Lists the volumes that the caller may read.
pub(super) async fn list_volumes(
    core: &Core,
    call: &RequestContext,
    mut filter: VolumeFilter,
) -> Result<Vec<Volume>, Error> {
    let scopes_of = |kind| call.visible_scopes(Permission::VOLUME_READ, kind);
    filter.scopes = scopes_of(ContextKind::Team).zip(scopes_of(ContextKind::Pool));
    Ok(store::list_volumes(&core.db, &filter).await?)
}

/// Finds a volume on which the caller holds the permission. Errors: `NotFound`, `Forbidden`.
pub(super) async fn find_authorized_volume(
    core: &Core,
    call: &RequestContext,
    name: &VolumeName,
    permission: Permission,
) -> Result<Volume, Error> {
    let volume = store::find_volume(&core.db, name)
        .await?
        .ok_or_else(|| Error::volume_not_found(name))?;
    call.authorize(permission, &volume.permission_contexts())?;
    Ok(volume)
}

/// Checks that a pool allows a plan and that its provisioner has it, with these options. Errors: `Invalid`.
async fn check_plan(
    core: &Core,
    pool: &PoolName,
    plan: &str,
    options: &BTreeMap<String, String>,
) -> Result<(), Error> {
    let provisioner = pools::find_provisioner(&core.db, pool)
        .await?
        .ok_or_else(|| Error::pool_not_found(pool))?;
    check_options(find_plan(&core.settings.volumes, &provisioner, plan)?, options)?;
    pools::check_allowed(&core.db, pool.as_str(), ConstraintField::VolumePlan, plan).await
}

/// Creates a volume. Errors: `Invalid`, `Forbidden`; `Conflict` for a taken name, `QuotaExceeded` for too many of the team.
pub(super) async fn create_volume(
    core: &Core,
    call: &RequestContext,
    name: &VolumeName,
    request: VolumeRequest,
) -> Result<(), Error> {
    let team = teams::choose_owner_team(core, call, request.team_owner, Permission::VOLUME_CREATE).await?;
    let plan = request.plan.ok_or_else(|| {
        Error::invalid("You must provide the plan of the volume: see `tsuru volume plan list`.")
    })?;
    let pool = pools::choose_pool(&core.db, request.pool.as_ref(), &team).await?;
    check_plan(core, &pool, &plan, &request.options).await?;
    let write = VolumeWrite {
        id: VolumeId::new(),
        name,
        pool: &pool,
        plan: &plan,
        team_owner: &team,
        options: &request.options,
    };
    db::retry_transaction(|| create_in_transaction(core, call, &write)).await
}

async fn create_in_transaction(
    core: &Core,
    call: &RequestContext,
    new: &VolumeWrite<'_>,
) -> Result<(), Error> {
    let mut tx = core.db.begin().await?;
    let data = json!({ "name": new.name, "pool": new.pool, "plan": new.plan, "teamOwner": new.team_owner, "options": new.options });
    let contexts = volume_contexts(new.pool, new.team_owner);
    let event = NewEvent::new(volume_target(new.name), Permission::VOLUME_CREATE, contexts, data);
    events::record_event(&mut tx, call, &event).await?;
    check_count(core, &mut tx, new.team_owner).await?;
    match store::insert_volume(&mut tx, new).await {
        Err(error) if is_missing_choice(&error) => return Err(choice_just_removed()),
        inserted => map_constraint_violation(inserted, "volume_name_key", || {
            Error::conflict(format!(
                "Volume {} already exists: choose another name.",
                new.name
            ))
        })?,
    }
    Ok(tx.commit().await?)
}

async fn check_count(core: &Core, tx: &mut PgConnection, team: &TeamName) -> Result<(), Error> {
    let limit = core.settings.volumes.max_per_team;
    match store::count_team_volumes(tx, team).await? >= i64::from(limit) {
        true => Err(Error::new(
            ErrorKind::QuotaExceeded,
            format!("Team {team} has {limit} volumes, which is the limit: remove one first."),
        )),
        false => Ok(()),
    }
}

fn is_missing_choice(error: &sqlx::Error) -> bool {
    let keys = ["volume_pool_fkey", "volume_team_owner_fkey"];
    keys.iter().any(|key| db::violates_constraint(error, key))
}

fn choice_just_removed() -> Error {
    Error::conflict("The pool or the team was just removed: choose another one.")
}

/// Changes a volume. What its plan and size say holds for units that start from then on. Errors: `NotFound`, `Forbidden`,
/// also for a new team in which the caller may not create one; `Invalid`; `Conflict` for another pool once it is used.
pub(super) async fn update_volume(
    core: &Core,
    call: &RequestContext,
    name: &VolumeName,
    request: VolumeRequest,
) -> Result<(), Error> {
    let volume = find_authorized_volume(core, call, name, Permission::VOLUME_UPDATE).await?;
    let team = match request.team_owner.filter(|team| *team != volume.team_owner) {
        Some(team) => teams::choose_owner_team(core, call, Some(team), Permission::VOLUME_CREATE).await?,
        None => volume.team_owner.clone(),
    };
    let pool = match request.pool.filter(|pool| *pool != volume.pool) {
        Some(pool) => pools::choose_pool(&core.db, Some(&pool), &team).await?,
        None => volume.pool.clone(),
    };
    let plan = request.plan.unwrap_or_else(|| volume.plan.clone());
    let options = match request.options.is_empty() {
        true => volume.options.clone(),
        false => request.options,
    };
    check_plan(core, &pool, &plan, &options).await?;
    let mut tx = core.db.begin().await?;
    let data = json!({ "pool": pool, "plan": plan, "teamOwner": team, "options": options });
    record_change(&mut tx, call, &volume, Permission::VOLUME_UPDATE, data).await?;
    let volume = lock_volume(&mut tx, &volume).await?;
    if pool != volume.pool && (volume.host.is_some() || !volume.binds.is_empty()) {
        return Err(Error::conflict(format!(
            "Volume {name} is used in the pool {}: create another one in the new pool.",
            volume.pool
        )));
    }
    if team != volume.team_owner {
        check_count(core, &mut tx, &team).await?;
    }
    let write = VolumeWrite {
        id: volume.id,
        name,
        pool: &pool,
        plan: &plan,
        team_owner: &team,
        options: &options,
    };
    match store::update_volume(&mut tx, &write).await {
        Err(error) if is_missing_choice(&error) => return Err(choice_just_removed()),
        updated => updated?,
    }
    Ok(tx.commit().await?)
}

async fn record_change(
    tx: &mut PgConnection,
    call: &RequestContext,
    volume: &Volume,
    permission: Permission,
    data: serde_json::Value,
) -> Result<(), Error> {
    let contexts = volume.permission_contexts();
    let event = NewEvent::new(volume.event_target(), permission, contexts, data);
    events::record_event(tx, call, &event).await.map(drop)
}

/// Reads a volume again under a lock. Errors: `NotFound` if it is gone.
async fn lock_volume(tx: &mut PgConnection, volume: &Volume) -> Result<Volume, Error> {
    let gone = || Error::volume_not_found(&volume.name);
    if !store::lock_volume(tx, volume.id).await? {
        return Err(gone());
    }
    store::find_volume(tx, &volume.name).await?.ok_or_else(gone)
}

/// Deletes a volume with its data. Errors: `NotFound`, `Forbidden`; `Conflict` while it is bound or a unit has it.
pub(super) async fn delete_volume(
    core: &Core,
    call: &RequestContext,
    name: &VolumeName,
) -> Result<(), Error> {
    let volume = find_authorized_volume(core, call, name, Permission::VOLUME_DELETE).await?;
    let mut tx = core.db.begin().await?;
    record_change(&mut tx, call, &volume, Permission::VOLUME_DELETE, json!({})).await?;
    let volume = lock_volume(&mut tx, &volume).await?;
    if let Some(bind) = volume.binds.first() {
        let kind = bind.kind.as_str();
        return Err(Error::conflict(format!(
            "Volume {name} is bound to the {kind} {}: unbind it first.",
            bind.app
        )));
    }
    if let Some(app) = store::find_user(&mut tx, volume.id).await? {
        return Err(Error::conflict(format!(
            "Units of the app {app} still have the volume {name}: try again when they have stopped; if they run on, restart the app."
        )));
    }
    store::delete_volume(&mut tx, volume.id).await?;
    db::send_notice(&mut tx, NoticeChannel::Versions, "").await?;
    Ok(tx.commit().await?)
}
