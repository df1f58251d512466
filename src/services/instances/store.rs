//! SQL statements for instances.

use std::collections::BTreeMap;

use sqlx::types::Json;
use sqlx::{PgConnection, PgExecutor};

use crate::kernel::ids::{InstanceId, ServiceId};
use crate::kernel::names::{InstanceName, ServiceName, TeamName};
use crate::services::catalogue::ServiceInstanceNames;
use crate::services::model::{Instance, InstancePatch, InstanceState};

struct InstanceRow {
    id: InstanceId,
    service_id: ServiceId,
    service: ServiceName,
    name: InstanceName,
    plan: String,
    team_owner: TeamName,
    owner: String,
    description: String,
    tags: Vec<String>,
    parameters: Json<BTreeMap<String, String>>,
    pool: String,
    state: InstanceState,
    reason: String,
    teams: Vec<TeamName>,
    apps: Vec<String>,
    jobs: Vec<String>,
}

impl From<InstanceRow> for Instance {
    fn from(row: InstanceRow) -> Self {
        Instance {
            id: row.id,
            service_id: row.service_id,
            service: row.service,
            name: row.name,
            plan: row.plan,
            team_owner: row.team_owner,
            owner: row.owner,
            description: row.description,
            tags: row.tags,
            parameters: row.parameters.0,
            pool: row.pool,
            state: row.state,
            reason: row.reason,
            teams: row.teams,
            apps: row.apps,
            jobs: row.jobs,
        }
    }
}

/// Finds instances by their name, of one service or of all.
pub(in crate::services) async fn find_instances(
    db: impl PgExecutor<'_>,
    service: Option<&ServiceName>,
    name: &InstanceName,
) -> sqlx::Result<Vec<Instance>> {
    sqlx::query_as!(
        InstanceRow,
        r#"select i.instance_id as "id: InstanceId", i.service_id as "service_id: ServiceId",
                  s.name as "service: ServiceName", i.name as "name: InstanceName", i.plan,
                  i.team_owner as "team_owner: TeamName", i.owner, i.description, i.tags,
                  i.parameters as "parameters: Json<BTreeMap<String, String>>", i.pool,
                  i.state as "state: InstanceState", i.reason,
                  array(select team from service_instance_team t where t.instance_id = i.instance_id order by team)
                      as "teams!: Vec<TeamName>",
                  array(select a.name from bind b join app a using (app_id) where b.instance_id = i.instance_id and a.kind = 'app' order by 1) as "apps!",
                  array(select a.name from bind b join app a using (app_id) where b.instance_id = i.instance_id and a.kind = 'job' order by 1) as "jobs!"
           from service_instance i join service s using (service_id)
           where i.name = $1 and ($2::text is null or s.name = $2)
           order by s.name"#,
        name.as_str(),
        service.map(ServiceName::as_str),
    )
    .fetch_all(db)
    .await
    .map(|rows| rows.into_iter().map(Instance::from).collect())
}

/// Finds an instance by its id.
pub(in crate::services) async fn find_instance_by_id(
    db: impl PgExecutor<'_>,
    id: InstanceId,
) -> sqlx::Result<Option<Instance>> {
    sqlx::query_as!(
        InstanceRow,
        r#"select i.instance_id as "id: InstanceId", i.service_id as "service_id: ServiceId",
                  s.name as "service: ServiceName", i.name as "name: InstanceName", i.plan,
                  i.team_owner as "team_owner: TeamName", i.owner, i.description, i.tags,
                  i.parameters as "parameters: Json<BTreeMap<String, String>>", i.pool,
                  i.state as "state: InstanceState", i.reason,
                  array(select team from service_instance_team t where t.instance_id = i.instance_id order by team)
                      as "teams!: Vec<TeamName>",
                  array(select a.name from bind b join app a using (app_id) where b.instance_id = i.instance_id and a.kind = 'app' order by 1) as "apps!",
                  array(select a.name from bind b join app a using (app_id) where b.instance_id = i.instance_id and a.kind = 'job' order by 1) as "jobs!"
           from service_instance i join service s using (service_id)
           where i.instance_id = $1"#,
        id.0,
    )
    .fetch_optional(db)
    .await
    .map(|row| row.map(Instance::from))
}

/// The scopes in which a caller may see services and instances.
pub(super) struct ServiceReadScopes {
    /// Teams and services whose restricted services are visible; `None`: all.
    pub(super) service_teams: Option<Vec<String>>,
    pub(super) services: Vec<String>,
    /// Teams and full names whose instances are visible; `None`: all.
    pub(super) instance_teams: Option<Vec<String>>,
    pub(super) instances: Vec<String>,
}

