//! Stores pools and their constraints.

use std::collections::BTreeMap;

use serde_json::Value;
use sqlx::{PgConnection, PgExecutor};

use crate::kernel::error::Error;
use crate::kernel::names::{PlanName, PoolName};
use crate::pools::constraints::PoolConstraint;
use crate::pools::model::{Pool, PoolAllowed};

/// What the reader of a list of pools may see: pools that one of these teams may use, and named ones.
#[derive(Clone, Debug, Default)]
pub(super) struct PoolScopes {
    pub(super) teams: Vec<String>,
    pub(super) pools: Vec<String>,
}

/// A pool as it is read.
pub(super) struct PoolRow {
    name: PoolName,
    provisioner: String,
    is_public: bool,
    is_default: bool,
    labels: Value,
    teams: Vec<String>,
    routers: Vec<String>,
    services: Vec<String>,
    plans: Vec<String>,
    cert_issuers: Vec<String>,
}

impl TryFrom<PoolRow> for Pool {
    type Error = Error;

    fn try_from(row: PoolRow) -> Result<Self, Error> {
        let labels: BTreeMap<String, String> = serde_json::from_value(row.labels).map_err(Error::internal)?;
        Ok(Self {
            name: row.name,
            provisioner: row.provisioner,
            is_public: row.is_public,
            is_default: row.is_default,
            labels,
            allowed: PoolAllowed {
                teams: row.teams,
                routers: row.routers,
                services: row.services,
                plans: row.plans,
                cert_issuers: row.cert_issuers,
            },
        })
    }
}

/// Lists pools by name, or the named one, with what they allow. `scopes`: what the reader may see, `None` is
/// all; public pools are seen by everybody. `shown_teams`: the teams to name, `None` are all.
pub(super) async fn list_pools(
    db: impl PgExecutor<'_>,
    named: Option<&PoolName>,
    scopes: Option<&PoolScopes>,
    shown_teams: Option<&[String]>,
) -> sqlx::Result<Vec<PoolRow>> {
    sqlx::query_as!(
        PoolRow,
        r#"with named as (select * from pool where $1::text is null or name = $1),
                rule as materialized (
                    select n.name as pool, c.field, c.names, c.is_denylist
                    from named n
                    cross join (select distinct field from pool_constraint) f
                    cross join find_pool_constraint(n.name, f.field) c)
           select p.name as "name!: PoolName", p.provisioner as "provisioner!", p.is_default as "is_default!",
                  p.labels as "labels!",
                  exists (select from pool_constraint c
                          where c.pool_expr = p.name and c.field = 'team' and not c.is_denylist
                            and '*' = any(c.names)) as "is_public!",
                  array(select t.name from team t
                        where names_allow(teams.names, teams.is_denylist, t.name)
                          and ($5::text[] is null or t.name = any($5)) order by t.name) as "teams!",
                  array(select r.name from (select 'proxy' as name union all select name from router) r
                        where coalesce(names_allow(routers.names, routers.is_denylist, r.name), true)
                        order by r.name) as "routers!",
                  array(select s.name from service s
                        where coalesce(names_allow(services.names, services.is_denylist, s.name), true)
                        order by s.name) as "services!",
                  array(select l.name from plan l
                        where coalesce(names_allow(plans.names, plans.is_denylist, l.name), true)
                        order by l.name) as "plans!",
                  case when issuers.is_denylist then '{}' else coalesce(issuers.names, '{}') end as "cert_issuers!"
           from named p
           left join rule teams on (teams.pool, teams.field) = (p.name, 'team')
           left join rule routers on (routers.pool, routers.field) = (p.name, 'router')
           left join rule services on (services.pool, services.field) = (p.name, 'service')
           left join rule plans on (plans.pool, plans.field) = (p.name, 'plan')
           left join rule issuers on (issuers.pool, issuers.field) = (p.name, 'cert-issuer')
           where $2 or p.name = any($4)
              or (not teams.is_denylist and '*' = any(teams.names))
              or exists (select from unnest($3::text[]) as own (name)
                         where names_allow(teams.names, teams.is_denylist, own.name))
           order by p.name"#,
        named.map(PoolName::as_str),
        scopes.is_none(),
        scopes.map_or(&[][..], |scopes| &scopes.teams),
        scopes.map_or(&[][..], |scopes| &scopes.pools),
        shown_teams,
    )
    .fetch_all(db)
    .await
}

