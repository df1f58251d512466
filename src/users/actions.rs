//! Use cases of users: create, find, change the password, remove; and the API key, sessions and quota of one
//! user.

use serde_json::json;

use crate::core::Core;
use crate::db;
use crate::events::{self, EventTarget, EventTargetKind, NewEvent};
use crate::kernel::error::Error;
use crate::kernel::ids::UserId;
use crate::kernel::names::Email;
use crate::kernel::permission::{ContextKind, Permission, PermissionContext};
use crate::kernel::request_context::{Actor, RequestContext};
use crate::kernel::secret::Secret;
use crate::quotas::{self, Quota, QuotaSubject};
use crate::users::model::{User, check_new_address, check_password, first_missing_grant, user_context};
use crate::users::password::HashPurpose;
use crate::users::{held_roles, login, password, reset, store, tokens};

/// Creates a user. Anonymous callers may while registration is open, otherwise only holders of `user.create`.
/// Errors: `Unauthenticated`, `Forbidden`, `Invalid`, `Conflict` for a taken e-mail address.
pub async fn create_user(
    core: &Core,
    call: &RequestContext,
    email: &Email,
    password: &Secret,
) -> Result<(), Error> {
    let auth = &core.settings.auth;
    if !auth.is_registration_open(&core.settings.api) {
        if call.actor == Actor::Nobody {
            return Err(Error::unauthenticated(
                "Registration is closed: ask an administrator to create your user.",
            ));
        }
        call.authorize(Permission::USER_CREATE, &[])?;
    }
    check_new_address(email)?;
    check_password(password)?;
    if !call.has_global_permission(Permission::USER_CREATE) {
        login::limit_sign_ups(core, call).await?;
    }
    if store::find_user_id(&core.db, email).await?.is_some() {
        // Checked before hashing, because a hash is expensive.
        return Err(email_taken_error());
    }
    let hash = password::hash_password(core, call, HashPurpose::NewPassword, password).await?;
    let id = UserId::new();
    let mut tx = core.db.begin().await?;
    events::record_event(&mut tx, call, &user_event(email, Permission::USER_CREATE)).await?;
    match store::insert_user(&mut tx, id, email, &hash, core.settings.quota.apps_per_user).await {
        Err(error) if db::violates_constraint(&error, "user_account_email_key") => {
            return Err(email_taken_error());
        }
        other => db::map_constraint_violation(other, "user_account_address_key", email_taken_error)?,
    }
    store::assign_default_roles(&mut tx, id, "user-create", None).await?;
    Ok(tx.commit().await?)
}

fn email_taken_error() -> Error {
    Error::conflict("this email is already registered")
}

/// Filters users; empty strings do not filter.
#[derive(Clone, Debug, Default)]
pub struct UserQuery {
    pub email: String,
    pub role: String,
    /// The value of the context in which a role is held.
    pub context: String,
}

/// Returns the users that the caller may read: at least themselves. Errors: `Forbidden` for an app.
pub async fn find_users(core: &Core, call: &RequestContext, query: UserQuery) -> Result<Vec<User>, Error> {
    let emails = match call.visible_scopes(Permission::USER_READ, ContextKind::User) {
        None => None,
        Some(mut emails) => {
            emails.push(call.require_user()?.1.to_string());
            Some(emails)
        }
    };
    let filter = store::UserFilter {
        id: None,
        emails,
        email: query.email,
        role: query.role,
        context: query.context,
    };
    Ok(store::list_users(&core.db, &filter).await?)
}

/// The domain of the address under which a team token is shown where clients expect a user; no user can have
/// it, because it has no dot.
const TEAM_TOKEN_DOMAIN: &str = "tsuru-team-token";

/// Returns the calling user; a team token is shown as a user with the token's roles. Errors: `Forbidden` for
/// an app.
pub(super) async fn find_current_user(core: &Core, call: &RequestContext) -> Result<User, Error> {
    match &call.actor {
        Actor::TeamToken { id, name, .. } => Ok(User {
            email: format!("{name}@{TEAM_TOKEN_DOMAIN}"),
            roles: held_roles::store::list_token_roles(&core.db, *id).await?,
        }),
        _ => load_user(core, call.require_user()?.0).await,
    }
}

