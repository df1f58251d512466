//! Routes in SQL.

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;

use crate::kernel::ids::{AppId, ReplicaId};

/// What the hosts of an app are, and why it may have no address.
pub(super) struct AppRow {
    pub(super) app_id: AppId,
    pub(super) name: String,
    pub(super) label: String,
    pub(super) cnames: Vec<String>,
    pub(super) deployed: bool,
    pub(super) stopped: bool,
    pub(super) units: i64,
}

/// All apps with their hosts; `units` and `stopped` are of the main process.
pub(super) async fn list_apps(db: impl PgExecutor<'_>) -> sqlx::Result<Vec<AppRow>> {
    sqlx::query_as!(
        AppRow,
        r#"select a.app_id as "app_id!: AppId", a.name as "name!", a.label as "label!", r.release_id is not null as "deployed!",
                  coalesce((select array_agg(c.cname) from app_cname c where c.app_id = a.app_id), '{}') as "cnames!",
                  coalesce(p.stopped, false) as "stopped!", coalesce(p.units, 1)::bigint as "units!"
           from app a
           left join release r on r.release_id = a.current_release
           left join version v on v.app_id = r.app_id and v.version = r.version
           left join lateral (
               select case when v.processes @> '[{"name": "web"}]' then 'web'
                           else (select min(e.value->>'name' collate "C") from jsonb_array_elements(v.processes) e)
                      end as process) main on true
           left join app_process p on p.app_id = a.app_id and p.process = main.process"#
    )
    .fetch_all(db)
    .await
}

/// The addresses of the units that get requests.
pub(super) async fn list_ready(db: impl PgExecutor<'_>) -> sqlx::Result<Vec<(AppId, String)>> {
    let rows = sqlx::query!(
        r#"select u.app_id as "app_id: AppId", u.address as "address!"
           from unit u join version v on v.app_id = u.app_id and v.version = u.version
           where u.phase = 'serving' and u.ready and u.address is not null
             and case when v.processes @> '[{"name": "web"}]' then u.process = 'web'
                      else not exists (select from jsonb_array_elements(v.processes) e
                                       where e.value->>'name' < u.process collate "C") end
           order by u.app_id, u.created_at, u.unit_id"#
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(|r| (r.app_id, r.address)).collect())
}

/// A text that changes whenever a row changes that routes are made of, and when that was read.
pub(super) async fn mark(db: impl PgExecutor<'_>) -> sqlx::Result<(String, DateTime<Utc>)> {
    let row = sqlx::query!(
        r#"select (select count(*) || '/' || coalesce(sum(xmin::text::bigint), 0) from unit) || ' ' ||
                  (select count(*) || '/' || coalesce(sum(xmin::text::bigint), 0) from app) || ' ' ||
                  (select count(*) || '/' || coalesce(sum(xmin::text::bigint), 0) from app_process) || ' ' ||
                  (select count(*) || '/' || coalesce(sum(xmin::text::bigint), 0) from app_cname) as "mark!",
                  statement_timestamp() as "at!""#
    )
    .fetch_one(db)
    .await?;
    Ok((row.mark, row.at))
}

/// Tells that a router uses the addresses as they were at a time; forgets routers long gone.
pub(super) async fn put_seen(
    db: impl PgExecutor<'_>,
    router: ReplicaId,
    at: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query!(
        "with gone as (delete from router_seen where seen_at < now() - interval '1 hour')
         insert into router_seen (router_id, routes_at) values ($1, $2)
         on conflict (router_id) do update set routes_at = excluded.routes_at, seen_at = now()",
        router.0,
        at,
    )
    .execute(db)
    .await
    .map(drop)
}

/// A router that has ended is not waited for.
pub(super) async fn delete_seen(db: impl PgExecutor<'_>, router: ReplicaId) -> sqlx::Result<()> {
    sqlx::query!("delete from router_seen where router_id = $1", router.0)
        .execute(db)
        .await
        .map(drop)
}
