//! Quotas: how many apps a user or a team may have, and how many units an app may have.
//!
//! A quota is a limit; -1 means no limit. The number in use is counted from the existing rows, so there is no
//! second number that could become wrong: the apps of a user are those whose creator has the user's id, the
//! apps of a team are those that it owns now, and the units of an app are those that its processes request,
//! stopped or not. A transaction that adds one first locks the row with the limit, so
//! that no number of concurrent requests exceeds it: a request for more units, and a deploy whose version has
//! further processes.
//!
//! A limit never goes below the number in use.

mod actions;
pub mod classic;
mod model;
mod store;

pub use actions::{
    QuotaSubject, change_limit, change_unit_limit, check_app_quota, check_unit_quota, check_version_quota,
    find_quota, find_unit_quota,
};
pub use model::{Quota, QuotaView, parse_limit};
