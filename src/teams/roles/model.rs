//! What a role is.

use crate::events::{NewEvent, Target, TargetKind};
use crate::kernel::call::Grant;
use crate::kernel::permission::{Context, ContextKind, Permission};
use crate::kernel::problem::Problem;

/// The role that grants everything.
pub(super) const ALLOW_ALL: &str = "AllowAll";

/// A role.
#[derive(Clone, Debug)]
pub(super) struct Role {
    pub(super) name: String,
    pub(super) kind: ContextKind,
    pub(super) description: String,
    pub(super) permissions: Vec<Permission>,
    /// Occasions on which it is assigned by itself.
    pub(super) occasions: Vec<String>,
}

impl Role {
    /// What holding it on a thing grants.
    pub(super) fn grants(&self, on: &Context) -> Vec<Grant> {
        let grant = |permission: &Permission| Grant {
            permission: *permission,
            context: on.clone(),
        };
        self.permissions.iter().map(grant).collect()
    }
}

/// Errors: `Invalid` for a permission that cannot be held on that kind of thing.
pub(super) fn check_kind(permission: Permission, kind: ContextKind) -> Result<(), Problem> {
    match permission.contexts().contains(&kind) {
        true => Ok(()),
        false => Err(Problem::invalid(format!(
            "permission \"{permission}\" not allowed with context of type \"{}\"",
            kind.as_str()
        ))),
    }
}

/// An occasion and the kind of role that it takes.
pub(super) const OCCASIONS: [(&str, ContextKind); 2] = [
    ("user-create", ContextKind::Global),
    ("team-create", ContextKind::Team),
];

/// An event on a role.
pub(super) fn event(role: &str, kind: Permission, data: serde_json::Value) -> NewEvent {
    NewEvent::new(
        Target::new(TargetKind::Role, role),
        kind,
        vec![Context::global()],
        data,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_holds_only_what_its_kind_can_have() {
        for (permission, kind, good) in [
            (Permission::APP_CREATE, ContextKind::Team, true),
            (Permission::APP_CREATE, ContextKind::App, false),
            (Permission::APP_DEPLOY, ContextKind::App, true),
            (Permission::ALL, ContextKind::Global, true),
            (Permission::ALL, ContextKind::Team, false),
        ] {
            assert_eq!(
                check_kind(permission, kind).is_ok(),
                good,
                "{permission} {kind:?}"
            );
        }
    }
}
