//! The change of a number of units that no user asks for.

use sqlx::PgConnection;

use crate::db::{self, notices::NoticeChannel};
use crate::kernel::error::Error;
use crate::kernel::ids::AppId;
use crate::quotas;
use crate::releases::ReleaseSide;
use crate::units::scale::store;

/// Changes the number of units of a process. Returns false, and changes nothing, if it is not `before` any more, or the
/// process is stopped. Errors: `QuotaExceeded`.
pub async fn set_scaled_units(
    tx: &mut PgConnection,
    app: AppId,
    (side, process): (ReleaseSide, &str),
    (before, after): (i32, i32),
) -> Result<bool, Error> {
    store::lock_app(tx, app).await?;
    let row = store::find_app(&mut *tx, app, side).await?;
    let found = row.and_then(|mut row| row.processes.0.remove(process));
    let is_as_before =
        |found: store::ProcessScaleRow| !found.is_stopped && i64::from(found.asked) == i64::from(before);
    if !found.is_some_and(is_as_before) {
        return Ok(false);
    }
    if after > before {
        quotas::check_unit_quota(tx, app, after - before).await?;
    }
    store::set_units(tx, app, side, process, after).await?;
    db::send_notice(tx, NoticeChannel::Units, &app.to_string()).await?;
    db::send_notice(tx, NoticeChannel::Routes, "").await?;
    Ok(true)
}
