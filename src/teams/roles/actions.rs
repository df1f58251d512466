//! Use cases of roles: create, update, remove; permissions; default roles.

use serde_json::json;
use sqlx::PgConnection;

use crate::core::Core;
use crate::db::{self, Db, notices::NoticeChannel};
use crate::events::{self, EventTarget, EventTargetKind};
use crate::kernel::error::Error;
use crate::kernel::held_permission::HeldPermission;
use crate::kernel::names::RoleName;
use crate::kernel::permission::{ContextKind, Permission, PermissionContext, SERVICE_ACTION_PREFIX};
use crate::kernel::request_context::{PermissionGrant, RequestContext};
use crate::teams::roles::model::{ALLOW_ALL, DEFAULT_ROLE_EVENTS, Role, check_permission_kind, role_event};
use crate::teams::roles::store;
use crate::users::first_missing_grant;

/// The maximum length of a description, in characters.
const MAX_DESCRIPTION: usize = 2000;

/// Returns all roles. Errors: `Forbidden`.
pub(super) async fn list_roles(core: &Core, call: &RequestContext) -> Result<Vec<Role>, Error> {
    call.authorize(Permission::ROLE_READ, &[])?;
    Ok(store::list_roles(&core.db, None).await?)
}

/// Returns one role. Errors: `Forbidden`, `NotFound`.
pub(super) async fn find_role(core: &Core, call: &RequestContext, name: &str) -> Result<Role, Error> {
    call.authorize(Permission::ROLE_READ, &[])?;
    load_role(&core.db, name).await
}

/// Returns the roles that are assigned by default. Errors: `Forbidden`.
pub(super) async fn list_default_roles(core: &Core, call: &RequestContext) -> Result<Vec<Role>, Error> {
    let mut roles = list_roles(core, call).await?;
    roles.retain(|role| !role.default_events.is_empty());
    Ok(roles)
}

/// Creates a role without permissions. Errors: `Forbidden`, `Conflict`, `Invalid`.
pub(super) async fn create_role(
    core: &Core,
    call: &RequestContext,
    name: &RoleName,
    kind: ContextKind,
    description: &str,
) -> Result<(), Error> {
    call.authorize(Permission::ROLE_CREATE, &[])?;
    check_description(description)?;
    let mut tx = core.db.begin().await?;
    let data = json!({ "name": name, "context": kind.as_str() });
    events::record_event(
        &mut tx,
        call,
        &role_event(name.as_str(), Permission::ROLE_CREATE, data),
    )
    .await?;
    let inserted = store::insert_role(&mut tx, name, kind, description).await;
    db::map_constraint_violation(inserted, "role_pkey", role_exists_error)?;
    Ok(tx.commit().await?)
}

/// The changes to a role; `None` leaves a value unchanged.
#[derive(Clone, Debug, Default)]
pub(super) struct RoleChange {
    pub(super) name: Option<RoleName>,
    pub(super) kind: Option<ContextKind>,
    pub(super) description: Option<String>,
}

/// Updates a role. Errors: `Forbidden`, `NotFound`, `Conflict`; `Invalid` if its permissions are not allowed
/// with the new context type; `Precondition` for a new context type while the role is assigned or a default
/// role.
pub(super) async fn update_role(
    core: &Core,
    call: &RequestContext,
    name: &str,
    change: RoleChange,
) -> Result<(), Error> {
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
        call.authorize(permission, &[])?;
    }
    check_description(change.description.as_deref().unwrap_or_default())?;
    let new_name = change.name.as_ref().map_or(name, RoleName::as_str);
    let mut tx = core.db.begin().await?;
    let data = json!({
        "name": new_name, "context": change.kind.map(ContextKind::as_str), "description": change.description,
    });
    let mut event = role_event(name, Permission::ROLE_UPDATE, data);
    if new_name != name {
        event = event.with_lock(EventTarget::new(EventTargetKind::Role, new_name));
    }
    events::record_event(&mut tx, call, &event).await?;
    // Read under the lock, so that a concurrent change is not overwritten with old values.
    let role = lock_and_load_role(&mut tx, name).await?;
    refuse_allow_all(name)?;
    let kind = change.kind.unwrap_or(role.kind);
    if kind != role.kind {
        for permission in &role.permissions {
            check_permission_kind(permission, kind)?;
        }
        if !role.default_events.is_empty() || store::is_role_assigned(&mut tx, name).await? {
            return Err(Error::precondition(
                "A role that is assigned to users or assigned by default cannot change its context type.",
            ));
        }
    }
    let description = change.description.unwrap_or(role.description);
    let updated = store::update_role(&mut tx, name, new_name, kind, &description).await;
    db::map_constraint_violation(updated, "role_pkey", role_exists_error)?;
    commit_and_invalidate(core, tx).await
}

