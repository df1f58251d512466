//! The request context: the caller, the token, the source address, and the caller's permissions.
//!
//! An action receives a `RequestContext` and calls `authorize` on it for the objects it has loaded. The route
//! table has already rejected unauthenticated requests where a caller is required.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use crate::kernel::error::Error;
use crate::kernel::held_permission::HeldPermission;
use crate::kernel::ids::{AppId, ServiceId, TeamTokenId, UserId};
use crate::kernel::names::{AppName, Email, TeamName, TeamTokenName};
use crate::kernel::permission::{ContextKind, Permission, PermissionContext};

/// The caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Actor {
    /// Not logged in.
    Nobody,
    /// A user, by a session or an API key.
    User { id: UserId, email: Email },
    /// An app, by its own token (classic 0.2).
    App { id: AppId, name: AppName },
    /// A program, by the token of a team. It has the roles that are assigned to the token, and counts as the
    /// user who created it where users share something; `None`: that user was removed.
    TeamToken {
        id: TeamTokenId,
        name: TeamTokenName,
        team: TeamName,
        creator: Option<TokenCreator>,
    },
    /// Tancho itself: reconcilers, start-up.
    Internal,
}

/// The user who created a team token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenCreator {
    pub id: UserId,
    pub email: Email,
}

/// How the caller authenticated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// Not authenticated.
    None,
    Session,
    ApiKey,
    /// An SSH key pair.
    SshKey,
    App,
    /// The token of a team.
    Team,
    /// A password sent with the request itself.
    Password,
    /// Tancho itself needs no token.
    Internal,
}

impl TokenKind {
    /// Returns the name used in the tables of tokens and events.
    pub fn as_str(self) -> &'static str {
        match self {
            TokenKind::None => "none",
            TokenKind::Session => "session",
            TokenKind::ApiKey => "api-key",
            TokenKind::SshKey => "ssh-key",
            TokenKind::App => "app",
            TokenKind::Team => "team-token",
            TokenKind::Password => "password",
            TokenKind::Internal => "internal",
        }
    }
}

/// One permission on one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PermissionGrant {
    pub permission: HeldPermission,
    pub context: PermissionContext,
}

/// The context of a request. See the module. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RequestContext {
    pub actor: Actor,
    pub grants: Arc<[PermissionGrant]>,
    pub token_kind: TokenKind,
    /// The digest of the token in use, for logout.
    pub token_digest: Option<[u8; 32]>,
    /// The request id, included in every log line and event.
    pub request_id: Arc<str>,
    /// The caller's IP address as a string; empty for Tancho itself.
    pub source_ip: Arc<str>,
}

impl RequestContext {
    /// The context of Tancho's own operations; has every permission.
    pub fn new_internal() -> Self {
        Self {
            actor: Actor::Internal,
            grants: Arc::new([PermissionGrant {
                permission: Permission::ALL.into(),
                context: PermissionContext::global(),
            }]),
            token_kind: TokenKind::Internal,
            token_digest: None,
            request_id: Arc::from("internal"),
            source_ip: Arc::from(""),
        }
    }

    /// True if the caller holds the permission globally or in one of the contexts.
    pub fn has_permission(&self, permission: Permission, on: &[PermissionContext]) -> bool {
        self.has_grant(on, |held| held.covers(permission))
    }

    /// True if the caller holds the action of a service globally or in one of the contexts.
    pub fn has_service_action(&self, service: ServiceId, action: &str, on: &[PermissionContext]) -> bool {
        self.has_grant(on, |held| held.covers_service_action(service, action))
    }

    /// True if the caller holds everything that the grant includes.
    pub fn holds_grant(&self, grant: &PermissionGrant) -> bool {
        self.has_grant(std::slice::from_ref(&grant.context), |held| {
            held.covers_held(&grant.permission)
        })
    }

    fn has_grant(&self, on: &[PermissionContext], covers: impl Fn(&HeldPermission) -> bool) -> bool {
        self.grants.iter().any(|grant| {
            covers(&grant.permission)
                && (grant.context.kind == ContextKind::Global || on.contains(&grant.context))
        })
    }

    /// True if the caller holds the permission in any context.
    pub fn has_permission_anywhere(&self, permission: Permission) -> bool {
        self.grants
            .iter()
            .any(|grant| grant.permission.covers(permission))
    }

    /// True if the caller holds the permission globally.
    pub fn has_global_permission(&self, permission: Permission) -> bool {
        self.has_permission(permission, &[])
    }

    /// Returns an error (403) unless `has_permission`.
    pub fn authorize(&self, permission: Permission, on: &[PermissionContext]) -> Result<(), Error> {
        if self.has_permission(permission, on) {
            Ok(())
        } else {
            Err(Error::forbidden("You don't have permission to do this action."))
        }
    }

