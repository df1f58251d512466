//! Password checks: rate limits on attempts, and the sessions that a correct password opens.
//!
//! Each attempt is recorded as a failure *before* the password is checked, under a lock for each subject it
//! counts for; a correct password deletes the record. So a hundred concurrent attempts count as a hundred.
//! All times are the database's.
//!
//! An attempt counts for the pair of account and network, for the network, and for the account from all
//! networks together. The last limit is higher, and does not apply to networks from which the user has logged
//! in recently: an attacker can exhaust it, but not lock the user out. Accounts are identified by id.

mod store;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use crate::core::Core;
use crate::db::{self, notices::NoticeChannel};
use crate::kernel::encryption::digest_token;
use crate::kernel::error::Error;
use crate::kernel::ids::{TokenId, UserId};
use crate::kernel::names::Email;
use crate::kernel::request_context::{Actor, RequestContext, TokenKind};
use crate::kernel::secret::Secret;
use crate::users::model::{LoginAccount, check_password};
use crate::users::tokens::store::{self as sessions, NewSession};
use crate::users::{password, store as users, tokens};

/// The maximum number of expired records that one attempt deletes.
const MAX_EXPIRED_PER_ATTEMPT: i64 = 200;

/// The limit of failures of an account from all networks together is this multiple of the limit from one
/// network.
const ACCOUNT_FACTOR: u32 = 5;
/// How many recent networks are kept per user, and for how many days.
const MAX_ORIGINS: i64 = 50;
const ORIGIN_LIFETIME_DAYS: i32 = 90;

/// A recorded attempt.
#[derive(Debug)]
pub(super) struct LoginAttempt {
    failures: Vec<(String, DateTime<Utc>)>,
    /// For an attempt on an account: the user, and the network of the client.
    origin: Option<(UserId, String)>,
}

/// Opens a session. Errors: `Invalid` for a password that breaks the rules, `NotFound` for an unknown e-mail
/// address, `Unauthenticated` for a wrong password, `TooMany` with the seconds to wait.
pub(super) async fn log_in(
    core: &Core,
    call: &RequestContext,
    email: &Email,
    password: &Secret,
) -> Result<Secret, Error> {
    let Some(account) = users::find_account(&core.db, email).await? else {
        record_attempt(core, call, None).await?;
        return Err(Error::user_not_found(email));
    };
    check_password(password)?;
    let wrong = || Error::unauthenticated("Authentication failed, wrong password.");
    let tried = verify_password(core, call, &account, password)
        .await?
        .ok_or_else(wrong)?;
    let token = Secret::random_hex();
    let new = NewSession {
        digest: digest_token(&token),
        id: TokenId::new(),
        user: account.id,
        password_hash: &account.password_hash,
        days: core.settings.auth.token_days,
    };
    let mut tx = core.db.begin().await?;
    if !sessions::insert_session(&mut tx, &new).await? {
        // The password was changed or the user removed during the hash.
        return Err(wrong());
    }
    sessions::delete_ended_sessions(&mut tx, account.id).await?;
    let ended = match core.settings.auth.max_sessions {
        0 => 0,
        most => sessions::trim_sessions(&mut tx, account.id, most).await?,
    };
    if ended > 0 {
        db::send_notice(&mut tx, NoticeChannel::Auth, "").await?;
    }
    tried.clear_failures(&mut tx).await?;
    tx.commit().await?;
    if ended > 0 {
        core.auth_cache.invalidate_all();
    }
    Ok(token)
}

/// Authenticates a name and a password where no session exists, as with `git`: the password is a token (the
/// name is ignored) or that of the user whose e-mail address is the name. Returns `None` if it is neither.
/// Errors: `TooMany`.
pub async fn authenticate_basic(
    core: &Core,
    call: &RequestContext,
    name: &str,
    password: &Secret,
) -> Result<Option<RequestContext>, Error> {
    if let Some((digest, known)) = tokens::authenticate_token(core, password).await? {
        return Ok(Some(RequestContext {
            actor: known.actor,
            grants: known.grants,
            token_kind: known.token_kind,
            token_digest: Some(digest),
            ..call.clone()
        }));
    }
    let Ok(email) = Email::parse(name) else {
        return Ok(None);
    };
    let Some(account) = users::find_account(&core.db, &email).await? else {
        record_attempt(core, call, None).await?;
        return Ok(None);
    };
    if check_password(password).is_err() {
        return Ok(None);
    }
    let Some(tried) = verify_password(core, call, &account, password).await? else {
        return Ok(None);
    };
    let mut tx = core.db.begin().await?;
    tried.clear_failures(&mut tx).await?;
    tx.commit().await?;
    let found = users::list_users(&core.db, &users::UserFilter::by_id(account.id)).await?;
    let (id, email) = (account.id, account.email);
    Ok(found.into_iter().next().map(|user| RequestContext {
        actor: Actor::User { id, email },
        grants: user.collect_grants().into(),
        token_kind: TokenKind::Password,
        token_digest: None,
        ..call.clone()
    }))
}

