//! SQL of orders and accounts.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgExecutor};

use crate::kernel::ids::{AppId, ReplicaId};
use crate::kernel::names::AppName;

/// An order that a saga is to carry out.
pub(super) struct DueOrder {
    pub(super) host: String,
    pub(super) app: AppId,
}

/// An order in progress.
pub(super) struct OpenOrder {
    /// The app that has the host now.
    pub(super) app: AppName,
    pub(super) failures: i32,
    /// Encrypted.
    pub(super) key: Option<Vec<u8>>,
}

/// An order for display.
pub(in crate::certificates) struct OrderRow {
    pub(in crate::certificates) host: String,
    pub(in crate::certificates) issuer: String,
    pub(in crate::certificates) error: String,
}

/// The proof of an order.
pub(in crate::certificates) struct ChallengeRow {
    pub(in crate::certificates) host: String,
    pub(in crate::certificates) token: String,
    pub(in crate::certificates) key_authorization: String,
}

/// An account at an authority.
pub(super) struct AccountRow {
    /// Encrypted.
    pub(super) key: Vec<u8>,
    /// Empty: not registered yet.
    pub(super) account_url: String,
}

/// Adds an order for each cname that has none, unless its certificate was given by a user. Wildcards cannot be proven by
/// a request to the host.
pub(super) async fn add_missing_orders(
    db: impl PgExecutor<'_>,
    issuer: &str,
    at_most: i64,
) -> sqlx::Result<u64> {
    sqlx::query!(
        "insert into certificate_order (host, cname, issuer)
         select c.cname, c.cname, $1 from app_cname c join app a using (app_id)
         where a.state = 'live' and c.cname = lower(c.cname) and c.cname not like '*%' and c.cname like '%.%'
             and not exists (select from certificate_order o where o.host = c.cname)
             and not exists (select from certificate k where k.host = c.cname and k.issuer = '')
         limit $2
         on conflict do nothing",
        issuer,
        at_most,
    )
    .execute(db)
    .await
    .map(|done| done.rows_affected())
}

/// Marks due orders as being carried out, in turns of the owners of their apps, as many as may start within ten seconds.
pub(super) async fn start_orders(
    tx: &mut PgConnection,
    issuer: &str,
    per_ten_seconds: i64,
) -> sqlx::Result<Vec<DueOrder>> {
    sqlx::query_as!(
        DueOrder,
        r#"with open as (
               select count(*) as started from certificate_order where started_at > now() - interval '10 seconds'
           ), due as (
               select o.host, a.app_id, o.wake_at, row_number() over (partition by a.owner order by o.wake_at) as turn
               from certificate_order o
               left join app_cname c on c.cname = o.cname
               join app a on a.app_id = coalesce(c.app_id, o.app_id)
               where o.state = 'waiting' and o.wake_at <= now() and o.issuer = $1 and a.state = 'live'
               order by turn, o.wake_at limit (select greatest($2 - started, 0) from open)
           ), locked as (
               select o.host, due.app_id from certificate_order o join due using (host)
               where o.state = 'waiting' for update of o skip locked
           )
           update certificate_order o set state = 'ordering', started_at = now() from locked
           where o.host = locked.host returning o.host, locked.app_id as "app!: AppId""#,
        issuer,
        per_ten_seconds,
    )
    .fetch_all(tx)
    .await
}

/// The order of a host while it is being carried out.
pub(super) async fn find_open_order(db: impl PgExecutor<'_>, host: &str) -> sqlx::Result<Option<OpenOrder>> {
    sqlx::query_as!(
        OpenOrder,
        r#"select a.name as "app!: AppName", o.failures, o.key from certificate_order o
           left join app_cname c on c.cname = o.cname join app a on a.app_id = coalesce(c.app_id, o.app_id)
           where o.host = $1 and o.state = 'ordering'"#,
        host,
    )
    .fetch_optional(db)
    .await
}

/// Keeps the key of an order until its certificate is there.
pub(super) async fn set_order_key(tx: &mut PgConnection, host: &str, key: &[u8]) -> sqlx::Result<()> {
    sqlx::query!("update certificate_order set key = $2 where host = $1", host, key)
        .execute(tx)
        .await
        .map(drop)
}

