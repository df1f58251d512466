//! The database operations on the sides of an app; each is part of a caller's transaction.

use sqlx::PgConnection;

use crate::db;
use crate::db::notices::NoticeChannel;
use crate::kernel::error::Error;
use crate::kernel::ids::AppId;
use crate::releases::actions::version_not_running;
use crate::releases::sides::{ReleaseSide, store};

/// Returns the side on which a deploy of a version starts it. `beside`: beside what runs, if anything does; a version that
/// runs is started anew where it is.
pub async fn find_deploy_side(
    tx: &mut PgConnection,
    app: AppId,
    version: i32,
    beside: bool,
) -> Result<ReleaseSide, Error> {
    let running = store::list_running_versions(tx, app).await?;
    if !beside || running.is_empty() {
        return Ok(ReleaseSide::Main);
    }
    let same = running.iter().find(|running| running.version == version);
    Ok(same.map_or(ReleaseSide::Beside(version), |running| running.side))
}

/// Ends the versions that run beside the current release. From then on it gets all requests.
pub async fn end_other_sides(tx: &mut PgConnection, app: AppId) -> Result<(), Error> {
    store::delete_sides(tx, app).await?;
    for running in store::list_running_versions(tx, app).await? {
        store::set_routable(tx, running.release, true).await?;
    }
    db::send_notice(tx, NoticeChannel::Units, &app.to_string()).await?;
    db::send_notice(tx, NoticeChannel::Routes, "").await?;
    Ok(())
}

/// Returns the sides of an app that run, or that of one version. Errors: `Precondition` before the first deploy; `Invalid`
/// for a version that does not run.
pub async fn list_running_sides(
    tx: &mut PgConnection,
    app: AppId,
    version: Option<i64>,
) -> Result<Vec<ReleaseSide>, Error> {
    let running = store::list_processes(tx, app).await?;
    if running.is_empty() {
        return Err(Error::precondition(
            "The app has no version deployed yet: deploy it first.",
        ));
    }
    let is_meant =
        |running: &&store::VersionProcesses| version.is_none_or(|asked| asked == i64::from(running.version));
    let sides: Vec<ReleaseSide> = running
        .iter()
        .filter(is_meant)
        .map(|running| running.side)
        .collect();
    match (version, sides.is_empty()) {
        (Some(asked), true) => Err(version_not_running(
            asked,
            running.iter().map(|running| running.version),
        )),
        _ => Ok(sides),
    }
}

/// Returns the versions that run of an app, the main one first.
pub async fn list_running_versions(tx: &mut PgConnection, app: AppId) -> Result<Vec<i32>, Error> {
    let running = store::list_running_versions(tx, app).await?;
    Ok(running.into_iter().map(|running| running.version).collect())
}

/// Has the routers send requests to a version that runs or not. Errors: `Conflict` for a
/// version that does not run, and for the last one that gets requests.
pub async fn set_version_routable(
    tx: &mut PgConnection,
    app: AppId,
    version: i32,
    is_routable: bool,
) -> Result<(), Error> {
    let running = store::list_running_versions(tx, app).await?;
    let Some(found) = running.iter().find(|running| running.version == version) else {
        return match is_routable {
            false => Ok(()),
            true => Err(Error::conflict(format!(
                "Version {version} does not run: roll back to it with --new-version first."
            ))),
        };
    };
    if found.routable == is_routable {
        return Ok(());
    }
    let is_other = |running: &&store::RunningVersion| running.version != version && running.routable;
    if !is_routable && !running.iter().any(|running| is_other(&running)) {
        return Err(Error::conflict(format!(
            "Version {version} is the only one that gets requests: make another one routable first, or stop the app."
        )));
    }
    store::set_routable(tx, found.release, is_routable).await?;
    db::send_notice(tx, NoticeChannel::Routes, "").await?;
    Ok(())
}
