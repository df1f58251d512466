//! The model of roles.

use crate::events::{EventTarget, EventTargetKind, NewEvent};
use crate::kernel::error::Error;
use crate::kernel::held_permission::HeldPermission;
use crate::kernel::permission::{ContextKind, Permission, PermissionContext};
use crate::kernel::request_context::PermissionGrant;

/// The role that grants everything.
pub(super) const ALLOW_ALL: &str = "AllowAll";

/// A role.
#[derive(Clone, Debug)]
pub(super) struct Role {
    pub(super) name: String,
    pub(super) kind: ContextKind,
    pub(super) description: String,
    pub(super) permissions: Vec<HeldPermission>,
    /// The events at which it is assigned automatically.
    pub(super) default_events: Vec<String>,
}

impl Role {
    /// Returns the grants of the role on an object.
    pub(super) fn grants_on(&self, on: &PermissionContext) -> Vec<PermissionGrant> {
        let grant = |permission: &HeldPermission| PermissionGrant {
            permission: permission.clone(),
            context: on.clone(),
        };
        self.permissions.iter().map(grant).collect()
    }
}

/// Checks that a permission is allowed with a context type. Errors: `Invalid`.
pub(super) fn check_permission_kind(permission: &HeldPermission, kind: ContextKind) -> Result<(), Error> {
    let fixed = permission.fixed().unwrap_or(Permission::SERVICE_ACTION);
    match fixed.allowed_contexts().contains(&kind) {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "permission \"{permission}\" not allowed with context of type \"{}\"",
            kind.as_str()
        ))),
    }
}

/// The events with default roles, and the context type of the roles each accepts.
pub(super) const DEFAULT_ROLE_EVENTS: [(&str, ContextKind); 2] = [
    ("user-create", ContextKind::Global),
    ("team-create", ContextKind::Team),
];

/// Builds an event on a role.
pub(super) fn role_event(role: &str, kind: Permission, data: serde_json::Value) -> NewEvent {
    NewEvent::new(
        EventTarget::new(EventTargetKind::Role, role),
        kind,
        vec![PermissionContext::global()],
        data,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_are_limited_by_the_context_type_of_the_role() {
        for (permission, kind, good) in [
            (Permission::APP_CREATE, ContextKind::Team, true),
            (Permission::APP_CREATE, ContextKind::App, false),
            (Permission::APP_DEPLOY, ContextKind::App, true),
            (Permission::ALL, ContextKind::Global, true),
            (Permission::ALL, ContextKind::Team, false),
        ] {
            assert_eq!(
                check_permission_kind(&permission.into(), kind).is_ok(),
                good,
                "{permission} {kind:?}"
            );
        }
    }
}
