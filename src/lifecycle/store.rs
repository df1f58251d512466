//! What flows that span slices ask of their tables.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgExecutor};

use crate::kernel::ids::AppId;

/// Tells the reconciler that nothing of the app should run.
pub(super) async fn clear_desired_state(tx: &mut PgConnection, app: AppId) -> sqlx::Result<()> {
    sqlx::query!(
        "with stopped as (update app_process set stopped = true where app_id = $1)
         update app set current_release = null, candidate_release = null where app_id = $1",
        app.0,
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Units of the app that are there in any phase.
pub(super) async fn count_units(db: impl PgExecutor<'_>, app: AppId) -> sqlx::Result<i64> {
    sqlx::query_scalar!(
        r#"select (select count(*) from unit where app_id = $1)
                + (select count(*) from job_run where app_id = $1 and state = 'started') as "count!""#,
        app.0
    )
    .fetch_one(db)
    .await
}

/// The time of the transaction.
pub(super) async fn transaction_time(db: impl PgExecutor<'_>) -> sqlx::Result<DateTime<Utc>> {
    sqlx::query_scalar!(r#"select now() as "now!""#)
        .fetch_one(db)
        .await
}
