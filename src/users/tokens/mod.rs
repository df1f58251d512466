//! Bearer tokens: 256 random bits, shown once, kept as a digest.
//!
//! Kinds: *session* (a login, lives `auth.token_days`), *API key* (one per user, lives until it is made
//! anew; kept sealed as well, so that it can be shown), *app* (made with the app, in its environment).

pub(super) mod store;

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use sqlx::PgConnection;

use crate::core::{Core, Known};
use crate::db::{self, listen::Channel};
use crate::events::{self, NewEvent, Target, TargetKind};
use crate::kernel::call::Call;
use crate::kernel::ids::{AppId, TokenId, UserId};
use crate::kernel::names::Email;
use crate::kernel::permission::Permission;
use crate::kernel::problem::Problem;
use crate::kernel::seal::{Column, Place, digest};
use crate::kernel::secret::Secret;
use crate::users::model::context;

/// Who a token stands for; `None` if it is none of ours, or has ended.
pub async fn authenticate(core: &Core, token: &Secret) -> Result<Option<([u8; 32], Known)>, Problem> {
    let digest = digest(token);
    if let Some(known) = core.callers.get(&digest).await {
        return Ok(Some((digest, known)));
    }
    let Some(found) = store::find_bearer(&core.db, &digest).await? else {
        return Ok(None);
    };
    let known = Known {
        actor: found.actor,
        grants: Arc::from(found.grants),
        token_kind: found.kind,
        until: found
            .seconds_left
            .map(|left| Instant::now() + Duration::from_secs_f64(left.max(0.0))),
    };
    core.callers.put(digest, known.clone()).await;
    Ok(Some((digest, known)))
}

/// How long the token of an app from `POST /tokens` lives.
pub const APP_TOKEN_DAYS: i32 = 365;

/// Makes a token for an app. `days`: `None` for one that lives as long as the app.
pub async fn issue_for_app(tx: &mut PgConnection, app: AppId, days: Option<i32>) -> Result<Secret, Problem> {
    let token = Secret::random();
    store::insert_app_token(tx, &digest(&token), TokenId::new(), app, days).await?;
    Ok(token)
}

/// Ends the token of the call; an API key stays, since it is not a login. Ending an ended one is fine.
pub(super) async fn end(core: &Core, call: &Call) -> Result<(), Problem> {
    if let Some(digest) = call.token_digest {
        let mut tx = core.db.begin().await?;
        store::delete_token(&mut tx, &digest).await?;
        db::notify(&mut tx, Channel::Auth, "").await?;
        tx.commit().await?;
        core.callers.forget();
    }
    Ok(())
}

/// A user's API key; makes one if there is none.
pub(super) async fn api_key(
    core: &Core,
    call: &Call,
    email: &Email,
    user: UserId,
) -> Result<Secret, Problem> {
    match find_api_key(core, user).await? {
        Some(key) => Ok(key),
        None => renew_api_key(core, call, email, user).await,
    }
}

async fn find_api_key(core: &Core, user: UserId) -> Result<Option<Secret>, Problem> {
    let found = store::find_api_key(&core.db, user).await?;
    found
        .map(|(id, sealed)| core.keys.open(&place(id), &sealed))
        .transpose()
}

/// Makes a user's API key anew; the old one ends.
pub(super) async fn renew_api_key(
    core: &Core,
    call: &Call,
    email: &Email,
    user: UserId,
) -> Result<Secret, Problem> {
    let (id, key) = (TokenId::new(), Secret::random());
    let mut tx = core.db.begin().await?;
    let target = Target::new(TargetKind::User, email);
    let event = NewEvent::new(
        target,
        Permission::APIKEY_UPDATE,
        vec![context(email)],
        json!(null),
    );
    events::record(&mut tx, call, &event).await?;
    store::delete_api_key(&mut tx, user).await?;
    let sealed = core.keys.seal(&place(id), &key);
    store::insert_api_key(&mut tx, &digest(&key), id, user, &sealed).await?;
    db::notify(&mut tx, Channel::Auth, "").await?;
    tx.commit().await?;
    core.callers.forget();
    Ok(key)
}

fn place(id: TokenId) -> Place {
    Place::new(Column::BEARER, &[&id])
}
