//! Apps: a stand-in with what services need, until the slice itself is merged.

use sqlx::PgExecutor;

use crate::core::Core;
use crate::kernel::call::Call;
use crate::kernel::ids::AppId;
use crate::kernel::names::{AppName, PoolName, TeamName};
use crate::kernel::permission::{Context, ContextKind, Permission};
use crate::kernel::problem::Problem;

/// An app.
#[derive(Clone, Debug)]
pub struct App {
    pub id: AppId,
    pub name: AppName,
    pub label: String,
    pub team_owner: TeamName,
    pub teams: Vec<TeamName>,
    pub pool: PoolName,
}

impl App {
    /// Where a permission on it may be held.
    pub fn contexts(&self) -> Vec<Context> {
        let mut contexts: Vec<Context> = self.teams.iter().map(Context::team).collect();
        contexts.push(Context::new(ContextKind::App, &self.name));
        contexts.push(Context::new(ContextKind::Pool, &self.pool));
        contexts
    }
}

/// An app on which the caller holds the permission.
pub async fn find_for(
    core: &Core,
    call: &Call,
    name: &AppName,
    permission: Permission,
) -> Result<App, Problem> {
    let app = find(&core.db, name)
        .await?
        .ok_or_else(|| Problem::not_found(format!("App {name} not found.")))?;
    call.allow(permission, &app.contexts())?;
    Ok(app)
}

async fn find(db: impl PgExecutor<'_>, name: &AppName) -> Result<Option<App>, Problem> {
    let row = sqlx::query!(
        r#"select app_id as "id: AppId", name as "name: AppName", label, team_owner as "team_owner: TeamName",
                  pool as "pool: PoolName",
                  array(select team from app_team t where t.app_id = app.app_id order by team) as "teams!: Vec<TeamName>"
           from app where name = $1"#,
        name.as_str()
    )
    .fetch_optional(db)
    .await?;
    Ok(row.map(|row| App {
        id: row.id,
        name: row.name,
        label: row.label,
        team_owner: row.team_owner,
        teams: row.teams,
        pool: row.pool,
    }))
}
