//! Which version that is there already a caller means, and whether it may run.

use sqlx::PgConnection;

use crate::apps::App;
use crate::core::Core;
use crate::deploys::actions::DeployOptions;
use crate::deploys::store;
use crate::deploys::version_changes::version_not_found;
use crate::kernel::error::Error;
use crate::kernel::ids::EventId;
use crate::versions::{self, VersionUse};

/// Inserts the deploy of a version that is there already, under the event's lock: it may have been removed or disabled
/// meanwhile. Errors: `NotFound`, `Conflict`; `Invalid` if it is not said what becomes of several versions that run.
pub(super) async fn insert_version_deploy(
    tx: &mut PgConnection,
    event: &EventId,
    app: &App,
    version: i32,
    (order, owner): (&DeployOptions, &str),
) -> Result<(), Error> {
    let used = versions::find_version_use(&mut *tx, app.id, version).await?;
    check_rollback(app, version, used)?;
    order.sides.check_running(tx, app).await?;
    Ok(store::insert_deploy(tx, event, app.id, Some(version), order, owner).await?)
}

/// Finds the version that a caller names by its number, its image or its commit. Errors: `NotFound`; `Conflict`
/// for one that must not be gone back to.
pub(super) async fn find_rollback_version(core: &Core, app: &App, image: &str) -> Result<i32, Error> {
    let named = match parse_image(image) {
        Some(version) => versions::find_version_use(&core.db, app.id, version)
            .await?
            .map(|used| (version, used)),
        None => None,
    };
    if let Some((version, used)) = named {
        return check_rollback(app, version, Some(used)).map(|()| version);
    }
    if let Some(version) = store::find_image_version(&core.db, app.id, image).await? {
        return Ok(version);
    }
    find_commit_version(core, app, image)
        .await?
        .ok_or_else(|| version_not_found(app, image))
}

fn check_rollback(app: &App, version: i32, used: Option<VersionUse>) -> Result<(), Error> {
    match used {
        None => Err(version_not_found(app, &format!("v{version}"))),
        Some(VersionUse::Ready { disabled_reason }) if !disabled_reason.is_empty() => {
            Err(Error::conflict(format!(
                "Version {version} of app {} must not be gone back to: {disabled_reason}",
                app.name
            )))
        }
        Some(_) => Ok(()),
    }
}

/// The newest version that can be run of a commit, by the first digits of its name at least. Errors: `Invalid`
/// if they fit several commits.
async fn find_commit_version(core: &Core, app: &App, prefix: &str) -> Result<Option<i32>, Error> {
    if !is_commit(prefix) {
        return Ok(None);
    }
    let found = store::find_commit_versions(&core.db, app.id, &prefix.to_ascii_lowercase()).await?;
    match found.as_slice() {
        [] => Ok(None),
        [version] => Ok(Some(*version)),
        _ => Err(Error::invalid(format!(
            "{prefix:?} is the beginning of several commits that were deployed: give more of it."
        ))),
    }
}

fn is_commit(text: &str) -> bool {
    (7..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// `3`, `v3`, or an image name that ends in `:v3`.
pub(super) fn parse_image(image: &str) -> Option<i32> {
    let tag = image.rsplit(':').next().unwrap_or(image);
    tag.strip_prefix('v')
        .unwrap_or(tag)
        .parse()
        .ok()
        .filter(|n| *n > 0)
}

#[cfg(test)]
mod tests {
    use super::{is_commit, parse_image};

    #[test]
    fn images_name_versions_in_three_ways() {
        for (image, version) in [
            ("3", Some(3)),
            ("v12", Some(12)),
            ("registry/tsuru/app-x:v4", Some(4)),
            ("v0", None),
            ("vx", None),
            ("", None),
            ("-1", None),
        ] {
            assert_eq!(parse_image(image), version, "{image}");
        }
    }

    #[test]
    fn commit_prefix_needs_seven_hex_digits() {
        assert!(is_commit("a1b2c3d") && is_commit(&"A1".repeat(20)));
        for not in ["a1b2c3", "a1b2c3g", "a1b2c3%", "", &"a".repeat(65)] {
            assert!(!is_commit(not), "{not}");
        }
    }
}
