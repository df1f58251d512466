//! Stores SSH keys.

use sqlx::{PgConnection, PgExecutor};

use crate::kernel::ids::UserId;
use crate::kernel::names::Email;
use crate::kernel::request_context::{Actor, PermissionGrant};
use crate::users::tokens::store::parse_grant;

/// Inserts a key; returns false if the user has a key of that name.
pub(super) async fn insert_key(
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

/// Finds the owner of a key with their grants, in one round trip and by the index of fingerprints.
pub(super) async fn find_key_owner(
    db: impl PgExecutor<'_>,
    fingerprint: &str,
) -> sqlx::Result<Option<(Actor, Vec<PermissionGrant>)>> {
    let row = sqlx::query!(
        r#"select k.user_id, u.email as "email: Email",
                  coalesce((select array_agg(p.permission || '|' || ra.context_kind || '|' || ra.context_value)
                            from role_assignment ra join role_grant p on p.role = ra.role
                            where ra.user_id = k.user_id), '{}') as "grants!"
           from ssh_key k join user_account u using (user_id)
           where k.fingerprint = $1"#,
        fingerprint,
    )
    .fetch_optional(db)
    .await?;
    Ok(row.map(|row| {
        let actor = Actor::User {
            id: UserId(row.user_id),
            email: row.email,
        };
        let grants = row.grants.iter().filter_map(|text| parse_grant(text)).collect();
        (actor, grants)
    }))
}

pub(super) async fn list_keys(db: impl PgExecutor<'_>, user: UserId) -> sqlx::Result<Vec<(String, String)>> {
    sqlx::query!(
        "select name, body from ssh_key where user_id = $1 order by name",
        user.0
    )
    .fetch_all(db)
    .await
    .map(|rows| rows.into_iter().map(|row| (row.name, row.body)).collect())
}

pub(super) async fn list_key_names(tx: &mut PgConnection, user: UserId) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar!("select name from ssh_key where user_id = $1", user.0)
        .fetch_all(tx)
        .await
}

/// Deletes a key by name; returns its fingerprint.
pub(super) async fn delete_key_by_name(
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

/// Deletes a key by fingerprint; returns it.
pub(super) async fn delete_key_by_fingerprint(
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
