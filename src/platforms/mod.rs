//! Platforms: how source becomes a version. The platforms in the binary are folders of scripts
//! (`builders::platforms`); this slice stores which of them apps may use.

pub mod classic;
pub mod modern;
mod store;
mod wire;

use sqlx::PgPool;

pub use store::{Platform, list_platforms};

use crate::kernel::error::Error;
use crate::kernel::names::PlatformName;

/// Returns an error if a platform does not exist or is disabled.
pub async fn check_platform_usable(db: &PgPool, name: &PlatformName) -> Result<(), Error> {
    match store::find_platform(db, name).await? {
        Some(platform) if !platform.disabled => Ok(()),
        Some(_) => Err(Error::invalid(format!("Platform {name:?} is disabled."))),
        None => {
            let known: Vec<String> = list_platforms(db)
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
