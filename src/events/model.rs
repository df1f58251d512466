//! What an event is made of.

use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::kernel::ids::EventId;
use crate::kernel::permission::{Context, Permission};
use crate::kernel::problem::{Kind, Problem};

/// The kinds of things that change (contract/modern 7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TargetKind {
    App,
    Service,
    ServiceInstance,
    Team,
    User,
    Role,
    Platform,
    Plan,
    Pool,
    Global,
}

impl TargetKind {
    const ALL: [TargetKind; 10] = [
        TargetKind::App,
        TargetKind::Service,
        TargetKind::ServiceInstance,
        TargetKind::Team,
        TargetKind::User,
        TargetKind::Role,
        TargetKind::Platform,
        TargetKind::Plan,
        TargetKind::Pool,
        TargetKind::Global,
    ];

    /// Reads the word of the API.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }

    /// The word of the API.
    pub fn as_str(self) -> &'static str {
        match self {
            TargetKind::App => "app",
            TargetKind::Service => "service",
            TargetKind::ServiceInstance => "service-instance",
            TargetKind::Team => "team",
            TargetKind::User => "user",
            TargetKind::Role => "role",
            TargetKind::Platform => "platform",
            TargetKind::Plan => "plan",
            TargetKind::Pool => "pool",
            TargetKind::Global => "global",
        }
    }
}

/// A thing that changes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    pub kind: TargetKind,
    pub value: String,
}

impl Target {
    /// A target by its kind and name. Instances are named `service/instance`.
    pub fn new(kind: TargetKind, value: impl std::fmt::Display) -> Self {
        Self {
            kind,
            value: value.to_string(),
        }
    }

    /// An app.
    pub fn app(name: &crate::kernel::names::AppName) -> Self {
        Self::new(TargetKind::App, name)
    }
}

/// An event to be.
#[derive(Clone, Debug)]
pub struct NewEvent {
    pub target: Target,
    /// Locked too, for as long.
    pub also_locks: Vec<Target>,
    pub kind: Permission,
    /// Whoever holds a read permission on one of these may read the event.
    pub contexts: Vec<Context>,
    /// What was asked, without secrets.
    pub start_data: Value,
    pub cancelable: bool,
}

impl NewEvent {
    /// An event that cannot be cancelled and locks its target alone.
    pub fn new(target: Target, kind: Permission, contexts: Vec<Context>, start_data: Value) -> Self {
        Self {
            target,
            also_locks: Vec::new(),
            kind,
            contexts,
            start_data,
            cancelable: false,
        }
    }

    /// Locks another target as well.
    #[must_use]
    pub fn locking(mut self, target: Target) -> Self {
        self.also_locks.push(target);
        self
    }

    /// May be cancelled by a user.
    #[must_use]
    pub fn cancelable(mut self) -> Self {
        self.cancelable = true;
        self
    }
}

/// How an event ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    Failed { kind: Kind, words: String },
}

impl Outcome {
    /// As a result: the problem it failed with.
    pub fn into_result(self) -> Result<(), Problem> {
        match self {
            Outcome::Done => Ok(()),
            Outcome::Failed { kind, words } => Err(Problem::new(kind, words)),
        }
    }
}

impl From<&Problem> for Outcome {
    fn from(problem: &Problem) -> Self {
        Outcome::Failed {
            kind: problem.kind(),
            words: problem.words().to_owned(),
        }
    }
}

/// An event as kept.
#[derive(Clone, Debug)]
pub struct Event {
    pub id: EventId,
    pub target_kind: String,
    pub target_value: String,
    pub kind: String,
    pub owner_kind: String,
    pub owner_name: String,
    /// See `kernel::call::TokenKind`; empty in events from before it was noted.
    pub token_kind: String,
    pub source_ip: String,
    pub request_id: String,
    pub started_at: DateTime<Utc>,
    pub ended_at: Option<DateTime<Utc>>,
    pub outcome: Option<Outcome>,
    pub start_data: Option<Value>,
    pub end_data: Option<Value>,
    pub cancelable: bool,
    pub cancel_asked_at: Option<DateTime<Utc>>,
    pub cancel_by: String,
    pub cancel_reason: String,
    /// `kind:value` pairs; see `NewEvent::contexts`.
    pub contexts: Vec<String>,
}
