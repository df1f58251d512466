//! Events: every change, who made it, on what, from where, when it began and how it ended.
//!
//! An event is *running* until it has an outcome. While it runs it holds the locks of its targets: a
//! second change of the same target is refused with who holds it and since when. A change that fits in
//! one transaction begins and ends its event in that transaction; what takes longer hands its event to
//! a saga, which ends it whatever happens, so that nothing is locked for ever.
//!
//! What has ended is neither changed nor deleted, until it is older than `events.keep_days`, if that is set.
//!
//! Lines said while it runs are the progress that callers follow, on any replica: a notice says that
//! there is more, the table says what.

mod actions;
mod model;
mod store;

pub use actions::{Following, Told, begin, end, follow, record, record_failed, say, say_all};
pub use model::{Event, NewEvent, Outcome, Target, TargetKind};
pub use store::{Filter, ask_cancel, cancel_asked, expire, find, list, list_lines};
