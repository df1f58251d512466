//! App logs: the output of units is collected from the provisioner into the database, each line once, and
//! read from there on any replica.
//!
//! The read position of a unit's log is advanced in the transaction that writes the lines, and only if it has
//! not changed since it was read. So neither a crash nor a second process loses or duplicates a line. Lines
//! of one app are written in serial transactions, so their numbers grow in the order in which readers see
//! them.
//!
//! Limits: `apps.log_lines` lines are kept per app. An app that writes more than a thousand lines per second
//! loses the surplus, and a line reports how many. Lines that callers post count for the same rate; a caller
//! over it gets an error and retries later. A caller who adds lines waits for the app's append slot without a
//! database connection.
//!
//! Every line, from any source, is cleaned by `kernel::log_text`. The source of the platform's own lines is
//! reserved for the platform.
//!
//! All followers of an app's log in one process share one reader (`feed`).

mod batch;
mod collector;
mod feed;
mod post;
mod rates;
mod read;
pub(super) mod store;

use chrono::{DateTime, Utc};

pub use collector::LogCollector;
pub(super) use collector::run_collector;
pub use post::{MAX_POSTED_LINES, PostLogRequest, post_lines};
pub use read::{LogFollower, LogQuery, follow_log, list_lines};

use crate::core::Core;
use crate::kernel::error::Error;
use crate::kernel::fair_slots::FairSlot;
use crate::kernel::ids::AppId;
use crate::kernel::log_text::{MAX_LINE_BYTES, clean_line, clip_line};

/// Source of the platform's own lines; reserved.
pub const PLATFORM_SOURCE: &str = "tsuru";
/// The log of an app is trimmed once for about this many appended lines.
const TRIM_EVERY: i64 = 100;

/// A log line to insert.
#[derive(Clone, Debug)]
pub(super) struct NewLogLine {
    pub(super) app_id: AppId,
    /// `None`: now.
    pub(super) at: Option<DateTime<Utc>>,
    pub(super) source: String,
    pub(super) unit: String,
    pub(super) message: String,
}

/// Adds lines of the platform itself to the log of an app. Errors: as `acquire_append_slot`.
pub async fn append_platform_lines(
    core: &Core,
    app_id: AppId,
    unit: &str,
    messages: &[String],
) -> Result<(), Error> {
    let lines = new_lines(app_id, PLATFORM_SOURCE, unit, messages);
    if lines.is_empty() {
        return Ok(());
    }
    let _slot = acquire_append_slot(core, app_id).await?;
    add_lines(core, app_id, &lines).await
}

/// Splits messages into log lines and cleans them; empty lines are left out.
fn new_lines(app_id: AppId, source: &str, unit: &str, messages: &[String]) -> Vec<NewLogLine> {
    messages
        .iter()
        .flat_map(|message| message.lines())
        .filter(|line| !line.is_empty())
        .map(|line| NewLogLine {
            app_id,
            at: None,
            source: source.to_owned(),
            unit: unit.to_owned(),
            message: clip_line(clean_line(line), MAX_LINE_BYTES).into_owned(),
        })
        .collect()
}

/// Waits for the append slot of an app, without a database connection. Errors: `TooMany` if many callers wait
/// for it.
async fn acquire_append_slot(core: &Core, app_id: AppId) -> Result<FairSlot<AppId>, Error> {
    core.caller_limits
        .log_appends
        .acquire(&app_id)
        .await
        .map_err(|full| {
            Error::too_many("Too many requests are adding to the log of this app: try again in a moment.")
                .with_source(full)
        })
}

/// Adds lines to the log of one app, whose append slot the caller holds.
async fn add_lines(core: &Core, app_id: AppId, lines: &[NewLogLine]) -> Result<(), Error> {
    let mut tx = core.db.begin().await?;
    store::lock_logs(&mut tx, &[app_id]).await?;
    let last = store::insert_lines(&mut tx, lines).await?.unwrap_or(0);
    store::notify_new_lines(&mut tx, &[app_id]).await?;
    tx.commit().await?;
    let added = i64::try_from(lines.len()).unwrap_or(i64::MAX);
    if last % TRIM_EVERY < added {
        store::trim_log(&core.db, app_id, core.settings.apps.log_lines).await?;
    }
    Ok(())
}
