//! Stores failed logins.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgExecutor};

use crate::kernel::ids::UserId;

/// Locks a subject, so that one transaction at a time counts its failures.
pub(super) async fn lock_subject(tx: &mut PgConnection, subject: &str) -> sqlx::Result<()> {
    sqlx::query!("select pg_advisory_xact_lock(hashtextextended($1, 7))", subject)
        .execute(tx)
        .await
        .map(drop)
}

/// If the subject has `limit` failures in the window, returns the seconds until one of them expires.
pub(super) async fn seconds_until_allowed(
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

pub(super) async fn insert_failure(tx: &mut PgConnection, subject: &str) -> sqlx::Result<DateTime<Utc>> {
    sqlx::query_scalar!(
        "insert into login_failure (subject, failed_at) values ($1, clock_timestamp()) returning failed_at",
        subject,
    )
    .fetch_one(tx)
    .await
}

pub(super) async fn delete_failure(
    tx: &mut PgConnection,
    subject: &str,
    at: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query!(
        "delete from login_failure where subject = $1 and failed_at = $2",
        subject,
        at,
    )
    .execute(tx)
    .await
    .map(drop)
}

pub(super) async fn delete_failures(tx: &mut PgConnection, subject: &str) -> sqlx::Result<()> {
    sqlx::query!("delete from login_failure where subject = $1", subject)
        .execute(tx)
        .await
        .map(drop)
}

/// Deletes some of the expired failures; skips rows that another attempt is deleting.
pub(super) async fn delete_expired_failures(
    tx: &mut PgConnection,
    window: f64,
    most: i64,
) -> sqlx::Result<()> {
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

/// True if the user has logged in from the network within this number of days.
pub(super) async fn is_known_origin(
    db: impl PgExecutor<'_>,
    user: UserId,
    network: &str,
    days: i32,
) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select exists (
               select 1 from login_origin
               where user_id = $1 and network = $2 and seen_at > now() - make_interval(days => $3)) as "is!""#,
        user.0,
        network,
        days,
    )
    .fetch_one(db)
    .await
}

/// Records that a user has logged in from a network, and keeps a limited number of networks per user.
pub(super) async fn record_origin(
    tx: &mut PgConnection,
    user: UserId,
    network: &str,
    most: i64,
) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into login_origin (user_id, network)
         select user_id, $2 from user_account where user_id = $1
         on conflict on constraint login_origin_pkey do update set seen_at = now()
         where login_origin.seen_at < now() - interval '1 hour'",
        user.0,
        network,
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query!(
        "delete from login_origin where user_id = $1 and network in (
             select network from login_origin where user_id = $1 order by seen_at desc, network offset $2)",
        user.0,
        most,
    )
    .execute(tx)
    .await
    .map(drop)
}
