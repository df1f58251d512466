//! What an app or an instance may choose in its pool.

use sqlx::PgPool;

use crate::kernel::error::Error;
use crate::kernel::excerpt::quote_excerpt;
use crate::kernel::names::{PlanName, PoolName, TeamName};
use crate::plans;
use crate::pools::constraints::ConstraintField;
use crate::pools::store;

/// Returns the named pool, or the default one, if the team may use it. Errors: `Invalid` otherwise.
pub async fn choose_pool(db: &PgPool, named: Option<&PoolName>, team: &TeamName) -> Result<PoolName, Error> {
    let found = store::find_pool_for_team(db, named.map(PoolName::as_str), team.as_str()).await?;
    found.ok_or_else(|| match named {
        Some(name) => Error::invalid(format!(
            "Pool {name:?} does not exist, or team {team} may not use it."
        )),
        None => Error::invalid(format!(
            "Team {team} may not use the default pool: specify another pool."
        )),
    })
}

/// Returns the named plan, or the default one of the pool: the first that its constraint names, else the
/// default one of the server, else the first that the pool allows. Errors: `Invalid` if the plan does not
/// exist, or if the pool does not allow it.
pub async fn choose_plan(db: &PgPool, pool: &PoolName, named: Option<&PlanName>) -> Result<PlanName, Error> {
    if named.is_none()
        && let Some(plan) = store::find_default_plan(db, pool).await?
    {
        return Ok(plan);
    }
    let plan = plans::choose_plan(db, named).await?;
    check_allowed(db, pool.as_str(), ConstraintField::Plan, plan.as_str()).await?;
    Ok(plan)
}

/// Checks that the constraints allow a value in a pool; the pool need not exist. Errors: `Invalid`.
pub async fn check_allowed(
    db: &PgPool,
    pool: &str,
    field: ConstraintField,
    value: &str,
) -> Result<(), Error> {
    check_all_allowed(db, pool, field, &[value.to_owned()]).await
}

/// Checks several values like `check_allowed`.
pub async fn check_all_allowed(
    db: &PgPool,
    pool: &str,
    field: ConstraintField,
    values: &[String],
) -> Result<(), Error> {
    match store::find_denied(db, pool, field.as_str(), values).await? {
        None => Ok(()),
        Some(value) => Err(Error::invalid(format!(
            "Pool {} does not allow the {} {}: choose another one, or ask an administrator to allow it.",
            quote_excerpt(pool),
            field.noun(),
            quote_excerpt(&value),
        ))),
    }
}
