//! Apps in SQL.

use futures_util::stream::{BoxStream, StreamExt};
use sqlx::{PgConnection, PgExecutor};

use crate::apps::model::{App, Full};
use crate::apps::rows::{Row, UnitRecord};
use crate::kernel::ids::AppId;
use crate::kernel::names::{AppName, PlanName, PlatformName, PoolName, TeamName};

/// An app by name.
pub(crate) async fn find(db: impl PgExecutor<'_>, name: &AppName) -> sqlx::Result<Option<App>> {
    Ok(find_full(db, name).await?.map(|full| full.app))
}

/// The name of an app, for sagas, which know it by its id.
pub(crate) async fn find_name(db: impl PgExecutor<'_>, id: AppId) -> sqlx::Result<Option<AppName>> {
    sqlx::query_scalar!(
        r#"select name as "name: AppName" from app where app_id = $1"#,
        id.0
    )
    .fetch_optional(db)
    .await
}

/// An app by name with all that its description shows.
pub(crate) async fn find_full(db: impl PgExecutor<'_>, name: &AppName) -> sqlx::Result<Option<Full>> {
    sqlx::query_as!(
        Row,
        r#"select a.app_id as "app_id: AppId", number, a.name as "name: AppName", label,
                  platform as "platform: PlatformName", plan as "plan: PlanName", a.pool as "pool: PoolName",
                  team_owner as "team_owner: TeamName", owner, description, tags, metadata, state,
                  quota_limit, deploys, current_release, created_at,
                  array(select team from app_team t where t.app_id = a.app_id order by team) as "teams!: Vec<TeamName>",
                  array(select cname from app_cname c where c.app_id = a.app_id order by cname) as "cnames!",
                  p.memory_bytes, p.cpu_milli, p.is_default as plan_is_default, l.provisioner,
                  array(select ((unit_id, process, version, address), (phase, u.state, reason, restarts, ready), u.created_at)
                        from unit u where u.app_id = a.app_id and phase in ('starting', 'serving')
                        order by u.created_at, unit_id) as "units!: Vec<UnitRecord>",
                  array(select (process, units, stopped) from app_process s where s.app_id = a.app_id order by process)
                      as "processes!: Vec<(String, i32, bool)>",
                  array(select (sv.name, i.name, i.plan)
                        from bind b join service_instance i using (instance_id) join service sv using (service_id)
                        where b.app_id = a.app_id and b.state <> 'binding' order by b.seq)
                      as "binds!: Vec<(String, String, String)>"
           from app a join plan p on p.name = a.plan join pool l on l.name = a.pool
           where a.name = $1"#,
        name.as_str(),
    )
    .fetch_optional(db)
    .await
    .map(|row| row.map(Full::from))
}

/// What a list of apps is narrowed by; empty texts do not narrow. The first three say what the caller
/// may see: names of teams, apps and pools; `None` is everything.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    pub reach: Option<Reach>,
    /// A regular expression, as today's client sends it.
    pub name: String,
    pub platform: String,
    pub team_owner: String,
    pub owner: String,
    pub pool: String,
    pub tags: Vec<String>,
}

/// The things on which a caller holds the permission to read apps.
#[derive(Clone, Debug, Default)]
pub struct Reach {
    pub teams: Vec<String>,
    pub apps: Vec<String>,
    pub pools: Vec<String>,
}

/// Apps in the order of their names, as a stream of one statement. Only units in the phases that the
/// caller can see are in it.
pub(super) fn list<'a>(
    db: impl PgExecutor<'a> + 'a,
    filter: &'a Filter,
) -> BoxStream<'a, sqlx::Result<Full>> {
    let all = filter.reach.is_none();
    let empty = Reach::default();
    let reach = filter.reach.clone().unwrap_or(empty);
    sqlx::query_as!(
        Row,
        r#"select app_id as "app_id!: AppId", number as "number!", name as "name!: AppName", label as "label!",
                  platform as "platform!: PlatformName", plan as "plan!: PlanName", pool as "pool!: PoolName",
                  team_owner as "team_owner!: TeamName", owner as "owner!", description as "description!", tags as "tags!",
                  metadata as "metadata!", state as "state!", quota_limit as "quota_limit!", deploys as "deploys!",
                  current_release, created_at as "created_at!",
                  array(select team from app_team t where t.app_id = a.app_id order by team) as "teams!: Vec<TeamName>",
                  array(select cname from app_cname c where c.app_id = a.app_id order by cname) as "cnames!",
                  memory_bytes as "memory_bytes!", cpu_milli as "cpu_milli!", is_default as "plan_is_default!",
                  provisioner as "provisioner!",
                  array(select ((unit_id, process, version, address), (phase, u.state, reason, restarts, ready), u.created_at)
                        from unit u where u.app_id = a.app_id and phase in ('starting', 'serving')
                        order by u.created_at, unit_id) as "units!: Vec<UnitRecord>",
                  '{}'::record[] as "processes!: Vec<(String, i32, bool)>",
                  '{}'::record[] as "binds!: Vec<(String, String, String)>"
           -- Sorted before anything is looked up for a row, so that the first rows come at once.
           from (select a.*, p.memory_bytes, p.cpu_milli, p.is_default, l.provisioner
                 from app a join plan p on p.name = a.plan join pool l on l.name = a.pool
                 where ($1 or a.app_id in (select t.app_id from app_team t where t.team = any($2))
                        or a.name = any($3) or a.pool = any($4))
                   and ($5 = '' or a.name ~ $5) and ($6 = '' or platform = $6) and ($7 = '' or team_owner = $7)
                   and ($8 = '' or owner = $8) and ($9 = '' or a.pool = $9) and tags @> $10
                 order by a.name offset 0) a
           order by name"#,
        all,
        &reach.teams,
        &reach.apps,
        &reach.pools,
        filter.name,
        filter.platform,
        filter.team_owner,
        filter.owner,
        filter.pool,
        &filter.tags,
    )
    .fetch(db)
    .map(|row| row.map(Full::from))
    .boxed()
}

