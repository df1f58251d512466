//! Events: the record of every change: who made it, on what target, from where, when it began and how it
//! ended.
//!
//! An event is *running* until it has an outcome. While it runs, it holds the locks of its targets: a second
//! change of the same target is refused with the owner of the lock and its start time. A change that fits in
//! one transaction begins and ends its event in that transaction. A longer change hands its event to a saga,
//! which ends it in every case, so no lock is held for ever.
//!
//! No event begins that an administrator has blocked (`blocks`).
//!
//! An event that has ended is neither changed nor deleted until it is older than `events.keep_days`, if that
//! is set.
//!
//! Access is decided by ids: an event can be read by users who may read the events of its target
//! (`read_scope`), under every name of the target, and by its owner. A new object with the name of a deleted
//! one gets none of its events. An event keeps a bounded part of the request (`truncate`).
//!
//! The log lines of a running event are the progress that callers follow, on any replica: a notice reports
//! that there are more, the table has the lines.

mod actions;
pub mod blocks;
mod bson;
mod cancel;
mod lists;
mod model;
pub mod modern;
mod read_scope;
mod store;
mod truncate;
mod wire;

pub use actions::{
    EventFollower, EventUpdate, append_log, append_log_lines, begin_event, begin_unlocked_event, end_event,
    follow_event, record_event, record_failed_event,
};
pub use cancel::{cancel_event, find_readable_event};
pub use lists::{EventFilter, EventSort, list_events};
pub use model::{Event, EventLog, EventOutcome, EventTarget, EventTargetKind, NewEvent};
pub use read_scope::{EventReadScope, read_permission};
pub use store::{
    delete_expired_events, find_event, is_cancel_requested, list_cancel_requested, list_last_log_lines,
    list_log_lines, request_cancel,
};
