//! Binds in SQL.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgExecutor};

use crate::kernel::ids::{AppId, BindId, InstanceId, ServiceId};
use crate::kernel::names::{AppName, InstanceName};
use crate::services::model::Bind;

struct Row {
    id: BindId,
    instance_id: InstanceId,
    service_id: ServiceId,
    instance: InstanceName,
    app_id: AppId,
    app: AppName,
    label: String,
    cnames: Vec<String>,
    pool: String,
}

impl From<Row> for Bind {
    fn from(row: Row) -> Self {
        Bind {
            id: row.id,
            instance_id: row.instance_id,
            service_id: row.service_id,
            instance: row.instance,
            app_id: row.app_id,
            app: row.app,
            label: row.label,
            cnames: row.cnames,
            pool: row.pool,
        }
    }
}

/// A bind by its id.
pub(in crate::services) async fn find(db: impl PgExecutor<'_>, id: BindId) -> sqlx::Result<Option<Bind>> {
    list(db, Some(id), None, None).await.map(|mut binds| binds.pop())
}

/// The binds of an app.
pub(in crate::services) async fn list_of_app(db: impl PgExecutor<'_>, app: AppId) -> sqlx::Result<Vec<Bind>> {
    list(db, None, Some(app), None).await
}

/// The binds of an instance.
pub(in crate::services) async fn list_of_instance(
    db: impl PgExecutor<'_>,
    instance: InstanceId,
) -> sqlx::Result<Vec<Bind>> {
    list(db, None, None, Some(instance)).await
}

async fn list(
    db: impl PgExecutor<'_>,
    bind: Option<BindId>,
    app: Option<AppId>,
    instance: Option<InstanceId>,
) -> sqlx::Result<Vec<Bind>> {
    sqlx::query_as!(
        Row,
        r#"select b.bind_id as "id: BindId", b.instance_id as "instance_id: InstanceId",
                  i.service_id as "service_id: ServiceId", i.name as "instance: InstanceName",
                  b.app_id as "app_id: AppId", a.name as "app: AppName", a.label, a.pool,
                  array(select cname from app_cname c where c.app_id = a.app_id order by cname) as "cnames!"
           from bind b join service_instance i using (instance_id) join app a using (app_id)
           where (b.bind_id = $1 or $1 is null) and (b.app_id = $2 or $2 is null)
             and (b.instance_id = $3 or $3 is null)
           order by b.seq"#,
        bind.map(|id| id.0),
        app.map(|id| id.0),
        instance.map(|id| id.0),
    )
    .fetch_all(db)
    .await
    .map(|rows| rows.into_iter().map(Bind::from).collect())
}

/// The bind of an instance to an app, with its state.
pub(super) async fn find_between(
    db: impl PgExecutor<'_>,
    instance: InstanceId,
    app: AppId,
) -> sqlx::Result<Option<(BindId, String)>> {
    sqlx::query!(
        r#"select bind_id as "id: BindId", state from bind where instance_id = $1 and app_id = $2"#,
        instance.0,
        app.0
    )
    .fetch_optional(db)
    .await
    .map(|row| row.map(|row| (row.id, row.state)))
}

/// A new bind; of earlier ones of the same two, the service may carry out calls until then.
pub(super) async fn insert(
    tx: &mut PgConnection,
    id: BindId,
    instance: InstanceId,
    app: AppId,
    unheard_until: Option<DateTime<Utc>>,
) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into bind (bind_id, instance_id, app_id, unheard_until) values ($1, $2, $3, $4)",
        id.0,
        instance.0,
        app.0,
        unheard_until
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Sets the state; only what is `bound` counts for the environment.
pub(in crate::services) async fn update_state(
    tx: &mut PgConnection,
    id: BindId,
    state: &str,
) -> sqlx::Result<()> {
    sqlx::query!("update bind set state = $2 where bind_id = $1", id.0, state)
        .execute(tx)
        .await
        .map(drop)
}

/// A call whose answer nobody heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::services) enum Unheard {
    Bind,
    Unbind,
}