/// A new app.
#[derive(Clone, Debug)]
pub(super) struct NewApp<'a> {
    pub(super) id: AppId,
    pub(super) name: &'a AppName,
    pub(super) platform: &'a PlatformName,
    pub(super) plan: &'a PlanName,
    pub(super) pool: &'a PoolName,
    pub(super) team_owner: &'a TeamName,
    pub(super) owner: &'a str,
    pub(super) description: &'a str,
    pub(super) tags: &'a [String],
    pub(super) quota_limit: i32,
}

pub(super) async fn insert(tx: &mut PgConnection, new: &NewApp<'_>) -> sqlx::Result<()> {
    sqlx::query!(
        "with made as (
             insert into app (app_id, name, label, platform, plan, pool, team_owner, owner, description, tags, quota_limit)
             values ($1, $2, $2, $3, $4, $5, $6, $7, $8, $9, $10))
         insert into app_team (app_id, team) values ($1, $6)",
        new.id.0,
        new.name.as_str(),
        new.platform.as_str(),
        new.plan.as_str(),
        new.pool.as_str(),
        new.team_owner.as_str(),
        new.owner,
        new.description,
        new.tags,
        new.quota_limit,
    )
    .execute(tx)
    .await
    .map(drop)
}

/// What may be changed about an app; `None` leaves it.
#[derive(Clone, Debug, Default)]
pub(super) struct Patch {
    pub(super) description: Option<String>,
    pub(super) tags: Option<Vec<String>>,
    pub(super) team_owner: Option<TeamName>,
    pub(super) plan: Option<PlanName>,
    pub(super) platform: Option<PlatformName>,
    pub(super) metadata: Option<serde_json::Value>,
}

pub(super) async fn update(tx: &mut PgConnection, id: AppId, patch: &Patch) -> sqlx::Result<()> {
    sqlx::query!(
        "update app set description = coalesce($2, description), tags = coalesce($3, tags),
                team_owner = coalesce($4, team_owner), plan = coalesce($5, plan),
                platform = coalesce($6, platform), metadata = coalesce($7, metadata)
         where app_id = $1",
        id.0,
        patch.description.as_deref(),
        patch.tags.as_deref(),
        patch.team_owner.as_ref().map(TeamName::as_str),
        patch.plan.as_ref().map(PlanName::as_str),
        patch.platform.as_ref().map(PlatformName::as_str),
        patch.metadata,
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Adds a team; false if it is there already.
pub(super) async fn insert_team(tx: &mut PgConnection, id: AppId, team: &TeamName) -> sqlx::Result<bool> {
    sqlx::query!(
        "insert into app_team (app_id, team) values ($1, $2) on conflict on constraint app_team_pkey do nothing",
        id.0,
        team.as_str(),
    )
    .execute(tx)
    .await
    .map(|done| done.rows_affected() == 1)
}

pub(super) async fn delete_team(tx: &mut PgConnection, id: AppId, team: &TeamName) -> sqlx::Result<()> {
    sqlx::query!(
        "delete from app_team where app_id = $1 and team = $2",
        id.0,
        team.as_str()
    )
    .execute(tx)
    .await
    .map(drop)
}

pub(super) async fn insert_cname(tx: &mut PgConnection, id: AppId, cname: &str) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into app_cname (app_id, cname) values ($1, $2)",
        id.0,
        cname
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Removes a cname; false if the app does not have it.
pub(super) async fn delete_cname(tx: &mut PgConnection, id: AppId, cname: &str) -> sqlx::Result<bool> {
    sqlx::query!(
        "delete from app_cname where app_id = $1 and cname = $2",
        id.0,
        cname
    )
    .execute(tx)
    .await
    .map(|done| done.rows_affected() == 1)
}

/// Exchanges the public addresses of two apps: labels and cnames, or the cnames alone.
pub(super) async fn swap(
    tx: &mut PgConnection,
    one: AppId,
    two: AppId,
    cnames_only: bool,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update app_cname set app_id = case when app_id = $1 then $2 else $1 end where app_id in ($1, $2)",
        one.0,
        two.0,
    )
    .execute(&mut *tx)
    .await?;
    if cnames_only {
        return Ok(());
    }
    sqlx::query!(
        "update app set label = (select other.label from app other
                                 where other.app_id = case when app.app_id = $1 then $2 else $1 end)
         where app_id in ($1, $2)",
        one.0,
        two.0,
    )
    .execute(&mut *tx)
    .await
    .map(drop)
}

/// True if some platform has this name: apps and platforms share no names (contract/classic 3.4).
pub(super) async fn is_platform_name(db: impl PgExecutor<'_>, name: &str) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select exists(select 1 from platform where name = $1) as "found!""#,
        name
    )
    .fetch_one(db)
    .await
}

/// Marks an app as being removed; false if it is already.
pub(crate) async fn begin_removal(tx: &mut PgConnection, id: AppId) -> sqlx::Result<bool> {
    sqlx::query!(
        "update app set state = 'removing' where app_id = $1 and state = 'live'",
        id.0
    )
    .execute(tx)
    .await
    .map(|done| done.rows_affected() == 1)
}

/// Removes the app's row with all that hangs on it; false if it is gone already.
pub(crate) async fn delete(tx: &mut PgConnection, id: AppId) -> sqlx::Result<bool> {
    sqlx::query!("delete from app where app_id = $1", id.0)
        .execute(tx)
        .await
        .map(|done| done.rows_affected() == 1)
}
