//! Passwords checked: how often one may be tried, and what a right one opens.
//!
//! Each try is written down as a failure *before* the password is looked at, under a lock for the account
//! and one for the address; a right password takes the note back. So a hundred tries at once count as a
//! hundred. All times are the database's.

mod store;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use crate::core::Core;
use crate::db::{self, listen::Channel};
use crate::kernel::call::{Actor, Call, TokenKind};
use crate::kernel::ids::TokenId;
use crate::kernel::names::Email;
use crate::kernel::problem::Problem;
use crate::kernel::seal::digest;
use crate::kernel::secret::Secret;
use crate::users::model::{Account, check_password};
use crate::users::tokens::store::{self as sessions, NewSession};
use crate::users::{password, store as users, tokens};

/// Old notes that one try clears away, at most.
const SWEEP: i64 = 200;

/// A try that has been written down.
#[derive(Debug)]
pub(super) struct Try {
    notes: Vec<(String, DateTime<Utc>)>,
}

/// A new session. Errors: `Invalid` for a password that cannot be one, `NotFound` for an unknown address,
/// `Unauthenticated` for a wrong password, `TooMany` with the seconds to wait.
pub(super) async fn login(
    core: &Core,
    call: &Call,
    email: &Email,
    password: &Secret,
) -> Result<Secret, Problem> {
    let Some(account) = users::find_account(&core.db, email).await? else {
        note(core, call, None).await?;
        return Err(Problem::not_found("user not found"));
    };
    check_password(password)?;
    let wrong = || Problem::unauthenticated("Authentication failed, wrong password.");
    let tried = verified(core, call, email, &account, password)
        .await?
        .ok_or_else(wrong)?;
    let token = Secret::random();
    let new = NewSession {
        digest: digest(&token),
        id: TokenId::new(),
        user: account.id,
        password_hash: &account.password_hash,
        days: core.settings.auth.token_days,
    };
    let mut tx = core.db.begin().await?;
    if !sessions::insert_session(&mut tx, &new).await? {
        // The password was changed, or the user removed, while we were hashing.
        return Err(wrong());
    }
    sessions::delete_ended_sessions(&mut tx, account.id).await?;
    let ended = match core.settings.auth.max_sessions {
        0 => 0,
        most => sessions::trim_sessions(&mut tx, account.id, most).await?,
    };
    if ended > 0 {
        db::notify(&mut tx, Channel::Auth, "").await?;
    }
    tried.forgive(&mut tx).await?;
    tx.commit().await?;
    if ended > 0 {
        core.callers.forget();
    }
    Ok(token)
}

/// Who a name and a password stand for where there is no session to be had, as with `git`: the password is a
/// token, whatever the name, or that of the e-mail address in the name. `None`: neither. Errors: `TooMany`.
pub async fn admit(core: &Core, call: &Call, name: &str, password: &Secret) -> Result<Option<Call>, Problem> {
    if let Some((digest, known)) = tokens::authenticate(core, password).await? {
        return Ok(Some(Call {
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
        note(core, call, None).await?;
        return Ok(None);
    };
    if check_password(password).is_err() {
        return Ok(None);
    }
    let Some(tried) = verified(core, call, &email, &account, password).await? else {
        return Ok(None);
    };
    let mut tx = core.db.begin().await?;
    tried.forgive(&mut tx).await?;
    tx.commit().await?;
    let filter = users::Filter {
        emails: Some(vec![email.to_string()]),
        ..users::Filter::default()
    };
    let found = users::list(&core.db, &filter).await?;
    let id = account.id;
    Ok(found.into_iter().next().map(|user| Call {
        actor: Actor::User { id, email },
        grants: user.grants().into(),
        token_kind: TokenKind::Password,
        token_digest: None,
        ..call.clone()
    }))
}

/// Checks a password within the limits. `None`: it is wrong, and that counts. Errors: `TooMany`.
pub(super) async fn verified(
    core: &Core,
    call: &Call,
    email: &Email,
    account: &Account,
    password: &Secret,
) -> Result<Option<Try>, Problem> {
    let tried = note(core, call, Some(email)).await?;
    match password::verify(core, password, &account.password_hash).await {
        Ok(true) => Ok(Some(tried)),
        Ok(false) => Ok(None),
        Err(problem) => {
            let mut tx = core.db.begin().await?;
            tried.withdraw(&mut tx).await?;
            tx.commit().await?;
            Err(problem)
        }
    }
}

impl Try {
    /// The password was right: the account's failures are forgotten.
    pub(super) async fn forgive(&self, tx: &mut PgConnection) -> Result<(), Problem> {
        for (subject, at) in &self.notes {
            match subject.starts_with("a:") {
                true => store::delete_all(tx, subject).await?,
                false => store::delete_one(tx, subject, *at).await?,
            }
        }
        Ok(())
    }

    /// The password was never looked at.
    async fn withdraw(&self, tx: &mut PgConnection) -> Result<(), Problem> {
        for (subject, at) in &self.notes {
            store::delete_one(tx, subject, *at).await?;
        }
        Ok(())
    }
}

/// Writes a try down. Errors: `TooMany` if there are too many in the window; that try is not counted.
async fn note(core: &Core, call: &Call, account: Option<&Email>) -> Result<Try, Problem> {
    let auth = &core.settings.auth;
    let mut subjects = Vec::new();
    if let Some(email) = account {
        subjects.push((format!("a:{email}"), auth.login_attempts_per_account));
    }
    if !call.source_ip.is_empty() {
        subjects.push((format!("i:{}", call.source_ip), auth.login_attempts_per_address));
    }
    count(core, subjects, "Too many failed logins").await
}

/// Writes something down that may happen to a subject only so often within the window of failed logins.
/// Errors: `TooMany`, beginning with `words`; it is not counted then.
pub(super) async fn count(core: &Core, subjects: Vec<(String, u32)>, words: &str) -> Result<Try, Problem> {
    let window = core.settings.auth.login_window.as_secs_f64();
    let mut tx = core.db.begin().await?;
    store::delete_old(&mut tx, window, SWEEP).await?;
    let mut notes = Vec::new();
    for (subject, limit) in subjects {
        store::lock(&mut tx, &subject).await?;
        if let Some(seconds) = store::full_for(&mut tx, &subject, window, limit).await? {
            return Err(Problem::too_many(format!(
                "{words}; try again in {} seconds.",
                seconds.max(1)
            )));
        }
        let at = store::insert(&mut tx, &subject).await?;
        notes.push((subject, at));
    }
    tx.commit().await?;
    Ok(Try { notes })
}
