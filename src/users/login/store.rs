//! Failed logins in SQL.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

/// Lets one transaction at a time count the failures of a subject.
pub(super) async fn lock(tx: &mut PgConnection, subject: &str) -> sqlx::Result<()> {
    sqlx::query!("select pg_advisory_xact_lock(hashtextextended($1, 7))", subject)
        .execute(tx)
        .await
        .map(drop)
}

/// If the subject has `limit` failures in the window: seconds until it has one less.
pub(super) async fn full_for(
    tx: &mut PgConnection,
    subject: &str,
    window: f64,
    limit: u32,
) -> sqlx::Result<Option<i64>> {
    sqlx::query!(
        r#"select count(*) as "count!",
                  ceil(extract(epoch from min(f.failed_at) - clock_timestamp()) + $2)::bigint as wait
           from (select failed_at from login_failure
                 where subject = $1 and failed_at > clock_timestamp() - make_interval(secs => $2)
                 order by failed_at desc limit $3) f"#,
        subject,
        window,
        i64::from(limit),
    )
    .fetch_one(tx)
    .await
    .map(|row| (row.count >= i64::from(limit)).then_some(row.wait.unwrap_or(1)))
}

pub(super) async fn insert(tx: &mut PgConnection, subject: &str) -> sqlx::Result<DateTime<Utc>> {
    sqlx::query_scalar!(
        "insert into login_failure (subject, failed_at) values ($1, clock_timestamp()) returning failed_at",
        subject,
    )
    .fetch_one(tx)
    .await
}

pub(super) async fn delete_one(tx: &mut PgConnection, subject: &str, at: DateTime<Utc>) -> sqlx::Result<()> {
    sqlx::query!(
        "delete from login_failure where subject = $1 and failed_at = $2",
        subject,
        at,
    )
    .execute(tx)
    .await
    .map(drop)
}

pub(super) async fn delete_all(tx: &mut PgConnection, subject: &str) -> sqlx::Result<()> {
    sqlx::query!("delete from login_failure where subject = $1", subject)
        .execute(tx)
        .await
        .map(drop)
}

/// Deletes some of the failures that no longer count; rows that another try is deleting are left to it.
pub(super) async fn delete_old(tx: &mut PgConnection, window: f64, most: i64) -> sqlx::Result<()> {
    sqlx::query!(
        "delete from login_failure where ctid = any(array(
             select ctid from login_failure where failed_at < clock_timestamp() - make_interval(secs => $1)
             order by failed_at limit $2 for update skip locked))",
        window,
        most,
    )
    .execute(tx)
    .await
    .map(drop)
}
