//! The processes of a version that is about to run.

use sqlx::PgConnection;

use crate::deploys::sides::SideOptions;
use crate::deploys::store;
use crate::kernel::error::Error;
use crate::kernel::ids::AppId;
use crate::quotas;
use crate::releases::ReleaseSide;

/// Gives each process of a version its units on a side, before a release of the version becomes the candidate. Errors:
/// `QuotaExceeded` if the app may not have so many.
pub(super) async fn prepare_processes(
    tx: &mut PgConnection,
    app: AppId,
    version: i32,
    side: ReleaseSide,
    options: SideOptions,
) -> Result<(), Error> {
    quotas::check_version_quota(tx, app, (version, side.number()), !options.replaces_all).await?;
    Ok(store::ensure_processes(tx, app, version, side).await?)
}
