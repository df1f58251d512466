//! Use cases of platforms: list, describe, add, update, remove, roll back.

use serde_json::json;
use sqlx::PgConnection;

use crate::core::Core;
use crate::db;
use crate::events;
use crate::kernel::error::Error;
use crate::kernel::names::PlatformName;
use crate::kernel::permission::Permission;
use crate::kernel::request_context::RequestContext;
use crate::platforms::model::{Platform, PlatformPatch, PlatformVersions, platform_event};
use crate::platforms::{scripts, store};

/// The maximum number of platforms.
const MAX_PLATFORMS: i64 = 100;
/// Versions of a platform that are kept, besides the current one.
const KEEP_VERSIONS: i64 = 5;

/// Lists all platforms, by name. Every user may see them.
pub(super) async fn list_platforms(core: &Core) -> Result<Vec<Platform>, Error> {
    Ok(store::list_platforms(&core.db).await?)
}

/// Returns a platform with its versions. Errors: `NotFound`.
pub(super) async fn get_platform(core: &Core, name: &PlatformName) -> Result<PlatformVersions, Error> {
    let found = store::find_platform(&core.db, name).await?;
    let platform = found.ok_or_else(|| Error::platform_not_found(name))?;
    let mut versions = store::list_versions(&core.db, name).await?;
    if platform.shipped {
        versions.insert(0, 0);
    }
    Ok(PlatformVersions { platform, versions })
}

/// Adds a platform from an archive of scripts. Errors: `Forbidden`, `Invalid`, `Conflict` for a taken name.
pub(super) async fn add_platform(
    core: &Core,
    call: &RequestContext,
    name: &PlatformName,
    archive: Vec<u8>,
) -> Result<(), Error> {
    call.authorize(Permission::PLATFORM_CREATE, &[])?;
    let (archive, digest) = scripts::check_archive(core, archive).await?;
    let mut tx = core.db.begin().await?;
    let data = json!({ "name": name, "digest": digest });
    let event = platform_event(name, Permission::PLATFORM_CREATE, data);
    events::record_event(&mut tx, call, &event).await?;
    let inserted = store::insert_platform(&mut tx, name).await;
    db::map_constraint_violation(inserted, "platform_pkey", || {
        Error::conflict("Platform already exists.")
    })?;
    add_version(&mut tx, name, &digest, &archive).await?;
    if store::count_platforms(&mut *tx).await? > MAX_PLATFORMS {
        return Err(Error::invalid(format!(
            "There are at most {MAX_PLATFORMS} platforms: remove one that no app has."
        )));
    }
    tx.commit().await?;
    Ok(())
}

/// Gives a platform that is locked a new version, and makes it current.
async fn add_version(
    tx: &mut PgConnection,
    name: &PlatformName,
    digest: &str,
    archive: &[u8],
) -> Result<(), Error> {
    let version = store::insert_version(&mut *tx, name, digest, archive).await?;
    store::set_version(&mut *tx, name, Some(version)).await?;
    Ok(store::delete_old_versions(tx, name, KEEP_VERSIONS).await?)
}

/// Gives a platform new scripts, disables or enables it. Errors: `NotFound`, `Forbidden`; `Invalid`, also if
/// there is nothing to change.
pub(super) async fn update_platform(
    core: &Core,
    call: &RequestContext,
    name: &PlatformName,
    patch: PlatformPatch,
) -> Result<(), Error> {
    call.authorize(Permission::PLATFORM_UPDATE, &[])?;
    if store::find_platform(&core.db, name).await?.is_none() {
        return Err(Error::platform_not_found(name));
    }
    if patch.archive.is_none() && patch.disabled.is_none() {
        return Err(Error::invalid(
            "There is nothing to change: send an archive of scripts, or disabled.",
        ));
    }
    let checked = match patch.archive {
        Some(archive) => Some(scripts::check_archive(core, archive).await?),
        None => None,
    };
    let mut tx = core.db.begin().await?;
    let digest = checked.as_ref().map(|(_, digest)| digest);
    let data = json!({ "disabled": patch.disabled, "digest": digest });
    let event = platform_event(name, Permission::PLATFORM_UPDATE, data);
    events::record_event(&mut tx, call, &event).await?;
    find_locked(&mut tx, name).await?;
    if let Some((archive, digest)) = &checked {
        add_version(&mut tx, name, digest, archive).await?;
    }
    if let Some(disabled) = patch.disabled {
        store::set_disabled(&mut tx, name, disabled).await?;
    }
    tx.commit().await?;
    Ok(())
}

/// Locks a platform. Errors: `NotFound`.
async fn find_locked(tx: &mut PgConnection, name: &PlatformName) -> Result<Platform, Error> {
    let found = store::lock_platform(tx, name).await?;
    found.ok_or_else(|| Error::platform_not_found(name))
}

/// Makes an earlier version of a platform current; the next build of each app uses it. Errors: `NotFound`, also
/// for a version that is not kept; `Forbidden`.
pub(super) async fn roll_back_platform(
    core: &Core,
    call: &RequestContext,
    name: &PlatformName,
    version: i32,
) -> Result<(), Error> {
    call.authorize(Permission::PLATFORM_UPDATE, &[])?;
    let mut tx = core.db.begin().await?;
    let data = json!({ "name": name, "version": version });
    let event = platform_event(name, Permission::PLATFORM_UPDATE, data);
    events::record_event(&mut tx, call, &event).await?;
    let platform = find_locked(&mut tx, name).await?;
    let is_kept = match version {
        0 => platform.shipped && store::set_version(&mut tx, name, None).await?,
        version => store::set_version(&mut tx, name, Some(version)).await?,
    };
    if !is_kept {
        return Err(Error::not_found(format!(
            "Platform {name} has no version {version}: use one that its description lists."
        )));
    }
    tx.commit().await?;
    Ok(())
}

/// Removes a platform that no app has. Errors: `NotFound`; `Forbidden`, also for a platform of the binary, and
/// while an app has the platform.
pub(super) async fn remove_platform(
    core: &Core,
    call: &RequestContext,
    name: &PlatformName,
) -> Result<(), Error> {
    call.authorize(Permission::PLATFORM_DELETE, &[])?;
    let mut tx = core.db.begin().await?;
    let event = platform_event(name, Permission::PLATFORM_DELETE, json!({ "name": name }));
    events::record_event(&mut tx, call, &event).await?;
    if find_locked(&mut tx, name).await?.shipped {
        return Err(Error::forbidden(format!(
            "Platform {name} is a part of this server and cannot be removed: disable it instead."
        )));
    }
    let removed = store::delete_platform(&mut tx, name).await;
    db::map_constraint_violation(removed, "app_platform_fkey", || {
        Error::forbidden("This platform has apps: give them another platform before removing it.")
    })?;
    tx.commit().await?;
    Ok(())
}