/// The filters of a list of instances; `None` does not filter.
pub(super) struct InstanceListQuery<'a> {
    pub(super) scopes: &'a ServiceReadScopes,
    pub(super) service: Option<&'a str>,
    /// A substring of the name, ignoring case.
    pub(super) name: Option<&'a str>,
    pub(super) team_owner: Option<&'a str>,
    pub(super) pool: Option<&'a str>,
    pub(super) plan: Option<&'a str>,
    /// The name of an app that the instance is bound to.
    pub(super) app: Option<&'a str>,
    pub(super) tags: &'a [String],
}

/// A service with one of its instances, or with none.
pub(super) struct InstanceListRow {
    pub(super) service: ServiceName,
    pub(super) instance: Option<Instance>,
}

/// Lists the services that the caller may use, each with the names of its visible instances. With `app`, only
/// instances that are bound to the app of that name.
pub(super) async fn list_instance_names(
    db: impl PgExecutor<'_>,
    scopes: &ServiceReadScopes,
    app: Option<&str>,
) -> sqlx::Result<Vec<ServiceInstanceNames>> {
    sqlx::query_as!(
        ServiceInstanceNames,
        r#"select s.name as service,
                  array(select i.name from service_instance i
                        where i.service_id = s.service_id
                          and ($3::text[] is null or s.name || '/' || i.name = any($4)
                               or i.instance_id in (select t.instance_id from service_instance_team t where t.team = any($3)))
                          and ($5::text is null
                               or exists (select 1 from bind b join app a using (app_id)
                                          where b.instance_id = i.instance_id and a.name = $5 and a.kind = 'app'))
                        order by i.name) as "instances!"
           from service s
           where $1::text[] is null or not s.is_restricted or s.name = any($2)
              or exists (select 1 from service_team t where t.service_id = s.service_id and t.team = any($1))
           order by s.name"#,
        scopes.service_teams.as_deref(),
        &scopes.services,
        scopes.instance_teams.as_deref(),
        &scopes.instances,
        app,
    )
    .fetch_all(db)
    .await
}

/// Lists the services that the caller may use, each with its visible instances.
pub(super) async fn list_instances(
    db: impl PgExecutor<'_>,
    query: &InstanceListQuery<'_>,
) -> sqlx::Result<Vec<InstanceListRow>> {
    let rows = sqlx::query!(
        r#"select i.instance_id as "id?: InstanceId", s.service_id as "service_id: ServiceId",
                  s.name as "service: ServiceName", i.name as "name?: InstanceName", i.plan as "plan?",
                  i.team_owner as "team_owner?: TeamName", i.owner as "owner?", i.description as "description?",
                  i.tags as "tags?", i.parameters as "parameters?: Json<BTreeMap<String, String>>",
                  i.pool as "pool?", i.state as "state?: InstanceState",
                  i.reason as "reason?",
                  array(select team from service_instance_team t where t.instance_id = i.instance_id order by team)
                      as "teams!: Vec<TeamName>",
                  array(select a.name from bind b join app a using (app_id) where b.instance_id = i.instance_id and a.kind = 'app' order by 1) as "apps!",
                  array(select a.name from bind b join app a using (app_id) where b.instance_id = i.instance_id and a.kind = 'job' order by 1) as "jobs!"
           from service s
           left join service_instance i on i.service_id = s.service_id
             and ($3::text[] is null or s.name || '/' || i.name = any($4)
                  or exists (select 1 from service_instance_team t
                             where t.instance_id = i.instance_id and t.team = any($3)))
             and ($6::text is null or position(lower($6) in lower(i.name)) > 0)
             and ($7::text is null or i.team_owner = $7) and ($8::text is null or i.pool = $8)
             and ($9::text is null or i.plan = $9) and i.tags @> $10
             and ($11::text is null
                  or exists (select 1 from bind b join app a using (app_id)
                             where b.instance_id = i.instance_id and a.name = $11 and a.kind = 'app'))
           where ($1::text[] is null or not s.is_restricted or s.name = any($2)
                  or exists (select 1 from service_team t where t.service_id = s.service_id and t.team = any($1)))
             and ($5::text is null or s.name = $5)
           order by s.name, i.name"#,
        query.scopes.service_teams.as_deref(),
        &query.scopes.services,
        query.scopes.instance_teams.as_deref(),
        &query.scopes.instances,
        query.service,
        query.name,
        query.team_owner,
        query.pool,
        query.plan,
        query.tags,
        query.app,
    )
    .fetch_all(db)
    .await?;
    Ok(rows
        .into_iter()
        .map(|r| {
            let instance = match (r.id, r.name, r.team_owner, r.state) {
                (Some(id), Some(name), Some(team_owner), Some(state)) => Some(Instance {
                    id,
                    service_id: r.service_id,
                    service: r.service.clone(),
                    name,
                    plan: r.plan.unwrap_or_default(),
                    team_owner,
                    owner: r.owner.unwrap_or_default(),
                    description: r.description.unwrap_or_default(),
                    tags: r.tags.unwrap_or_default(),
                    parameters: r.parameters.unwrap_or_default().0,
                    pool: r.pool.unwrap_or_default(),
                    state,
                    reason: r.reason.unwrap_or_default(),
                    teams: r.teams,
                    apps: r.apps,
                    jobs: r.jobs,
                }),
                _ => None,
            };
            InstanceListRow {
                service: r.service,
                instance,
            }
        })
        .collect())
}

