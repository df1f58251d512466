//! Creation of the first administrator.

use serde_json::json;

use crate::config::AuthSettings;
use crate::core::Core;
use crate::db::Db;
use crate::events::{self, EventTarget, EventTargetKind, NewEvent};
use crate::kernel::error::Error;
use crate::kernel::ids::UserId;
use crate::kernel::names::{Email, RoleName};
use crate::kernel::permission::{Permission, PermissionContext};
use crate::kernel::request_context::RequestContext;
use crate::kernel::secret::Secret;
use crate::users::held_roles::store::assign_role;
use crate::users::model::{RoleHolder, check_new_address, check_password};
use crate::users::password::HashPurpose;
use crate::users::{password, store};

/// The credentials of a newly created administrator; shown once.
#[derive(Clone, Debug)]
pub struct AdminCredentials {
    pub email: Email,
    /// `None`: the password is the one from the settings.
    pub password: Option<Secret>,
}

/// Ensures that there is an administrator, as configured; safe when replicas start together. Returns `None`
/// if no user was created, because there is an administrator or because the named user existed and was made
/// one. Errors: `Invalid` for a password in the settings that breaks the rules.
pub async fn ensure_admin(core: &Core) -> Result<Option<AdminCredentials>, Error> {
    if store::has_admin(&core.db).await? {
        return Ok(None);
    }
    let email = &core.settings.admin.email;
    let set = configured_password(core).await?;
    let password = set.clone().unwrap_or_else(generate_password);
    check_password(&password)?;
    let hash = password::hash_password(
        core,
        &RequestContext::new_internal(),
        HashPurpose::Login,
        &password,
    )
    .await?;
    let made = make_admin(&core.db, email, &hash, true).await?;
    core.auth_cache.invalidate_all();
    Ok(made.then(|| AdminCredentials {
        email: email.clone(),
        password: set.is_none().then_some(password),
    }))
}

/// Makes a user an administrator; creates the user with this password if there is none. For the command line:
/// it needs no running server. Returns true if the user was created. Errors: `Invalid` for a password that
/// breaks the rules.
pub async fn create_admin(
    db: &Db,
    auth: &AuthSettings,
    email: &Email,
    password: &Secret,
) -> Result<bool, Error> {
    check_password(password)?;
    let hash = password::hash_on_this_thread(auth.hash_memory_kib, password)?;
    make_admin(db, email, &hash, false).await
}

async fn make_admin(db: &Db, email: &Email, hash: &str, only_first: bool) -> Result<bool, Error> {
    let mut tx = db.begin().await?;
    store::lock_admin(&mut tx).await?;
    if only_first && store::has_admin(&mut *tx).await? {
        return Ok(false);
    }
    let call = RequestContext::new_internal();
    let found = store::find_user_id(&mut *tx, email).await?;
    let kind = match found {
        Some(_) => Permission::ROLE_UPDATE_ASSIGN,
        None => Permission::USER_CREATE,
    };
    let target = EventTarget::new(EventTargetKind::User, email);
    let event = NewEvent::new(
        target,
        kind,
        vec![PermissionContext::global()],
        json!({ "role": "AllowAll" }),
    )
    .ignore_blocks();
    events::record_event(&mut tx, &call, &event).await?;
    let id = found.unwrap_or_else(UserId::new);
    if found.is_none() {
        check_new_address(email)?;
        store::insert_user(&mut tx, id, email, hash, -1).await?;
    }
    store::ensure_allow_all(&mut tx).await?;
    assign_role(
        &mut tx,
        RoleHolder::User(id),
        &RoleName::parse("AllowAll")?,
        &PermissionContext::global(),
    )
    .await?;
    tx.commit().await?;
    Ok(found.is_none())
}

async fn configured_password(core: &Core) -> Result<Option<Secret>, Error> {
    let admin = &core.settings.admin;
    if !admin.password.is_empty() {
        return Ok(Some(admin.password.clone()));
    }
    if admin.password_file.as_os_str().is_empty() {
        return Ok(None);
    }
    let text = tokio::fs::read_to_string(&admin.password_file)
        .await
        .map_err(|e| Error::invalid("Cannot read the file named by admin.password_file.").with_source(e))?;
    Ok(Some(Secret::new(text.trim_end_matches(['\r', '\n']))))
}

/// 96 random bits; a whole `Secret::random_hex` is longer than a password may be.
fn generate_password() -> Secret {
    Secret::new(&Secret::random_hex().expose_secret()[..24])
}
