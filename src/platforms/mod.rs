//! Platforms: how source becomes a version. Those that ship in the binary are folders of scripts
//! (`builders::platforms`); here is which of them an app may use.

pub mod classic;
pub mod modern;
mod store;

use sqlx::PgPool;

pub use store::{Platform, list};

use crate::kernel::names::PlatformName;
use crate::kernel::problem::Problem;

/// Refuses a platform that does not exist or is disabled.
pub async fn usable(db: &PgPool, name: &PlatformName) -> Result<(), Problem> {
    match store::find(db, name).await? {
        Some(platform) if !platform.disabled => Ok(()),
        Some(_) => Err(Problem::invalid(format!("Platform {name:?} is disabled."))),
        None => {
            let known: Vec<String> = list(db).await?.into_iter().map(|p| p.name.to_string()).collect();
            Err(Problem::invalid(format!(
                "Platform {name:?} does not exist; there are: {}.",
                known.join(", ")
            )))
        }
    }
}
