//! Stores tokens.

use sqlx::{PgConnection, PgExecutor};

use crate::kernel::held_permission::{HeldPermission, ServiceAction};
use crate::kernel::ids::{AppId, TeamTokenId, TokenId, UserId};
use crate::kernel::names::{AppName, Email, TeamName, TeamTokenName};
use crate::kernel::permission::{ContextKind, Permission, PermissionContext};
use crate::kernel::request_context::{Actor, PermissionGrant, TokenCreator, TokenKind};

/// The holder of a token with their grants.
#[derive(Debug)]
pub(super) struct TokenHolder {
    pub(super) actor: Actor,
    pub(super) grants: Vec<PermissionGrant>,
    pub(super) kind: TokenKind,
    /// `None`: the token does not expire.
    pub(super) seconds_left: Option<f64>,
}

/// Finds an unexpired token, its holder and their grants in one round trip.
pub(super) async fn find_token_holder(
    db: impl PgExecutor<'_>,
    digest: &[u8; 32],
) -> sqlx::Result<Option<TokenHolder>> {
    let row = sqlx::query!(
        r#"select b.kind, b.user_id, u.email as "email?: Email", b.app_id, a.name as "app?",
                  b.team_token_id, k.name as "token?: TeamTokenName", t.name as "team?: TeamName",
                  c.user_id as "creator_id?", c.email as "creator?: Email",
                  extract(epoch from b.expires_at - now())::double precision as seconds_left,
                  coalesce((select array_agg(p.permission || '|' || ra.context_kind || '|' || ra.context_value)
                            from role_assignment ra join role_grant p on p.role = ra.role
                            where ra.holder_id = coalesce(b.user_id, b.team_token_id)), '{}') as "grants!"
           from access_token b
           left join user_account u on u.user_id = b.user_id
           left join app a on a.app_id = b.app_id
           left join team_token k on k.team_token_id = b.team_token_id
           left join team t on t.team_id = k.team_id
           left join user_account c on c.user_id = k.creator_id
           where b.digest = $1 and (b.expires_at is null or b.expires_at > now())"#,
        &digest[..],
    )
    .fetch_optional(db)
    .await?;
    Ok(row.and_then(|row| {
        let actor = if let (Some(id), Some(email)) = (row.user_id, row.email) {
            Actor::User {
                id: UserId(id),
                email,
            }
        } else if let (Some(id), Some(app)) = (row.app_id, row.app) {
            Actor::App {
                id: AppId(id),
                name: AppName::parse(&app).ok()?,
            }
        } else if let (Some(id), Some(name), Some(team)) = (row.team_token_id, row.token, row.team) {
            let creator = row.creator_id.zip(row.creator);
            Actor::TeamToken {
                id: TeamTokenId(id),
                name,
                team,
                creator: creator.map(|(id, email)| TokenCreator {
                    id: UserId(id),
                    email,
                }),
            }
        } else {
            return None;
        };
        let grants = row.grants.iter().filter_map(|text| parse_grant(text)).collect();
        let kind = match row.kind.as_str() {
            "session" => TokenKind::Session,
            "api-key" => TokenKind::ApiKey,
            "app" => TokenKind::App,
            "team-token" => TokenKind::Team,
            // A check constraint of the table allows no other kind.
            _ => return None,
        };
        Some(TokenHolder {
            actor,
            grants,
            kind,
            seconds_left: row.seconds_left,
        })
    }))
}

/// Parses a permission as the view `role_grant` encodes it; one that is unknown to this build grants nothing.
pub(crate) fn parse_held(text: &str) -> Option<HeldPermission> {
    match text.strip_prefix('@') {
        Some(action) => ServiceAction::parse_encoded(action).map(HeldPermission::ServiceAction),
        None => Permission::parse(text).ok().map(HeldPermission::Fixed),
    }
}

/// Parses `permission|context kind|context value`.
pub(in crate::users) fn parse_grant(text: &str) -> Option<PermissionGrant> {
    let mut parts = text.splitn(3, '|');
    let permission = parse_held(parts.next()?)?;
    let kind = ContextKind::parse(parts.next()?).ok()?;
    let value = if kind == ContextKind::Global {
        ""
    } else {
        parts.next()?
    };
    Some(PermissionGrant {
        permission,
        context: PermissionContext::new(kind, value),
    })
}

/// A session to be inserted.
pub(in crate::users) struct NewSession<'a> {
    pub(in crate::users) digest: [u8; 32],
    pub(in crate::users) id: TokenId,
    pub(in crate::users) user: UserId,
    /// The hash against which the password was checked.
    pub(in crate::users) password_hash: &'a str,
    pub(in crate::users) days: u32,
}