/// Notes that the service may carry out such a call for so long.
pub(in crate::services) async fn note_unheard(
    tx: &mut PgConnection,
    id: BindId,
    call: Unheard,
    seconds: f64,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update bind set unheard_until = now() + make_interval(secs => $2),
                held_until = case when $3 then now() + make_interval(secs => $2) else held_until end
         where bind_id = $1",
        id.0,
        seconds,
        call == Unheard::Unbind,
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Whether the service may still carry out such a call.
pub(super) async fn is_unheard(db: impl PgExecutor<'_>, id: BindId) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select exists (select from bind where bind_id = $1 and unheard_until > now()) as "is!""#,
        id.0
    )
    .fetch_one(db)
    .await
}

pub(super) async fn delete(tx: &mut PgConnection, id: BindId) -> sqlx::Result<()> {
    sqlx::query!("delete from bind where bind_id = $1", id.0)
        .execute(tx)
        .await
        .map(drop)
}

/// Keeps the variables of a bind in place of those it had.
pub(super) async fn replace_variables(
    tx: &mut PgConnection,
    id: BindId,
    names: &[String],
    values: &[Vec<u8>],
) -> sqlx::Result<()> {
    sqlx::query!(
        "with gone as (delete from bind_env where bind_id = $1 and name <> all($2))
         insert into bind_env (bind_id, name, value)
         select $1, name, value from unnest($2::text[], $3::bytea[]) as new (name, value)
         on conflict (bind_id, name) do update set value = excluded.value",
        id.0,
        names,
        values
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Names and sealed values, by name.
pub(super) async fn list_variables(
    db: impl PgExecutor<'_>,
    id: BindId,
) -> sqlx::Result<Vec<(String, Vec<u8>)>> {
    sqlx::query!(
        "select name, value from bind_env where bind_id = $1 order by name",
        id.0
    )
    .fetch_all(db)
    .await
    .map(|rows| rows.into_iter().map(|row| (row.name, row.value)).collect())
}

/// The addresses of the units that the service may have been told of.
pub(super) async fn list_unit_hosts(db: impl PgExecutor<'_>, id: BindId) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar!(
        "select distinct unit_host from unit_bind where bind_id = $1 order by unit_host",
        id.0
    )
    .fetch_all(db)
    .await
}

/// Forgets that the service was told of a unit.
pub(super) async fn delete_unit_host(
    db: impl PgExecutor<'_>,
    id: BindId,
    unit_host: &str,
) -> sqlx::Result<()> {
    sqlx::query!(
        "delete from unit_bind where bind_id = $1 and unit_host = $2",
        id.0,
        unit_host
    )
    .execute(db)
    .await
    .map(drop)
}

/// Plans the calls for units that came: one row for each that serves an app bound to a service which
/// wants to know.
pub(super) async fn insert_units_that_came(db: impl PgExecutor<'_>) -> sqlx::Result<u64> {
    sqlx::query!(
        "insert into unit_bind (bind_id, unit_id, unit_host)
         select b.bind_id, u.unit_id, u.address
         from bind b
         join service_instance i using (instance_id) join service s using (service_id)
         join unit u on u.app_id = b.app_id and u.phase = 'serving' and u.address is not null
         where b.state = 'bound' and b.unit_calls and s.dialect is not null and s.dialect <> '2012'
           and not exists (select 1 from unit_bind x where x.bind_id = b.bind_id and x.unit_id = u.unit_id)
         on conflict do nothing"
    )
    .execute(db)
    .await
    .map(|done| done.rows_affected())
}

/// Plans the calls for units that went, or moved to another address.
pub(super) async fn update_units_that_went(db: impl PgExecutor<'_>) -> sqlx::Result<u64> {
    sqlx::query!(
        "update unit_bind x set state = 'leaving', attempts = 0, wake_at = now()
         where x.state <> 'leaving'
           and not exists (select 1 from unit u where u.unit_id = x.unit_id and u.address = x.unit_host
                             and u.phase in ('serving', 'draining'))"
    )
    .execute(db)
    .await
    .map(|done| done.rows_affected())
}

/// One call for a unit that is due.
#[derive(Clone, Debug)]
pub(super) struct Due {
    pub(super) bind_id: BindId,
    pub(super) unit_id: String,
    pub(super) unit_host: String,
    pub(super) leaving: bool,
    pub(super) attempts: i32,
}

/// Services with calls that are due, but those that somebody here is busy with.
pub(super) async fn list_due_services(
    db: impl PgExecutor<'_>,
    busy: &[uuid::Uuid],
) -> sqlx::Result<Vec<ServiceId>> {
    sqlx::query_scalar!(
        r#"select distinct i.service_id as "id: ServiceId"
           from unit_bind d join bind b using (bind_id) join service_instance i using (instance_id)
           where d.state in ('wanted', 'leaving') and d.wake_at <= now() and b.state = 'bound'
             and i.service_id <> all($1)"#,
        busy,
    )
    .fetch_all(db)
    .await
}

/// Claims calls of a service that are due: nobody else gets them for `lease_seconds`.
pub(super) async fn claim_units(
    db: impl PgExecutor<'_>,
    service: ServiceId,
    most: i64,
    lease_seconds: f64,
) -> sqlx::Result<Vec<Due>> {
    sqlx::query_as!(
        Due,
        r#"update unit_bind x set attempts = attempts + 1, wake_at = now() + make_interval(secs => $3)
           from (select d.bind_id, d.unit_id
                 from unit_bind d join bind b using (bind_id) join service_instance i using (instance_id)
                 where d.state in ('wanted', 'leaving') and d.wake_at <= now() and b.state = 'bound'
                   and i.service_id = $1
                 order by d.wake_at limit $2 for update of d skip locked) as due
           where x.bind_id = due.bind_id and x.unit_id = due.unit_id
           returning x.bind_id as "bind_id: BindId", x.unit_id, x.unit_host, x.state = 'leaving' as "leaving!",
                     x.attempts"#,
        service.0,
        most,
        lease_seconds,
    )
    .fetch_all(db)
    .await
}

/// All calls that are still to be made are due now.
pub(super) async fn wake_units(db: impl PgExecutor<'_>) -> sqlx::Result<()> {
    sqlx::query!(
        "update unit_bind set wake_at = now() where state in ('wanted', 'leaving') and wake_at > now()"
    )
    .execute(db)
    .await
    .map(drop)
}

/// The service knows the unit now; false if the bind or the unit is gone meanwhile.
pub(super) async fn update_unit_bound(db: impl PgExecutor<'_>, due: &Due) -> sqlx::Result<bool> {
    sqlx::query!(
        "update unit_bind set state = case when state = 'wanted' then 'bound' else state end, attempts = 0
         where bind_id = $1 and unit_id = $2",
        due.bind_id.0,
        due.unit_id
    )
    .execute(db)
    .await
    .map(|done| done.rows_affected() == 1)
}

/// The service has forgotten the unit.
pub(super) async fn delete_unit(db: impl PgExecutor<'_>, due: &Due) -> sqlx::Result<()> {
    sqlx::query!(
        "delete from unit_bind where bind_id = $1 and unit_id = $2",
        due.bind_id.0,
        due.unit_id
    )
    .execute(db)
    .await
    .map(drop)
}

/// Tries again after a while.
pub(super) async fn postpone_unit(db: impl PgExecutor<'_>, due: &Due, seconds: f64) -> sqlx::Result<()> {
    sqlx::query!(
        "update unit_bind set wake_at = now() + make_interval(secs => $3) where bind_id = $1 and unit_id = $2",
        due.bind_id.0,
        due.unit_id,
        seconds
    )
    .execute(db)
    .await
    .map(drop)
}

/// Remembers that the service of a bind has no calls for units.
pub(super) async fn stop_unit_calls(db: impl PgExecutor<'_>, id: BindId) -> sqlx::Result<()> {
    sqlx::query!(
        "with gone as (delete from unit_bind where bind_id = $1)
         update bind set unit_calls = false where bind_id = $1",
        id.0
    )
    .execute(db)
    .await
    .map(drop)
}