    /// Returns the names of one type on which the caller holds the permission; `None` for all of them.
    pub fn visible_scopes(&self, permission: Permission, kind: ContextKind) -> Option<Vec<String>> {
        if self.has_global_permission(permission) {
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

    /// Returns the caller's teams: those on which they hold any permission.
    pub fn caller_teams(&self) -> Vec<TeamName> {
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

    /// True for an administrator: every permission, globally.
    pub fn is_admin(&self) -> bool {
        self.has_global_permission(Permission::ALL)
    }

    /// Returns the calling user. Errors: `Forbidden` for an app's token or an anonymous caller.
    pub fn require_user(&self) -> Result<(UserId, &Email), Error> {
        match &self.actor {
            Actor::User { id, email } => Ok((*id, email)),
            _ => Err(Error::forbidden(
                "Only a user can do this: log in with an e-mail address and a password.",
            )),
        }
    }

    /// Returns the user who owns what the caller creates: the caller, or the creator of the caller's token.
    /// Errors: `Forbidden` for an app's token, and for a token whose creator was removed.
    pub fn require_owner(&self) -> Result<(UserId, &Email), Error> {
        match &self.actor {
            Actor::TeamToken {
                creator: Some(creator),
                ..
            } => Ok((creator.id, &creator.email)),
            Actor::TeamToken { name, .. } => Err(Error::forbidden(format!(
                "The user who created the token {name} no longer exists: use a token of another user for this."
            ))),
            _ => self.require_user(),
        }
    }

    /// Returns by what the caller shares workers and services with others: a token counts as the user who
    /// created it, so that nobody gets a larger share by creating tokens.
    pub fn share_key(&self) -> String {
        match &self.actor {
            Actor::TeamToken {
                creator: Some(creator),
                ..
            } => format!("user/{}", creator.email.as_str().to_lowercase()),
            Actor::TeamToken { team, .. } => format!("team/{team}"),
            _ => {
                let (kind, name) = self.event_owner();
                format!("{kind}/{}", name.to_lowercase())
            }
        }
    }

    /// Returns the network by which requests are rate-limited: an IPv4 address, or the /64 of an IPv6
    /// address, since a client usually controls a whole /64. Empty for Tancho itself.
    pub fn source_network(&self) -> String {
        match self.source_ip.parse::<IpAddr>().map(|ip| ip.to_canonical()) {
            Ok(IpAddr::V6(ip)) => {
                let first = u128::from(ip) >> 64 << 64;
                format!("{}/64", Ipv6Addr::from(first))
            }
            Ok(IpAddr::V4(ip)) => ip.to_string(),
            Err(_) => self.source_ip.to_string(),
        }
    }

    /// Returns the kind and name under which events store the actor (contract/modern 7.1).
    pub fn event_owner(&self) -> (&'static str, String) {
        match &self.actor {
            Actor::Nobody => ("internal", String::from("nobody")),
            Actor::User { email, .. } => ("user", email.to_string()),
            Actor::App { name, .. } => ("app", name.to_string()),
            Actor::TeamToken { name, .. } => ("token", name.to_string()),
            Actor::Internal => ("internal", String::from("tancho")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(grants: &[(Permission, PermissionContext)]) -> RequestContext {
        let grants: Vec<PermissionGrant> = grants
            .iter()
            .map(|(permission, context)| PermissionGrant {
                permission: (*permission).into(),
                context: context.clone(),
            })
            .collect();
        RequestContext {
            grants: grants.into(),
            ..RequestContext::new_internal()
        }
    }

    #[test]
    fn a_team_grant_applies_to_that_team_only() {
        let call = call(&[(Permission::APP, PermissionContext::for_team("red"))]);
        assert!(call.has_permission(
            Permission::APP_DELETE,
            &[
                PermissionContext::for_team("blue"),
                PermissionContext::for_team("red")
            ]
        ));
        assert!(!call.has_permission(Permission::APP_DELETE, &[PermissionContext::for_team("blue")]));
        assert!(!call.has_permission(Permission::APP_DELETE, &[]));
        assert!(call.has_permission_anywhere(Permission::APP_CREATE));
        assert_eq!(
            call.visible_scopes(Permission::APP_READ, ContextKind::Team),
            Some(vec!["red".into()])
        );
        assert!(!call.is_admin());
    }

    #[test]
    fn a_global_grant_applies_everywhere() {
        let call = call(&[(Permission::APP_READ, PermissionContext::global())]);
        assert!(call.has_permission(Permission::APP_READ_LOG, &[]));
        assert_eq!(call.visible_scopes(Permission::APP_READ, ContextKind::Team), None);
        assert!(
            call.authorize(Permission::APP_DELETE, &[PermissionContext::for_team("red")])
                .is_err()
        );
    }

    #[test]
    fn source_network_is_the_ipv4_address_or_the_ipv6_64_prefix() {
        for (ip, network) in [
            ("192.0.2.7", "192.0.2.7"),
            ("::ffff:192.0.2.7", "192.0.2.7"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
            ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
            ("", ""),
        ] {
            let call = RequestContext {
                source_ip: Arc::from(ip),
                ..RequestContext::new_internal()
            };
            assert_eq!(call.source_network(), network, "{ip}");
        }
    }
}
