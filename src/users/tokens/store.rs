//! Tokens in SQL.

use sqlx::{PgConnection, PgExecutor};

use crate::kernel::call::{Actor, Grant, TokenKind};
use crate::kernel::ids::{AppId, TokenId, UserId};
use crate::kernel::names::{AppName, Email};
use crate::kernel::permission::{Context, ContextKind, Permission};

/// A token's holder with all they may do.
#[derive(Debug)]
pub(super) struct Bearer {
    pub(super) actor: Actor,
    pub(super) grants: Vec<Grant>,
    pub(super) kind: TokenKind,
    /// `None`: the token never ends.
    pub(super) seconds_left: Option<f64>,
}

/// Finds a token that has not ended, its holder and their grants in one round trip.
pub(super) async fn find_bearer(db: impl PgExecutor<'_>, digest: &[u8; 32]) -> sqlx::Result<Option<Bearer>> {
    let row = sqlx::query!(
        r#"select b.kind, b.user_id, u.email as "email?", b.app_id, a.name as "app?",
                  extract(epoch from b.expires_at - now())::double precision as seconds_left,
                  coalesce((select array_agg(p.permission || '|' || r.context_kind || '|' || ur.context_value)
                            from user_role ur join role r on r.name = ur.role
                            join role_permission p on p.role = r.name
                            where ur.user_id = b.user_id), '{}') as "grants!"
           from bearer b
           left join user_account u on u.user_id = b.user_id
           left join app a on a.app_id = b.app_id
           where b.digest = $1 and (b.expires_at is null or b.expires_at > now())"#,
        &digest[..],
    )
    .fetch_optional(db)
    .await?;
    Ok(row.and_then(|row| {
        let actor = match (row.user_id, row.email, row.app_id, row.app) {
            (Some(id), Some(email), _, _) => Actor::User {
                id: UserId(id),
                email: Email::parse(&email).ok()?,
            },
            (_, _, Some(id), Some(app)) => Actor::App {
                id: AppId(id),
                name: AppName::parse(&app).ok()?,
            },
            _ => return None,
        };
        let grants = row.grants.iter().filter_map(|text| parse_grant(text)).collect();
        let kind = match row.kind.as_str() {
            "session" => TokenKind::Session,
            "api-key" => TokenKind::ApiKey,
            _ => TokenKind::App,
        };
        Some(Bearer {
            actor,
            grants,
            kind,
            seconds_left: row.seconds_left,
        })
    }))
}

/// `permission|context kind|context value`; a permission that this build does not know grants nothing.
pub(in crate::users) fn parse_grant(text: &str) -> Option<Grant> {
    let mut parts = text.splitn(3, '|');
    let permission = Permission::parse(parts.next()?).ok()?;
    let kind = ContextKind::parse(parts.next()?).ok()?;
    let value = if kind == ContextKind::Global {
        ""
    } else {
        parts.next()?
    };
    Some(Grant {
        permission,
        context: Context::new(kind, value),
    })
}

/// A session to be.
pub(in crate::users) struct NewSession<'a> {
    pub(in crate::users) digest: [u8; 32],
    pub(in crate::users) id: TokenId,
    pub(in crate::users) user: UserId,
    /// The one that was checked.
    pub(in crate::users) password_hash: &'a str,
    pub(in crate::users) days: u32,
}

/// Opens a session; false if the user is gone or their password another one. The user's row stays locked.
pub(in crate::users) async fn insert_session(
    tx: &mut PgConnection,
    new: &NewSession<'_>,
) -> sqlx::Result<bool> {
    sqlx::query!(
        "insert into bearer (digest, token_id, kind, user_id, created_at, expires_at)
         select $1, $2, 'session', user_id, clock_timestamp(), clock_timestamp() + make_interval(days => $5)
         from user_account where user_id = $3 and password_hash = $4 for no key update",
        &new.digest[..],
        new.id.0,
        new.user.0,
        new.password_hash,
        i32::try_from(new.days).unwrap_or(i32::MAX),
    )
    .execute(tx)
    .await
    .map(|done| done.rows_affected() == 1)
}

/// Deletes a user's sessions that are over.
pub(in crate::users) async fn delete_ended_sessions(tx: &mut PgConnection, user: UserId) -> sqlx::Result<()> {
    sqlx::query!(
        "delete from bearer where user_id = $1 and expires_at <= now()",
        user.0
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Deletes all but a user's newest sessions; answers how many went.
pub(in crate::users) async fn trim_sessions(
    tx: &mut PgConnection,
    user: UserId,
    most: u32,
) -> sqlx::Result<u64> {
    sqlx::query!(
        "delete from bearer where token_id in (
             select token_id from bearer where user_id = $1 and kind = 'session'
             order by created_at desc, token_id desc offset $2)",
        user.0,
        i64::from(most),
    )
    .execute(tx)
    .await
    .map(|done| done.rows_affected())
}

/// Deletes a token, unless it is an API key.
pub(in crate::users) async fn delete_token(tx: &mut PgConnection, digest: &[u8; 32]) -> sqlx::Result<()> {
    sqlx::query!(
        "delete from bearer where digest = $1 and kind <> 'api-key'",
        &digest[..]
    )
    .execute(tx)
    .await
    .map(drop)
}

pub(in crate::users) async fn insert_app_token(
    tx: &mut PgConnection,
    digest: &[u8; 32],
    id: TokenId,
    app: AppId,
    days: Option<i32>,
) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into bearer (digest, token_id, kind, app_id, expires_at)
         values ($1, $2, 'app', $3, now() + make_interval(days => $4))",
        &digest[..],
        id.0,
        app.0,
        days,
    )
    .execute(tx)
    .await
    .map(drop)
}

/// A user's API key: its id and the sealed text.
pub(in crate::users) async fn find_api_key(
    db: impl PgExecutor<'_>,
    user: UserId,
) -> sqlx::Result<Option<(TokenId, Vec<u8>)>> {
    sqlx::query!(
        r#"select token_id, sealed as "sealed!" from bearer where user_id = $1 and kind = 'api-key'"#,
        user.0,
    )
    .fetch_optional(db)
    .await
    .map(|row| row.map(|row| (TokenId(row.token_id), row.sealed)))
}

pub(in crate::users) async fn delete_api_key(tx: &mut PgConnection, user: UserId) -> sqlx::Result<()> {
    sqlx::query!(
        "delete from bearer where user_id = $1 and kind = 'api-key'",
        user.0
    )
    .execute(tx)
    .await
    .map(drop)
}

pub(in crate::users) async fn insert_api_key(
    tx: &mut PgConnection,
    digest: &[u8; 32],
    id: TokenId,
    user: UserId,
    sealed: &[u8],
) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into bearer (digest, token_id, kind, user_id, sealed) values ($1, $2, 'api-key', $3, $4)",
        &digest[..],
        id.0,
        user.0,
        sealed,
    )
    .execute(tx)
    .await
    .map(drop)
}
