//! Password reset: a token is mailed to the user, and redeeming it mails them a new password.
//!
//! A token is 256 random bits, stored as a digest, valid once and for 24 hours on the database's clock;
//! redeeming one voids the user's others. The new password is generated, so an attacker who obtains a token
//! cannot choose it. All sessions and the API key end with the old password. Mails are sent by a saga after
//! the commit, so no request waits for a mail server, and a mail is sent if and only if its token or password
//! is valid.

mod send_mail;
mod store;

use serde_json::json;
use sqlx::PgConnection;

pub use send_mail::SendResetMail;

use crate::core::Core;
use crate::events::{self, EventTarget, EventTargetKind, NewEvent};
use crate::kernel::encryption::digest_token;
use crate::kernel::error::Error;
use crate::kernel::ids::UserId;
use crate::kernel::names::Email;
use crate::kernel::permission::Permission;
use crate::kernel::request_context::RequestContext;
use crate::kernel::secret::Secret;
use crate::users::login::{enforce_limit, limit_by_network};
use crate::users::model::{LoginAccount, user_context};
use crate::users::password::HashPurpose;
use crate::users::{password, store as users, tokens};

/// How many reset mails one account gets within the window of failed logins.
const MAX_MAILS_PER_WINDOW: u32 = 5;
/// Characters of a generated password: 80 random bits.
const PASSWORD_LENGTH: usize = 20;

/// Mails a reset token to a user. Errors: `NotFound`, `TooMany`.
pub(super) async fn request_reset(core: &Core, call: &RequestContext, email: &Email) -> Result<(), Error> {
    limit_requests(core, call).await?;
    // The mail goes to the stored address of the account; another spelling may be another mailbox.
    let LoginAccount { id, email, .. } = users::find_account(&core.db, email)
        .await?
        .ok_or_else(|| Error::user_not_found(email))?;
    enforce_limit(
        core,
        vec![(format!("r:{id}"), MAX_MAILS_PER_WINDOW)],
        "Too many mails for this user",
    )
    .await?;
    let token = Secret::random_hex();
    let mut tx = core.db.begin().await?;
    events::record_event(&mut tx, call, &reset_event(&email, "asked")).await?;
    store::delete_expired_tokens(&mut tx).await?;
    store::insert_token(&mut tx, &digest_token(&token), id).await?;
    let text = format!(
        "A new password was requested for {email} at {url}.\n\n\
         Your token, valid once and for 24 hours:\n\n{token}\n\n\
         Use it with: tsuru reset-password {email} --token <token>\n\
         If you did not request this, ignore this mail.\n",
        url = core.public.api_url,
        token = token.expose_secret(),
    );
    send_mail::enqueue_mail(core, &mut tx, &email, "A new password: your token", text).await?;
    Ok(tx.commit().await?)
}

/// Redeems a token: sets a new password, mails it, and ends all the user's sessions and their API key.
/// Errors: `NotFound`, `Invalid` for an invalid token, `TooMany`.
pub(super) async fn redeem_token(
    core: &Core,
    call: &RequestContext,
    email: &Email,
    token: &Secret,
) -> Result<(), Error> {
    limit_requests(core, call).await?;
    let account = users::find_account(&core.db, email)
        .await?
        .ok_or_else(|| Error::user_not_found(email))?;
    let email = &account.email;
    let digest = digest_token(token);
    // Checked before hashing, because a hash is expensive.
    if !store::is_token_valid(&core.db, &digest, account.id).await? {
        return Err(invalid_token_error());
    }
    let random = Secret::random_hex();
    let new = Secret::new(&random.expose_secret()[..PASSWORD_LENGTH]);
    let hash = password::hash_password(core, call, HashPurpose::NewPassword, &new).await?;
    let mut tx = core.db.begin().await?;
    events::record_event(&mut tx, call, &reset_event(email, "done")).await?;
    if !store::use_token(&mut tx, &digest, account.id).await? {
        return Err(invalid_token_error());
    }
    store::void_tokens(&mut tx, account.id).await?;
    if !users::update_password(&mut tx, account.id, &account.password_hash, &hash).await? {
        return Err(Error::conflict(
            "The password has been changed in the meantime; try again.",
        ));
    }
    tokens::end_all_tokens(&mut tx, account.id, None).await?;
    let text = format!(
        "Your new password for {email} at {url}:\n\n{new}\n\n\
         Change it soon: tsuru change-password\n",
        url = core.public.api_url,
        new = new.expose_secret(),
    );
    send_mail::enqueue_mail(core, &mut tx, email, "Your new password", text).await?;
    tx.commit().await?;
    core.auth_cache.invalidate_all();
    Ok(())
}

/// Voids the reset tokens of a user, for when the password was changed otherwise.
pub(super) async fn void_reset_tokens(tx: &mut PgConnection, user: UserId) -> Result<(), Error> {
    Ok(store::void_tokens(tx, user).await?)
}

async fn limit_requests(core: &Core, call: &RequestContext) -> Result<(), Error> {
    limit_by_network(core, call, 'q', "Too many password reset requests").await
}

fn reset_event(email: &Email, step: &str) -> NewEvent {
    NewEvent::new(
        EventTarget::new(EventTargetKind::User, email),
        Permission::USER_UPDATE_RESET,
        vec![user_context(email)],
        json!({ "email": email, "reset": step }),
    )
}

fn invalid_token_error() -> Error {
    Error::invalid("This token is invalid or expired: request a new one.")
}