/// Removes a role that no user holds. Errors: `Forbidden`, `NotFound`, `Precondition` if it is assigned.
pub(super) async fn remove_role(core: &Core, call: &RequestContext, name: &str) -> Result<(), Error> {
    call.authorize(Permission::ROLE_DELETE, &[])?;
    load_role(&core.db, name).await?;
    refuse_allow_all(name)?;
    let mut tx = core.db.begin().await?;
    events::record_event(
        &mut tx,
        call,
        &role_event(name, Permission::ROLE_DELETE, json!({ "name": name })),
    )
    .await?;
    let deleted = store::delete_role(&mut tx, name).await;
    let gone = db::map_constraint_violation(deleted, "user_role_role_fkey", || {
        Error::precondition("Role assigned to users. You cannot remove a role that has users assigned.")
    })?;
    if !gone {
        return Err(Error::role_not_found(name));
    }
    commit_and_invalidate(core, tx).await
}

/// Adds permissions to a role, given by their paths. The caller must hold them globally, because the role may be
/// assigned on any object. Errors: `Forbidden`, `NotFound`; `Invalid` for an unknown permission, and for one that
/// is not allowed with the role's context type.
pub(super) async fn add_permissions(
    core: &Core,
    call: &RequestContext,
    name: &str,
    paths: &[String],
) -> Result<(), Error> {
    call.authorize(Permission::ROLE_UPDATE_PERMISSION_ADD, &[])?;
    let mut tx = core.db.begin().await?;
    let data = json!({ "name": name, "permissions": paths });
    let event = role_event(name, Permission::ROLE_UPDATE_PERMISSION_ADD, data);
    events::record_event(&mut tx, call, &event).await?;
    let role = lock_and_load_role(&mut tx, name).await?;
    for path in paths {
        let permission = find_permission(&mut tx, path).await?;
        check_permission_kind(&permission, role.kind)?;
        let everywhere = PermissionGrant {
            permission: permission.clone(),
            context: PermissionContext::global(),
        };
        check_grantable(call, &[everywhere])?;
        match &permission {
            HeldPermission::Fixed(fixed) => store::insert_permission(&mut tx, name, *fixed).await?,
            HeldPermission::ServiceAction(action) => {
                store::insert_service_action(&mut tx, name, action).await?;
            }
        }
    }
    commit_and_invalidate(core, tx).await
}

/// Finds a permission by its path: one of the tree, or one or more actions of a service whose manifest is
/// enabled. The service stays locked against a new manifest. Errors: `Invalid`.
async fn find_permission(tx: &mut PgConnection, path: &str) -> Result<HeldPermission, Error> {
    if !path.starts_with(SERVICE_ACTION_PREFIX) {
        return Permission::parse(path).map(HeldPermission::Fixed);
    }
    store::lock_services_of_path(tx, path).await?;
    let mut found = store::find_service_actions(tx, path).await?;
    match (found.pop(), found.pop()) {
        (Some(action), None) => Ok(HeldPermission::ServiceAction(action)),
        (None, _) => Err(Error::permission_not_found(path)),
        (Some(one), Some(other)) => Err(Error::invalid(format!(
            "{path:?} may mean an action of the service {} or of {}: rename one of the actions.",
            one.service_name, other.service_name
        ))),
    }
}

/// Removes a permission from a role, given by its path; succeeds if the role does not have it. Errors:
/// `Forbidden`, `NotFound`; `Invalid` for an unknown permission.
pub(super) async fn remove_permission(
    core: &Core,
    call: &RequestContext,
    name: &str,
    path: &str,
) -> Result<(), Error> {
    call.authorize(Permission::ROLE_UPDATE_PERMISSION_REMOVE, &[])?;
    load_role(&core.db, name).await?;
    refuse_allow_all(name)?;
    let mut tx = core.db.begin().await?;
    let data = json!({ "name": name, "permission": path });
    events::record_event(
        &mut tx,
        call,
        &role_event(name, Permission::ROLE_UPDATE_PERMISSION_REMOVE, data),
    )
    .await?;
    match path.starts_with(SERVICE_ACTION_PREFIX) {
        true => store::delete_service_action(&mut tx, name, path).await?,
        false => store::delete_permission(&mut tx, name, Permission::parse(path)?).await?,
    }
    commit_and_invalidate(core, tx).await
}

/// Returns the actions that services offer, as pairs of service and action, sorted; those of restricted services
/// only for callers who may read roles.
pub(super) async fn list_service_actions(
    core: &Core,
    call: &RequestContext,
) -> Result<Vec<(String, String)>, Error> {
    let with_restricted = call.has_global_permission(Permission::ROLE_READ);
    Ok(store::list_service_actions(&core.db, with_restricted).await?)
}