/// Finds a pool by name, or the default one, if the team may use it.
pub(super) async fn find_pool_for_team(
    db: impl PgExecutor<'_>,
    name: Option<&str>,
    team: &str,
) -> sqlx::Result<Option<PoolName>> {
    sqlx::query_scalar!(
        r#"select name as "name: PoolName" from pool
           where (name = $1 or ($1::text is null and is_default)) and pool_allows(name, 'team', $2)"#,
        name,
        team,
    )
    .fetch_optional(db)
    .await
}

/// Returns the provisioner of a pool.
pub async fn find_provisioner(db: impl PgExecutor<'_>, name: &PoolName) -> sqlx::Result<Option<String>> {
    sqlx::query_scalar!("select provisioner from pool where name = $1", name.as_str())
        .fetch_optional(db)
        .await
}

/// Returns the plan of an app in a pool that names none; `None` if the server has no default plan and the
/// pool has no constraint for plans, or if it allows none.
pub(super) async fn find_default_plan(
    db: impl PgExecutor<'_>,
    pool: &PoolName,
) -> sqlx::Result<Option<PlanName>> {
    sqlx::query_scalar!(
        r#"select p.name as "name!: PlanName"
           from plan p left join find_pool_constraint($1, 'plan') c on true
           where coalesce(names_allow(c.names, c.is_denylist, p.name), p.is_default)
           order by (not c.is_denylist and p.name = c.names[1]) desc nulls last, p.is_default desc, p.name
           limit 1"#,
        pool.as_str(),
    )
    .fetch_optional(db)
    .await
}

/// Finds the first of several values that the constraints do not allow in a pool.
pub(super) async fn find_denied(
    db: impl PgExecutor<'_>,
    pool: &str,
    field: &str,
    values: &[String],
) -> sqlx::Result<Option<String>> {
    sqlx::query_scalar!(
        r#"select value as "value!" from unnest($3::text[]) with ordinality as v (value, at)
           where not pool_allows($1, $2, value) order by at limit 1"#,
        pool,
        field,
        values,
    )
    .fetch_optional(db)
    .await
}

pub(super) async fn insert_pool(
    tx: &mut PgConnection,
    name: &PoolName,
    provisioner: &str,
    is_default: bool,
    labels: &Value,
) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into pool (name, provisioner, is_default, labels) values ($1, $2, $3, $4)",
        name.as_str(),
        provisioner,
        is_default,
        labels,
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Changes a pool; `None` leaves a field. Returns false if there is no such pool.
pub(super) async fn update_pool(
    tx: &mut PgConnection,
    name: &PoolName,
    is_default: Option<bool>,
    labels: Option<&Value>,
) -> sqlx::Result<bool> {
    sqlx::query!(
        "update pool set is_default = coalesce($2, is_default), labels = coalesce($3, labels) where name = $1",
        name.as_str(),
        is_default,
        labels,
    )
    .execute(tx)
    .await
    .map(|done| done.rows_affected() == 1)
}

/// Locks a pool's row until the transaction ends; returns false if there is no such pool.
pub(super) async fn lock_pool(tx: &mut PgConnection, name: &PoolName) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        "select name from pool where name = $1 for no key update",
        name.as_str()
    )
    .fetch_optional(tx)
    .await
    .map(|found| found.is_some())
}

/// Deletes a pool; returns false if there is no such pool.
pub(super) async fn delete_pool(tx: &mut PgConnection, name: &PoolName) -> sqlx::Result<bool> {
    sqlx::query!("delete from pool where name = $1", name.as_str())
        .execute(tx)
        .await
        .map(|done| done.rows_affected() == 1)
}

/// Returns the default pool, if it is not the given one.
pub(super) async fn find_other_default(
    db: impl PgExecutor<'_>,
    other: &PoolName,
) -> sqlx::Result<Option<String>> {
    sqlx::query_scalar!(
        "select name from pool where is_default and name <> $1",
        other.as_str()
    )
    .fetch_optional(db)
    .await
}

