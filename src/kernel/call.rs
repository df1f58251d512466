//! Who is asking, by which token, from where, and what they may do.
//!
//! An action gets a `Call` and asks it with `allow` about the things it has loaded. The table of
//! routes has already seen to it that there is a caller at all.

use std::sync::Arc;

use crate::kernel::ids::{AppId, UserId};
use crate::kernel::names::{AppName, Email, TeamName};
use crate::kernel::permission::{Context, ContextKind, Permission};
use crate::kernel::problem::Problem;

/// Who acts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Actor {
    /// Nobody has logged in.
    Nobody,
    /// A user, by a session or an API key.
    User { id: UserId, email: Email },
    /// An app, by its own token (classic 0.2).
    App { id: AppId, name: AppName },
    /// Tancho itself: reconcilers, start-up.
    Internal,
}

/// By what a caller has shown who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// By nothing: nobody has logged in.
    None,
    Session,
    ApiKey,
    /// The private half of an SSH key.
    SshKey,
    App,
    /// By a password, sent along with the request itself.
    Password,
    /// Tancho itself needs no token.
    Internal,
}

impl TokenKind {
    /// The word in the tables of tokens and events.
    pub fn as_str(self) -> &'static str {
        match self {
            TokenKind::None => "none",
            TokenKind::Session => "session",
            TokenKind::ApiKey => "api-key",
            TokenKind::SshKey => "ssh-key",
            TokenKind::App => "app",
            TokenKind::Password => "password",
            TokenKind::Internal => "internal",
        }
    }
}

/// One permission on one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    pub permission: Permission,
    pub context: Context,
}

/// See the module. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Call {
    pub actor: Actor,
    pub grants: Arc<[Grant]>,
    pub token_kind: TokenKind,
    /// The digest of the token in use, for logging out.
    pub token_digest: Option<[u8; 32]>,
    /// The request's id, in every log line and event.
    pub request_id: Arc<str>,
    /// The caller's address, as text; empty for Tancho itself.
    pub source_ip: Arc<str>,
}

impl Call {
    /// Tancho's own doing; may do everything.
    pub fn internal() -> Self {
        Self {
            actor: Actor::Internal,
            grants: Arc::new([Grant {
                permission: Permission::ALL,
                context: Context::global(),
            }]),
            token_kind: TokenKind::Internal,
            token_digest: None,
            request_id: Arc::from("internal"),
            source_ip: Arc::from(""),
        }
    }

    /// True if the caller holds the permission globally or in one of the contexts.
    pub fn may(&self, permission: Permission, on: &[Context]) -> bool {
        self.grants.iter().any(|grant| {
            grant.permission.covers(permission)
                && (grant.context.kind == ContextKind::Global || on.contains(&grant.context))
        })
    }

    /// True if the caller holds the permission in any context whatever.
    pub fn may_somewhere(&self, permission: Permission) -> bool {
        self.grants
            .iter()
            .any(|grant| grant.permission.covers(permission))
    }

    /// True if the caller holds the permission on everything.
    pub fn may_globally(&self, permission: Permission) -> bool {
        self.may(permission, &[])
    }

    /// Refuses with 403 what `may` denies.
    pub fn allow(&self, permission: Permission, on: &[Context]) -> Result<(), Problem> {
        if self.may(permission, on) {
            Ok(())
        } else {
            Err(Problem::forbidden("You don't have permission to do this action."))
        }
    }

    /// The names of one kind on which the caller holds the permission; `None` if on all of them.
    pub fn reach(&self, permission: Permission, kind: ContextKind) -> Option<Vec<String>> {
        if self.may_globally(permission) {
            return None;
        }
        let mut names: Vec<String> = self
            .grants
            .iter()
            .filter(|grant| grant.context.kind == kind && grant.permission.covers(permission))
            .map(|grant| grant.context.value.clone())
            .collect();
        names.sort();
        names.dedup();
        Some(names)
    }

    /// The teams the caller belongs to: those on which they hold any permission.
    pub fn teams(&self) -> Vec<TeamName> {
        let mut teams: Vec<TeamName> = self
            .grants
            .iter()
            .filter(|grant| grant.context.kind == ContextKind::Team)
            .filter_map(|grant| TeamName::parse(&grant.context.value).ok())
            .collect();
        teams.sort();
        teams.dedup();
        teams
    }

    /// An administrator: everything, everywhere.
    pub fn is_admin(&self) -> bool {
        self.may_globally(Permission::ALL)
    }

    /// The user behind the call. Errors: `Forbidden` for an app's token and for nobody.
    pub fn user(&self) -> Result<(UserId, &Email), Problem> {
        match &self.actor {
            Actor::User { id, email } => Ok((*id, email)),
            _ => Err(Problem::forbidden(
                "Only a user can do this: log in with an e-mail address and a password.",
            )),
        }
    }

    /// The kind and name under which events keep the actor (contract/modern 7.1).
    pub fn owner(&self) -> (&'static str, String) {
        match &self.actor {
            Actor::Nobody => ("internal", String::from("nobody")),
            Actor::User { email, .. } => ("user", email.to_string()),
            Actor::App { name, .. } => ("app", name.to_string()),
            Actor::Internal => ("internal", String::from("tancho")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(grants: &[(Permission, Context)]) -> Call {
        let grants: Vec<Grant> = grants
            .iter()
            .map(|(permission, context)| Grant {
                permission: *permission,
                context: context.clone(),
            })
            .collect();
        Call {
            grants: grants.into(),
            ..Call::internal()
        }
    }

    #[test]
    fn a_team_grant_reaches_that_team_only() {
        let call = call(&[(Permission::APP, Context::team("red"))]);
        assert!(call.may(
            Permission::APP_DELETE,
            &[Context::team("blue"), Context::team("red")]
        ));
        assert!(!call.may(Permission::APP_DELETE, &[Context::team("blue")]));
        assert!(!call.may(Permission::APP_DELETE, &[]));
        assert!(call.may_somewhere(Permission::APP_CREATE));
        assert_eq!(
            call.reach(Permission::APP_READ, ContextKind::Team),
            Some(vec!["red".into()])
        );
        assert!(!call.is_admin());
    }

    #[test]
    fn a_global_grant_reaches_all() {
        let call = call(&[(Permission::APP_READ, Context::global())]);
        assert!(call.may(Permission::APP_READ_LOG, &[]));
        assert_eq!(call.reach(Permission::APP_READ, ContextKind::Team), None);
        assert!(
            call.allow(Permission::APP_DELETE, &[Context::team("red")])
                .is_err()
        );
    }
}
