//! Versions: what a build has made of an app's source, or an image that was taken over, under a number that grows with
//! each of the app.
//!
//! States: *building* → *ready* → *removed*, or *failed* instead of ready. The files of a version are a folder on one
//! host, its *holder* (`version.host`): that of the worker that built it. Which hosts hold anything of an app, its
//! caches included, stands in `version_holder` from before the first file is made. An image is held by the host whose
//! engine has it, in the same way.
//!
//! Promises: a number is given once. Nobody but a holder removes files, and nobody who wants them removed waits for
//! it: a version is marked as removed or failed, or the app's row goes, and the healer of each holder finds that out,
//! now or when its host is back. Files of a version with units are left alone until these are gone.

mod cache;
mod content;
mod healer;
mod store;

use std::path::PathBuf;

pub use cache::drop_stale_cache;
pub use content::{ContentDigest, digest_tree, write_layer};
pub use healer::VersionHealer;
pub(crate) use store::{
    BuiltVersion, TaggedVersion, VersionUse, find_tagged_version, find_version_use, insert_version,
    mark_version_failed, mark_version_ready, mark_version_removed, retire_versions, set_disabled_reason,
    set_release_unit, set_tag,
};

use crate::config::Settings;
use crate::core::Core;
use crate::datadir::DataDir;
use crate::kernel::artifact::Artifact;
use crate::kernel::error::Error;
use crate::kernel::ids::AppId;

/// The folder of a version's files on the host that holds it.
pub fn version_folder(core: &Core, app: AppId, version: i32) -> PathBuf {
    version_dir_rule(&core.data_dir)(app, version)
}

/// Returns the rule by which the folders of versions lie in a data folder.
pub fn version_dir_rule(data_dir: &DataDir) -> impl Fn(AppId, i32) -> PathBuf + Send + Sync + 'static {
    let versions = data_dir.versions_dir();
    move |app, version| versions.join(app.to_string()).join(version.to_string())
}

/// Returns the content of a version: its image, or a folder of its holder; without one, every host has it.
pub fn version_artifact(core: &Core, holder: Option<String>, image: Option<&str>) -> Result<Artifact, Error> {
    match image {
        Some(image) => Ok(Artifact::Image(image.parse().map_err(Error::internal)?)),
        None => Ok(Artifact::Folder {
            holder: holder.unwrap_or_else(|| core.host.clone()),
        }),
    }
}

/// What builds of an app keep from one another on this host.
pub fn cache_folder(core: &Core, app: AppId) -> PathBuf {
    core.data_dir.cache_dir().join(app.to_string())
}

/// The uid under which an app's builds and units run on this host; `None`: our own. No app has the number 0.
pub fn unit_uid(core: &Core, app_number: i32) -> Option<u32> {
    app_uid_rule(&core.data_dir, &core.settings)(app_number)
}

/// Returns the rule for the uid of an app on the host of a data folder, by the app's number.
pub fn app_uid_rule(
    data_dir: &DataDir,
    settings: &Settings,
) -> impl Fn(i32) -> Option<u32> + Send + Sync + 'static {
    let first = settings.local.first_uid;
    let first = (data_dir.runs_as_root() && first > 0).then_some(first);
    move |app_number| first?.checked_add(u32::try_from(app_number).ok()?)
}
