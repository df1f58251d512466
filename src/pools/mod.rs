//! Pools: where units run, and on which provisioner. A pool is public, or open to some teams.

pub mod modern;
mod store;

use sqlx::PgPool;

pub use store::{Pool, list, provisioner};

use crate::kernel::names::{PoolName, TeamName};
use crate::kernel::problem::Problem;

/// The pool named, or the default, if the team may use it. Errors: `Invalid` otherwise.
pub async fn choose(db: &PgPool, named: Option<&PoolName>, team: &TeamName) -> Result<PoolName, Problem> {
    let found = store::find_for_team(db, named.map(PoolName::as_str), team.as_str()).await?;
    found.ok_or_else(|| match named {
        Some(name) => Problem::invalid(format!(
            "Pool {name:?} does not exist, or team {team} may not use it."
        )),
        None => Problem::invalid(format!("Team {team} may not use the default pool: name another.")),
    })
}
