//! Changes of versions: their removal, and whether an app may go back to them.

use serde_json::json;
use sqlx::PgConnection;

use crate::apps::{self, App};
use crate::core::Core;
use crate::deploys::actions::clean_text;
use crate::deploys::version_choice::parse_image;
use crate::events::{self, EventOutcome, EventTarget, NewEvent};
use crate::kernel::error::Error;
use crate::kernel::excerpt::quote_excerpt;
use crate::kernel::ids::EventId;
use crate::kernel::names::AppName;
use crate::kernel::permission::Permission;
use crate::kernel::request_context::RequestContext;
use crate::releases;
use crate::versions::{self, VersionUse};

/// Maximum length of a reason, in characters.
const MAX_REASON: usize = 2000;

/// Removes a version: the app cannot go back to it, and its holder removes its files. Returns the event to
/// follow. Errors: `NotFound`; `Conflict` for a version that runs or is being rolled out.
pub async fn remove_version(
    core: &Core,
    call: &RequestContext,
    name: &AppName,
    version: &str,
) -> Result<EventId, Error> {
    let app = apps::find_authorized_app(core, call, name, Permission::APP_UPDATE).await?;
    apps::ensure_live(&app)?;
    let number = parse_image(version).ok_or_else(|| version_not_found(&app, version))?;
    let mut tx = core.db.begin().await?;
    let data = json!({ "removedVersion": number });
    let event =
        events::begin_event(&mut tx, call, &new_app_event(&app, Permission::APP_UPDATE, data)).await?;
    match find_use(&mut tx, &app, number).await? {
        VersionUse::Ready { .. } => versions::mark_version_removed(&mut tx, app.id, number).await?,
        VersionUse::InUse => {
            return Err(Error::conflict(format!(
                "Version {number} of app {name} runs: deploy or roll back to another version before you remove it."
            )));
        }
    }
    events::append_log(
        &mut *tx,
        &event,
        &format!("---- Removing version {number} of {name} ----"),
    )
    .await?;
    events::end_event(&mut tx, &event, &EventOutcome::Done, None).await?;
    tx.commit().await?;
    Ok(event)
}

/// Forbids an app to go back to a version, for a reason, or allows it again (`None`). A version that runs goes
/// on. Errors: `NotFound`; `Invalid` for a reason that is empty or too long.
pub async fn change_rollback(
    core: &Core,
    call: &RequestContext,
    name: &AppName,
    image: &str,
    disabled_because: Option<&str>,
) -> Result<(), Error> {
    let app = apps::find_authorized_app(core, call, name, Permission::APP_UPDATE_DEPLOY_ROLLBACK).await?;
    apps::ensure_live(&app)?;
    let reason = disabled_because.map(|reason| clean_text(reason.trim(), MAX_REASON));
    if reason.as_deref() == Some("") {
        return Err(Error::invalid(
            "Give a reason why the version must not be gone back to.",
        ));
    }
    let number = parse_image(image).ok_or_else(|| version_not_found(&app, image))?;
    let mut tx = core.db.begin().await?;
    let data = json!({ "version": number, "disabled": reason.is_some(), "reason": reason });
    let kind = Permission::APP_UPDATE_DEPLOY_ROLLBACK;
    events::record_event(&mut tx, call, &new_app_event(&app, kind, data)).await?;
    find_use(&mut tx, &app, number).await?;
    versions::set_disabled_reason(&mut tx, app.id, number, &reason.unwrap_or_default()).await?;
    Ok(tx.commit().await?)
}

/// Has the routers send requests to a version that runs or not. Errors: `NotFound`; `Conflict` for a version that does not
/// run, and for the last one that gets requests.
pub async fn change_routable(
    core: &Core,
    call: &RequestContext,
    name: &AppName,
    version: &str,
    is_routable: bool,
) -> Result<(), Error> {
    let app = apps::find_authorized_app(core, call, name, Permission::APP_UPDATE_ROUTABLE).await?;
    apps::ensure_live(&app)?;
    let number = parse_image(version).ok_or_else(|| version_not_found(&app, version))?;
    let mut tx = core.db.begin().await?;
    let data = json!({ "version": number, "isRoutable": is_routable });
    let new = new_app_event(&app, Permission::APP_UPDATE_ROUTABLE, data);
    events::record_event(&mut tx, call, &new).await?;
    find_use(&mut tx, &app, number).await?;
    releases::set_version_routable(&mut tx, app.id, number, is_routable).await?;
    Ok(tx.commit().await?)
}

/// Returns what a version is used for. Errors: `NotFound`, also if the app is gone.
async fn find_use(tx: &mut PgConnection, app: &App, version: i32) -> Result<VersionUse, Error> {
    let found = versions::find_version_use(tx, app.id, version).await?;
    found.ok_or_else(|| version_not_found(app, &format!("v{version}")))
}

/// An app has no version of this name that is built and not removed.
pub(super) fn version_not_found(app: &App, version: &str) -> Error {
    Error::not_found(format!(
        "App {} has no version {:?}.",
        app.name,
        quote_excerpt(version)
    ))
}

fn new_app_event(app: &App, kind: Permission, data: serde_json::Value) -> NewEvent {
    NewEvent::new(
        EventTarget::for_app(&app.name),
        kind,
        app.permission_contexts(),
        data,
    )
}
