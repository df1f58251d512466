//! SQL statements for lists of apps.

use futures_util::stream::{BoxStream, StreamExt};
use sqlx::PgExecutor;
use sqlx::types::Json;

use crate::apps::autoscale::AppScaleRule;
use crate::apps::model::{AppDescription, AppKind, AppState};
use crate::apps::rows::{AppDescriptionRow, UnitRecord};
use crate::kernel::ids::AppId;
use crate::kernel::names::{AppName, PlanName, PlatformName, PoolName, TeamName};

/// The filters of a list of apps; empty ones match all apps.
#[derive(Clone, Debug, Default)]
pub(in crate::apps) struct AppFilter {
    /// What the caller may see; `None`: everything.
    pub scopes: Option<AppScopes>,
    /// A regular expression, as today's client sends it; the database does not see it.
    pub name: String,
    /// The names that it matches; `None` are all.
    pub names: Option<Vec<String>>,
    pub platform: String,
    pub team_owner: String,
    pub owner: String,
    pub pool: String,
    pub tags: Vec<String>,
    /// The apps are listed without their units, which costs less.
    pub without_units: bool,
}

/// The things on which a caller holds the permission to read apps.
#[derive(Clone, Debug, Default)]
pub struct AppScopes {
    pub teams: Vec<String>,
    pub apps: Vec<String>,
    pub pools: Vec<String>,
}

/// A part of a list that is ordered by name.
#[derive(Clone, Debug)]
pub(super) struct AppPage {
    /// The last name of the page before; empty for the first page.
    pub(super) after: String,
    pub(super) limit: i64,
}

impl AppPage {
    /// The whole list.
    pub(super) fn all() -> Self {
        Self {
            after: String::new(),
            limit: i64::MAX,
        }
    }
}

/// The names of the apps that fit the filter, whatever its expression for the name.
pub(super) async fn list_app_names(db: impl PgExecutor<'_>, filter: &AppFilter) -> sqlx::Result<Vec<String>> {
    let all = filter.scopes.is_none();
    let reach = filter.scopes.clone().unwrap_or_default();
    sqlx::query_scalar!(
        "select a.name from app a
         where ($1 or a.app_id in (select t.app_id from app_team t where t.team = any($2))
                or a.name = any($3) or a.pool = any($4))
           and a.kind = 'app' and ($5 = '' or platform = $5) and ($6 = '' or team_owner = $6)
           and ($7 = '' or lower(owner) = lower($7)) and ($8 = '' or a.pool = $8) and tags @> $9",
        all,
        &reach.teams,
        &reach.apps,
        &reach.pools,
        filter.platform,
        filter.team_owner,
        filter.owner,
        filter.pool,
        &filter.tags,
    )
    .fetch_all(db)
    .await
}

/// A page of apps in the order of their names, as a stream of one statement. Only units in the phases that the
/// caller can see are in it.
pub(super) fn list_apps<'a>(
    db: impl PgExecutor<'a> + 'a,
    filter: &'a AppFilter,
    page: &AppPage,
) -> BoxStream<'a, sqlx::Result<AppDescription>> {
    let all = filter.scopes.is_none();
    let empty = AppScopes::default();
    let reach = filter.scopes.clone().unwrap_or(empty);
    sqlx::query_as!(
        AppDescriptionRow,
        r#"select app_id as "app_id!: AppId", kind as "kind!: AppKind", number as "number!", name as "name!: AppName", label as "label!",
                  platform as "platform: PlatformName", plan as "plan!: PlanName", pool as "pool!: PoolName",
                  team_owner as "team_owner!: TeamName", owner as "owner!", description as "description!", tags as "tags!",
                  metadata as "metadata!", state as "state!: AppState", quota_limit as "quota_limit!", deploys as "deploys!",
                  current_release, created_at as "created_at!",
                  array(select team from app_team t where t.app_id = a.app_id order by team) as "teams!: Vec<TeamName>",
                  array(select cname from app_cname c where c.app_id = a.app_id order by cname) as "cnames!",
                  memory_bytes as "memory_bytes!", cpu_milli as "cpu_milli!", cpu_burst, max_cpu_burst, is_default as "plan_is_default!",
                  provisioner as "provisioner!", override_memory_bytes, override_cpu_milli, override_cpu_burst,
                  array(select ((unit_id, process, u.version, address), (phase, u.state, reason, restarts, ready, x.routable), u.created_at)
                        from unit u join release x on x.release_id = u.release_id
                        where u.app_id = a.app_id and phase in ('starting', 'serving') and not $13
                        order by u.created_at, unit_id) as "units!: Vec<UnitRecord>",
                  '{}'::record[] as "processes!: Vec<(String, i32)>",
                  '{}'::record[] as "process_plans!: Vec<(String, String)>",
                  '{}'::record[] as "binds!: Vec<(String, String, String)>",
                  '{}'::record[] as "volumes!: Vec<(String, String, bool)>",
                  '[]'::jsonb as "scale_rules!: Json<Vec<AppScaleRule>>"
           -- Sorted before anything is looked up for a row, so that the first rows come at once.
           from (select a.*, p.memory_bytes, p.cpu_milli, p.cpu_burst, p.max_cpu_burst, p.is_default, l.provisioner
                 from app a join plan p on p.name = a.plan join pool l on l.name = a.pool
                 where ($1 or a.app_id in (select t.app_id from app_team t where t.team = any($2))
                        or a.name = any($3) or a.pool = any($4))
                   and a.kind = 'app' and ($5::text[] is null or a.name = any($5)) and ($6 = '' or platform = $6) and ($7 = '' or team_owner = $7)
                   and ($8 = '' or lower(owner) = lower($8)) and ($9 = '' or a.pool = $9) and tags @> $10
                   and a.name > $11
                 order by a.name limit $12) a
           order by name"#,
        all,
        &reach.teams,
        &reach.apps,
        &reach.pools,
        filter.names.as_deref(),
        filter.platform,
        filter.team_owner,
        filter.owner,
        filter.pool,
        &filter.tags,
        page.after,
        page.limit,
        filter.without_units,
    )
    .fetch(db)
    .map(|row| row.map(AppDescription::from))
    .boxed()
}
