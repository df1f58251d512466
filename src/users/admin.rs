//! The first administrator.

use serde_json::json;

use crate::config::AuthSettings;
use crate::core::Core;
use crate::db::{Db, listen::Channel};
use crate::events::{self, NewEvent, Target, TargetKind};
use crate::kernel::call::Call;
use crate::kernel::ids::UserId;
use crate::kernel::names::{Email, RoleName};
use crate::kernel::permission::{Context, Permission};
use crate::kernel::problem::Problem;
use crate::kernel::secret::Secret;
use crate::users::model::check_password;
use crate::users::{password, store};

/// The login of an administrator who has just been made; to be shown once.
#[derive(Clone, Debug)]
pub struct Credentials {
    pub email: Email,
    /// `None`: the password is the one in the settings.
    pub password: Option<Secret>,
}

/// Makes sure that there is an administrator, as the settings name them; replicas may start together.
/// `None`: nobody was made, because there is one, or because the named user existed and is one now.
/// Errors: `Invalid` for a password in the settings that cannot be one.
pub async fn ensure_admin(core: &Core) -> Result<Option<Credentials>, Problem> {
    if store::has_admin(&core.db).await? {
        return Ok(None);
    }
    let email = &core.settings.admin.email;
    let set = password_of_settings(core).await?;
    let password = set.clone().unwrap_or_else(make_password);
    check_password(&password)?;
    let hash = password::hash(core, &password).await?;
    let made = make(&core.db, email, &hash, true).await?;
    core.callers.forget();
    Ok(made.then(|| Credentials {
        email: email.clone(),
        password: set.is_none().then_some(password),
    }))
}

/// Makes a user an administrator; if there is no such user, makes the user with this password. For the
/// command line: it needs no running server. True if the user was made. Errors: `Invalid` for a password
/// that cannot be one.
pub async fn create_admin(
    db: &Db,
    auth: &AuthSettings,
    email: &Email,
    password: &Secret,
) -> Result<bool, Problem> {
    check_password(password)?;
    let hash = password::hash_here(auth.hash_memory_kib, password)?;
    make(db, email, &hash, false).await
}

async fn make(db: &Db, email: &Email, hash: &str, only_first: bool) -> Result<bool, Problem> {
    let mut tx = db.begin().await?;
    store::lock_admin(&mut tx).await?;
    if only_first && store::has_admin(&mut *tx).await? {
        return Ok(false);
    }
    let call = Call::internal();
    let found = store::find_id(&mut *tx, email).await?;
    let kind = match found {
        Some(_) => Permission::ROLE_UPDATE_ASSIGN,
        None => Permission::USER_CREATE,
    };
    let target = Target::new(TargetKind::User, email);
    let event = NewEvent::new(
        target,
        kind,
        vec![Context::global()],
        json!({ "role": "AllowAll" }),
    );
    events::record(&mut tx, &call, &event).await?;
    let id = found.unwrap_or_else(UserId::new);
    if found.is_none() {
        store::insert(&mut tx, id, email, hash, -1).await?;
    }
    store::ensure_allow_all(&mut tx).await?;
    store::assign(&mut tx, id, &RoleName::parse("AllowAll")?, "").await?;
    crate::db::notify(&mut tx, Channel::Auth, "").await?;
    tx.commit().await?;
    Ok(found.is_none())
}

async fn password_of_settings(core: &Core) -> Result<Option<Secret>, Problem> {
    let admin = &core.settings.admin;
    if !admin.password.is_empty() {
        return Ok(Some(admin.password.clone()));
    }
    if admin.password_file.as_os_str().is_empty() {
        return Ok(None);
    }
    let text = tokio::fs::read_to_string(&admin.password_file)
        .await
        .map_err(|e| Problem::invalid("The file of admin.password_file cannot be read.").because(e))?;
    Ok(Some(Secret::new(text.trim_end_matches(['\r', '\n']))))
}

/// 96 random bits; a whole `Secret::random` is longer than a password may be.
fn make_password() -> Secret {
    Secret::new(&Secret::random().expose()[..24])
}
