//! Create, look up, change the password, remove; and what belongs to one user alone.

use serde_json::json;

use crate::core::Core;
use crate::db::{self, listen::Channel};
use crate::events::{self, NewEvent, Target, TargetKind};
use crate::kernel::call::{Actor, Call};
use crate::kernel::ids::UserId;
use crate::kernel::names::Email;
use crate::kernel::permission::{Context, ContextKind, Permission};
use crate::kernel::problem::Problem;
use crate::kernel::secret::Secret;
use crate::quotas::{self, Quota, Subject};
use crate::users::model::{User, beyond, check_password, context};
use crate::users::{login, password, store, tokens};

/// Makes a user. Anybody may while registration is open, else who holds `user.create`. Errors:
/// `Unauthenticated`, `Forbidden`, `Invalid`, `Conflict` for a taken address.
pub async fn create(core: &Core, call: &Call, email: &Email, password: &Secret) -> Result<(), Problem> {
    let auth = &core.settings.auth;
    if !auth.is_registration_open(core.settings.api.listen) {
        if call.actor == Actor::Nobody {
            return Err(Problem::unauthenticated(
                "Registration is closed: ask an administrator to create your user.",
            ));
        }
        call.allow(Permission::USER_CREATE, &[])?;
    }
    check_password(password)?;
    let hash = password::hash(core, password).await?;
    let id = UserId::new();
    let mut tx = core.db.begin().await?;
    events::record(&mut tx, call, &event(email, Permission::USER_CREATE)).await?;
    db::on_constraint(
        store::insert(&mut tx, id, email, &hash, core.settings.quota.apps_per_user).await,
        "user_account_email_key",
        || Problem::conflict("this email is already registered"),
    )?;
    store::assign_defaults(&mut tx, id, "user-create", "").await?;
    Ok(tx.commit().await?)
}

/// Which users; empty texts do not narrow.
#[derive(Clone, Debug, Default)]
pub struct Find {
    pub email: String,
    pub role: String,
    /// Value of the context in which a role is held.
    pub context: String,
}

/// The users that the caller may read. Errors: `Forbidden` if they may read none.
pub async fn find(core: &Core, call: &Call, wanted: Find) -> Result<Vec<User>, Problem> {
    let reach = call.reach(Permission::USER_READ, ContextKind::User);
    if reach.as_ref().is_some_and(Vec::is_empty) {
        return Err(Problem::forbidden("You don't have permission to do this action"));
    }
    let emails = match (reach, wanted.email) {
        (reach, email) if email.is_empty() => reach,
        (None, email) => Some(vec![email]),
        (Some(reach), email) => Some(reach.into_iter().filter(|e| *e == email).collect()),
    };
    let filter = store::Filter {
        emails,
        role: wanted.role,
        context: wanted.context,
    };
    Ok(store::list(&core.db, &filter).await?)
}

/// The caller. Errors: `Forbidden` for who is no user.
pub(super) async fn me(core: &Core, call: &Call) -> Result<User, Problem> {
    let (_, email) = call.user()?;
    load(core, email).await
}

async fn load(core: &Core, email: &Email) -> Result<User, Problem> {
    let filter = store::Filter {
        emails: Some(vec![email.to_string()]),
        ..store::Filter::default()
    };
    let mut users = store::list(&core.db, &filter).await?;
    users.pop().ok_or_else(unknown)
}

/// Changes the caller's password; their sessions go on. Errors: `Forbidden` for a wrong old one, which
/// counts as a failed login; `Invalid` for a new one that cannot be one.
pub(super) async fn change_password(
    core: &Core,
    call: &Call,
    old: &Secret,
    new: &Secret,
) -> Result<(), Problem> {
    let (_, email) = call.user()?;
    let account = store::find_account(&core.db, email).await?.ok_or_else(unknown)?;
    let wrong = || Problem::forbidden("the given password didn't match the user's current password");
    let tried = login::verified(core, call, email, &account, old)
        .await?
        .ok_or_else(wrong)?;
    check_password(new)?;
    let hash = password::hash(core, new).await?;
    let mut tx = core.db.begin().await?;
    events::record(&mut tx, call, &event(email, Permission::USER_UPDATE_PASSWORD)).await?;
    if !store::update_password(&mut tx, account.id, &account.password_hash, &hash).await? {
        return Err(wrong());
    }
    tried.forgive(&mut tx).await?;
    Ok(tx.commit().await?)
}

