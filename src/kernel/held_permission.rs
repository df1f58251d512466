//! A permission as roles hold it: one of the tree, or the actions that a service offers through its proxy.

use std::fmt;
use std::sync::Arc;

use uuid::Uuid;

use crate::kernel::ids::ServiceId;
use crate::kernel::permission::Permission;

/// A permission that somebody holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeldPermission {
    /// A permission of the tree, with everything below it.
    Fixed(Permission),
    /// Actions of a service.
    ServiceAction(ServiceAction),
}

/// An action of a service, with everything below it; an empty action stands for all of them. Bound to the
/// service by its id: the names of services and actions may contain dots, so a path alone could mean either of
/// two services.
#[derive(Clone, Debug)]
pub struct ServiceAction {
    pub service: ServiceId,
    pub action: Arc<str>,
    /// For people only.
    pub service_name: Arc<str>,
}

impl PartialEq for ServiceAction {
    fn eq(&self, other: &Self) -> bool {
        self.service == other.service && self.action == other.action
    }
}

impl Eq for ServiceAction {}

impl ServiceAction {
    /// Parses `service id/action/service name`, as stores encode it; `None` for anything else.
    pub fn parse_encoded(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, '/');
        Some(Self {
            service: ServiceId(Uuid::parse_str(parts.next()?).ok()?),
            action: parts.next()?.into(),
            service_name: parts.next()?.into(),
        })
    }
}

impl HeldPermission {
    /// True if it includes the permission.
    pub fn covers(&self, asked: Permission) -> bool {
        match self {
            HeldPermission::Fixed(held) => held.covers(asked),
            HeldPermission::ServiceAction(_) => false,
        }
    }

    /// True if it includes the action of a service.
    pub fn covers_service_action(&self, service: ServiceId, action: &str) -> bool {
        match self {
            HeldPermission::Fixed(held) => held.covers(Permission::SERVICE_ACTION),
            HeldPermission::ServiceAction(held) => {
                held.service == service && covers_action(&held.action, action)
            }
        }
    }

    /// True if it includes everything that another one includes.
    pub fn covers_held(&self, other: &HeldPermission) -> bool {
        match other {
            HeldPermission::Fixed(asked) => self.covers(*asked),
            HeldPermission::ServiceAction(asked) => self.covers_service_action(asked.service, &asked.action),
        }
    }

    /// Returns the permission of the tree, if it is one.
    pub fn fixed(&self) -> Option<Permission> {
        match self {
            HeldPermission::Fixed(permission) => Some(*permission),
            HeldPermission::ServiceAction(_) => None,
        }
    }
}

impl From<Permission> for HeldPermission {
    fn from(permission: Permission) -> Self {
        HeldPermission::Fixed(permission)
    }
}

impl fmt::Display for HeldPermission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HeldPermission::Fixed(permission) => permission.fmt(f),
            HeldPermission::ServiceAction(held) if held.action.is_empty() => {
                write!(f, "{}.{}", Permission::SERVICE_ACTION, held.service_name)
            }
            HeldPermission::ServiceAction(held) => {
                write!(
                    f,
                    "{}.{}.{}",
                    Permission::SERVICE_ACTION,
                    held.service_name,
                    held.action
                )
            }
        }
    }
}

/// True if a held action of a service includes another one of the same service.
pub fn covers_action(held: &str, asked: &str) -> bool {
    held.is_empty()
        || asked
            .strip_prefix(held)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn action(service: ServiceId, action: &str) -> HeldPermission {
        HeldPermission::ServiceAction(ServiceAction {
            service,
            action: action.into(),
            service_name: "db".into(),
        })
    }

    #[test]
    fn action_covers_what_is_below_it_in_its_service_only() {
        let (db, other) = (ServiceId::new(), ServiceId::new());
        for (held, asked, is_covered) in [
            ("", "rules.view", true),
            ("rules", "rules", true),
            ("rules", "rules.view", true),
            ("rules", "rules-extra", false),
            ("rules.view", "rules", false),
        ] {
            assert_eq!(
                action(db, held).covers_service_action(db, asked),
                is_covered,
                "{held} {asked}"
            );
            assert!(!action(db, held).covers_service_action(other, asked));
            assert_eq!(action(db, held).covers_held(&action(db, asked)), is_covered);
            assert!(!action(db, held).covers(Permission::SERVICE_ACTION));
        }
        for (held, is_covered) in [
            (Permission::ALL, true),
            (Permission::SERVICE_ACTION, true),
            (Permission::SERVICE, false),
        ] {
            assert_eq!(
                HeldPermission::from(held).covers_service_action(db, "rules"),
                is_covered
            );
        }
        assert_eq!(action(db, "rules").to_string(), "service-action.db.rules");
        assert_eq!(action(db, "").to_string(), "service-action.db");
    }

    #[test]
    fn encoded_action_is_parsed() {
        let id = ServiceId::new();
        let parsed = ServiceAction::parse_encoded(&format!("{id}/rules.view/my.db")).unwrap();
        assert_eq!(
            (parsed.service, &*parsed.action, &*parsed.service_name),
            (id, "rules.view", "my.db")
        );
        assert!(ServiceAction::parse_encoded("x/y/z").is_none());
    }
}