async fn load_user(core: &Core, id: UserId) -> Result<User, Error> {
    let mut users = store::list_users(&core.db, &store::UserFilter::by_id(id)).await?;
    users.pop().ok_or_else(|| Error::not_found("This user is gone."))
}

/// Finds a user by e-mail address, if it is the caller or the caller holds the permission on them. Errors:
/// `Forbidden`, `NotFound`.
pub(super) async fn find_user_for(
    core: &Core,
    call: &RequestContext,
    email: &Email,
    permission: Permission,
) -> Result<(UserId, Email), Error> {
    let found = store::find_account(&core.db, email).await?;
    match found {
        Some(account) if matches!(call.actor, Actor::User { id, .. } if id == account.id) => {
            Ok((account.id, account.email))
        }
        Some(account) => {
            call.authorize(permission, &[user_context(&account.email)])?;
            Ok((account.id, account.email))
        }
        None => {
            call.authorize(permission, &[user_context(email)])?;
            Err(Error::user_not_found(email))
        }
    }
}

/// Like `find_user_for`; without an e-mail address, the caller.
async fn find_or_self(
    core: &Core,
    call: &RequestContext,
    other: Option<&Email>,
    permission: Permission,
) -> Result<(UserId, Email), Error> {
    match other {
        Some(email) => find_user_for(core, call, email, permission).await,
        None => call.require_user().map(|(id, email)| (id, email.clone())),
    }
}

/// Changes the caller's password and ends their API key and all sessions but the current one. Errors:
/// `Forbidden` for a wrong old password, which counts as a failed login; `Invalid` for a new password that
/// breaks the rules.
pub(super) async fn change_password(
    core: &Core,
    call: &RequestContext,
    old: &Secret,
    new: &Secret,
) -> Result<(), Error> {
    let (_, email) = call.require_user()?;
    let account = store::find_account(&core.db, email)
        .await?
        .ok_or_else(|| Error::user_not_found(email))?;
    let wrong = || Error::forbidden("the given password didn't match the user's current password");
    let tried = login::verify_password(core, call, &account, old)
        .await?
        .ok_or_else(wrong)?;
    check_password(new)?;
    let hash = password::hash_password(core, call, HashPurpose::Login, new).await?;
    let mut tx = core.db.begin().await?;
    events::record_event(
        &mut tx,
        call,
        &user_event(email, Permission::USER_UPDATE_PASSWORD),
    )
    .await?;
    if !store::update_password(&mut tx, account.id, &account.password_hash, &hash).await? {
        return Err(wrong());
    }
    reset::void_reset_tokens(&mut tx, account.id).await?;
    tokens::end_all_tokens(&mut tx, account.id, call.token_digest.as_ref()).await?;
    tried.clear_failures(&mut tx).await?;
    tx.commit().await?;
    core.auth_cache.invalidate_all();
    Ok(())
}

/// Ends all sessions and the API key of the caller, including the current session, or those of another user.
/// Errors: `Forbidden`, `NotFound`.
pub(super) async fn end_sessions(
    core: &Core,
    call: &RequestContext,
    other: Option<&Email>,
) -> Result<(), Error> {
    let (id, email) = find_or_self(core, call, other, Permission::USER_UPDATE_PASSWORD).await?;
    let mut tx = core.db.begin().await?;
    let mut event = user_event(&email, Permission::USER_UPDATE);
    event.start_data = json!({ "email": email, "sessions": "ended" });
    events::record_event(&mut tx, call, &event).await?;
    tokens::end_all_tokens(&mut tx, id, None).await?;
    tx.commit().await?;
    core.auth_cache.invalidate_all();
    Ok(())
}