/// Stores an ordered certificate, and when it is to be renewed: when a third of its life is left, some minutes or hours
/// earlier by chance. Returns false if there is no order any more.
pub(super) async fn finish_order(
    tx: &mut PgConnection,
    host: &str,
    chain: &str,
    key: &[u8],
    (not_before, not_after): (DateTime<Utc>, DateTime<Utc>),
) -> sqlx::Result<bool> {
    let stored = sqlx::query!(
        "insert into certificate (host, cname, app_id, label, issuer, chain, key, not_before, not_after)
         select host, cname, app_id, label, issuer, $2, $3, $4, $5 from certificate_order where host = $1
         on conflict (host) do update set cname = excluded.cname, app_id = excluded.app_id, label = excluded.label,
             issuer = excluded.issuer, chain = excluded.chain, key = excluded.key, not_before = excluded.not_before,
             not_after = excluded.not_after, revision = nextval('certificate_revision'), created_at = now()",
        host,
        chain,
        key,
        not_before,
        not_after,
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query!(
        "update certificate_order set state = 'waiting', failures = 0, error = '', key = null,
             wake_at = greatest(now() + interval '1 minute',
                 $3::timestamptz - ($3::timestamptz - $2::timestamptz) * (1.0 / 3 + random() / 50))
         where host = $1",
        host,
        not_before,
        not_after,
    )
    .execute(&mut *tx)
    .await?;
    delete_challenge(tx, host).await?;
    Ok(stored.rows_affected() == 1)
}

/// Records a failure: the order waits for its next attempt.
pub(super) async fn fail_order(
    tx: &mut PgConnection,
    host: &str,
    error: &str,
    pause_seconds: f64,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update certificate_order set state = 'waiting', failures = failures + 1, error = $2, key = null,
             wake_at = now() + make_interval(secs => $3)
         where host = $1 and state = 'ordering'",
        host,
        error,
        pause_seconds,
    )
    .execute(&mut *tx)
    .await?;
    delete_challenge(tx, host).await
}

pub(super) async fn upsert_challenge(
    tx: &mut PgConnection,
    host: &str,
    token: &str,
    key_authorization: &str,
) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into certificate_challenge (host, token, key_authorization) values ($1, $2, $3)
         on conflict (host) do update set token = excluded.token, key_authorization = excluded.key_authorization",
        host,
        token,
        key_authorization,
    )
    .execute(tx)
    .await
    .map(drop)
}

async fn delete_challenge(tx: &mut PgConnection, host: &str) -> sqlx::Result<()> {
    sqlx::query!("delete from certificate_challenge where host = $1", host)
        .execute(tx)
        .await
        .map(drop)
}

/// The proofs of all orders in progress.
pub(in crate::certificates) async fn list_challenges(
    db: impl PgExecutor<'_>,
) -> sqlx::Result<Vec<ChallengeRow>> {
    sqlx::query_as!(
        ChallengeRow,
        "select host, token, key_authorization from certificate_challenge"
    )
    .fetch_all(db)
    .await
}

/// Records since when a router has what it serves; forgets routers long gone.
pub(in crate::certificates) async fn record_router(
    db: impl PgExecutor<'_>,
    router: ReplicaId,
    loaded_at: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query!(
        "with gone as (delete from certificate_router where seen_at < now() - interval '1 hour' and router_id <> $1),
              seen as (
                  insert into certificate_router (router_id, loaded_at) values ($1, $2)
                  on conflict (router_id) do update set loaded_at = excluded.loaded_at, seen_at = now())
         select pg_notify('tancho_routes_seen', '')",
        router.0,
        loaded_at,
    )
    .fetch_one(db)
    .await
    .map(drop)
}

/// A router that has ended is not waited for.
pub(in crate::certificates) async fn forget_router(
    db: impl PgExecutor<'_>,
    router: ReplicaId,
) -> sqlx::Result<()> {
    sqlx::query!("delete from certificate_router where router_id = $1", router.0)
        .execute(db)
        .await
        .map(drop)
}

