//! A stand-in: no app has anything deployed.

use sqlx::PgConnection;

use crate::core::Core;
use crate::kernel::ids::AppId;
use crate::kernel::problem::Problem;
use crate::sagas::{Run, StepError};

/// Proposes a release of the app's version with its environment as it is now.
pub async fn propose(_core: &Core, _tx: &mut PgConnection, _app: AppId) -> Result<Option<i64>, Problem> {
    Ok(None)
}

/// Waits until the release's units are ready.
pub async fn await_ready(_core: &Core, _run: &Run, _app: AppId, _release: i64) -> Result<(), StepError> {
    Ok(())
}

/// Makes the release the app's current one.
pub async fn adopt(_tx: &mut PgConnection, _app: AppId, _release: i64) -> Result<(), Problem> {
    Ok(())
}

/// Gives the release up.
pub async fn abandon(_tx: &mut PgConnection, _app: AppId, _release: i64) -> Result<(), Problem> {
    Ok(())
}
