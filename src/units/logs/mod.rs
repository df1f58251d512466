//! Logs: what units write is taken over from the provisioner into the database, each line once, and read
//! from there by anybody on any replica.
//!
//! How far a unit's log has been taken over is written in the transaction that writes the lines, and only
//! if it is still what was read before; so a crash, or a second process, neither loses nor doubles a
//! line. Lines of one app are written one transaction after the other, so their numbers grow in the order
//! in which readers get to see them.
//!
//! Bounds: `apps.log_lines` lines are kept for an app, and an app that writes more than a thousand lines a
//! second loses the rest, with a line that says so.

mod read;
pub(super) mod store;
mod take;

use chrono::{DateTime, Utc};

pub use read::{Following, Query, Stored, follow, list};
pub(super) use take::{Taker, take};

use crate::core::Core;
use crate::kernel::ids::AppId;
use crate::kernel::problem::Problem;

/// Source of the platform's own lines.
pub const PLATFORM: &str = "tsuru";
/// Longest line, in bytes.
const MAX_MESSAGE: usize = 16 * 1024;
/// After about as many appended lines the oldest are looked through.
const TRIM_EVERY: i64 = 100;

/// A line to be kept.
#[derive(Clone, Debug)]
pub(super) struct NewLine {
    pub(super) app_id: AppId,
    /// `None`: now.
    pub(super) at: Option<DateTime<Utc>>,
    pub(super) source: String,
    pub(super) unit: String,
    pub(super) message: String,
}

/// Adds lines to the log of an app.
pub async fn append(
    core: &Core,
    app_id: AppId,
    source: &str,
    unit: &str,
    messages: &[String],
) -> Result<(), Problem> {
    let lines: Vec<NewLine> = messages
        .iter()
        .map(|message| NewLine {
            app_id,
            at: None,
            source: clean(source, 100),
            unit: clean(unit, 200),
            message: clean(message.trim_end_matches(['\n', '\r']), MAX_MESSAGE),
        })
        .filter(|line| !line.message.is_empty())
        .collect();
    if lines.is_empty() {
        return Ok(());
    }
    let mut tx = core.db.begin().await?;
    store::lock(&mut tx, &[app_id]).await?;
    let last = store::insert(&mut tx, &lines).await?.unwrap_or(0);
    store::notify(&mut tx, &[app_id]).await?;
    tx.commit().await?;
    let added = i64::try_from(lines.len()).unwrap_or(i64::MAX);
    if last % TRIM_EVERY < added {
        store::trim(&core.db, app_id, core.settings.apps.log_lines).await?;
    }
    Ok(())
}

/// A text that Postgres takes, of bounded length.
fn clean(text: &str, most: usize) -> String {
    let mut cut = text.len().min(most);
    while !text.is_char_boundary(cut) {
        cut -= 1;
    }
    text[..cut].replace('\0', "\u{fffd}")
}
