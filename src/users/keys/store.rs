//! SSH keys in SQL.

use sqlx::{PgConnection, PgExecutor};

use crate::kernel::call::{Actor, Grant};
use crate::kernel::ids::UserId;
use crate::kernel::names::Email;
use crate::users::tokens::store::parse_grant;

/// False if the user has a key of that name.
pub(super) async fn insert(
    tx: &mut PgConnection,
    user: UserId,
    name: &str,
    fingerprint: &str,
    body: &str,
) -> sqlx::Result<bool> {
    sqlx::query!(
        "insert into ssh_key (user_id, name, fingerprint, body) values ($1, $2, $3, $4)
         on conflict (user_id, name) do nothing",
        user.0,
        name,
        fingerprint,
        body,
    )
    .execute(tx)
    .await
    .map(|done| done.rows_affected() == 1)
}

/// The owner of a key with their grants, in one round trip and by the index of fingerprints.
pub(super) async fn find_owner(
    db: impl PgExecutor<'_>,
    fingerprint: &str,
) -> sqlx::Result<Option<(Actor, Vec<Grant>)>> {
    let row = sqlx::query!(
        r#"select k.user_id, u.email,
                  coalesce((select array_agg(p.permission || '|' || r.context_kind || '|' || ur.context_value)
                            from user_role ur join role r on r.name = ur.role
                            join role_permission p on p.role = r.name
                            where ur.user_id = k.user_id), '{}') as "grants!"
           from ssh_key k join user_account u using (user_id)
           where k.fingerprint = $1"#,
        fingerprint,
    )
    .fetch_optional(db)
    .await?;
    Ok(row.and_then(|row| {
        let actor = Actor::User {
            id: UserId(row.user_id),
            email: Email::parse(&row.email).ok()?,
        };
        let grants = row.grants.iter().filter_map(|text| parse_grant(text)).collect();
        Some((actor, grants))
    }))
}

pub(super) async fn list(db: impl PgExecutor<'_>, user: UserId) -> sqlx::Result<Vec<(String, String)>> {
    sqlx::query!(
        "select name, body from ssh_key where user_id = $1 order by name",
        user.0
    )
    .fetch_all(db)
    .await
    .map(|rows| rows.into_iter().map(|row| (row.name, row.body)).collect())
}

pub(super) async fn list_names(tx: &mut PgConnection, user: UserId) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar!("select name from ssh_key where user_id = $1", user.0)
        .fetch_all(tx)
        .await
}

/// Answers the fingerprint of the key that went.
pub(super) async fn delete_named(
    tx: &mut PgConnection,
    user: UserId,
    name: &str,
) -> sqlx::Result<Option<String>> {
    sqlx::query_scalar!(
        "delete from ssh_key where user_id = $1 and name = $2 returning fingerprint",
        user.0,
        name,
    )
    .fetch_optional(tx)
    .await
}

/// Answers the fingerprint of the key that went.
pub(super) async fn delete_fingerprint(
    tx: &mut PgConnection,
    user: UserId,
    fingerprint: &str,
) -> sqlx::Result<Option<String>> {
    sqlx::query_scalar!(
        "delete from ssh_key where user_id = $1 and fingerprint = $2 returning fingerprint",
        user.0,
        fingerprint,
    )
    .fetch_optional(tx)
    .await
}
