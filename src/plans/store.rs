//! SQL statements for plans.

use sqlx::{PgConnection, PgExecutor};

use crate::kernel::names::PlanName;
use crate::plans::model::{Plan, PlanBurst};

/// Lists all plans, by name.
pub(super) async fn list_plans(db: impl PgExecutor<'_>) -> sqlx::Result<Vec<Plan>> {
    let rows = sqlx::query!(
        r#"select name as "name: PlanName", memory_bytes, cpu_milli, cpu_burst, max_cpu_burst, is_default
           from plan order by name"#
    )
    .fetch_all(db)
    .await?;
    let plans = rows.into_iter().map(|row| Plan {
        name: row.name,
        memory_bytes: row.memory_bytes,
        cpu_milli: row.cpu_milli,
        burst: PlanBurst::new(row.cpu_burst, row.max_cpu_burst),
        is_default: row.is_default,
    });
    Ok(plans.collect())
}

/// Finds a plan by name, or the default one.
pub(super) async fn find_plan_name(
    db: impl PgExecutor<'_>,
    name: Option<&str>,
) -> sqlx::Result<Option<PlanName>> {
    sqlx::query_scalar!(
        r#"select name as "name: PlanName" from plan where name = $1 or ($1::text is null and is_default)"#,
        name,
    )
    .fetch_optional(db)
    .await
}

/// Returns the largest burst that a plan allows; `None` is any.
pub(super) async fn find_max_burst(db: impl PgExecutor<'_>, name: &PlanName) -> sqlx::Result<Option<f64>> {
    sqlx::query_scalar!("select max_cpu_burst from plan where name = $1", name.as_str())
        .fetch_optional(db)
        .await
        .map(Option::flatten)
}

pub(super) async fn count_plans(db: impl PgExecutor<'_>) -> sqlx::Result<i64> {
    sqlx::query_scalar!(r#"select count(*) as "count!" from plan"#)
        .fetch_one(db)
        .await
}

pub(super) async fn insert_plan(tx: &mut PgConnection, plan: &Plan) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into plan (name, memory_bytes, cpu_milli, cpu_burst, max_cpu_burst, is_default)
         values ($1, $2, $3, $4, $5, $6)",
        plan.name.as_str(),
        plan.memory_bytes,
        plan.cpu_milli,
        plan.burst.and_then(|burst| burst.default),
        plan.burst.and_then(|burst| burst.max_allowed),
        plan.is_default,
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Makes no plan the default one.
pub(super) async fn clear_default(tx: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::query!("update plan set is_default = false where is_default")
        .execute(tx)
        .await
        .map(drop)
}

/// Deletes a plan; returns false if there is no such plan.
pub(super) async fn delete_plan(tx: &mut PgConnection, name: &PlanName) -> sqlx::Result<bool> {
    sqlx::query!("delete from plan where name = $1", name.as_str())
        .execute(tx)
        .await
        .map(|done| done.rows_affected() == 1)
}
