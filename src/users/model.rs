//! What a user is.

use crate::kernel::call::{Call, Grant};
use crate::kernel::ids::UserId;
use crate::kernel::names::Email;
use crate::kernel::permission::{Context, ContextKind, Permission};
use crate::kernel::problem::Problem;
use crate::kernel::secret::Secret;

/// A role on something, held by a user, with what it grants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    pub role: String,
    pub context: Context,
    pub permissions: Vec<Permission>,
}

/// A user with all they hold.
#[derive(Clone, Debug)]
pub struct User {
    pub email: String,
    pub holdings: Vec<Holding>,
}

impl User {
    /// Every permission on every thing, each once.
    pub fn grants(&self) -> Vec<Grant> {
        let mut grants: Vec<Grant> = Vec::new();
        for holding in &self.holdings {
            for permission in &holding.permissions {
                let grant = Grant {
                    permission: *permission,
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

/// What a login needs of a user.
#[derive(Clone, Debug)]
pub(super) struct Account {
    pub(super) id: UserId,
    pub(super) password_hash: String,
}

/// The first of the grants that the caller does not hold; giving it away would raise somebody above them.
pub(crate) fn beyond<'a>(call: &Call, grants: &'a [Grant]) -> Option<&'a Grant> {
    grants
        .iter()
        .find(|grant| !call.may(grant.permission, std::slice::from_ref(&grant.context)))
}

/// The length that a password may have, in bytes (contract/classic 3.1).
const PASSWORD_BYTES: std::ops::RangeInclusive<usize> = 6..=50;

/// Errors: `Invalid` for a password of the wrong length.
pub(super) fn check_password(password: &Secret) -> Result<(), Problem> {
    if PASSWORD_BYTES.contains(&password.expose().len()) {
        Ok(())
    } else {
        Err(Problem::invalid("A password has 6 to 50 characters."))
    }
}

/// A user as the context of a permission.
pub(super) fn context(email: &Email) -> Context {
    Context::new(ContextKind::User, email)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_have_6_to_50_bytes() {
        for (length, good) in [(0, false), (5, false), (6, true), (50, true), (51, false)] {
            let checked = check_password(&Secret::new("x".repeat(length)));
            assert_eq!(checked.is_ok(), good, "{length}");
        }
        assert!(check_password(&Secret::new("é".repeat(26))).is_err());
    }

    #[test]
    fn what_the_caller_lacks_is_beyond_them() {
        let held = |permission, context| Grant { permission, context };
        let call = Call {
            grants: vec![held(Permission::TEAM, Context::team("red"))].into(),
            ..Call::internal()
        };
        let mine = [held(Permission::TEAM_UPDATE, Context::team("red"))];
        assert!(beyond(&call, &mine).is_none());
        for theirs in [
            held(Permission::TEAM, Context::team("blue")),
            held(Permission::TEAM, Context::global()),
            held(Permission::ALL, Context::team("red")),
        ] {
            assert!(beyond(&call, &[theirs]).is_some());
        }
    }
}