/// Makes every pool but the given one no default.
pub(super) async fn clear_default(tx: &mut PgConnection, other: &PoolName) -> sqlx::Result<()> {
    sqlx::query!(
        "update pool set is_default = false where is_default and name <> $1",
        other.as_str()
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Opens a pool to all teams.
pub(super) async fn set_public(tx: &mut PgConnection, pool: &PoolName) -> sqlx::Result<()> {
    upsert_constraint(tx, pool.as_str(), "team", &["*".to_owned()], false).await
}

/// Ends that a pool is open to all teams; teams that it names besides may still use it.
pub(super) async fn set_private(tx: &mut PgConnection, pool: &PoolName) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into pool_constraint (pool_expr, field, names) values ($1, 'team', '{}')
         on conflict on constraint pool_constraint_key
         do update set names = array_remove(pool_constraint.names, '*') where not pool_constraint.is_denylist",
        pool.as_str(),
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Lists all constraints by expression and field.
pub(super) async fn list_constraints(db: impl PgExecutor<'_>) -> sqlx::Result<Vec<PoolConstraint>> {
    sqlx::query_as!(
        PoolConstraint,
        "select pool_expr, field, names, is_denylist from pool_constraint order by pool_expr, field"
    )
    .fetch_all(db)
    .await
}

pub(super) async fn count_constraints(db: impl PgExecutor<'_>) -> sqlx::Result<i64> {
    sqlx::query_scalar!(r#"select count(*) as "count!" from pool_constraint"#)
        .fetch_one(db)
        .await
}

/// Finds the constraint of exactly this expression and field, and locks it until the transaction ends.
pub(super) async fn find_constraint(
    tx: &mut PgConnection,
    expression: &str,
    field: &str,
) -> sqlx::Result<Option<PoolConstraint>> {
    sqlx::query_as!(
        PoolConstraint,
        "select pool_expr, field, names, is_denylist from pool_constraint
         where pool_expr = $1 and field = $2 for update",
        expression,
        field,
    )
    .fetch_optional(tx)
    .await
}

/// Sets a constraint in place of an earlier one.
pub(super) async fn upsert_constraint(
    tx: &mut PgConnection,
    expression: &str,
    field: &str,
    names: &[String],
    is_denylist: bool,
) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into pool_constraint (pool_expr, field, names, is_denylist) values ($1, $2, $3, $4)
         on conflict on constraint pool_constraint_key
         do update set names = excluded.names, is_denylist = excluded.is_denylist",
        expression,
        field,
        names,
        is_denylist,
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Appends the names that a constraint does not have yet, or creates the constraint; returns it.
pub(super) async fn append_to_constraint(
    tx: &mut PgConnection,
    expression: &str,
    field: &str,
    names: &[String],
    is_denylist: bool,
) -> sqlx::Result<PoolConstraint> {
    sqlx::query_as!(
        PoolConstraint,
        "insert into pool_constraint (pool_expr, field, names, is_denylist) values ($1, $2, $3, $4)
         on conflict on constraint pool_constraint_key
         do update set names = pool_constraint.names || array(
             select more from unnest(excluded.names) with ordinality as m (more, at)
             where more <> all(pool_constraint.names) order by at)
         returning pool_expr, field, names, is_denylist",
        expression,
        field,
        names,
        is_denylist,
    )
    .fetch_one(tx)
    .await
}

/// Removes names from a constraint.
pub(super) async fn remove_from_constraint(
    tx: &mut PgConnection,
    expression: &str,
    field: &str,
    names: &[String],
) -> sqlx::Result<()> {
    sqlx::query!(
        "update pool_constraint
         set names = array(select name from unnest(names) with ordinality as n (name, at)
                           where name <> all($3) order by at)
         where pool_expr = $1 and field = $2",
        expression,
        field,
        names,
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Removes a constraint, if there is one.
pub(super) async fn delete_constraint(
    tx: &mut PgConnection,
    expression: &str,
    field: &str,
) -> sqlx::Result<()> {
    sqlx::query!(
        "delete from pool_constraint where pool_expr = $1 and field = $2",
        expression,
        field
    )
    .execute(tx)
    .await
    .map(drop)
}
