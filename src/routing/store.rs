//! Routes in SQL.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgExecutor};

use crate::kernel::ids::{AppId, ReplicaId};

/// What the hosts of an app are, and why it may have no address.
pub(super) struct AppRouteRow {
    pub(super) app_id: AppId,
    pub(super) name: String,
    pub(super) label: String,
    pub(super) cnames: Vec<String>,
    pub(super) deployed: bool,
    pub(super) stopped: bool,
    pub(super) units: i64,
}

/// All apps with their hosts; `units` and `stopped` are of the main process.
pub(super) async fn list_app_routes(db: impl PgExecutor<'_>) -> sqlx::Result<Vec<AppRouteRow>> {
    sqlx::query_as!(
        AppRouteRow,
        r#"select a.app_id as "app_id!: AppId", a.name as "name!", a.label as "label!", r.release_id is not null as "deployed!",
                  coalesce((select array_agg(c.cname) from app_cname c where c.app_id = a.app_id), '{}') as "cnames!",
                  w.stopped_by is not null as "stopped!", coalesce(w.asked_units, 1)::bigint as "units!"
           from app a
           left join release r on r.release_id = a.current_release
           left join web_process main on main.app_id = r.app_id and main.version = r.version
           left join wanted_process w on w.release_id = r.release_id and w.process = main.process
           where a.kind = 'app'"#
    )
    .fetch_all(db)
    .await
}

/// The addresses of the units that get requests.
pub(super) async fn list_ready_addresses(db: impl PgExecutor<'_>) -> sqlx::Result<Vec<(AppId, String)>> {
    let rows = sqlx::query!(
        r#"select u.app_id as "app_id: AppId", u.address as "address!"
           from unit u
           join web_process w on w.app_id = u.app_id and w.version = u.version and w.process = u.process
           join release r on r.release_id = u.release_id and r.routable
           where u.phase = 'serving' and u.ready and u.address is not null
           order by u.app_id, u.created_at, u.unit_id"#
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(|r| (r.app_id, r.address)).collect())
}

/// A number that grows with each change of what routes are made of, and when it was read.
pub(super) async fn find_version(db: impl PgExecutor<'_>) -> sqlx::Result<(i64, DateTime<Utc>)> {
    let row = sqlx::query!(
        r#"select sum(version)::bigint as "version!", statement_timestamp() as "at!" from routes_version"#
    )
    .fetch_one(db)
    .await?;
    Ok((row.version, row.at))
}

/// Tells that a router uses the addresses as they were at a time; forgets routers long gone.
pub(super) async fn upsert_router_seen(
    db: impl PgExecutor<'_>,
    router: ReplicaId,
    at: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query!(
        "with gone as (delete from router_seen where seen_at < now() - interval '1 hour'),
              seen as (
                  insert into router_seen (router_id, routes_at) values ($1, $2)
                  on conflict (router_id) do update set routes_at = excluded.routes_at, seen_at = now())
         select pg_notify('tancho_routes_seen', '')",
        router.0,
        at,
    )
    .fetch_one(db)
    .await
    .map(drop)
}

/// A router that has ended is not waited for.
pub(super) async fn delete_router_seen(db: impl PgExecutor<'_>, router: ReplicaId) -> sqlx::Result<()> {
    sqlx::query!("delete from router_seen where router_id = $1", router.0)
        .execute(db)
        .await
        .map(drop)
}

/// The addresses of the units of one app that get requests.
pub(super) async fn list_app_addresses(db: impl PgExecutor<'_>, app: AppId) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar!(
        r#"select u.address as "address!" from unit u
           join web_process w on w.app_id = u.app_id and w.version = u.version and w.process = u.process
           join release r on r.release_id = u.release_id and r.routable
           where u.app_id = $1 and u.phase = 'serving' and u.ready and u.address is not null
           order by u.created_at, u.unit_id"#,
        app.0,
    )
    .fetch_all(db)
    .await
}

/// Makes all routers read the routes, whether anything has changed or not.
pub(super) async fn bump_version(tx: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::query!("update routes_version set version = version + 1 where shard = pg_backend_pid() % 16")
        .execute(tx)
        .await
        .map(drop)
}
