//! Lists of events: by target, kind, owner, time, state and outcome, in the order that the client asks for,
//! always narrowed to what the caller may read.

mod sort;
mod store;

use chrono::{DateTime, Utc};

use crate::events::read_scope::EventReadScope;

pub use sort::EventSort;
pub use store::list_events;

/// What a list of events is narrowed by; empty strings and `None` do not narrow.
#[derive(Clone, Debug, Default)]
pub struct EventFilter {
    /// Of the target of the event, or of a further target that it locked.
    pub target_kind: String,
    pub target_value: String,
    /// `permission` is the type of all events here.
    pub kind_type: String,
    pub kinds: Vec<String>,
    pub owner_kind: String,
    pub owner_name: String,
    /// The event began at this time or later.
    pub since: Option<DateTime<Utc>>,
    /// The event began at this time or earlier.
    pub until: Option<DateTime<Utc>>,
    pub running: Option<bool>,
    pub errors_only: bool,
    /// One event, with its data; empty: all.
    pub id: String,
    pub read_scope: EventReadScope,
    pub sort: EventSort,
    pub limit: i64,
    pub skip: i64,
}
