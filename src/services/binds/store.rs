//! SQL statements for binds.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgExecutor};

use crate::apps::AppKind;
use crate::kernel::ids::{AppId, BindId, InstanceId, ServiceId};
use crate::kernel::names::{AppName, InstanceName, ServiceName};
use crate::services::model::Bind;

struct BindRow {
    id: BindId,
    instance_id: InstanceId,
    service_id: ServiceId,
    service: ServiceName,
    instance: InstanceName,
    app_id: AppId,
    kind: AppKind,
    app: AppName,
    label: String,
    cnames: Vec<String>,
    pool: String,
}

impl From<BindRow> for Bind {
    fn from(row: BindRow) -> Self {
        Bind {
            id: row.id,
            instance_id: row.instance_id,
            service_id: row.service_id,
            service: row.service,
            instance: row.instance,
            app_id: row.app_id,
            kind: row.kind,
            app: row.app,
            label: row.label,
            cnames: row.cnames,
            pool: row.pool,
        }
    }
}

/// Finds a bind by its id.
pub(in crate::services) async fn find_bind(
    db: impl PgExecutor<'_>,
    id: BindId,
) -> sqlx::Result<Option<Bind>> {
    list_binds(db, Some(id), None, None)
        .await
        .map(|mut binds| binds.pop())
}

/// Lists the binds of an app.
pub(in crate::services) async fn list_binds_of_app(
    db: impl PgExecutor<'_>,
    app: AppId,
) -> sqlx::Result<Vec<Bind>> {
    list_binds(db, None, Some(app), None).await
}

/// Lists the binds of an instance.
pub(in crate::services) async fn list_binds_of_instance(
    db: impl PgExecutor<'_>,
    instance: InstanceId,
) -> sqlx::Result<Vec<Bind>> {
    list_binds(db, None, None, Some(instance)).await
}

