//! Make, change, remove and assign roles.

use serde_json::json;
use sqlx::PgConnection;

use crate::core::Core;
use crate::db::{self, Db, listen::Channel};
use crate::events::{self, Target, TargetKind};
use crate::kernel::call::{Call, Grant};
use crate::kernel::ids::UserId;
use crate::kernel::names::{Email, RoleName};
use crate::kernel::permission::{Context, ContextKind, Permission};
use crate::kernel::problem::Problem;
use crate::teams::roles::model::{ALLOW_ALL, OCCASIONS, Role, check_kind, event};
use crate::teams::roles::store;
use crate::users::{self, beyond};

/// Longest description, in characters.
const MAX_DESCRIPTION: usize = 2000;

/// All roles. Errors: `Forbidden`.
pub(super) async fn list(core: &Core, call: &Call) -> Result<Vec<Role>, Problem> {
    call.allow(Permission::ROLE_READ, &[])?;
    Ok(store::list(&core.db, None).await?)
}

/// One role. Errors: `Forbidden`, `NotFound`.
pub(super) async fn find(core: &Core, call: &Call, name: &str) -> Result<Role, Problem> {
    call.allow(Permission::ROLE_READ, &[])?;
    load(&core.db, name).await
}

/// The roles that are assigned by themselves. Errors: `Forbidden`.
pub(super) async fn list_defaults(core: &Core, call: &Call) -> Result<Vec<Role>, Problem> {
    let mut roles = list(core, call).await?;
    roles.retain(|role| !role.occasions.is_empty());
    Ok(roles)
}

/// Makes an empty role. Errors: `Forbidden`, `Conflict`, `Invalid`.
pub(super) async fn create(
    core: &Core,
    call: &Call,
    name: &RoleName,
    kind: ContextKind,
    description: &str,
) -> Result<(), Problem> {
    call.allow(Permission::ROLE_CREATE, &[])?;
    check_description(description)?;
    let mut tx = core.db.begin().await?;
    let data = json!({ "name": name, "context": kind.as_str() });
    events::record(
        &mut tx,
        call,
        &event(name.as_str(), Permission::ROLE_CREATE, data),
    )
    .await?;
    let inserted = store::insert(&mut tx, name, kind, description).await;
    db::on_constraint(inserted, "role_pkey", taken)?;
    Ok(tx.commit().await?)
}

/// What is to be changed of a role; `None` leaves as it is.
#[derive(Clone, Debug, Default)]
pub(super) struct Change {
    pub(super) name: Option<RoleName>,
    pub(super) kind: Option<ContextKind>,
    pub(super) description: Option<String>,
}

/// Changes a role. Errors: `Forbidden`, `NotFound`, `Conflict`; `Invalid` if its permissions do not fit
/// the new kind; `Precondition` for another kind while it is assigned or a default.
pub(super) async fn update(core: &Core, call: &Call, name: &str, change: Change) -> Result<(), Problem> {
    let mut needed = Vec::new();
    if change.name.is_some() {
        needed.push(Permission::ROLE_UPDATE_NAME);
    }
    if change.kind.is_some() {
        needed.push(Permission::ROLE_UPDATE_CONTEXT_TYPE);
    }
    if change.description.is_some() || needed.is_empty() {
        needed.push(Permission::ROLE_UPDATE_DESCRIPTION);
    }
    for permission in needed {
        call.allow(permission, &[])?;
    }
    let role = load(&core.db, name).await?;
    keep_allow_all(name)?;
    let description = change.description.unwrap_or(role.description);
    check_description(&description)?;
    let kind = change.kind.unwrap_or(role.kind);
    let new_name = change
        .name
        .map_or_else(|| role.name.clone(), |name| name.to_string());
    let mut tx = core.db.begin().await?;
    let data = json!({ "name": new_name, "context": kind.as_str(), "description": description });
    let mut event = event(name, Permission::ROLE_UPDATE, data);
    if new_name != name {
        event = event.locking(Target::new(TargetKind::Role, &new_name));
    }
    events::record(&mut tx, call, &event).await?;
    if kind != role.kind {
        store::lock(&mut tx, name).await?;
        for permission in &reload(&mut tx, name).await?.permissions {
            check_kind(*permission, kind)?;
        }
        if !role.occasions.is_empty() || store::is_assigned(&mut tx, name).await? {
            return Err(Problem::precondition(
                "A role that is assigned to users or assigned by default keeps its context.",
            ));
        }
    }
    let updated = store::update(&mut tx, name, &new_name, kind, &description).await;
    db::on_constraint(updated, "role_pkey", taken)?;
    commit(core, tx).await
}

