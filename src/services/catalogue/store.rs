//! Services in SQL.

use serde_json::Value;
use sqlx::{PgConnection, PgExecutor};

use crate::kernel::ids::ServiceId;
use crate::kernel::names::{ServiceName, TeamName};
use crate::services::broker::Dialect;
use crate::services::catalogue::actions::Listed;
use crate::services::model::Service;

struct Row {
    id: ServiceId,
    name: ServiceName,
    username: String,
    password: Vec<u8>,
    endpoint: String,
    doc: String,
    is_restricted: bool,
    dialect: Option<String>,
    owners: Vec<TeamName>,
    teams: Vec<TeamName>,
}

impl From<Row> for Service {
    fn from(row: Row) -> Self {
        Service {
            id: row.id,
            name: row.name,
            username: row.username,
            password: row.password,
            endpoint: row.endpoint,
            doc: row.doc,
            is_restricted: row.is_restricted,
            dialect: row.dialect.and_then(|word| Dialect::parse(&word).ok()),
            owners: row.owners,
            teams: row.teams,
        }
    }
}

/// A service by its name.
pub async fn find(db: impl PgExecutor<'_>, name: &ServiceName) -> sqlx::Result<Option<Service>> {
    sqlx::query_as!(
        Row,
        r#"select service_id as "id: ServiceId", name as "name: ServiceName", username, password, endpoint, doc,
                  is_restricted, dialect,
                  array(select team from service_owner o where o.service_id = s.service_id order by team)
                      as "owners!: Vec<TeamName>",
                  array(select team from service_team t where t.service_id = s.service_id order by team)
                      as "teams!: Vec<TeamName>"
           from service s where name = $1"#,
        name.as_str(),
    )
    .fetch_optional(db)
    .await
    .map(|row| row.map(Service::from))
}

/// A service by its id.
pub async fn find_by_id(db: impl PgExecutor<'_>, id: ServiceId) -> sqlx::Result<Option<Service>> {
    sqlx::query_as!(
        Row,
        r#"select service_id as "id: ServiceId", name as "name: ServiceName", username, password, endpoint, doc,
                  is_restricted, dialect,
                  array(select team from service_owner o where o.service_id = s.service_id order by team)
                      as "owners!: Vec<TeamName>",
                  array(select team from service_team t where t.service_id = s.service_id order by team)
                      as "teams!: Vec<TeamName>"
           from service s where service_id = $1"#,
        id.0,
    )
    .fetch_optional(db)
    .await
    .map(|row| row.map(Service::from))
}

/// The services that the given teams own, or all, each with the names of its instances.
pub(super) async fn list_owned_by(
    db: impl PgExecutor<'_>,
    teams: Option<&[String]>,
    names: &[String],
) -> sqlx::Result<Vec<Listed>> {
    sqlx::query_as!(
        Listed,
        r#"select s.name as service,
                  array(select i.name from service_instance i where i.service_id = s.service_id order by i.name)
                      as "instances!"
           from service s
           where $1::text[] is null or s.name = any($2)
              or exists (select 1 from service_owner o where o.service_id = s.service_id and o.team = any($1))
           order by s.name"#,
        teams,
        names,
    )
    .fetch_all(db)
    .await
}

/// What is written of a manifest.
pub(super) struct Columns<'a> {
    pub(super) username: &'a str,
    pub(super) password: &'a [u8],
    pub(super) endpoint: &'a str,
    pub(super) endpoints: &'a Value,
    pub(super) dialect: Option<Dialect>,
}