async fn list_binds(
    db: impl PgExecutor<'_>,
    bind: Option<BindId>,
    app: Option<AppId>,
    instance: Option<InstanceId>,
) -> sqlx::Result<Vec<Bind>> {
    sqlx::query_as!(
        BindRow,
        r#"select b.bind_id as "id: BindId", b.instance_id as "instance_id: InstanceId",
                  i.service_id as "service_id: ServiceId", s.name as "service: ServiceName",
                  i.name as "instance: InstanceName", b.app_id as "app_id: AppId", a.kind as "kind: AppKind", a.name as "app: AppName", a.label, a.pool,
                  array(select cname from app_cname c where c.app_id = a.app_id order by cname) as "cnames!"
           from bind b join service_instance i using (instance_id) join service s using (service_id)
           join app a using (app_id)
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

/// Finds the bind of an instance to an app, with its state.
pub(super) async fn find_bind_between(
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

/// Inserts a bind. Until `uncertain_until`, the service may execute calls about earlier binds of the same app
/// and instance.
pub(super) async fn insert_bind(
    tx: &mut PgConnection,
    id: BindId,
    instance: InstanceId,
    app: AppId,
    uncertain_until: Option<DateTime<Utc>>,
) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into bind (bind_id, instance_id, app_id, uncertain_until) values ($1, $2, $3, $4)",
        id.0,
        instance.0,
        app.0,
        uncertain_until
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Sets the state of a bind; only a `bound` bind contributes to the environment.
pub(in crate::services) async fn update_bind_state(
    tx: &mut PgConnection,
    id: BindId,
    state: &str,
) -> sqlx::Result<()> {
    sqlx::query!("update bind set state = $2 where bind_id = $1", id.0, state)
        .execute(tx)
        .await
        .map(drop)
}

/// A call whose response was not received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::services) enum UncertainCall {
    Bind,
    Unbind,
}

/// Notes that the service may execute such a call within `seconds`.
pub(in crate::services) async fn set_uncertain_until(
    tx: &mut PgConnection,
    id: BindId,
    call: UncertainCall,
    seconds: f64,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update bind set uncertain_until = now() + make_interval(secs => $2),
                rebind_blocked_until = case when $3 then now() + make_interval(secs => $2) else rebind_blocked_until end
         where bind_id = $1",
        id.0,
        seconds,
        call == UncertainCall::Unbind,
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Returns whether the service may still execute such a call.
pub(super) async fn is_uncertain(db: impl PgExecutor<'_>, id: BindId) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select exists (select from bind where bind_id = $1 and uncertain_until > now()) as "is!""#,
        id.0
    )
    .fetch_one(db)
    .await
}

pub(super) async fn delete_bind(tx: &mut PgConnection, id: BindId) -> sqlx::Result<()> {
    sqlx::query!("delete from bind where bind_id = $1", id.0)
        .execute(tx)
        .await
        .map(drop)
}

/// Replaces the variables of a bind.
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

/// Lists the names and encrypted values of the variables, by name.
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

/// Lists the hosts of the units that the service may know.
pub(super) async fn list_unit_hosts(db: impl PgExecutor<'_>, id: BindId) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar!(
        "select distinct unit_host from unit_bind where bind_id = $1 order by unit_host",
        id.0
    )
    .fetch_all(db)
    .await
}

/// Deletes the record that the service knows a host.
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

/// Plans the bind calls for new hosts: one for each host of a serving unit, if the app is bound to a service
/// with calls for units. A host that the service still has to forget, or knows with a port from earlier
/// versions, is planned later.
pub(super) async fn plan_unit_binds(db: impl PgExecutor<'_>) -> sqlx::Result<u64> {
    sqlx::query!(
        "insert into unit_bind (bind_id, unit_host)
         select distinct b.bind_id, h.host
         from bind b
         join service_instance i using (instance_id) join service s using (service_id)
         join unit u on u.app_id = b.app_id and u.phase = 'serving' and u.address is not null
         cross join lateral address_host(u.address) as h (host)
         where b.state = 'bound' and b.unit_calls and s.dialect is not null and s.dialect <> '2012'
           and not exists (select 1 from unit_bind x where x.bind_id = b.bind_id
                             and (x.unit_host = h.host or address_host(x.unit_host) = h.host))
         on conflict do nothing"
    )
    .execute(db)
    .await
    .map(|done| done.rows_affected())
}

/// Plans the unbind calls for hosts that no unit of the app has any more.
pub(super) async fn plan_unit_unbinds(db: impl PgExecutor<'_>) -> sqlx::Result<u64> {
    sqlx::query!(
        "update unit_bind x set state = 'leaving', attempts = 0, wake_at = now()
         from bind b
         where b.bind_id = x.bind_id and x.state <> 'leaving'
           and not exists (select 1 from unit u where u.app_id = b.app_id and address_host(u.address) = x.unit_host
                             and u.phase in ('serving', 'draining'))"
    )
    .execute(db)
    .await
    .map(|done| done.rows_affected())
}

/// A due call for the host of units.
#[derive(Clone, Debug)]
pub(super) struct DueUnitCall {
    pub(super) bind_id: BindId,
    pub(super) unit_host: String,
    pub(super) leaving: bool,
    pub(super) attempts: i32,
}

/// Lists the services with due calls, except those that this process is working on.
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

/// Claims due calls of a service: nobody else gets them for `lease_seconds`.
pub(super) async fn claim_unit_calls(
    db: impl PgExecutor<'_>,
    service: ServiceId,
    limit: i64,
    lease_seconds: f64,
) -> sqlx::Result<Vec<DueUnitCall>> {
    sqlx::query_as!(
        DueUnitCall,
        r#"update unit_bind x set attempts = attempts + 1, wake_at = now() + make_interval(secs => $3)
           from (select d.bind_id, d.unit_host
                 from unit_bind d join bind b using (bind_id) join service_instance i using (instance_id)
                 where d.state in ('wanted', 'leaving') and d.wake_at <= now() and b.state = 'bound'
                   and i.service_id = $1
                 order by d.wake_at limit $2 for update of d skip locked) as due
           where x.bind_id = due.bind_id and x.unit_host = due.unit_host
           returning x.bind_id as "bind_id: BindId", x.unit_host, x.state = 'leaving' as "leaving!", x.attempts"#,
        service.0,
        limit,
        lease_seconds,
    )
    .fetch_all(db)
    .await
}

/// Makes all open calls due now.
pub(super) async fn wake_unit_calls(db: impl PgExecutor<'_>) -> sqlx::Result<()> {
    sqlx::query!(
        "update unit_bind set wake_at = now() where state in ('wanted', 'leaving') and wake_at > now()"
    )
    .execute(db)
    .await
    .map(drop)
}

/// Records that the service knows the host. Returns false if the bind is gone meanwhile.
pub(super) async fn mark_unit_bound(db: impl PgExecutor<'_>, due: &DueUnitCall) -> sqlx::Result<bool> {
    sqlx::query!(
        "update unit_bind set state = case when state = 'wanted' then 'bound' else state end, attempts = 0
         where bind_id = $1 and unit_host = $2",
        due.bind_id.0,
        due.unit_host
    )
    .execute(db)
    .await
    .map(|done| done.rows_affected() == 1)
}

/// Deletes the record of a host that the service has forgotten.
pub(super) async fn delete_unit_call(db: impl PgExecutor<'_>, due: &DueUnitCall) -> sqlx::Result<()> {
    sqlx::query!(
        "delete from unit_bind where bind_id = $1 and unit_host = $2",
        due.bind_id.0,
        due.unit_host
    )
    .execute(db)
    .await
    .map(drop)
}

/// Postpones a call by `seconds`.
pub(super) async fn postpone_unit_call(
    db: impl PgExecutor<'_>,
    due: &DueUnitCall,
    seconds: f64,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update unit_bind set wake_at = now() + make_interval(secs => $3) where bind_id = $1 and unit_host = $2",
        due.bind_id.0,
        due.unit_host,
        seconds
    )
    .execute(db)
    .await
    .map(drop)
}

/// Records that the service of a bind has no calls for units.
pub(super) async fn disable_unit_calls(db: impl PgExecutor<'_>, id: BindId) -> sqlx::Result<()> {
    sqlx::query!(
        "with gone as (delete from unit_bind where bind_id = $1)
         update bind set unit_calls = false where bind_id = $1",
        id.0
    )
    .execute(db)
    .await
    .map(drop)
}
