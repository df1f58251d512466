//! Assigning roles to users, team tokens and groups, and dissociating them.

use serde_json::{Value, json};
use sqlx::PgConnection;

use crate::core::Core;
use crate::events::{self, EventTarget, EventTargetKind, NewEvent};
use crate::kernel::error::Error;
use crate::kernel::names::{Email, GroupName, RoleName, TeamTokenName};
use crate::kernel::permission::{ContextKind, Permission, PermissionContext};
use crate::kernel::request_context::RequestContext;
use crate::teams::roles::actions::{check_grantable, commit_and_invalidate, load_role_in_tx};
use crate::teams::roles::model::{ALLOW_ALL, Role, role_event};
use crate::teams::roles::store;
use crate::teams::tokens;
use crate::users::{self, RoleHolder};

/// Who gets or loses a role, as a request names them.
#[derive(Clone, Debug)]
pub(super) enum NamedHolder {
    User(Email),
    TeamToken(TeamTokenName),
    Group(GroupName),
}

impl NamedHolder {
    fn not_found_error(&self) -> Error {
        match self {
            NamedHolder::User(email) => Error::user_not_found(email),
            NamedHolder::TeamToken(name) => Error::team_token_not_found(name),
            NamedHolder::Group(name) => Error::group_not_found(name),
        }
    }

    /// Finds the holder. Errors: `NotFound`; a group is not found before it has been given a role.
    async fn find(&self, tx: &mut PgConnection) -> Result<RoleHolder, Error> {
        let found = match self {
            NamedHolder::User(email) => users::find_user_id(tx, email).await?.map(RoleHolder::User),
            NamedHolder::TeamToken(name) => tokens::find_token_id(tx, name).await?.map(RoleHolder::TeamToken),
            NamedHolder::Group(name) => users::find_group_id(tx, name).await?.map(RoleHolder::Group),
        };
        found.ok_or_else(|| self.not_found_error())
    }

    /// Finds the holder of a new role. Errors: `NotFound` for a user and a token; any name may be that of a
    /// group, because groups come from an outside login.
    async fn find_or_create(&self, tx: &mut PgConnection) -> Result<RoleHolder, Error> {
        match self {
            NamedHolder::Group(name) => Ok(RoleHolder::Group(users::find_or_create_group(tx, name).await?)),
            _ => self.find(tx).await,
        }
    }

    fn event(&self, role: &str, value: &str, kind: Permission) -> NewEvent {
        let data = |holder: &str, name: &str| -> Value {
            let mut data = json!({ "name": role, "context": value });
            data[holder] = json!(name);
            data
        };
        match self {
            NamedHolder::User(email) => role_event(role, kind, data("email", email.as_str()))
                .with_lock(EventTarget::new(EventTargetKind::User, email)),
            NamedHolder::TeamToken(name) => role_event(role, kind, data("token_id", name.as_str())),
            NamedHolder::Group(name) => role_event(role, kind, data("group_name", name.as_str())),
        }
    }
}

/// Assigns a role on an object. Errors: `NotFound` for role or holder; `Invalid` for an unknown object;
/// `Forbidden`, also when the role grants a permission that the caller does not hold on the object.
pub(super) async fn assign_role(
    core: &Core,
    call: &RequestContext,
    name: &RoleName,
    holder: &NamedHolder,
    value: &str,
) -> Result<(), Error> {
    call.authorize(Permission::ROLE_UPDATE_ASSIGN, &[])?;
    let mut tx = core.db.begin().await?;
    let event = holder.event(name.as_str(), value, Permission::ROLE_UPDATE_ASSIGN);
    let (role, on) = begin_change(&mut tx, call, &event, name, value).await?;
    if !store::context_exists(&mut *tx, &on).await? {
        return Err(context_not_found(&on));
    }
    check_grantable(call, &role.grants_on(&on))?;
    let found = holder.find_or_create(&mut tx).await?;
    let is_new = users::assign_role(&mut tx, found, name, &on)
        .await
        .map_err(|error| map_missing_part(error, holder, name, &on))?;
    // Otherwise the holder already has the role, or the object was removed concurrently.
    if !is_new && !store::context_exists(&mut *tx, &on).await? {
        return Err(context_not_found(&on));
    }
    commit_and_invalidate(core, tx).await
}

/// Removes a holder's role on an object. Errors: `NotFound` for role, holder or assignment; `Forbidden`, also
/// for the last administrator.
pub(super) async fn dissociate_role(
    core: &Core,
    call: &RequestContext,
    name: &RoleName,
    holder: &NamedHolder,
    value: &str,
) -> Result<(), Error> {
    call.authorize(Permission::ROLE_UPDATE_DISSOCIATE, &[])?;
    let mut tx = core.db.begin().await?;
    let event = holder.event(name.as_str(), value, Permission::ROLE_UPDATE_DISSOCIATE);
    let (_, on) = begin_change(&mut tx, call, &event, name, value).await?;
    let found = holder.find(&mut tx).await?;
    if let RoleHolder::User(user) = found
        && name.as_str() == ALLOW_ALL
        && users::is_last_admin(&mut tx, user).await?
    {
        return Err(Error::forbidden(
            "This is the last administrator: make another user an administrator first.",
        ));
    }
    if !users::dissociate_role(&mut tx, found, name, &on).await? {
        return Err(Error::not_found(match holder {
            NamedHolder::User(_) => "This user does not hold that role in that context.",
            NamedHolder::TeamToken(_) => "This token does not hold that role in that context.",
            NamedHolder::Group(_) => "This group does not hold that role in that context.",
        }));
    }
    commit_and_invalidate(core, tx).await
}

/// Records the event of a change, and returns the role with the context that the change is about.
async fn begin_change(
    tx: &mut PgConnection,
    call: &RequestContext,
    event: &NewEvent,
    name: &RoleName,
    value: &str,
) -> Result<(Role, PermissionContext), Error> {
    events::record_event(tx, call, event).await?;
    let role = load_role_in_tx(tx, name.as_str()).await?;
    let on = role_context(&role, value)?;
    Ok((role, on))
}

/// Builds the context of an assignment. A global role has no value, whatever the request contains.
fn role_context(role: &Role, value: &str) -> Result<PermissionContext, Error> {
    match (role.kind, value) {
        (ContextKind::Global, _) => Ok(PermissionContext::global()),
        (kind, "") => Err(Error::invalid(format!(
            "The role {:?} is assigned on a {}: send its name as the context.",
            role.name,
            kind.as_str()
        ))),
        (kind, value) => Ok(PermissionContext::new(kind, value)),
    }
}

/// The error of an assignment whose holder, role or object was removed at the same time.
fn map_missing_part(
    error: sqlx::Error,
    holder: &NamedHolder,
    role: &RoleName,
    object: &PermissionContext,
) -> Error {
    let Some(cause) = error
        .as_database_error()
        .filter(|cause| cause.is_foreign_key_violation())
    else {
        return error.into();
    };
    match cause.constraint() {
        Some("user_role_user_id_fkey" | "user_role_team_token_id_fkey" | "user_role_group_id_fkey") => {
            holder.not_found_error()
        }
        Some("user_role_role_fkey") => Error::role_not_found(role),
        _ => context_not_found(object),
    }
}

fn context_not_found(thing: &PermissionContext) -> Error {
    Error::invalid(format!(
        "There is no {} named {:?}.",
        thing.kind.as_str(),
        thing.value
    ))
}