/// Removes a role that nobody holds. Errors: `Forbidden`, `NotFound`, `Precondition` if it is assigned.
pub(super) async fn remove(core: &Core, call: &Call, name: &str) -> Result<(), Problem> {
    call.allow(Permission::ROLE_DELETE, &[])?;
    load(&core.db, name).await?;
    keep_allow_all(name)?;
    let mut tx = core.db.begin().await?;
    events::record(
        &mut tx,
        call,
        &event(name, Permission::ROLE_DELETE, json!({ "name": name })),
    )
    .await?;
    let deleted = store::delete(&mut tx, name).await;
    let gone = db::on_constraint(deleted, "user_role_role_fkey", || {
        Problem::precondition("Role assigned to users. You cannot remove a role that has users assigned.")
    })?;
    if !gone {
        return Err(unknown());
    }
    commit(core, tx).await
}

/// Adds permissions, which the caller must hold globally, as who holds the role may be anywhere. Errors:
/// `Forbidden`, `NotFound`; `Invalid` for one that its kind cannot have.
pub(super) async fn add_permissions(
    core: &Core,
    call: &Call,
    name: &str,
    permissions: &[Permission],
) -> Result<(), Problem> {
    call.allow(Permission::ROLE_UPDATE_PERMISSION_ADD, &[])?;
    let mut tx = core.db.begin().await?;
    let names: Vec<String> = permissions.iter().map(ToString::to_string).collect();
    let data = json!({ "name": name, "permissions": names });
    let event = event(name, Permission::ROLE_UPDATE_PERMISSION_ADD, data);
    events::record(&mut tx, call, &event).await?;
    store::lock(&mut tx, name).await?;
    let role = reload(&mut tx, name).await?;
    for permission in permissions {
        check_kind(*permission, role.kind)?;
        let everywhere = Grant {
            permission: *permission,
            context: Context::global(),
        };
        may_give(call, &[everywhere])?;
        store::insert_permission(&mut tx, name, *permission).await?;
    }
    commit(core, tx).await
}

/// Takes a permission out of a role; one that is not in it is fine. Errors: `Forbidden`, `NotFound`.
pub(super) async fn remove_permission(
    core: &Core,
    call: &Call,
    name: &str,
    permission: Permission,
) -> Result<(), Problem> {
    call.allow(Permission::ROLE_UPDATE_PERMISSION_REMOVE, &[])?;
    load(&core.db, name).await?;
    keep_allow_all(name)?;
    let mut tx = core.db.begin().await?;
    let data = json!({ "name": name, "permission": permission.to_string() });
    events::record(
        &mut tx,
        call,
        &event(name, Permission::ROLE_UPDATE_PERMISSION_REMOVE, data),
    )
    .await?;
    store::delete_permission(&mut tx, name, permission).await?;
    commit(core, tx).await
}

/// Gives a user a role on a thing. Errors: `NotFound` for role or user; `Invalid` for a thing that is not
/// there; `Forbidden`, also when the role grants what the caller does not hold on it.
pub(super) async fn assign(
    core: &Core,
    call: &Call,
    name: &str,
    email: &Email,
    value: &str,
) -> Result<(), Problem> {
    call.allow(Permission::ROLE_UPDATE_ASSIGN, &[])?;
    let user = find_user(core, email).await?;
    let mut tx = core.db.begin().await?;
    let data = json!({ "name": name, "email": email, "context": value });
    let event =
        event(name, Permission::ROLE_UPDATE_ASSIGN, data).locking(Target::new(TargetKind::User, email));
    events::record(&mut tx, call, &event).await?;
    let role = reload(&mut tx, name).await?;
    let on = thing(&role, value)?;
    if !store::thing_exists(&mut *tx, &on).await? {
        return Err(Problem::invalid(format!(
            "There is no {} named {:?}.",
            on.kind.as_str(),
            on.value
        )));
    }
    may_give(call, &role.grants(&on))?;
    users::assign(&mut tx, user, &RoleName::parse(name)?, &on.value).await?;
    commit(core, tx).await
}

/// Takes a role on a thing away from a user. Errors: `NotFound` for role, user or assignment; `Forbidden`,
/// also for the last administrator.
pub(super) async fn dissociate(
    core: &Core,
    call: &Call,
    name: &str,
    email: &Email,
    value: &str,
) -> Result<(), Problem> {
    call.allow(Permission::ROLE_UPDATE_DISSOCIATE, &[])?;
    let role = load(&core.db, name).await?;
    let on = thing(&role, value)?;
    let user = find_user(core, email).await?;
    let mut tx = core.db.begin().await?;
    let data = json!({ "name": name, "email": email, "context": value });
    let event =
        event(name, Permission::ROLE_UPDATE_DISSOCIATE, data).locking(Target::new(TargetKind::User, email));
    events::record(&mut tx, call, &event).await?;
    if name == ALLOW_ALL && users::is_last_admin(&mut tx, user).await? {
        return Err(Problem::forbidden(
            "This is the last administrator: make somebody else one first.",
        ));
    }
    if !users::dissociate(&mut tx, user, &RoleName::parse(name)?, &on.value).await? {
        return Err(Problem::not_found("This user does not hold that role there."));
    }
    commit(core, tx).await
}

