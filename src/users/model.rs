//! The model of users.

use crate::kernel::error::Error;
use crate::kernel::held_permission::HeldPermission;
use crate::kernel::ids::{GroupId, TeamTokenId, UserId};
use crate::kernel::names::Email;
use crate::kernel::permission::{ContextKind, PermissionContext};
use crate::kernel::request_context::{PermissionGrant, RequestContext};
use crate::kernel::secret::Secret;

/// Who holds a role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoleHolder {
    User(UserId),
    TeamToken(TeamTokenId),
    Group(GroupId),
}

impl RoleHolder {
    /// Returns the id of the holder, of whatever kind.
    pub fn uuid(self) -> uuid::Uuid {
        match self {
            RoleHolder::User(id) => id.0,
            RoleHolder::TeamToken(id) => id.0,
            RoleHolder::Group(id) => id.0,
        }
    }
}

/// A role that is held in a context, with the permissions it grants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldRole {
    pub role: String,
    pub context: PermissionContext,
    pub permissions: Vec<HeldPermission>,
}

/// A user with their roles.
#[derive(Clone, Debug)]
pub struct User {
    pub email: String,
    pub roles: Vec<HeldRole>,
}

impl User {
    /// Returns all grants, without duplicates.
    pub fn collect_grants(&self) -> Vec<PermissionGrant> {
        let mut grants: Vec<PermissionGrant> = Vec::new();
        for holding in &self.roles {
            for permission in &holding.permissions {
                let grant = PermissionGrant {
                    permission: permission.clone(),
                    context: holding.context.clone(),
                };
                if !grants.contains(&grant) {
                    grants.push(grant);
                }
            }
        }
        grants
    }
}

/// The columns of a user that a login needs.
#[derive(Clone, Debug)]
pub(super) struct LoginAccount {
    pub(super) id: UserId,
    /// As spelled when the user was created.
    pub(super) email: Email,
    pub(super) password_hash: String,
}

/// Returns the first of the grants that the caller does not hold; a caller must not grant more than they
/// hold.
pub(crate) fn first_missing_grant<'a>(
    call: &RequestContext,
    grants: &'a [PermissionGrant],
) -> Option<&'a PermissionGrant> {
    grants.iter().find(|grant| !call.holds_grant(grant))
}

/// The length of a password, in bytes (contract/classic 3.1).
const PASSWORD_BYTES: std::ops::RangeInclusive<usize> = 6..=50;

/// Checks the length of a password. Errors: `Invalid`.
pub(super) fn check_password(password: &Secret) -> Result<(), Error> {
    if PASSWORD_BYTES.contains(&password.expose_secret().len()) {
        Ok(())
    } else {
        Err(Error::invalid(
            "A password must have 6 to 50 characters; a non-ASCII character counts as 2 to 4.",
        ))
    }
}

/// Checks the e-mail address of a new user. Errors: `Invalid` for non-ASCII letters, which look alike and are
/// compared in more than one way. Existing users keep theirs.
pub(super) fn check_new_address(email: &Email) -> Result<(), Error> {
    match email.as_str().is_ascii() {
        true => Ok(()),
        false => Err(Error::invalid(
            "An e-mail address must contain ASCII letters only, such as ana@example.com.",
        )),
    }
}

/// Returns the permission context of a user, by the stored e-mail address.
pub(super) fn user_context(email: &Email) -> PermissionContext {
    PermissionContext::new(ContextKind::User, email)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::permission::Permission;

    #[test]
    fn passwords_have_6_to_50_bytes() {
        for (length, good) in [(0, false), (5, false), (6, true), (50, true), (51, false)] {
            let checked = check_password(&Secret::new("x".repeat(length)));
            assert_eq!(checked.is_ok(), good, "{length}");
        }
        assert!(check_password(&Secret::new("é".repeat(26))).is_err());
    }

    #[test]
    fn grant_that_the_caller_lacks_is_found() {
        let held = |permission: Permission, context| PermissionGrant {
            permission: permission.into(),
            context,
        };
        let call = RequestContext {
            grants: vec![held(Permission::TEAM, PermissionContext::for_team("red"))].into(),
            ..RequestContext::new_internal()
        };
        let mine = [held(Permission::TEAM_UPDATE, PermissionContext::for_team("red"))];
        assert!(first_missing_grant(&call, &mine).is_none());
        for theirs in [
            held(Permission::TEAM, PermissionContext::for_team("blue")),
            held(Permission::TEAM, PermissionContext::global()),
            held(Permission::ALL, PermissionContext::for_team("red")),
        ] {
            assert!(first_missing_grant(&call, &[theirs]).is_some());
        }
    }
}
