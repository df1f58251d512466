//! What a deploy or a rollback does with the versions that run: it replaces the only one, runs beside them, or replaces all.

use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use crate::apps::App;
use crate::kernel::error::Error;
use crate::kernel::ids::AppId;
use crate::releases;

/// What becomes of the versions that run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SideOptions {
    /// They go on, and the new one runs beside them.
    pub beside: bool,
    /// All of them are replaced.
    pub replaces_all: bool,
}

impl SideOptions {
    /// Checks the options against what runs. Errors: `Invalid` if several versions run and neither is chosen.
    pub(super) async fn check_running(self, tx: &mut PgConnection, app: &App) -> Result<(), Error> {
        let running = releases::list_running_versions(tx, app.id).await?;
        match running.len() > 1 && !self.beside && !self.replaces_all {
            true => Err(Error::invalid(
                "The app runs several versions: add one with --new-version, or replace all of them with --override-old-versions.",
            )),
            false => Ok(()),
        }
    }

    /// Ends the other versions, if all are replaced, since the new one is about to become current.
    pub(super) async fn end_others(self, tx: &mut PgConnection, app: AppId) -> Result<(), Error> {
        match self.replaces_all {
            true => releases::end_other_sides(tx, app).await,
            false => Ok(()),
        }
    }
}