/// Makes roles the defaults of occasions. Errors: `Forbidden`, `NotFound`; `Invalid` for a role of the
/// wrong kind.
pub(super) async fn add_defaults(
    core: &Core,
    call: &Call,
    defaults: &[(String, String)],
) -> Result<(), Problem> {
    call.allow(Permission::ROLE_DEFAULT_CREATE, &[])?;
    let mut tx = core.db.begin().await?;
    for (occasion, name) in defaults {
        let data = json!({ occasion.as_str(): name });
        events::record(&mut tx, call, &event(name, Permission::ROLE_DEFAULT_CREATE, data)).await?;
        store::lock(&mut tx, name).await?;
        let role = reload(&mut tx, name).await?;
        let kind = OCCASIONS
            .iter()
            .find(|(word, _)| word == occasion)
            .map(|(_, kind)| *kind);
        if kind != Some(role.kind) {
            return Err(Problem::invalid(format!(
                "The role {name:?} has the context {}, which does not fit {occasion}.",
                role.kind.as_str()
            )));
        }
        may_give(call, &role.grants(&Context::global()))?;
        store::insert_default(&mut tx, occasion, name).await?;
    }
    Ok(tx.commit().await?)
}

/// Ends defaults; one that is none is fine. Errors: `Forbidden`, `NotFound`.
pub(super) async fn remove_defaults(
    core: &Core,
    call: &Call,
    defaults: &[(String, String)],
) -> Result<(), Problem> {
    call.allow(Permission::ROLE_DEFAULT_DELETE, &[])?;
    let mut tx = core.db.begin().await?;
    for (occasion, name) in defaults {
        reload(&mut tx, name).await?;
        let data = json!({ occasion.as_str(): name });
        events::record(&mut tx, call, &event(name, Permission::ROLE_DEFAULT_DELETE, data)).await?;
        store::delete_default(&mut tx, occasion, name).await?;
    }
    Ok(tx.commit().await?)
}

/// What the default roles of an occasion grant on a thing.
pub(in crate::teams) async fn default_grants(
    core: &Core,
    occasion: &str,
    on: Context,
) -> Result<Vec<Grant>, Problem> {
    let roles = store::list(&core.db, None).await?;
    let defaults = roles
        .iter()
        .filter(|role| role.occasions.iter().any(|o| o == occasion));
    Ok(defaults.flat_map(|role| role.grants(&on)).collect())
}

/// Errors: `Forbidden` if the caller does not hold all of the grants, naming the first.
pub(in crate::teams) fn may_give(call: &Call, grants: &[Grant]) -> Result<(), Problem> {
    match beyond(call, grants) {
        None => Ok(()),
        Some(grant) => Err(Problem::forbidden(format!(
            "User not authorized to use permission {}({} {})",
            grant.permission,
            grant.context.kind.as_str(),
            grant.context.value
        ))),
    }
}

/// What a role is held on. A global role has no value, whatever is sent.
fn thing(role: &Role, value: &str) -> Result<Context, Problem> {
    match (role.kind, value) {
        (ContextKind::Global, _) => Ok(Context::global()),
        (kind, "") => Err(Problem::invalid(format!(
            "The role {:?} is held on a {}: name one.",
            role.name,
            kind.as_str()
        ))),
        (kind, value) => Ok(Context::new(kind, value)),
    }
}

async fn find_user(core: &Core, email: &Email) -> Result<UserId, Problem> {
    users::find_id(&core.db, email)
        .await?
        .ok_or_else(|| Problem::not_found("user not found"))
}

async fn load(db: &Db, name: &str) -> Result<Role, Problem> {
    store::list(db, Some(name)).await?.pop().ok_or_else(unknown)
}

async fn reload(tx: &mut PgConnection, name: &str) -> Result<Role, Problem> {
    store::list(tx, Some(name)).await?.pop().ok_or_else(unknown)
}

/// Commits what changes anybody's permissions.
async fn commit(core: &Core, mut tx: sqlx::Transaction<'_, sqlx::Postgres>) -> Result<(), Problem> {
    db::notify(&mut tx, Channel::Auth, "").await?;
    tx.commit().await?;
    core.callers.forget();
    Ok(())
}

fn keep_allow_all(name: &str) -> Result<(), Problem> {
    match name == ALLOW_ALL {
        true => Err(Problem::forbidden("The role AllowAll stays as it is.")),
        false => Ok(()),
    }
}

fn check_description(description: &str) -> Result<(), Problem> {
    match description.chars().count() <= MAX_DESCRIPTION {
        true => Ok(()),
        false => Err(Problem::invalid("A description has at most 2000 characters.")),
    }
}

fn taken() -> Problem {
    Problem::conflict("role already exists")
}

fn unknown() -> Problem {
    Problem::not_found("role not found")
}