/// Checks a password within the limits. `None`: it is wrong, and the attempt counts as a failure. Errors:
/// `TooMany`.
pub(super) async fn verify_password(
    core: &Core,
    call: &RequestContext,
    account: &LoginAccount,
    password: &Secret,
) -> Result<Option<LoginAttempt>, Error> {
    let tried = record_attempt(core, call, Some(account.id)).await?;
    match password::verify_hash(core, call, password, &account.password_hash).await {
        Ok(true) => Ok(Some(tried)),
        Ok(false) => Ok(None),
        Err(error) => {
            let mut tx = core.db.begin().await?;
            tried.delete_own_failures(&mut tx).await?;
            tx.commit().await?;
            Err(error)
        }
    }
}

impl LoginAttempt {
    /// After a correct password: deletes the account's failures from this network and records the network as
    /// known.
    pub(super) async fn clear_failures(&self, tx: &mut PgConnection) -> Result<(), Error> {
        self.delete_own_failures(tx).await?;
        if let Some((user, network)) = &self.origin {
            store::delete_failures(tx, &account_network_subject(*user, network)).await?;
            store::record_origin(tx, *user, network, MAX_ORIGINS).await?;
        }
        Ok(())
    }

    /// Deletes the records of this attempt, for when the password was not checked.
    async fn delete_own_failures(&self, tx: &mut PgConnection) -> Result<(), Error> {
        for (subject, at) in &self.failures {
            store::delete_failure(tx, subject, *at).await?;
        }
        Ok(())
    }
}

fn account_network_subject(user: UserId, network: &str) -> String {
    format!("p:{user}:{network}")
}

/// Records an attempt. Errors: `TooMany` if there are too many in the window; that attempt is not counted.
async fn record_attempt(
    core: &Core,
    call: &RequestContext,
    account: Option<UserId>,
) -> Result<LoginAttempt, Error> {
    let auth = &core.settings.auth;
    let network = call.source_network();
    let mut subjects = Vec::new();
    if let Some(user) = account {
        let most = auth.login_attempts_per_account;
        subjects.push((account_network_subject(user, &network), most));
        if !store::is_known_origin(&core.db, user, &network, ORIGIN_LIFETIME_DAYS).await? {
            subjects.push((format!("a:{user}"), most.saturating_mul(ACCOUNT_FACTOR)));
        }
    }
    if !network.is_empty() {
        subjects.push((format!("i:{network}"), auth.login_attempts_per_address));
    }
    let mut tried = enforce_limit(core, subjects, "Too many failed logins").await?;
    tried.origin = account.map(|user| (user, network));
    Ok(tried)
}

/// Limits sign-ups by anonymous callers: each costs a hash, whether it succeeds or not. Errors: `TooMany`.
pub(super) async fn limit_sign_ups(core: &Core, call: &RequestContext) -> Result<(), Error> {
    limit_by_network(core, call, 's', "Too many new users from your address").await
}

/// Limits an anonymous operation by the caller's network. Errors: `TooMany`; the message begins with `words`.
pub(super) async fn limit_by_network(
    core: &Core,
    call: &RequestContext,
    what: char,
    words: &str,
) -> Result<(), Error> {
    let network = call.source_network();
    let limit = core.settings.auth.login_attempts_per_address;
    let subjects = match network.is_empty() {
        true => Vec::new(),
        false => vec![(format!("{what}:{network}"), limit)],
    };
    enforce_limit(core, subjects, words).await.map(drop)
}

/// Records an attempt by a subject, limited within the window of failed logins. Errors: `TooMany`, with a
/// message that begins with `words`; the attempt is not counted then.
pub(super) async fn enforce_limit(
    core: &Core,
    subjects: Vec<(String, u32)>,
    words: &str,
) -> Result<LoginAttempt, Error> {
    let window = core.settings.auth.login_window.as_secs_f64();
    let mut tx = core.db.begin().await?;
    store::delete_expired_failures(&mut tx, window, MAX_EXPIRED_PER_ATTEMPT).await?;
    let mut notes = Vec::new();
    for (subject, limit) in subjects {
        store::lock_subject(&mut tx, &subject).await?;
        if let Some(seconds) = store::seconds_until_allowed(&mut tx, &subject, window, limit).await? {
            let seconds = u32::try_from(seconds.max(1)).unwrap_or(u32::MAX);
            return Err(
                Error::too_many(format!("{words}; try again in {seconds} seconds."))
                    .with_retry_after(seconds),
            );
        }
        let at = store::insert_failure(&mut tx, &subject).await?;
        notes.push((subject, at));
    }
    tx.commit().await?;
    Ok(LoginAttempt {
        failures: notes,
        origin: None,
    })
}