/// Removes the caller, or another user whom they may delete. Errors: `NotFound`; `Forbidden`, also when
/// a team would be left without members, whose name it says.
pub(super) async fn remove(core: &Core, call: &Call, other: Option<&Email>) -> Result<(), Problem> {
    let email = match other {
        Some(email) => email,
        None => call.user()?.1,
    };
    if !is_self(call, email) {
        call.allow(Permission::USER_DELETE, &[context(email)])?;
    }
    let id = store::find_id(&core.db, email).await?.ok_or_else(unknown)?;
    let mut tx = core.db.begin().await?;
    events::record(&mut tx, call, &event(email, Permission::USER_DELETE)).await?;
    if store::is_last_admin(&mut tx, id).await? {
        return Err(Problem::forbidden(
            "This is the last administrator: make somebody else one first.",
        ));
    }
    store::lock_teams_of(&mut tx, id).await?;
    if let Some(team) = store::list_teams_only_of(&mut tx, id).await?.first() {
        return Err(Problem::forbidden(format!(
            "This user is the last member of the team \"{team}\", so it cannot be removed: remove the team or add a member first."
        )));
    }
    store::delete_roles_on(&mut tx, &context(email)).await?;
    if !store::delete(&mut tx, id).await? {
        return Err(unknown());
    }
    db::notify(&mut tx, Channel::Auth, "").await?;
    tx.commit().await?;
    core.callers.forget();
    Ok(())
}

/// The API key of the caller or of another user; made if there is none, or if `renew`. Errors:
/// `Forbidden`, also when the other holds more than the caller; `NotFound`.
pub(super) async fn api_key(
    core: &Core,
    call: &Call,
    other: Option<&Email>,
    renew: bool,
) -> Result<Secret, Problem> {
    let email = match other {
        Some(email) => email,
        None => call.user()?.1,
    };
    if !is_self(call, email) {
        let needed = if renew {
            Permission::APIKEY_UPDATE
        } else {
            Permission::APIKEY_READ
        };
        call.allow(needed, &[context(email)])?;
        if beyond(call, &load(core, email).await?.grants()).is_some() {
            return Err(Problem::forbidden(
                "This user holds permissions that you do not, so their key is not for you.",
            ));
        }
    }
    let id = store::find_id(&core.db, email).await?.ok_or_else(unknown)?;
    match renew {
        true => tokens::renew_api_key(core, call, email, id).await,
        false => tokens::api_key(core, call, email, id).await,
    }
}

/// A user's quota of apps, for themselves and who may read it.
pub(super) async fn quota(core: &Core, call: &Call, email: &Email) -> Result<Quota, Problem> {
    if !is_self(call, email) {
        call.allow(Permission::USER_READ_QUOTA, &[context(email)])?;
    }
    quotas::find(core, Subject::User(email)).await
}

/// Sets a user's limit of apps. Errors: `Forbidden`, `NotFound`.
pub(super) async fn change_quota(core: &Core, call: &Call, email: &Email, limit: i32) -> Result<(), Problem> {
    call.allow(Permission::USER_UPDATE_QUOTA, &[context(email)])?;
    quotas::change(core, call, Subject::User(email), limit).await
}

/// True if the user may do everything, everywhere.
pub(super) async fn is_admin(core: &Core, email: &Email) -> Result<bool, Problem> {
    let grants = load(core, email).await?.grants();
    Ok(grants
        .iter()
        .any(|g| g.permission == Permission::ALL && g.context == Context::global()))
}

/// True if the call is by this very user.
pub(super) fn is_self(call: &Call, email: &Email) -> bool {
    matches!(&call.actor, Actor::User { email: me, .. } if me == email)
}

fn event(email: &Email, kind: Permission) -> NewEvent {
    NewEvent::new(
        Target::new(TargetKind::User, email),
        kind,
        vec![context(email)],
        json!({ "email": email }),
    )
}

fn unknown() -> Problem {
    Problem::not_found("user not found")
}
