//! SQL statements for plans.

use sqlx::PgExecutor;

use crate::kernel::names::PlanName;

/// A plan.
#[derive(Clone, Debug)]
pub struct Plan {
    pub name: PlanName,
    /// 0 is unlimited.
    pub memory_bytes: i64,
    /// Thousandths of a core; 0 is unlimited.
    pub cpu_milli: i32,
    pub is_default: bool,
}

/// Lists all plans, by name.
pub async fn list_plans(db: impl PgExecutor<'_>) -> sqlx::Result<Vec<Plan>> {
    sqlx::query_as!(
        Plan,
        r#"select name as "name: PlanName", memory_bytes, cpu_milli, is_default from plan order by name"#
    )
    .fetch_all(db)
    .await
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