/// Locks the name of an instance against concurrent creations until the transaction ends.
pub(super) async fn lock_instance_name(tx: &mut PgConnection, name: &InstanceName) -> sqlx::Result<()> {
    sqlx::query!(
        "select pg_advisory_xact_lock(hashtextextended('service-instance ' || $1, 0))",
        name.as_str()
    )
    .fetch_one(tx)
    .await
    .map(drop)
}

pub(super) struct NewInstanceRow<'a> {
    pub(super) id: InstanceId,
    pub(super) service_id: ServiceId,
    pub(super) name: &'a InstanceName,
    pub(super) plan: &'a str,
    pub(super) team_owner: &'a TeamName,
    pub(super) owner: &'a str,
    pub(super) description: &'a str,
    pub(super) tags: &'a [String],
    pub(super) parameters: &'a BTreeMap<String, String>,
    pub(super) pool: &'a str,
}

pub(super) async fn insert_instance(tx: &mut PgConnection, new: &NewInstanceRow<'_>) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into service_instance
             (instance_id, service_id, name, plan, team_owner, owner, description, tags, parameters, pool)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        new.id.0,
        new.service_id.0,
        new.name.as_str(),
        new.plan,
        new.team_owner.as_str(),
        new.owner,
        new.description,
        new.tags,
        serde_json::json!(new.parameters),
        new.pool,
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Grants teams access; teams that do not exist are skipped. Returns how many grants are new.
pub(super) async fn insert_instance_teams(
    tx: &mut PgConnection,
    id: InstanceId,
    teams: &[TeamName],
) -> sqlx::Result<u64> {
    let teams: Vec<String> = teams.iter().map(TeamName::to_string).collect();
    sqlx::query!(
        "insert into service_instance_team (instance_id, team) select $1, name from team where name = any($2)
         on conflict do nothing",
        id.0,
        &teams
    )
    .execute(tx)
    .await
    .map(|done| done.rows_affected())
}

/// Revokes a team's access. Returns false if it had none.
pub(super) async fn delete_instance_team(
    tx: &mut PgConnection,
    id: InstanceId,
    team: &TeamName,
) -> sqlx::Result<bool> {
    sqlx::query!(
        "delete from service_instance_team where instance_id = $1 and team = $2",
        id.0,
        team.as_str()
    )
    .execute(tx)
    .await
    .map(|done| done.rows_affected() == 1)
}

/// Sets the state and its reason.
pub(super) async fn update_instance_state(
    tx: &mut PgConnection,
    id: InstanceId,
    state: InstanceState,
    reason: &str,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update service_instance set state = $2, reason = $3 where instance_id = $1",
        id.0,
        state as InstanceState,
        reason
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Notes that the service may execute a call about the instance whose response was not received, within
/// `seconds`.
pub(super) async fn set_uncertain_until(
    tx: &mut PgConnection,
    id: InstanceId,
    seconds: f64,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update service_instance set uncertain_until = now() + make_interval(secs => $2) where instance_id = $1",
        id.0,
        seconds
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Returns whether the service may still execute such a call.
pub(super) async fn is_uncertain(db: impl PgExecutor<'_>, id: InstanceId) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select exists (select from service_instance where instance_id = $1 and uncertain_until > now()) as "is!""#,
        id.0
    )
    .fetch_one(db)
    .await
}

/// Updates the fields that the patch sets.
pub(super) async fn update_instance(
    tx: &mut PgConnection,
    id: InstanceId,
    patch: &InstancePatch,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update service_instance set description = coalesce($2, description), team_owner = coalesce($3, team_owner),
                plan = coalesce($4, plan), tags = coalesce($5, tags), parameters = coalesce($6, parameters)
         where instance_id = $1",
        id.0,
        patch.description.as_deref(),
        patch.team_owner.as_ref().map(TeamName::as_str),
        patch.plan.as_deref(),
        patch.tags.as_deref(),
        patch.parameters.as_ref().map(|p| serde_json::json!(p)),
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Deletes an instance without binds.
pub(in crate::services) async fn delete_instance(tx: &mut PgConnection, id: InstanceId) -> sqlx::Result<()> {
    sqlx::query!("delete from service_instance where instance_id = $1", id.0)
        .execute(tx)
        .await
        .map(drop)
}
