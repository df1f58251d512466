//! Apps (a stand-in until the slice is here).

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
    pub number: i32,
    pub quota_limit: i32,
    pub teams: Vec<TeamName>,
    pub pool: PoolName,
}

impl App {
    /// Where a permission on the app may be held.
    pub fn contexts(&self) -> Vec<Context> {
        let mut contexts = vec![
            Context::new(ContextKind::App, &self.name),
            Context::new(ContextKind::Pool, &self.pool),
        ];
        contexts.extend(self.teams.iter().map(Context::team));
        contexts
    }
}

/// The app, if the caller holds the permission on it. Errors: `NotFound`, `Forbidden`.
pub async fn find_for(
    core: &Core,
    call: &Call,
    name: &AppName,
    permission: Permission,
) -> Result<App, Problem> {
    let row = sqlx::query!(
        r#"select app_id as "id: AppId", number, quota_limit, pool,
                  array(select team from app_team t where t.app_id = a.app_id) as "teams!"
           from app a where name = $1"#,
        name.as_str()
    )
    .fetch_optional(&core.db)
    .await?
    .ok_or_else(|| Problem::not_found(format!("App {name} not found.")))?;
    let teams: Result<_, _> = row.teams.iter().map(|team| TeamName::parse(team)).collect();
    let app = App {
        id: row.id,
        name: name.clone(),
        number: row.number,
        quota_limit: row.quota_limit,
        teams: teams?,
        pool: PoolName::parse(&row.pool)?,
    };
    call.allow(permission, &app.contexts())?;
    Ok(app)
}