/// Inserts a session; returns false if the user is gone or their password has changed. The user's row stays
/// locked.
pub(in crate::users) async fn insert_session(
    tx: &mut PgConnection,
    new: &NewSession<'_>,
) -> sqlx::Result<bool> {
    sqlx::query!(
        "insert into access_token (digest, token_id, kind, user_id, created_at, expires_at)
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

/// Deletes a user's expired sessions.
pub(in crate::users) async fn delete_ended_sessions(tx: &mut PgConnection, user: UserId) -> sqlx::Result<()> {
    sqlx::query!(
        "delete from access_token where user_id = $1 and expires_at <= now()",
        user.0
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Deletes all but a user's newest sessions; returns how many were deleted.
pub(in crate::users) async fn trim_sessions(
    tx: &mut PgConnection,
    user: UserId,
    most: u32,
) -> sqlx::Result<u64> {
    sqlx::query!(
        "delete from access_token where token_id in (
             select token_id from access_token where user_id = $1 and kind = 'session'
             order by created_at desc, token_id desc offset $2)",
        user.0,
        i64::from(most),
    )
    .execute(tx)
    .await
    .map(|done| done.rows_affected())
}

/// Deletes a session or the token of an app; API keys and team tokens are not logins.
pub(in crate::users) async fn delete_token(tx: &mut PgConnection, digest: &[u8; 32]) -> sqlx::Result<()> {
    sqlx::query!(
        "delete from access_token where digest = $1 and kind in ('session', 'app')",
        &digest[..]
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Deletes a user's API key and sessions, except one session.
pub(in crate::users) async fn delete_tokens_of(
    tx: &mut PgConnection,
    user: UserId,
    but: Option<&[u8; 32]>,
) -> sqlx::Result<()> {
    sqlx::query!(
        "delete from access_token where user_id = $1 and (kind <> 'session' or $2::bytea is null or digest <> $2)",
        user.0,
        but.map(|digest| &digest[..]),
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
        "insert into access_token (digest, token_id, kind, app_id, expires_at)
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

/// Returns the id and the encrypted value of a user's API key.
pub(in crate::users) async fn find_api_key(
    db: impl PgExecutor<'_>,
    user: UserId,
) -> sqlx::Result<Option<(TokenId, Vec<u8>)>> {
    sqlx::query!(
        r#"select token_id, sealed as "sealed!" from access_token where user_id = $1 and kind = 'api-key'"#,
        user.0,
    )
    .fetch_optional(db)
    .await
    .map(|row| row.map(|row| (TokenId(row.token_id), row.sealed)))
}

pub(in crate::users) async fn delete_api_key(tx: &mut PgConnection, user: UserId) -> sqlx::Result<()> {
    sqlx::query!(
        "delete from access_token where user_id = $1 and kind = 'api-key'",
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
        "insert into access_token (digest, token_id, kind, user_id, sealed) values ($1, $2, 'api-key', $3, $4)",
        &digest[..],
        id.0,
        user.0,
        sealed,
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Inserts the value of a team token; it expires after a number of seconds, or never.
pub(in crate::users) async fn insert_team_token_value(
    tx: &mut PgConnection,
    digest: &[u8; 32],
    id: TokenId,
    token: TeamTokenId,
    expires_in: Option<f64>,
) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into access_token (digest, token_id, kind, team_token_id, expires_at)
         values ($1, $2, 'team-token', $3, now() + make_interval(secs => $4))",
        &digest[..],
        id.0,
        token.0,
        expires_in,
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Replaces the value of a team token.
pub(in crate::users) async fn update_team_token_value(
    tx: &mut PgConnection,
    token: TeamTokenId,
    digest: &[u8; 32],
) -> sqlx::Result<()> {
    sqlx::query!(
        "update access_token set digest = $2 where team_token_id = $1",
        token.0,
        &digest[..],
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Sets when a team token expires: after a number of seconds, or never.
pub(in crate::users) async fn update_team_token_expiry(
    tx: &mut PgConnection,
    token: TeamTokenId,
    expires_in: Option<f64>,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update access_token set expires_at = now() + make_interval(secs => $2) where team_token_id = $1",
        token.0,
        expires_in,
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Records that a team token is in use, at most once a minute.
pub(super) async fn record_team_token_use(db: impl PgExecutor<'_>, token: TeamTokenId) -> sqlx::Result<()> {
    sqlx::query!(
        "update access_token set last_used_at = now()
         where team_token_id = $1 and (last_used_at is null or last_used_at < now() - interval '1 minute')",
        token.0,
    )
    .execute(db)
    .await
    .map(drop)
}