pub(super) async fn insert(
    tx: &mut PgConnection,
    id: ServiceId,
    name: &ServiceName,
    columns: &Columns<'_>,
) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into service (service_id, name, username, password, endpoint, endpoints, dialect, dialect_fixed)
         values ($1, $2, $3, $4, $5, $6, $7, $7::text is not null)",
        id.0,
        name.as_str(),
        columns.username,
        columns.password,
        columns.endpoint,
        columns.endpoints,
        columns.dialect.map(Dialect::as_str),
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Replaces what the manifest says. A dialect that was learned is kept as long as the address stays.
pub(super) async fn update(tx: &mut PgConnection, id: ServiceId, columns: &Columns<'_>) -> sqlx::Result<()> {
    sqlx::query!(
        "update service set username = $2, password = $3, endpoints = $5,
                dialect = case when $6::text is not null then $6
                               when endpoint = $4 and not dialect_fixed then dialect end,
                dialect_fixed = $6::text is not null, endpoint = $4
         where service_id = $1",
        id.0,
        columns.username,
        columns.password,
        columns.endpoint,
        columns.endpoints,
        columns.dialect.map(Dialect::as_str),
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Lets the binds of a service try the calls for units again: its address has changed.
pub(super) async fn reset_unit_calls(tx: &mut PgConnection, id: ServiceId) -> sqlx::Result<()> {
    sqlx::query!(
        "update bind set unit_calls = true
         where instance_id in (select instance_id from service_instance where service_id = $1)",
        id.0
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Remembers which dialect a service has understood, if none is known.
pub async fn learn_dialect(db: impl PgExecutor<'_>, id: ServiceId, dialect: Dialect) -> sqlx::Result<()> {
    sqlx::query!(
        "update service set dialect = $2 where service_id = $1 and dialect is null",
        id.0,
        dialect.as_str()
    )
    .execute(db)
    .await
    .map(drop)
}

pub(super) async fn delete(tx: &mut PgConnection, id: ServiceId) -> sqlx::Result<()> {
    sqlx::query!("delete from service where service_id = $1", id.0)
        .execute(tx)
        .await
        .map(drop)
}

pub(super) async fn update_doc(tx: &mut PgConnection, id: ServiceId, doc: &str) -> sqlx::Result<()> {
    sqlx::query!("update service set doc = $2 where service_id = $1", id.0, doc)
        .execute(tx)
        .await
        .map(drop)
}

/// Adds owner teams; those that do not exist are left out.
pub(super) async fn insert_owners(
    tx: &mut PgConnection,
    id: ServiceId,
    teams: &[String],
) -> sqlx::Result<u64> {
    sqlx::query!(
        "insert into service_owner (service_id, team) select $1, name from team where name = any($2)
         on conflict do nothing",
        id.0,
        teams
    )
    .execute(tx)
    .await
    .map(|done| done.rows_affected())
}

pub(super) async fn delete_owners_but(
    tx: &mut PgConnection,
    id: ServiceId,
    team: &TeamName,
) -> sqlx::Result<()> {
    sqlx::query!(
        "delete from service_owner where service_id = $1 and team <> $2",
        id.0,
        team.as_str()
    )
    .execute(tx)
    .await
    .map(drop)
}

/// False if the team has access already.
pub(super) async fn insert_team(tx: &mut PgConnection, id: ServiceId, team: &TeamName) -> sqlx::Result<bool> {
    sqlx::query!(
        "insert into service_team (service_id, team) values ($1, $2) on conflict do nothing",
        id.0,
        team.as_str()
    )
    .execute(tx)
    .await
    .map(|done| done.rows_affected() == 1)
}

/// False if the team had no access.
pub(super) async fn delete_team(tx: &mut PgConnection, id: ServiceId, team: &TeamName) -> sqlx::Result<bool> {
    sqlx::query!(
        "delete from service_team where service_id = $1 and team = $2",
        id.0,
        team.as_str()
    )
    .execute(tx)
    .await
    .map(|done| done.rows_affected() == 1)
}

/// Whether a team exists.
pub(in crate::services) async fn team_exists(db: impl PgExecutor<'_>, team: &TeamName) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select exists (select 1 from team where name = $1) as "exists!""#,
        team.as_str()
    )
    .fetch_one(db)
    .await
}

/// The name of the only team, if there is exactly one.
pub(in crate::services) async fn only_team(db: impl PgExecutor<'_>) -> sqlx::Result<Option<TeamName>> {
    let mut teams = sqlx::query_scalar!(r#"select name as "name: TeamName" from team limit 2"#)
        .fetch_all(db)
        .await?;
    Ok(teams.pop().filter(|_| teams.is_empty()))
}
