//! Apps in SQL.

use sqlx::types::Json;
use sqlx::{PgConnection, PgExecutor};

use crate::apps::autoscale::AppScaleRule;
use crate::apps::model::{App, AppDescription, AppKind, AppState};
use crate::apps::plan_override::PlanOverrideChange;
use crate::apps::rows::{AppDescriptionRow, UnitRecord};
use crate::kernel::ids::AppId;
use crate::kernel::names::{AppName, PlanName, PlatformName, PoolName, TeamName};

/// An app by name.
pub(crate) async fn find_app(db: impl PgExecutor<'_>, name: &AppName) -> sqlx::Result<Option<App>> {
    find_app_of_kind(db, AppKind::App, name).await
}

/// An app or a job by name.
pub(super) async fn find_app_of_kind(
    db: impl PgExecutor<'_>,
    kind: AppKind,
    name: &AppName,
) -> sqlx::Result<Option<App>> {
    sqlx::query_as!(
        App,
        r#"select a.app_id as "id: AppId", kind as "kind: AppKind", number, a.name as "name: AppName", label,
                  platform as "platform: PlatformName", plan as "plan: PlanName", pool as "pool: PoolName",
                  team_owner as "team_owner: TeamName", owner, description, tags, metadata,
                  state as "state: AppState", quota_limit, deploys, current_release, created_at,
                  array(select team from app_team t where t.app_id = a.app_id order by team) as "teams!: Vec<TeamName>",
                  array(select cname from app_cname c where c.app_id = a.app_id order by cname) as "cnames!"
           from app a where a.name = $1 and a.kind = $2"#,
        name.as_str(),
        kind.as_str(),
    )
    .fetch_optional(db)
    .await
}

/// An app or a job by its id, for sagas.
pub(crate) async fn find_app_by_id(db: impl PgExecutor<'_>, id: AppId) -> sqlx::Result<Option<App>> {
    sqlx::query_as!(
        App,
        r#"select a.app_id as "id: AppId", kind as "kind: AppKind", number, a.name as "name: AppName", label,
                  platform as "platform: PlatformName", plan as "plan: PlanName", pool as "pool: PoolName",
                  team_owner as "team_owner: TeamName", owner, description, tags, metadata,
                  state as "state: AppState", quota_limit, deploys, current_release, created_at,
                  array(select team from app_team t where t.app_id = a.app_id order by team) as "teams!: Vec<TeamName>",
                  array(select cname from app_cname c where c.app_id = a.app_id order by cname) as "cnames!"
           from app a where a.app_id = $1"#,
        id.0,
    )
    .fetch_optional(db)
    .await
}

/// The name of an app, for sagas, which know it by its id.
pub(crate) async fn find_app_name(db: impl PgExecutor<'_>, id: AppId) -> sqlx::Result<Option<AppName>> {
    sqlx::query_scalar!(
        r#"select name as "name: AppName" from app where app_id = $1"#,
        id.0
    )
    .fetch_optional(db)
    .await
}

/// An app by name with all that its description shows.
pub(crate) async fn find_app_description(
    db: impl PgExecutor<'_>,
    name: &AppName,
) -> sqlx::Result<Option<AppDescription>> {
    find_description(db, AppKind::App, name).await
}

/// An app or a job by name with all that its description shows.
pub(super) async fn find_description(
    db: impl PgExecutor<'_>,
    kind: AppKind,
    name: &AppName,
) -> sqlx::Result<Option<AppDescription>> {
    Ok(list_descriptions(db, kind, std::slice::from_ref(name))
        .await?
        .pop())
}

/// Apps or jobs with all that their descriptions show, ordered by name; those that there are not are left out.
pub(super) async fn list_descriptions(
    db: impl PgExecutor<'_>,
    kind: AppKind,
    names: &[AppName],
) -> sqlx::Result<Vec<AppDescription>> {
    sqlx::query_as!(
        AppDescriptionRow,
        r#"select a.app_id as "app_id: AppId", kind as "kind: AppKind", number, a.name as "name: AppName", label,
                  platform as "platform: PlatformName", plan as "plan: PlanName", a.pool as "pool: PoolName",
                  team_owner as "team_owner: TeamName", owner, description, tags, metadata, state as "state: AppState",
                  quota_limit, deploys, current_release, created_at,
                  array(select team from app_team t where t.app_id = a.app_id order by team) as "teams!: Vec<TeamName>",
                  array(select cname from app_cname c where c.app_id = a.app_id order by cname) as "cnames!",
                  p.memory_bytes, p.cpu_milli, p.cpu_burst, p.max_cpu_burst, p.is_default as plan_is_default, l.provisioner,
                  override_memory_bytes, override_cpu_milli, override_cpu_burst,
                  array(select ((unit_id, process, u.version, address), (phase, u.state, reason, restarts, ready, x.routable), u.created_at)
                        from unit u join release x on x.release_id = u.release_id
                        where u.app_id = a.app_id and phase in ('starting', 'serving')
                        order by u.created_at, unit_id) as "units!: Vec<UnitRecord>",
                  array(select (process, sum(units)::integer) from app_process s where s.app_id = a.app_id
                        group by process order by process)
                      as "processes!: Vec<(String, i32)>",
                  array(select (process, k.plan) from process_plan k where k.app_id = a.app_id order by process)
                      as "process_plans!: Vec<(String, String)>",
                  array(select (sv.name, i.name, i.plan)
                        from bind b join service_instance i using (instance_id) join service sv using (service_id)
                        where b.app_id = a.app_id and b.state <> 'binding' order by b.seq)
                      as "binds!: Vec<(String, String, String)>",
                  array(select (v.name, b.mount_point, b.read_only)
                        from volume_bind b join volume v using (volume_id)
                        where b.app_id = a.app_id order by b.mount_point)
                      as "volumes!: Vec<(String, String, bool)>",
                  coalesce((select jsonb_agg(s.rule || jsonb_build_object('process', s.process, 'version', r.version)
                                             order by s.side, s.process)
                            from autoscale s
                            left join live_release v on v.app_id = s.app_id and v.side = s.side
                            left join release r on r.release_id = v.current_release
                            where s.app_id = a.app_id), '[]') as "scale_rules!: Json<Vec<AppScaleRule>>"
           from app a join plan p on p.name = a.plan join pool l on l.name = a.pool
           where a.name = any($1) and a.kind = $2 order by a.name"#,
        names as &[AppName],
        kind.as_str(),
    )
    .fetch_all(db)
    .await
    .map(|rows| rows.into_iter().map(AppDescription::from).collect())
}