/// Removes the caller, or another user whom they may delete. Errors: `NotFound`; `Forbidden`, also when the
/// caller is the last member of a team, which the message names. An administrator may remove a team's last
/// member: the team keeps what it owns, and an administrator can add new members.
pub(super) async fn remove_user(
    core: &Core,
    call: &RequestContext,
    other: Option<&Email>,
) -> Result<(), Error> {
    let (id, email) = find_or_self(core, call, other, Permission::USER_DELETE).await?;
    let mut tx = core.db.begin().await?;
    events::record_event(&mut tx, call, &user_event(&email, Permission::USER_DELETE)).await?;
    if store::is_last_admin(&mut tx, id).await? {
        return Err(Error::forbidden(
            "This is the last administrator: make another user an administrator first.",
        ));
    }
    let own = matches!(call.actor, Actor::User { id: me, .. } if me == id);
    if own || !call.has_global_permission(Permission::USER_DELETE) {
        store::lock_teams_of(&mut tx, id).await?;
        if let Some(team) = store::list_sole_member_teams(&mut tx, id).await?.first() {
            return Err(Error::forbidden(format!(
                "This user is the last member of the team \"{team}\", so it cannot be removed: remove the team or add a member first."
            )));
        }
    }
    if !store::delete_user(&mut tx, id).await? {
        return Err(Error::not_found("This user is gone."));
    }
    tx.commit().await?;
    core.auth_cache.invalidate_all();
    Ok(())
}

/// Returns the API key of the caller or of another user; creates one if there is none, or if `renew`. Errors:
/// `Forbidden`, also when the other user holds permissions that the caller does not; `NotFound`.
pub(super) async fn get_or_renew_api_key(
    core: &Core,
    call: &RequestContext,
    other: Option<&Email>,
    renew: bool,
) -> Result<Secret, Error> {
    let needed = match renew {
        true => Permission::APIKEY_UPDATE,
        false => Permission::APIKEY_READ,
    };
    let (id, email) = find_or_self(core, call, other, needed).await?;
    let own = matches!(call.actor, Actor::User { id: me, .. } if me == id);
    if !own && first_missing_grant(call, &load_user(core, id).await?.collect_grants()).is_some() {
        return Err(Error::forbidden(
            "You cannot read this user's API key: the user holds permissions that you do not.",
        ));
    }
    match renew {
        true => tokens::renew_api_key(core, call, &email, id).await,
        false => tokens::get_or_create_api_key(core, call, &email, id).await,
    }
}

/// Returns the app quota of a user, to the user and to callers who may read it.
pub(super) async fn find_user_quota(
    core: &Core,
    call: &RequestContext,
    email: &Email,
) -> Result<Quota, Error> {
    let (_, email) = find_user_for(core, call, email, Permission::USER_READ_QUOTA).await?;
    quotas::find_quota(core, QuotaSubject::User(&email)).await
}

/// Sets the app quota of a user. Errors: `Forbidden`, `NotFound`.
pub(super) async fn change_user_quota(
    core: &Core,
    call: &RequestContext,
    email: &Email,
    limit: i32,
) -> Result<(), Error> {
    let found = store::find_account(&core.db, email).await?;
    let email = found.map_or_else(|| email.clone(), |account| account.email);
    call.authorize(Permission::USER_UPDATE_QUOTA, &[user_context(&email)])?;
    quotas::change_limit(core, call, QuotaSubject::User(&email), limit).await
}

/// True if the user holds every permission globally.
pub(super) async fn is_admin(core: &Core, email: &Email) -> Result<bool, Error> {
    let id = store::find_user_id(&core.db, email)
        .await?
        .ok_or_else(|| Error::user_not_found(email))?;
    let grants = load_user(core, id).await?.collect_grants();
    Ok(grants
        .iter()
        .any(|g| g.permission == Permission::ALL.into() && g.context == PermissionContext::global()))
}

/// Logs a warning for each account whose e-mail address an older account has in a different spelling.
pub async fn warn_of_duplicate_emails(core: &Core) -> Result<(), Error> {
    for email in store::list_duplicate_emails(&core.db).await? {
        tracing::warn!(
            email,
            "another account has this e-mail address in a different spelling; this account is found by its exact spelling only"
        );
    }
    Ok(())
}

fn user_event(email: &Email, kind: Permission) -> NewEvent {
    NewEvent::new(
        EventTarget::new(EventTargetKind::User, email),
        kind,
        vec![user_context(email)],
        json!({ "email": email }),
    )
}
