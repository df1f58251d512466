//! Bearer tokens: 256 random bits, shown once, stored as a digest.
//!
//! Kinds: *session* (from a login, valid for `auth.token_days`), *API key* (one per user, valid until
//! renewed; also stored encrypted, so that it can be shown), *app* (created with the app, in its
//! environment), *team token* (of a program; what it is and who may change it: `teams::tokens`).

pub(super) mod store;

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use sqlx::PgConnection;

use crate::core::{CachedIdentity, Core};
use crate::db::{self, notices::NoticeChannel};
use crate::events::{self, EventTarget, EventTargetKind, NewEvent};
use crate::kernel::encryption::{AssociatedData, SealedColumn, digest_token};
use crate::kernel::error::Error;
use crate::kernel::ids::{AppId, TeamTokenId, TokenId, UserId};
use crate::kernel::names::Email;
use crate::kernel::permission::Permission;
use crate::kernel::request_context::{Actor, RequestContext};
use crate::kernel::secret::Secret;
use crate::users::model::user_context;

/// Authenticates a token; `None` if it is unknown or expired.
pub async fn authenticate_token(
    core: &Core,
    token: &Secret,
) -> Result<Option<([u8; 32], CachedIdentity)>, Error> {
    let digest = digest_token(token);
    let known = authenticate_digest(core, &digest).await?;
    Ok(known.map(|known| (digest, known)))
}

/// Authenticates a token by its digest, as it is valid now; `None` if it is unknown or expired.
pub async fn authenticate_digest(core: &Core, digest: &[u8; 32]) -> Result<Option<CachedIdentity>, Error> {
    if let Some(known) = core.auth_cache.get(digest).await {
        return Ok(Some(known));
    }
    let generation = core.auth_cache.generation();
    let Some(found) = store::find_token_holder(&core.db, digest).await? else {
        return Ok(None);
    };
    if let Actor::TeamToken { id, .. } = &found.actor {
        store::record_team_token_use(&core.db, *id).await?;
    }
    let known = CachedIdentity {
        actor: found.actor,
        grants: Arc::from(found.grants),
        token_kind: found.kind,
        expires_at: found
            .seconds_left
            .map(|left| Instant::now() + Duration::from_secs_f64(left.max(0.0))),
    };
    core.auth_cache
        .insert_if_current(*digest, known.clone(), generation)
        .await;
    Ok(Some(known))
}

/// The lifetime of an app token from `POST /tokens`, in days.
pub const APP_TOKEN_DAYS: i32 = 365;

/// Issues a token for an app. `days`: `None` for one that is valid as long as the app exists.
pub async fn issue_app_token(tx: &mut PgConnection, app: AppId, days: Option<i32>) -> Result<Secret, Error> {
    let token = Secret::random_hex();
    store::insert_app_token(tx, &digest_token(&token), TokenId::new(), app, days).await?;
    Ok(token)
}

/// Issues the value of a team token; it expires after a number of seconds, or never.
pub async fn issue_team_token(
    tx: &mut PgConnection,
    token: TeamTokenId,
    expires_in: Option<f64>,
) -> Result<Secret, Error> {
    let value = Secret::random_hex();
    store::insert_team_token_value(tx, &digest_token(&value), TokenId::new(), token, expires_in).await?;
    Ok(value)
}

/// Replaces the value of a team token; the old value becomes invalid. The caller must invalidate the
/// `AuthCache` of all replicas.
pub async fn renew_team_token(tx: &mut PgConnection, token: TeamTokenId) -> Result<Secret, Error> {
    let value = Secret::random_hex();
    store::update_team_token_value(tx, token, &digest_token(&value)).await?;
    Ok(value)
}

/// Sets when a team token expires: after a number of seconds, or never. The caller must invalidate the
/// `AuthCache` of all replicas.
pub async fn set_team_token_expiry(
    tx: &mut PgConnection,
    token: TeamTokenId,
    expires_in: Option<f64>,
) -> Result<(), Error> {
    Ok(store::update_team_token_expiry(tx, token, expires_in).await?)
}

/// Ends the current session; an API key and a team token stay, since they are no logins. Succeeds if it has already ended.
pub(super) async fn end_session(core: &Core, call: &RequestContext) -> Result<(), Error> {
    if let Some(digest) = call.token_digest {
        let mut tx = core.db.begin().await?;
        store::delete_token(&mut tx, &digest).await?;
        db::send_notice(&mut tx, NoticeChannel::Auth, "").await?;
        tx.commit().await?;
        core.auth_cache.invalidate_all();
    }
    Ok(())
}

/// Ends a user's API key and sessions, except the session with the digest `but`. The caller must invalidate
/// the `AuthCache` after the commit.
pub(super) async fn end_all_tokens(
    tx: &mut PgConnection,
    user: UserId,
    but: Option<&[u8; 32]>,
) -> Result<(), Error> {
    store::delete_tokens_of(tx, user, but).await?;
    Ok(db::send_notice(tx, NoticeChannel::Auth, "").await?)
}

/// Returns a user's API key; creates one if there is none.
pub(super) async fn get_or_create_api_key(
    core: &Core,
    call: &RequestContext,
    email: &Email,
    user: UserId,
) -> Result<Secret, Error> {
    match find_api_key(core, user).await? {
        Some(key) => Ok(key),
        None => renew_api_key(core, call, email, user).await,
    }
}

async fn find_api_key(core: &Core, user: UserId) -> Result<Option<Secret>, Error> {
    let found = store::find_api_key(&core.db, user).await?;
    found
        .map(|(id, sealed)| core.keys.decrypt(&api_key_associated_data(id), &sealed))
        .transpose()
}

/// Renews a user's API key; the old one becomes invalid.
pub(super) async fn renew_api_key(
    core: &Core,
    call: &RequestContext,
    email: &Email,
    user: UserId,
) -> Result<Secret, Error> {
    let (id, key) = (TokenId::new(), Secret::random_hex());
    let mut tx = core.db.begin().await?;
    let target = EventTarget::new(EventTargetKind::User, email);
    let event = NewEvent::new(
        target,
        Permission::APIKEY_UPDATE,
        vec![user_context(email)],
        json!(null),
    );
    events::record_event(&mut tx, call, &event).await?;
    store::delete_api_key(&mut tx, user).await?;
    let sealed = core.keys.encrypt(&api_key_associated_data(id), &key);
    store::insert_api_key(&mut tx, &digest_token(&key), id, user, &sealed).await?;
    db::send_notice(&mut tx, NoticeChannel::Auth, "").await?;
    tx.commit().await?;
    core.auth_cache.invalidate_all();
    Ok(key)
}

fn api_key_associated_data(id: TokenId) -> AssociatedData {
    AssociatedData::new(SealedColumn::ACCESS_TOKEN, &[&id])
}
