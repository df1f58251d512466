//! A forgotten password: a token goes to the user's mailbox, and who has it gets a new password there.
//!
//! A token is 256 random bits, kept as a digest, good once and for 24 hours on the database's clock; the
//! use of one voids the user's others. The new password is made by us, so nobody who guesses or finds a
//! token chooses it. Sessions go on (contract/classic 1.7.2). Letters are sent by a saga after the commit,
//! so no request waits for a mail server, and a letter is sent if and only if its token or password is
//! real.

mod letter;
mod store;

use serde_json::json;

pub use letter::SendLetter;

use crate::core::Core;
use crate::events::{self, NewEvent, Target, TargetKind};
use crate::kernel::call::Call;
use crate::kernel::names::Email;
use crate::kernel::permission::Permission;
use crate::kernel::problem::Problem;
use crate::kernel::seal::digest;
use crate::kernel::secret::Secret;
use crate::users::login::count;
use crate::users::model::context;
use crate::users::{password, store as users};

/// Letters with a token that one account gets within the window of failed logins.
const LETTERS: u32 = 5;
/// Characters of a new password: 80 random bits.
const PASSWORD_LENGTH: usize = 20;

/// Mails a token to a user. Errors: `NotFound`, `TooMany`.
pub(super) async fn ask(core: &Core, call: &Call, email: &Email) -> Result<(), Problem> {
    count_address(core, call).await?;
    let account = users::find_account(&core.db, email).await?.ok_or_else(unknown)?;
    count(
        core,
        vec![(format!("r:{email}"), LETTERS)],
        "Too many mails for this user",
    )
    .await?;
    let token = Secret::random();
    let mut tx = core.db.begin().await?;
    events::record(&mut tx, call, &event(email, "asked")).await?;
    store::delete_old(&mut tx).await?;
    store::insert(&mut tx, &digest(&token), account.id).await?;
    let text = format!(
        "Somebody, hopefully you, wants a new password for {email} at {url}.\n\n\
         Your token, good once and for 24 hours:\n\n{token}\n\n\
         Use it with: tsuru reset-password {email} --token <token>\n\
         If you did not ask for this, do nothing.\n",
        url = core.public.api_url,
        token = token.expose(),
    );
    letter::post(core, &mut tx, email, "A new password: your token", text).await?;
    Ok(tx.commit().await?)
}

/// Gives the user of a token a new password, and mails it. Errors: `NotFound`, `Invalid` for a token that
/// is not good, `TooMany`.
pub(super) async fn redeem(core: &Core, call: &Call, email: &Email, token: &Secret) -> Result<(), Problem> {
    count_address(core, call).await?;
    let account = users::find_account(&core.db, email).await?.ok_or_else(unknown)?;
    let digest = digest(token);
    // Looked at first, because a hash is heavy.
    if !store::is_good(&core.db, &digest, account.id).await? {
        return Err(no_good());
    }
    let random = Secret::random();
    let new = Secret::new(&random.expose()[..PASSWORD_LENGTH]);
    let hash = password::hash(core, &new).await?;
    let mut tx = core.db.begin().await?;
    events::record(&mut tx, call, &event(email, "done")).await?;
    if !store::try_use(&mut tx, &digest, account.id).await? {
        return Err(no_good());
    }
    store::void_others(&mut tx, account.id).await?;
    if !users::update_password(&mut tx, account.id, &account.password_hash, &hash).await? {
        return Err(Problem::conflict(
            "The password has just been changed in another way; try again.",
        ));
    }
    let text = format!(
        "Your new password for {email} at {url}:\n\n{new}\n\n\
         Change it soon: tsuru change-password\n",
        url = core.public.api_url,
        new = new.expose(),
    );
    letter::post(core, &mut tx, email, "Your new password", text).await?;
    Ok(tx.commit().await?)
}

async fn count_address(core: &Core, call: &Call) -> Result<(), Problem> {
    let limit = core.settings.auth.login_attempts_per_address;
    let subjects = match call.source_ip.is_empty() {
        true => Vec::new(),
        false => vec![(format!("p:{}", call.source_ip), limit)],
    };
    count(core, subjects, "Too many requests for new passwords")
        .await
        .map(drop)
}

fn event(email: &Email, step: &str) -> NewEvent {
    NewEvent::new(
        Target::new(TargetKind::User, email),
        Permission::USER_UPDATE_RESET,
        vec![context(email)],
        json!({ "email": email, "reset": step }),
    )
}

fn no_good() -> Problem {
    Problem::invalid("This token is not good, or no longer: ask for a new one.")
}

fn unknown() -> Problem {
    Problem::not_found("user not found")
}
