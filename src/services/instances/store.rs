//! Instances in SQL.

use std::collections::BTreeMap;

use serde_json::Value;
use sqlx::{PgConnection, PgExecutor};

use crate::kernel::ids::{InstanceId, ServiceId};
use crate::kernel::names::{InstanceName, ServiceName, TeamName};
use crate::services::catalogue::Listed;
use crate::services::model::{Instance, InstancePatch, InstanceState};

struct Row {
    id: InstanceId,
    service_id: ServiceId,
    service: ServiceName,
    name: InstanceName,
    plan: String,
    team_owner: TeamName,
    owner: String,
    description: String,
    tags: Vec<String>,
    parameters: Value,
    pool: String,
    state: String,
    reason: String,
    teams: Vec<TeamName>,
    apps: Vec<String>,
}

impl From<Row> for Instance {
    fn from(row: Row) -> Self {
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
            parameters: serde_json::from_value(row.parameters).unwrap_or_default(),
            pool: row.pool,
            state: InstanceState::parse(&row.state),
            reason: row.reason,
            teams: row.teams,
            apps: row.apps,
        }
    }
}

/// Instances by their name, of one service or of all.
pub(super) async fn find(
    db: impl PgExecutor<'_>,
    service: Option<&ServiceName>,
    name: &InstanceName,
) -> sqlx::Result<Vec<Instance>> {
    sqlx::query_as!(
        Row,
        r#"select i.instance_id as "id: InstanceId", i.service_id as "service_id: ServiceId",
                  s.name as "service: ServiceName", i.name as "name: InstanceName", i.plan,
                  i.team_owner as "team_owner: TeamName", i.owner, i.description, i.tags, i.parameters, i.pool,
                  i.state, i.reason,
                  array(select team from service_instance_team t where t.instance_id = i.instance_id order by team)
                      as "teams!: Vec<TeamName>",
                  array(select a.name from bind b join app a using (app_id)
                        where b.instance_id = i.instance_id order by a.name) as "apps!"
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

/// An instance by its id.
pub(in crate::services) async fn find_by_id(
    db: impl PgExecutor<'_>,
    id: InstanceId,
) -> sqlx::Result<Option<Instance>> {
    sqlx::query_as!(
        Row,
        r#"select i.instance_id as "id: InstanceId", i.service_id as "service_id: ServiceId",
                  s.name as "service: ServiceName", i.name as "name: InstanceName", i.plan,
                  i.team_owner as "team_owner: TeamName", i.owner, i.description, i.tags, i.parameters, i.pool,
                  i.state, i.reason,
                  array(select team from service_instance_team t where t.instance_id = i.instance_id order by team)
                      as "teams!: Vec<TeamName>",
                  array(select a.name from bind b join app a using (app_id)
                        where b.instance_id = i.instance_id order by a.name) as "apps!"
           from service_instance i join service s using (service_id)
           where i.instance_id = $1"#,
        id.0,
    )
    .fetch_optional(db)
    .await
    .map(|row| row.map(Instance::from))
}

/// Whose services and instances somebody may see.
pub(super) struct Reach {
    /// Teams and services by which restricted services may be seen; `None`: all.
    pub(super) service_teams: Option<Vec<String>>,
    pub(super) services: Vec<String>,
    /// Teams and full names by which instances may be seen; `None`: all.
    pub(super) instance_teams: Option<Vec<String>>,
    pub(super) instances: Vec<String>,
}

/// What a list of instances is narrowed by; `None` does not narrow.
pub(super) struct Narrow<'a> {
    pub(super) reach: &'a Reach,
    pub(super) service: Option<&'a str>,
    /// A part of the name, without regard to case.
    pub(super) name: Option<&'a str>,
    pub(super) team_owner: Option<&'a str>,
    pub(super) pool: Option<&'a str>,
    pub(super) plan: Option<&'a str>,
    pub(super) tags: &'a [String],
}

/// A service with one of its instances, or with none.
pub(super) struct Line {
    pub(super) service: ServiceName,
    pub(super) instance: Option<Instance>,
}

/// The services that somebody may use, each with the names of those of its instances that they may see.
pub(super) async fn list_names(db: impl PgExecutor<'_>, reach: &Reach) -> sqlx::Result<Vec<Listed>> {
    sqlx::query_as!(
        Listed,
        r#"select s.name as service,
                  array(select i.name from service_instance i
                        where i.service_id = s.service_id
                          and ($3::text[] is null or s.name || '/' || i.name = any($4)
                               or i.instance_id in (select t.instance_id from service_instance_team t where t.team = any($3)))
                        order by i.name) as "instances!"
           from service s
           where $1::text[] is null or not s.is_restricted or s.name = any($2)
              or exists (select 1 from service_team t where t.service_id = s.service_id and t.team = any($1))
           order by s.name"#,
        reach.service_teams.as_deref(),
        &reach.services,
        reach.instance_teams.as_deref(),
        &reach.instances,
    )
    .fetch_all(db)
    .await
}

/// The services that somebody may use, each with those of its instances that they may see.
pub(super) async fn list(db: impl PgExecutor<'_>, narrow: &Narrow<'_>) -> sqlx::Result<Vec<Line>> {
    let rows = sqlx::query!(
        r#"select i.instance_id as "id?: InstanceId", s.service_id as "service_id: ServiceId",
                  s.name as "service: ServiceName", i.name as "name?: InstanceName", i.plan as "plan?",
                  i.team_owner as "team_owner?: TeamName", i.owner as "owner?", i.description as "description?",
                  i.tags as "tags?", i.parameters as "parameters?", i.pool as "pool?", i.state as "state?",
                  i.reason as "reason?",
                  array(select team from service_instance_team t where t.instance_id = i.instance_id order by team)
                      as "teams!: Vec<TeamName>",
                  array(select a.name from bind b join app a using (app_id)
                        where b.instance_id = i.instance_id order by a.name) as "apps!"
           from service s
           left join service_instance i on i.service_id = s.service_id
             and ($3::text[] is null or s.name || '/' || i.name = any($4)
                  or exists (select 1 from service_instance_team t
                             where t.instance_id = i.instance_id and t.team = any($3)))
             and ($6::text is null or position(lower($6) in lower(i.name)) > 0)
             and ($7::text is null or i.team_owner = $7) and ($8::text is null or i.pool = $8)
             and ($9::text is null or i.plan = $9) and i.tags @> $10
           where ($1::text[] is null or not s.is_restricted or s.name = any($2)
                  or exists (select 1 from service_team t where t.service_id = s.service_id and t.team = any($1)))
             and ($5::text is null or s.name = $5)
           order by s.name, i.name"#,
        narrow.reach.service_teams.as_deref(),
        &narrow.reach.services,
        narrow.reach.instance_teams.as_deref(),
        &narrow.reach.instances,
        narrow.service,
        narrow.name,
        narrow.team_owner,
        narrow.pool,
        narrow.plan,
        narrow.tags,
    )
    .fetch_all(db)
    .await?;
    Ok(rows
        .into_iter()
        .map(|r| {
            let instance = match (r.id, r.name, r.team_owner) {
                (Some(id), Some(name), Some(team_owner)) => Some(Instance {
                    id,
                    service_id: r.service_id,
                    service: r.service.clone(),
                    name,
                    plan: r.plan.unwrap_or_default(),
                    team_owner,
                    owner: r.owner.unwrap_or_default(),
                    description: r.description.unwrap_or_default(),
                    tags: r.tags.unwrap_or_default(),
                    parameters: r
                        .parameters
                        .and_then(|v| serde_json::from_value(v).ok())
                        .unwrap_or_default(),
                    pool: r.pool.unwrap_or_default(),
                    state: InstanceState::parse(r.state.as_deref().unwrap_or("ready")),
                    reason: r.reason.unwrap_or_default(),
                    teams: r.teams,
                    apps: r.apps,
                }),
                _ => None,
            };
            Line {
                service: r.service,
                instance,
            }
        })
        .collect())
}

/// Waits for everybody else who is about to make an instance of this name, until the transaction ends.
pub(super) async fn hold_name(tx: &mut PgConnection, name: &InstanceName) -> sqlx::Result<()> {
    sqlx::query!(
        "select pg_advisory_xact_lock(hashtextextended('service-instance ' || $1, 0))",
        name.as_str()
    )
    .fetch_one(tx)
    .await
    .map(drop)
}

pub(super) struct New<'a> {
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

pub(super) async fn insert(tx: &mut PgConnection, new: &New<'_>) -> sqlx::Result<()> {
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

/// Gives teams access; those that do not exist are left out. Answers how many are new.
pub(super) async fn insert_teams(
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

/// Takes access from a team; false if it had none.
pub(super) async fn delete_team(
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

/// Sets the state and why.
pub(super) async fn update_state(
    tx: &mut PgConnection,
    id: InstanceId,
    state: InstanceState,
    reason: &str,
) -> sqlx::Result<()> {
    let word = match state {
        InstanceState::Creating => "creating",
        InstanceState::Ready => "ready",
        InstanceState::Removing => "removing",
    };
    sqlx::query!(
        "update service_instance set state = $2, reason = $3 where instance_id = $1",
        id.0,
        word,
        reason
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Notes that the service may carry out a call about it, whose answer nobody heard, for so long.
pub(super) async fn note_unheard(tx: &mut PgConnection, id: InstanceId, seconds: f64) -> sqlx::Result<()> {
    sqlx::query!(
        "update service_instance set unheard_until = now() + make_interval(secs => $2) where instance_id = $1",
        id.0,
        seconds
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Whether the service may still carry out such a call.
pub(super) async fn is_unheard(db: impl PgExecutor<'_>, id: InstanceId) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select exists (select from service_instance where instance_id = $1 and unheard_until > now()) as "is!""#,
        id.0
    )
    .fetch_one(db)
    .await
}

/// Changes what the patch names.
pub(super) async fn update(tx: &mut PgConnection, id: InstanceId, patch: &InstancePatch) -> sqlx::Result<()> {
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

/// Deletes an instance that nothing is bound to.
pub(in crate::services) async fn delete(tx: &mut PgConnection, id: InstanceId) -> sqlx::Result<()> {
    sqlx::query!("delete from service_instance where instance_id = $1", id.0)
        .execute(tx)
        .await
        .map(drop)
}
