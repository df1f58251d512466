//! What a permission is held on, or asked for: everything, a team, an app, … (contract/modern §6).

use std::fmt;

use crate::kernel::problem::Problem;

/// The kind of thing a permission is granted on. A role has one; its holder names the value.
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

    /// The word of the API.
    pub fn as_str(self) -> &'static str {
        Self::ALL
            .iter()
            .find_map(|(kind, word)| (*kind == self).then_some(*word))
            .unwrap_or("global")
    }

    /// Reads the word of the API.
    pub fn parse(word: &str) -> Result<Self, Problem> {
        Self::ALL
            .iter()
            .find_map(|(kind, w)| (*w == word).then_some(*kind))
            .ok_or_else(|| {
                Problem::invalid(format!(
                    "{word:?} is not a context: use one of {}.",
                    Self::words()
                ))
            })
    }

    fn words() -> String {
        Self::ALL.map(|(_, word)| word).join(", ")
    }
}

/// What a permission is granted on, or asked for: a kind and the name of a thing (empty for global).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Context {
    pub kind: ContextKind,
    pub value: String,
}

impl Context {
    /// Everything.
    pub fn global() -> Self {
        Self {
            kind: ContextKind::Global,
            value: String::new(),
        }
    }

    /// One thing.
    pub fn new(kind: ContextKind, value: impl fmt::Display) -> Self {
        Self {
            kind,
            value: value.to_string(),
        }
    }

    /// A team, the commonest of contexts.
    pub fn team(name: impl fmt::Display) -> Self {
        Self::new(ContextKind::Team, name)
    }
}
