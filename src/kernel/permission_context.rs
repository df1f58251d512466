//! The context of a permission: everything, a team, an app, … (contract/modern §6).

use std::fmt;

use crate::kernel::error::Error;

/// The type of object a permission is granted on. A role has one; its assignment names the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ContextKind {
    Global,
    App,
    Team,
    User,
    Pool,
    Service,
    ServiceInstance,
    Volume,
    Router,
    Job,
}

impl ContextKind {
    const ALL: [(ContextKind, &'static str); 10] = [
        (ContextKind::Global, "global"),
        (ContextKind::App, "app"),
        (ContextKind::Team, "team"),
        (ContextKind::User, "user"),
        (ContextKind::Pool, "pool"),
        (ContextKind::Service, "service"),
        (ContextKind::ServiceInstance, "service-instance"),
        (ContextKind::Volume, "volume"),
        (ContextKind::Router, "router"),
        (ContextKind::Job, "job"),
    ];

    /// Returns the name used in the API.
    pub fn as_str(self) -> &'static str {
        Self::ALL
            .iter()
            .find_map(|(kind, word)| (*kind == self).then_some(*word))
            .unwrap_or("global")
    }

    /// Parses the name used in the API.
    pub fn parse(word: &str) -> Result<Self, Error> {
        Self::ALL
            .iter()
            .find_map(|(kind, w)| (*w == word).then_some(*kind))
            .ok_or_else(|| {
                Error::invalid(format!(
                    "{word:?} is not a context: use one of {}.",
                    Self::list_words()
                ))
            })
    }

    fn list_words() -> String {
        Self::ALL.map(|(_, word)| word).join(", ")
    }
}

/// What a permission is granted on or required for: a type and the name of an object (empty for global).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PermissionContext {
    pub kind: ContextKind,
    pub value: String,
}

impl PermissionContext {
    /// The global context.
    pub fn global() -> Self {
        Self {
            kind: ContextKind::Global,
            value: String::new(),
        }
    }

    /// The context of one object.
    pub fn new(kind: ContextKind, value: impl fmt::Display) -> Self {
        Self {
            kind,
            value: value.to_string(),
        }
    }

    /// The context of a team, the most common one.
    pub fn for_team(name: impl fmt::Display) -> Self {
        Self::new(ContextKind::Team, name)
    }
}