/// Makes roles the default roles of events. Errors: `Forbidden`, `NotFound`; `Invalid` for a role of the
/// wrong context type.
pub(super) async fn add_default_roles(
    core: &Core,
    call: &RequestContext,
    defaults: &[(String, String)],
) -> Result<(), Error> {
    call.authorize(Permission::ROLE_DEFAULT_CREATE, &[])?;
    let mut tx = core.db.begin().await?;
    for (event, name) in defaults {
        let data = json!({ event.as_str(): name });
        events::record_event(
            &mut tx,
            call,
            &role_event(name, Permission::ROLE_DEFAULT_CREATE, data),
        )
        .await?;
        let role = lock_and_load_role(&mut tx, name).await?;
        let kind = DEFAULT_ROLE_EVENTS
            .iter()
            .find(|(word, _)| word == event)
            .map(|(_, kind)| *kind);
        if kind != Some(role.kind) {
            return Err(Error::invalid(format!(
                "The role {name:?} has the context type {}, which {event} does not accept.",
                role.kind.as_str()
            )));
        }
        check_grantable(call, &role.grants_on(&PermissionContext::global()))?;
        store::insert_default_role(&mut tx, event, name).await?;
    }
    Ok(tx.commit().await?)
}

/// Removes default roles; succeeds if a role is not a default. Errors: `Forbidden`, `NotFound`.
pub(super) async fn remove_default_roles(
    core: &Core,
    call: &RequestContext,
    defaults: &[(String, String)],
) -> Result<(), Error> {
    call.authorize(Permission::ROLE_DEFAULT_DELETE, &[])?;
    let mut tx = core.db.begin().await?;
    for (event, name) in defaults {
        load_role_in_tx(&mut tx, name).await?;
        let data = json!({ event.as_str(): name });
        events::record_event(
            &mut tx,
            call,
            &role_event(name, Permission::ROLE_DEFAULT_DELETE, data),
        )
        .await?;
        store::delete_default_role(&mut tx, event, name).await?;
    }
    Ok(tx.commit().await?)
}

/// Returns true if a role is assigned automatically at this event.
pub(in crate::teams) async fn has_default_role(tx: &mut PgConnection, event: &str) -> Result<bool, Error> {
    let roles = store::list_roles(tx, None).await?;
    Ok(roles
        .iter()
        .any(|role| role.default_events.iter().any(|o| o == event)))
}

/// Returns the permissions that these roles grant on an object.
pub(in crate::teams) async fn list_role_grants(
    tx: &mut PgConnection,
    names: &[String],
    on: &PermissionContext,
) -> Result<Vec<PermissionGrant>, Error> {
    let roles = store::list_roles(tx, None).await?;
    let named = roles.iter().filter(|role| names.contains(&role.name));
    Ok(named.flat_map(|role| role.grants_on(on)).collect())
}

/// Checks that the caller holds all of the grants. Errors: `Forbidden`; the message names the first missing
/// one.
pub(in crate::teams) fn check_grantable(
    call: &RequestContext,
    grants: &[PermissionGrant],
) -> Result<(), Error> {
    match first_missing_grant(call, grants) {
        None => Ok(()),
        Some(grant) => Err(Error::forbidden(format!(
            "User not authorized to use permission {}({} {})",
            grant.permission,
            grant.context.kind.as_str(),
            grant.context.value
        ))),
    }
}

async fn load_role(db: &Db, name: &str) -> Result<Role, Error> {
    store::list_roles(db, Some(name))
        .await?
        .pop()
        .ok_or_else(|| Error::role_not_found(name))
}

/// Locks a role until the transaction ends, so that it cannot be changed or assigned, and loads it.
async fn lock_and_load_role(tx: &mut PgConnection, name: &str) -> Result<Role, Error> {
    store::lock_role(tx, name).await?;
    load_role_in_tx(tx, name).await
}

pub(super) async fn load_role_in_tx(tx: &mut PgConnection, name: &str) -> Result<Role, Error> {
    store::list_roles(tx, Some(name))
        .await?
        .pop()
        .ok_or_else(|| Error::role_not_found(name))
}

/// Commits a transaction that changes permissions and invalidates the cached identities.
pub(super) async fn commit_and_invalidate(
    core: &Core,
    mut tx: sqlx::Transaction<'_, sqlx::Postgres>,
) -> Result<(), Error> {
    db::send_notice(&mut tx, NoticeChannel::Auth, "").await?;
    tx.commit().await?;
    core.auth_cache.invalidate_all();
    Ok(())
}

fn refuse_allow_all(name: &str) -> Result<(), Error> {
    match name == ALLOW_ALL {
        true => Err(Error::forbidden("The role AllowAll cannot be changed.")),
        false => Ok(()),
    }
}

fn check_description(description: &str) -> Result<(), Error> {
    match description.chars().count() <= MAX_DESCRIPTION {
        true => Ok(()),
        false => Err(Error::invalid("A description has at most 2000 characters.")),
    }
}

fn role_exists_error() -> Error {
    Error::conflict("role already exists")
}
