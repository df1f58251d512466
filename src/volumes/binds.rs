//! Actions on binds: give an app or a job a volume at a path, and take it away.

use serde_json::json;

use crate::apps::{self, App, AppKind};
use crate::core::Core;
use crate::db::{self, map_constraint_violation};
use crate::events::{self, NewEvent};
use crate::kernel::error::Error;
use crate::kernel::ids::EventId;
use crate::kernel::names::{AppName, VolumeName};
use crate::kernel::permission::Permission;
use crate::kernel::request_context::RequestContext;
use crate::releases;
use crate::volumes::actions::find_authorized_volume;
use crate::volumes::model::Volume;
use crate::volumes::mount_point::MountPoint;
use crate::volumes::store;

/// Volumes of one app.
const MAX_BINDS: usize = 20;

/// A request to bind or to unbind.
#[derive(Debug)]
pub(super) struct VolumeBindRequest {
    /// What `app` names.
    pub(super) kind: AppKind,
    pub(super) app: AppName,
    pub(super) mount_point: String,
    pub(super) is_read_only: bool,
    /// Leave the running units as they are; the next deploy or restart applies the change.
    pub(super) no_restart: bool,
}

impl VolumeBindRequest {
    /// Returns the permission that a change needs: this one on an app.
    fn permission(&self, on_app: Permission) -> Permission {
        match self.kind {
            AppKind::App => on_app,
            AppKind::Job => Permission::JOB_UPDATE,
        }
    }
}

/// Finds what a change is about; the app is not being removed.
async fn find_app_and_volume(
    core: &Core,
    call: &RequestContext,
    request: &VolumeBindRequest,
    (name, on_volume): (&VolumeName, Permission),
    on_app: Permission,
) -> Result<(App, Volume), Error> {
    let app = apps::find_authorized_target(core, call, (request.kind, &request.app), on_app).await?;
    let volume = find_authorized_volume(core, call, name, on_volume).await?;
    apps::ensure_live(&app)?;
    Ok((app, volume))
}

fn new_bind_event(app: &App, volume: &Volume, kind: Permission, request: &VolumeBindRequest) -> NewEvent {
    let mut contexts = app.permission_contexts();
    contexts.extend(volume.permission_contexts());
    let data = json!({
        "volume": volume.name, "mountPoint": request.mount_point, "readOnly": request.is_read_only,
        "noRestart": request.no_restart,
    });
    NewEvent::new(app.event_target(), kind, contexts, data)
        .with_lock(volume.event_target())
        .allow_cancel()
}

/// Binds a volume to an app or a job, whose units get it by a restart. Returns the event to follow. Errors: `Invalid` for a
/// path or another pool; `Conflict` if the app has a volume there.
pub(super) async fn bind_volume(
    core: &Core,
    call: &RequestContext,
    name: &VolumeName,
    request: &VolumeBindRequest,
) -> Result<EventId, Error> {
    let on_app = request.permission(Permission::APP_UPDATE_BIND_VOLUME);
    let path = MountPoint::parse(&request.mount_point)?;
    let on_volume = (name, Permission::VOLUME_UPDATE_BIND);
    let (app, volume) = find_app_and_volume(core, call, request, on_volume, on_app).await?;
    if app.pool != volume.pool {
        return Err(Error::invalid(format!(
            "Volume {name} is in the pool {}, and the {} {} in the pool {}: bind one of the same pool.",
            volume.pool,
            app.kind.as_str(),
            app.name,
            app.pool
        )));
    }
    db::retry_transaction(|| bind_in_transaction(core, call, (&app, on_app), (&volume, &path), request)).await
}

async fn bind_in_transaction(
    core: &Core,
    call: &RequestContext,
    (app, permission): (&App, Permission),
    (volume, path): (&Volume, &MountPoint),
    request: &VolumeBindRequest,
) -> Result<EventId, Error> {
    let mut tx = core.db.begin().await?;
    let new = new_bind_event(app, volume, permission, request);
    let event = events::begin_event(&mut tx, call, &new).await?;
    let bound = store::list_mount_points(&mut tx, app.id).await?;
    if let Some(other) = bound.iter().find(|other| path.overlaps(other)) {
        return Err(Error::conflict(format!(
            "The {} {} has a volume at {other}: choose a path that is not inside it and does not contain it.",
            app.kind.as_str(),
            app.name
        )));
    }
    if bound.len() >= MAX_BINDS {
        return Err(Error::invalid(format!(
            "An app or a job has at most {MAX_BINDS} volumes."
        )));
    }
    let inserted = store::insert_bind(&mut tx, volume.id, app.id, path.as_str(), request.is_read_only).await;
    if let Err(error) = &inserted
        && db::violates_constraint(error, "volume_bind_volume_id_fkey")
    {
        return Err(Error::volume_not_found(&volume.name));
    }
    map_constraint_violation(inserted, "volume_bind_pkey", || {
        Error::conflict(format!(
            "The {} {} has a volume at {} already: unbind that one first.",
            app.kind.as_str(),
            app.name,
            path.as_str()
        ))
    })?;
    let line = format!(" ---> The volume {} is bound at {}", volume.name, path.as_str());
    apply_change(tx, event, app, (request, &line)).await
}

/// Ends a change of a bind: the units get it by a restart, if one is wanted.
async fn apply_change(
    mut tx: sqlx::PgTransaction<'_>,
    event: EventId,
    app: &App,
    (request, line): (&VolumeBindRequest, &str),
) -> Result<EventId, Error> {
    events::append_log(&mut *tx, &event, line).await?;
    releases::roll_out_or_end(&mut tx, &event, app, request.no_restart).await?;
    tx.commit().await?;
    Ok(event)
}

/// Unbinds a volume from an app or a job, whose units lose it by a restart. Returns the event to follow. Errors: `NotFound`,
/// also if it is not bound there.
pub(super) async fn unbind_volume(
    core: &Core,
    call: &RequestContext,
    name: &VolumeName,
    request: &VolumeBindRequest,
) -> Result<EventId, Error> {
    let on_app = request.permission(Permission::APP_UPDATE_UNBIND_VOLUME);
    let path = MountPoint::parse(&request.mount_point)?;
    let on_volume = (name, Permission::VOLUME_UPDATE_UNBIND);
    let (app, volume) = find_app_and_volume(core, call, request, on_volume, on_app).await?;
    let mut tx = core.db.begin().await?;
    let new = new_bind_event(&app, &volume, on_app, request);
    let event = events::begin_event(&mut tx, call, &new).await?;
    if !store::delete_bind(&mut tx, volume.id, app.id, path.as_str()).await? {
        return Err(Error::not_found(format!(
            "Volume {name} is not bound to the {} {} at {}.",
            app.kind.as_str(),
            app.name,
            path.as_str()
        )));
    }
    let line = format!(" ---> The volume {name} is unbound from {}", path.as_str());
    apply_change(tx, event, &app, (request, &line)).await
}
