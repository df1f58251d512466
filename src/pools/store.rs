//! Pools in SQL.

use serde_json::Value;
use sqlx::PgExecutor;

use crate::kernel::names::PoolName;

/// A pool.
#[derive(Clone, Debug)]
pub struct Pool {
    pub name: PoolName,
    pub provisioner: String,
    pub is_public: bool,
    pub is_default: bool,
    pub labels: Value,
    pub teams: Vec<String>,
}

/// All pools that the teams may use, by name; `None` lists all.
pub async fn list(db: impl PgExecutor<'_>, teams: Option<&[String]>) -> sqlx::Result<Vec<Pool>> {
    sqlx::query_as!(
        Pool,
        r#"select name as "name: PoolName", provisioner, is_public, is_default, labels,
                  array(select team from pool_team t where t.pool = p.name order by team) as "teams!"
           from pool p
           where $1::text[] is null or is_public or is_default
              or exists(select 1 from pool_team t where t.pool = p.name and t.team = any($1))
           order by name"#,
        teams,
    )
    .fetch_all(db)
    .await
}

/// A pool by name, or the default one, if the team may use it.
pub(super) async fn find_for_team(
    db: impl PgExecutor<'_>,
    name: Option<&str>,
    team: &str,
) -> sqlx::Result<Option<PoolName>> {
    sqlx::query_scalar!(
        r#"select name as "name: PoolName" from pool p
           where (name = $1 or ($1::text is null and is_default))
             and (is_public or is_default or exists(select 1 from pool_team t where t.pool = p.name and t.team = $2))"#,
        name,
        team,
    )
    .fetch_optional(db)
    .await
}

/// Which provisioner runs a pool.
pub async fn provisioner(db: impl PgExecutor<'_>, name: &PoolName) -> sqlx::Result<Option<String>> {
    sqlx::query_scalar!("select provisioner from pool where name = $1", name.as_str())
        .fetch_optional(db)
        .await
}
