//! The types of events.

use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::kernel::error::{Error, ErrorKind};
use crate::kernel::ids::EventId;
use crate::kernel::permission::{Permission, PermissionContext};

/// The kind of a target (contract/modern 7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventTargetKind {
    App,
    Job,
    Service,
    ServiceInstance,
    Team,
    User,
    Role,
    Platform,
    Plan,
    Pool,
    Router,
    EventBlock,
    Webhook,
    Volume,
    Global,
}

impl EventTargetKind {
    pub(super) const ALL: [EventTargetKind; 15] = [
        EventTargetKind::App,
        EventTargetKind::Job,
        EventTargetKind::Service,
        EventTargetKind::ServiceInstance,
        EventTargetKind::Team,
        EventTargetKind::User,
        EventTargetKind::Role,
        EventTargetKind::Platform,
        EventTargetKind::Plan,
        EventTargetKind::Pool,
        EventTargetKind::Router,
        EventTargetKind::EventBlock,
        EventTargetKind::Webhook,
        EventTargetKind::Volume,
        EventTargetKind::Global,
    ];

    /// Parses the name in the API.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    /// Returns the name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            EventTargetKind::App => "app",
            EventTargetKind::Job => "job",
            EventTargetKind::Service => "service",
            EventTargetKind::ServiceInstance => "service-instance",
            EventTargetKind::Team => "team",
            EventTargetKind::User => "user",
            EventTargetKind::Role => "role",
            EventTargetKind::Platform => "platform",
            EventTargetKind::Plan => "plan",
            EventTargetKind::Pool => "pool",
            EventTargetKind::Router => "router",
            EventTargetKind::EventBlock => "event-block",
            EventTargetKind::Webhook => "webhook",
            EventTargetKind::Volume => "volume",
            EventTargetKind::Global => "global",
        }
    }
}

/// The target of a change.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EventTarget {
    pub kind: EventTargetKind,
    pub value: String,
}

impl EventTarget {
    /// Creates a target from its kind and name. Instances are named `service/instance`.
    pub fn new(kind: EventTargetKind, value: impl std::fmt::Display) -> Self {
        Self {
            kind,
            value: value.to_string(),
        }
    }

    /// Creates the target of an app.
    pub fn for_app(name: &crate::kernel::names::AppName) -> Self {
        Self::new(EventTargetKind::App, name)
    }
}

/// An event to begin.
#[derive(Clone, Debug)]
pub struct NewEvent {
    pub target: EventTarget,
    /// Further targets to lock while the event runs.
    pub also_locks: Vec<EventTarget>,
    pub kind: Permission,
    /// Users who may read events on one of these contexts may read the event. Stored by id: an object that
    /// the same transaction deletes or renames is given by its name before that, one that it creates by its
    /// new name.
    pub contexts: Vec<PermissionContext>,
    /// The request, without secrets; long values are truncated.
    pub start_data: Value,
    pub cancelable: bool,
    /// No block stops it; see `events::blocks`.
    pub ignores_blocks: bool,
}

impl NewEvent {
    /// Creates an event that cannot be cancelled and locks only its target.
    pub fn new(
        target: EventTarget,
        kind: Permission,
        contexts: Vec<PermissionContext>,
        start_data: Value,
    ) -> Self {
        Self {
            target,
            also_locks: Vec::new(),
            kind,
            contexts,
            start_data,
            cancelable: false,
            ignores_blocks: false,
        }
    }

    /// Locks another target as well.
    #[must_use]
    pub fn with_lock(mut self, target: EventTarget) -> Self {
        self.also_locks.push(target);
        self
    }

    /// Lets it begin in spite of blocks: Tancho completes by it what was begun before, or it is what ends a
    /// block.
    #[must_use]
    pub fn ignore_blocks(mut self) -> Self {
        self.ignores_blocks = true;
        self
    }

    /// Allows users to cancel it.
    #[must_use]
    pub fn allow_cancel(mut self) -> Self {
        self.cancelable = true;
        self
    }
}

/// How an event ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventOutcome {
    Done,
    Failed { kind: ErrorKind, words: String },
}

impl EventOutcome {
    /// Converts it to a result, with the error that the event failed with.
    pub fn into_result(self) -> Result<(), Error> {
        match self {
            EventOutcome::Done => Ok(()),
            EventOutcome::Failed { kind, words } => Err(Error::new(kind, words)),
        }
    }
}

impl From<&Result<(), Error>> for EventOutcome {
    fn from(result: &Result<(), Error>) -> Self {
        match result {
            Ok(()) => EventOutcome::Done,
            Err(error) => EventOutcome::from(error),
        }
    }
}

impl From<&Error> for EventOutcome {
    fn from(error: &Error) -> Self {
        EventOutcome::Failed {
            kind: error.kind(),
            words: error.message().to_owned(),
        }
    }
}

/// The end of the log of an event.
#[derive(Clone, Debug, Default)]
pub struct EventLog {
    /// The lines with their numbers and times.
    pub lines: Vec<(i64, DateTime<Utc>, String)>,
    /// How many lines before them were left out.
    pub omitted: i64,
}

/// A stored event.
#[derive(Clone, Debug)]
pub struct Event {
    pub id: EventId,
    pub target_kind: String,
    pub target_value: String,
    /// Further targets that the event locked, as pairs of kind and value.
    pub extra_targets: Vec<(String, String)>,
    /// What it is about, as pairs of kind and name as they were then; who may read it is decided by ids.
    pub contexts: Vec<(String, String)>,
    pub kind: String,
    pub owner_kind: String,
    pub owner_name: String,
    /// See `kernel::request_context::TokenKind`; empty in events from before this field existed.
    pub token_kind: String,
    pub source_ip: String,
    pub request_id: String,
    pub started_at: DateTime<Utc>,
    pub ended_at: Option<DateTime<Utc>>,
    pub outcome: Option<EventOutcome>,
    pub start_data: Option<Value>,
    pub end_data: Option<Value>,
    pub cancelable: bool,
    pub cancel_asked_at: Option<DateTime<Utc>>,
    pub cancel_by: String,
    pub cancel_reason: String,
}
