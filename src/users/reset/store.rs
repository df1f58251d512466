//! Stores password reset tokens and outgoing mails. All times are the database's.

use sqlx::{PgConnection, PgExecutor};
use uuid::Uuid;

use crate::kernel::ids::UserId;

pub(super) async fn insert_token(tx: &mut PgConnection, digest: &[u8; 32], user: UserId) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into password_reset (digest, user_id) values ($1, $2)",
        &digest[..],
        user.0,
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Deletes some of the tokens that expired long ago; skips rows that another transaction is deleting.
pub(super) async fn delete_expired_tokens(tx: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::query!(
        "delete from password_reset where digest = any(array(
             select digest from password_reset where created_at < now() - interval '2 days'
             order by created_at limit 200 for update skip locked))"
    )
    .execute(tx)
    .await
    .map(drop)
}

/// True if the token is this user's, unused and not expired.
pub(super) async fn is_token_valid(
    db: impl PgExecutor<'_>,
    digest: &[u8; 32],
    user: UserId,
) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select exists (
               select 1 from password_reset
               where digest = $1 and user_id = $2 and used_at is null
                 and created_at > now() - interval '24 hours') as "good!""#,
        &digest[..],
        user.0,
    )
    .fetch_one(db)
    .await
}

/// Uses a token; returns false if it is invalid. Of two concurrent uses, one returns false.
pub(super) async fn use_token(tx: &mut PgConnection, digest: &[u8; 32], user: UserId) -> sqlx::Result<bool> {
    sqlx::query!(
        "update password_reset set used_at = now()
         where digest = $1 and user_id = $2 and used_at is null
           and created_at > now() - interval '24 hours'",
        &digest[..],
        user.0,
    )
    .execute(tx)
    .await
    .map(|done| done.rows_affected() == 1)
}

pub(super) async fn void_tokens(tx: &mut PgConnection, user: UserId) -> sqlx::Result<()> {
    sqlx::query!(
        "update password_reset set used_at = now() where user_id = $1 and used_at is null",
        user.0
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Stores the text of a mail until it is sent.
pub(super) async fn insert_mail(tx: &mut PgConnection, mail: Uuid, sealed: &[u8]) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into outgoing_mail (mail_id, sealed) values ($1, $2)",
        mail,
        sealed
    )
    .execute(tx)
    .await
    .map(drop)
}

pub(super) async fn find_mail(db: impl PgExecutor<'_>, mail: Uuid) -> sqlx::Result<Option<Vec<u8>>> {
    sqlx::query_scalar!("select sealed from outgoing_mail where mail_id = $1", mail)
        .fetch_optional(db)
        .await
}

/// Deletes the text of a mail.
pub(super) async fn delete_mail(tx: &mut PgConnection, mail: Uuid) -> sqlx::Result<()> {
    sqlx::query!("delete from outgoing_mail where mail_id = $1", mail)
        .execute(tx)
        .await
        .map(drop)
}
