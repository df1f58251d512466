//! SQL of certificates.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgExecutor};

use crate::kernel::ids::AppId;

/// A certificate to be stored.
pub(super) struct NewCertificate<'a> {
    pub(super) host: &'a str,
    pub(super) chain: &'a str,
    /// Encrypted.
    pub(super) key: &'a [u8],
    pub(super) not_before: DateTime<Utc>,
    pub(super) not_after: DateTime<Utc>,
}

/// A certificate for display.
#[derive(Clone, Debug)]
pub(super) struct CertificateRow {
    pub(super) host: String,
    pub(super) chain: String,
    pub(super) issuer: String,
}

/// A certificate to be served.
pub(super) struct SealedCertificate {
    pub(super) host: String,
    pub(super) revision: i64,
    pub(super) chain: String,
    /// Encrypted.
    pub(super) key: Vec<u8>,
}

/// Which certificate a host has at present.
#[derive(Clone, Debug)]
pub(super) struct CertificateVersion {
    pub(super) host: String,
    pub(super) revision: i64,
    pub(super) seconds_left: f64,
}

/// How one host of an app is to be served.
#[derive(Clone, Debug)]
pub(super) struct HostOptions {
    pub(super) host: String,
    pub(super) redirects: bool,
    pub(super) hsts_seconds: i32,
}

pub(super) async fn find_time(db: impl PgExecutor<'_>) -> sqlx::Result<DateTime<Utc>> {
    sqlx::query_scalar!(r#"select statement_timestamp() as "now!""#)
        .fetch_one(db)
        .await
}

/// Sets the certificate of a host; returns false if the app does not have the host.
pub(super) async fn upsert_certificate(
    tx: &mut PgConnection,
    app: AppId,
    domain: &str,
    new: &NewCertificate<'_>,
) -> sqlx::Result<bool> {
    sqlx::query!(
        "insert into certificate (host, cname, app_id, label, chain, key, not_before, not_after)
         select $1, c.cname, case when c.cname is null then a.app_id end, case when c.cname is null then a.label end,
                $4, $5, $6, $7
         from app a left join app_cname c on c.app_id = a.app_id and c.cname = $1
         where a.app_id = $2 and (c.cname is not null or a.label || '.' || $3 = $1)
         on conflict (host) do update set cname = excluded.cname, app_id = excluded.app_id, label = excluded.label,
             chain = excluded.chain, key = excluded.key, issuer = '', not_before = excluded.not_before,
             not_after = excluded.not_after, revision = nextval('certificate_revision'), created_at = now()",
        new.host,
        app.0,
        domain,
        new.chain,
        new.key,
        new.not_before,
        new.not_after,
    )
    .execute(tx)
    .await
    .map(|done| done.rows_affected() == 1)
}

/// Deletes the certificate of a host of an app; returns false if there was none.
pub(super) async fn delete_certificate(tx: &mut PgConnection, app: AppId, host: &str) -> sqlx::Result<bool> {
    sqlx::query!(
        "delete from certificate where host = $2
         and (app_id = $1 or cname in (select c.cname from app_cname c where c.app_id = $1))",
        app.0,
        host,
    )
    .execute(tx)
    .await
    .map(|done| done.rows_affected() == 1)
}

/// The certificates of an app, by host.
pub(super) async fn list_app_certificates(
    db: impl PgExecutor<'_>,
    app: AppId,
) -> sqlx::Result<Vec<CertificateRow>> {
    sqlx::query_as!(
        CertificateRow,
        "select host, chain, issuer from certificate
         where app_id = $1 or cname in (select c.cname from app_cname c where c.app_id = $1) order by host",
        app.0,
    )
    .fetch_all(db)
    .await
}

/// A number that grows with each change of certificates, of hosts and of how they are served; and when it was read.
pub(super) async fn find_version(db: impl PgExecutor<'_>) -> sqlx::Result<(i64, DateTime<Utc>)> {
    let row = sqlx::query!(
        r#"select sum(version)::bigint as "version!", statement_timestamp() as "at!" from routes_version"#
    )
    .fetch_one(db)
    .await?;
    Ok((row.version, row.at))
}

/// Deletes the certificate of a host if it was ordered.
pub(super) async fn delete_ordered(tx: &mut PgConnection, host: &str) -> sqlx::Result<()> {
    sqlx::query!("delete from certificate where host = $1 and issuer <> ''", host)
        .execute(tx)
        .await
        .map(drop)
}

/// All certificates, without what is large in them.
pub(super) async fn list_versions(db: impl PgExecutor<'_>) -> sqlx::Result<Vec<CertificateVersion>> {
    sqlx::query_as!(
        CertificateVersion,
        r#"select host, revision, extract(epoch from not_after - now())::float8 as "seconds_left!" from certificate"#
    )
    .fetch_all(db)
    .await
}

/// The certificates of these hosts.
pub(super) async fn list_sealed(
    db: impl PgExecutor<'_>,
    hosts: &[String],
) -> sqlx::Result<Vec<SealedCertificate>> {
    sqlx::query_as!(
        SealedCertificate,
        "select host, revision, chain, key from certificate where host = any($1)",
        hosts
    )
    .fetch_all(db)
    .await
}

/// All hosts of apps that are not served by default.
pub(super) async fn list_host_options(
    db: impl PgExecutor<'_>,
    domain: &str,
) -> sqlx::Result<Vec<HostOptions>> {
    sqlx::query_as!(
        HostOptions,
        r#"select a.label || '.' || $1 as "host!", h.redirects as "redirects!", h.hsts_seconds as "hsts_seconds!"
           from app_https h join app a using (app_id)
           union all
           select c.cname, h.redirects, h.hsts_seconds from app_https h join app_cname c using (app_id)"#,
        domain,
    )
    .fetch_all(db)
    .await
}

/// Sets how the hosts of an app are served; what is `None` stays.
pub(super) async fn upsert_options(
    tx: &mut PgConnection,
    app: AppId,
    redirects: Option<bool>,
    hsts_seconds: Option<i32>,
) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into app_https (app_id, redirects, hsts_seconds) values ($1, coalesce($2, true), coalesce($3, 0))
         on conflict (app_id) do update set redirects = coalesce($2, app_https.redirects),
             hsts_seconds = coalesce($3, app_https.hsts_seconds)",
        app.0,
        redirects,
        hsts_seconds,
    )
    .execute(tx)
    .await
    .map(drop)
}