/// A new app.
#[derive(Clone, Debug)]
pub(super) struct NewApp<'a> {
    pub(super) id: AppId,
    pub(super) kind: AppKind,
    pub(super) name: &'a AppName,
    pub(super) platform: Option<&'a PlatformName>,
    pub(super) plan: &'a PlanName,
    pub(super) pool: &'a PoolName,
    pub(super) team_owner: &'a TeamName,
    pub(super) owner: &'a str,
    pub(super) description: &'a str,
    pub(super) tags: &'a [String],
    pub(super) quota_limit: i32,
}

pub(super) async fn insert_app(tx: &mut PgConnection, new: &NewApp<'_>) -> sqlx::Result<()> {
    sqlx::query!(
        "with made as (
             insert into app (app_id, name, label, platform, plan, pool, team_owner, owner, description, tags, quota_limit, kind)
             values ($1, $2, case $11 when 'job' then 'job/' else '' end || $2, $3, $4, $5, $6, $7, $8, $9, $10, $11))
         insert into app_team (app_id, team) values ($1, $6)",
        new.id.0,
        new.name.as_str(),
        new.platform.map(PlatformName::as_str),
        new.plan.as_str(),
        new.pool.as_str(),
        new.team_owner.as_str(),
        new.owner,
        new.description,
        new.tags,
        new.quota_limit,
        new.kind.as_str(),
    )
    .execute(tx)
    .await
    .map(drop)
}

/// What may be changed about an app; `None` leaves it.
#[derive(Clone, Debug, Default)]
pub(super) struct AppPatch {
    pub(super) description: Option<String>,
    pub(super) tags: Option<Vec<String>>,
    pub(super) team_owner: Option<TeamName>,
    pub(super) platform: Option<PlatformName>,
    /// The next build begins without a cache.
    pub(super) resets_image: bool,
    pub(super) metadata: Option<serde_json::Value>,
}

pub(super) async fn update_app(tx: &mut PgConnection, id: AppId, patch: &AppPatch) -> sqlx::Result<()> {
    sqlx::query!(
        "update app set description = coalesce($2, description), tags = coalesce($3, tags),
                team_owner = coalesce($4, team_owner), platform = coalesce($5, platform),
                metadata = coalesce($6, metadata),
                cache_epoch = cache_epoch + case when $7 or platform is distinct from coalesce($5, platform) then 1 else 0 end
         where app_id = $1",
        id.0,
        patch.description.as_deref(),
        patch.tags.as_deref(),
        patch.team_owner.as_ref().map(TeamName::as_str),
        patch.platform.as_ref().map(PlatformName::as_str),
        patch.metadata,
        patch.resets_image,
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Changes the plan and its override. Returns false if both are as they were.
pub(super) async fn update_plan(
    tx: &mut PgConnection,
    id: AppId,
    plan: Option<&PlanName>,
    change: &PlanOverrideChange,
) -> sqlx::Result<bool> {
    sqlx::query!(
        "with new as (
             select app_id, coalesce($2::text, plan) as plan,
                    case when $3::bigint is not null then nullif($3, 0)
                         when $2 is null then override_memory_bytes end as memory_bytes,
                    case when $4::integer is not null then nullif($4, 0)
                         when $2 is null then override_cpu_milli end as cpu_milli,
                    case when $5::double precision is not null then nullif($5, 0)
                         when $2 is null then override_cpu_burst end as cpu_burst
             from app where app_id = $1)
         update app set plan = new.plan, override_memory_bytes = new.memory_bytes,
                override_cpu_milli = new.cpu_milli, override_cpu_burst = new.cpu_burst
         from new
         where app.app_id = new.app_id
           and (app.plan, app.override_memory_bytes, app.override_cpu_milli, app.override_cpu_burst)
               is distinct from (new.plan, new.memory_bytes, new.cpu_milli, new.cpu_burst)",
        id.0,
        plan.map(PlanName::as_str),
        change.memory_bytes,
        change.cpu_milli,
        change.cpu_burst,
    )
    .execute(tx)
    .await
    .map(|done| done.rows_affected() == 1)
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

/// How many cnames an app has.
pub(super) async fn count_cnames(db: impl PgExecutor<'_>, id: AppId) -> sqlx::Result<usize> {
    let count = sqlx::query_scalar!(
        r#"select count(*) as "count!" from app_cname where app_id = $1"#,
        id.0
    )
    .fetch_one(db)
    .await?;
    Ok(usize::try_from(count).unwrap_or(usize::MAX))
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
pub(super) async fn swap_addresses(
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
pub(crate) async fn delete_app(tx: &mut PgConnection, id: AppId) -> sqlx::Result<bool> {
    sqlx::query!("delete from app where app_id = $1", id.0)
        .execute(tx)
        .await
        .map(|done| done.rows_affected() == 1)
}
