//! Tokens for new passwords in SQL. All times are the database's.

use sqlx::{PgConnection, PgExecutor};
use uuid::Uuid;

use crate::kernel::ids::UserId;

pub(super) async fn insert(tx: &mut PgConnection, digest: &[u8; 32], user: UserId) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into password_reset (digest, user_id) values ($1, $2)",
        &digest[..],
        user.0,
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Deletes some of the tokens that have long ended; rows that another one is deleting are left to it.
pub(super) async fn delete_old(tx: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::query!(
        "delete from password_reset where digest = any(array(
             select digest from password_reset where created_at < now() - interval '2 days'
             order by created_at limit 200 for update skip locked))"
    )
    .execute(tx)
    .await
    .map(drop)
}

/// True if the token is this user's, unused and not too old.
pub(super) async fn is_good(db: impl PgExecutor<'_>, digest: &[u8; 32], user: UserId) -> sqlx::Result<bool> {
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

/// Uses a token; false if it is not good. Of two who use it at once, one gets false.
pub(super) async fn try_use(tx: &mut PgConnection, digest: &[u8; 32], user: UserId) -> sqlx::Result<bool> {
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

pub(super) async fn void_others(tx: &mut PgConnection, user: UserId) -> sqlx::Result<()> {
    sqlx::query!(
        "update password_reset set used_at = now() where user_id = $1 and used_at is null",
        user.0
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Keeps the text of a letter until it is sent.
pub(super) async fn insert_letter(tx: &mut PgConnection, letter: Uuid, sealed: &[u8]) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into letter (letter_id, sealed) values ($1, $2)",
        letter,
        sealed
    )
    .execute(tx)
    .await
    .map(drop)
}

pub(super) async fn find_letter(db: impl PgExecutor<'_>, letter: Uuid) -> sqlx::Result<Option<Vec<u8>>> {
    sqlx::query_scalar!("select sealed from letter where letter_id = $1", letter)
        .fetch_optional(db)
        .await
}

/// Forgets the text of a letter.
pub(super) async fn delete_letter(tx: &mut PgConnection, letter: Uuid) -> sqlx::Result<()> {
    sqlx::query!("delete from letter where letter_id = $1", letter)
        .execute(tx)
        .await
        .map(drop)
}
