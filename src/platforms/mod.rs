//! Platforms: how source becomes a version. The platforms in the binary are folders of scripts
//! (`builders::platforms`). Operators add further ones, and newer versions of any, as archives of such scripts;
//! this slice stores them and which of all platforms apps may use.
//!
//! States: enabled, disabled (no app chooses it any more; those that have it are built as before). A platform
//! has a current version, which the next build of each app uses; the last few before it are kept, and can be
//! made current again. Version 0 are the scripts of the binary.
//!
//! Promises: an archive is unpacked and checked before it is stored, so that what is stored can be built with.
//! Every host builds with the same scripts: they are in the database, and on a disk by their digest only. A
//! build begins and ends with the same scripts. A platform that apps have is not removed.

mod actions;
pub mod classic;
mod model;
pub mod modern;
mod scripts;
mod store;
mod wire;

use sqlx::PgPool;

pub use model::Platform;
pub use scripts::{InstalledScripts, find_scripts};

use crate::kernel::error::Error;
use crate::kernel::names::PlatformName;

/// Returns an error if a platform does not exist or is disabled.
pub async fn check_platform_usable(db: &PgPool, name: &PlatformName) -> Result<(), Error> {
    match store::find_platform(db, name).await? {
        Some(platform) if !platform.disabled => Ok(()),
        Some(_) => Err(Error::invalid(format!("Platform {name:?} is disabled."))),
        None => {
            let known: Vec<String> = store::list_platforms(db)
                .await?
                .into_iter()
                .map(|p| p.name.to_string())
                .collect();
            Err(Error::invalid(format!(
                "Platform {name:?} does not exist; there are: {}.",
                known.join(", ")
            )))
        }
    }
}
