//! SQL statements for services.

use serde_json::Value;
use sqlx::{PgConnection, PgExecutor};

use crate::kernel::ids::ServiceId;
use crate::kernel::names::{ServiceName, TeamName};
use crate::services::broker::Dialect;
use crate::services::catalogue::actions::ServiceInstanceNames;
use crate::services::model::Service;

struct ServiceRow {
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

impl From<ServiceRow> for Service {
    fn from(row: ServiceRow) -> Self {
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

/// Finds a service by its name.
pub async fn find_service(db: impl PgExecutor<'_>, name: &ServiceName) -> sqlx::Result<Option<Service>> {
    sqlx::query_as!(
        ServiceRow,
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

/// Finds a service by its id.
pub async fn find_service_by_id(db: impl PgExecutor<'_>, id: ServiceId) -> sqlx::Result<Option<Service>> {
    sqlx::query_as!(
        ServiceRow,
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

/// Lists the services that the given teams own, or all, each with the names of its instances.
pub(super) async fn list_services_owned_by(
    db: impl PgExecutor<'_>,
    teams: Option<&[String]>,
    names: &[String],
) -> sqlx::Result<Vec<ServiceInstanceNames>> {
    sqlx::query_as!(
        ServiceInstanceNames,
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

/// The columns that a manifest sets.
pub(super) struct ServiceColumns<'a> {
    pub(super) username: &'a str,
    pub(super) password: &'a [u8],
    pub(super) endpoint: &'a str,
    pub(super) endpoints: &'a Value,
    pub(super) dialect: Option<Dialect>,
}

pub(super) async fn insert_service(
    tx: &mut PgConnection,
    id: ServiceId,
    name: &ServiceName,
    columns: &ServiceColumns<'_>,
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

/// Replaces the values of the manifest. A detected dialect is kept as long as the endpoint stays the same.
pub(super) async fn update_service(
    tx: &mut PgConnection,
    id: ServiceId,
    columns: &ServiceColumns<'_>,
) -> sqlx::Result<()> {
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

/// Re-enables the unit calls for the binds of a service, because its endpoint may have changed.
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

/// Records which dialect a service has understood, if none is known.
pub async fn record_dialect(db: impl PgExecutor<'_>, id: ServiceId, dialect: Dialect) -> sqlx::Result<()> {
    sqlx::query!(
        "update service set dialect = $2 where service_id = $1 and dialect is null",
        id.0,
        dialect.as_str()
    )
    .execute(db)
    .await
    .map(drop)
}

pub(super) async fn delete_service(tx: &mut PgConnection, id: ServiceId) -> sqlx::Result<()> {
    sqlx::query!("delete from service where service_id = $1", id.0)
        .execute(tx)
        .await
        .map(drop)
}

pub(super) async fn update_service_doc(tx: &mut PgConnection, id: ServiceId, doc: &str) -> sqlx::Result<()> {
    sqlx::query!("update service set doc = $2 where service_id = $1", id.0, doc)
        .execute(tx)
        .await
        .map(drop)
}

/// Adds owner teams; teams that do not exist are skipped.
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

pub(super) async fn delete_owners_except(
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

/// Grants a team access. Returns false if it has access already.
pub(super) async fn insert_service_team(
    tx: &mut PgConnection,
    id: ServiceId,
    team: &TeamName,
) -> sqlx::Result<bool> {
    sqlx::query!(
        "insert into service_team (service_id, team) values ($1, $2) on conflict do nothing",
        id.0,
        team.as_str()
    )
    .execute(tx)
    .await
    .map(|done| done.rows_affected() == 1)
}

/// Revokes a team's access. Returns false if it had none.
pub(super) async fn delete_service_team(
    tx: &mut PgConnection,
    id: ServiceId,
    team: &TeamName,
) -> sqlx::Result<bool> {
    sqlx::query!(
        "delete from service_team where service_id = $1 and team = $2",
        id.0,
        team.as_str()
    )
    .execute(tx)
    .await
    .map(|done| done.rows_affected() == 1)
}
