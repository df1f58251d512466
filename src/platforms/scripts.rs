//! The scripts of platforms on their way between the database and the disks of hosts.

use std::path::PathBuf;

use sha2::{Digest, Sha256};

use crate::builders::UnpackError;
use crate::builders::platform_archive::{
    check_platform_archive, find_installed_archive, install_platform_archive, is_archive,
};
use crate::core::Core;
use crate::kernel::error::Error;
use crate::kernel::names::PlatformName;
use crate::platforms::store;

/// Scripts on the disk of this host.
#[derive(Clone, Debug)]
pub struct InstalledScripts {
    /// The folder to build with.
    pub dir: PathBuf,
    /// `None`: the scripts in the binary.
    pub version: Option<i32>,
}

/// Returns the current scripts of a platform, which are installed on this host if they are not yet. Errors:
/// `Unavailable` if the version was just removed.
pub async fn find_scripts(core: &Core, platform: &PlatformName) -> Result<InstalledScripts, Error> {
    let Some((version, digest)) = store::find_current_version(&core.db, platform).await? else {
        return Ok(InstalledScripts {
            dir: core.platforms_dir.clone(),
            version: None,
        });
    };
    let dir = match find_installed_archive(&core.platforms_dir, platform, &digest) {
        Some(dir) => dir,
        None => install_scripts(core, platform, version, digest).await?,
    };
    Ok(InstalledScripts {
        dir,
        version: Some(version),
    })
}

async fn install_scripts(
    core: &Core,
    platform: &PlatformName,
    version: i32,
    digest: String,
) -> Result<PathBuf, Error> {
    let archive = store::find_archive(&core.db, platform, version).await?;
    let archive = archive.ok_or_else(|| {
        Error::unavailable(format!(
            "Version {version} of the platform {platform} was just removed: deploy again."
        ))
    })?;
    let (platforms_dir, platform) = (core.platforms_dir.clone(), platform.clone());
    run_blocking(move || install_platform_archive(&platforms_dir, &platform, &digest, &archive)).await
}

/// Checks an archive of scripts and returns its digest. Errors: `Invalid`, also for what is no archive.
pub(super) async fn check_archive(core: &Core, archive: Vec<u8>) -> Result<(Vec<u8>, String), Error> {
    if !is_archive(&archive) {
        return Err(Error::invalid(
            "No pool of this server builds images: send an archive of scripts.",
        ));
    }
    let platforms_dir = core.platforms_dir.clone();
    run_blocking(move || {
        check_platform_archive(&platforms_dir, &archive)?;
        let digest = hex::encode(Sha256::digest(&archive));
        Ok((archive, digest))
    })
    .await
}

async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, UnpackError> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await.map_err(Error::internal)?;
    done.map_err(|error| match error {
        UnpackError::Refused(message) => Error::invalid(message),
        other => Error::internal(other),
    })
}