/// True if every router at work, of which there is at least one, has what was there at a time.
pub(super) async fn have_routers_loaded(db: impl PgExecutor<'_>, since: DateTime<Utc>) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select coalesce(bool_and(loaded_at > $1), false) as "all!" from certificate_router
           where seen_at > now() - interval '20 seconds'"#,
        since,
    )
    .fetch_one(db)
    .await
}

/// Returns the account at an authority; the first key counts.
pub(super) async fn find_or_insert_account(
    db: impl PgExecutor<'_> + Copy,
    directory: &str,
    key: &[u8],
) -> sqlx::Result<AccountRow> {
    sqlx::query!(
        "insert into acme_account (directory_url, key) values ($1, $2) on conflict do nothing",
        directory,
        key,
    )
    .execute(db)
    .await?;
    sqlx::query_as!(
        AccountRow,
        "select key, account_url from acme_account where directory_url = $1",
        directory
    )
    .fetch_one(db)
    .await
}

pub(super) async fn find_account(
    db: impl PgExecutor<'_>,
    directory: &str,
) -> sqlx::Result<Option<AccountRow>> {
    sqlx::query_as!(
        AccountRow,
        "select key, account_url from acme_account where directory_url = $1",
        directory
    )
    .fetch_optional(db)
    .await
}

pub(super) async fn set_account_url(db: impl PgExecutor<'_>, directory: &str, url: &str) -> sqlx::Result<()> {
    sqlx::query!(
        "update acme_account set account_url = $2 where directory_url = $1",
        directory,
        url,
    )
    .execute(db)
    .await
    .map(drop)
}

/// Sets the issuer of a host of an app, or with `None` that none is wanted; the order is due at once. Returns false if
/// the app does not have the host.
pub(in crate::certificates) async fn set_issuer(
    tx: &mut PgConnection,
    app: AppId,
    domain: &str,
    host: &str,
    issuer: Option<&str>,
) -> sqlx::Result<bool> {
    sqlx::query!(
        "insert into certificate_order (host, cname, app_id, label, issuer, state)
         select $1, c.cname, case when c.cname is null then a.app_id end, case when c.cname is null then a.label end,
                coalesce($4, ''), case when $4::text is null then 'off' else 'waiting' end
         from app a left join app_cname c on c.app_id = a.app_id and c.cname = $1
         where a.app_id = $2 and (c.cname is not null or a.label || '.' || $3 = $1)
         on conflict (host) do update set issuer = excluded.issuer, wake_at = now(), error = '', failures = 0,
             state = case when certificate_order.state = 'ordering' and excluded.state = 'waiting' then 'ordering'
                          else excluded.state end",
        host,
        app.0,
        domain,
        issuer,
    )
    .execute(tx)
    .await
    .map(|done| done.rows_affected() == 1)
}

/// True if a host of an app has an issuer.
pub(in crate::certificates) async fn has_issuer(
    db: impl PgExecutor<'_>,
    app: AppId,
    host: &str,
) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select exists (select from certificate_order where host = $2 and state <> 'off'
               and (app_id = $1 or cname in (select c.cname from app_cname c where c.app_id = $1))) as "has!""#,
        app.0,
        host,
    )
    .fetch_one(db)
    .await
}

/// Deletes the order of a host, because a user has given its certificate.
pub(in crate::certificates) async fn delete_order(tx: &mut PgConnection, host: &str) -> sqlx::Result<()> {
    sqlx::query!("delete from certificate_order where host = $1", host)
        .execute(tx)
        .await
        .map(drop)
}

/// The orders of an app, without those that are off.
pub(in crate::certificates) async fn list_app_orders(
    db: impl PgExecutor<'_>,
    app: AppId,
) -> sqlx::Result<Vec<OrderRow>> {
    sqlx::query_as!(
        OrderRow,
        "select host, issuer, error from certificate_order
         where state <> 'off' and (app_id = $1 or cname in (select c.cname from app_cname c where c.app_id = $1))",
        app.0,
    )
    .fetch_all(db)
    .await
}
