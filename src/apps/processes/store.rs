//! SQL statements for the settings of processes.

use sqlx::{PgConnection, PgExecutor};

use crate::kernel::ids::AppId;

/// Finds one of these plans that does not exist.
pub(super) async fn find_missing_plan(
    db: impl PgExecutor<'_>,
    plans: &[String],
) -> sqlx::Result<Option<String>> {
    sqlx::query_scalar!(
        r#"select wanted as "wanted!" from unnest($1::text[]) wanted
           where not exists (select from plan where name = wanted) limit 1"#,
        plans,
    )
    .fetch_optional(db)
    .await
}

/// Gives processes plans of their own. Returns those that had another one.
pub(super) async fn upsert_plans(
    tx: &mut PgConnection,
    app: AppId,
    processes: &[String],
    plans: &[String],
) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar!(
        "insert into process_plan (app_id, process, plan)
         select $1, process, plan from unnest($2::text[], $3::text[]) as own (process, plan)
         on conflict on constraint process_plan_pkey do update set plan = excluded.plan
         where process_plan.plan <> excluded.plan
         returning process",
        app.0,
        processes,
        plans,
    )
    .fetch_all(tx)
    .await
}

/// Has processes use the plan of the app. Returns those that had their own.
pub(super) async fn delete_plans(
    tx: &mut PgConnection,
    app: AppId,
    processes: &[String],
) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar!(
        "delete from process_plan where app_id = $1 and process = any($2) returning process",
        app.0,
        processes,
    )
    .fetch_all(tx)
    .await
}
