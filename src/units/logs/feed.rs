//! The feed of an app's log: one reader serves all followers in this process, so a notice of new lines costs
//! one query, however many follow.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast;

use crate::core::Core;
use crate::db::notices::{NoticeChannel, NoticeSubscription};
use crate::kernel::error::Error;
use crate::kernel::feeds::FeedSender;
use crate::kernel::ids::AppId;
use crate::kernel::log_text::LogEntry;
use crate::units::logs::read::LogQuery;
use crate::units::logs::store;

/// Poll interval without a notice.
const POLL: Duration = Duration::from_secs(2);

/// Subscribes to the new lines of an app; some may be older than `after`. A follower that subscribes after
/// the reader started may have missed lines after `after`, and reads those itself.
pub(super) fn listen_to_app(core: &Core, app: AppId, after: i64) -> broadcast::Receiver<Arc<[LogEntry]>> {
    let (receiver, feed) = core.caller_limits.log_feeds.subscribe(&app);
    if let Some(feed) = feed {
        let notices = core.notices.subscribe();
        core.tasks
            .spawn(run_reader(core.clone(), app, after, feed, notices));
    }
    receiver
}

/// Reads and sends until there is no subscriber, the app is gone or requests are to end.
async fn run_reader(
    core: Core,
    app: AppId,
    mut position: i64,
    feed: FeedSender<AppId, Arc<[LogEntry]>>,
    mut notices: NoticeSubscription,
) {
    while !feed.close_if_unused() {
        match read_next(&core, app, position).await {
            Ok(Some(entries)) => {
                if let Some(last) = entries.last() {
                    position = last.seq;
                    feed.send(entries.into());
                    continue;
                }
            }
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(%app, error = %error.report(), "cannot read the log of a followed app");
            }
        }
        tokio::select! {
            () = wait_for_notice(&mut notices, app) => {}
            () = core.stop_requests.cancelled() => return,
        }
    }
}

/// Returns the next lines, possibly none; `None` when the app is gone.
async fn read_next(core: &Core, app: AppId, position: i64) -> Result<Option<Vec<LogEntry>>, Error> {
    let entries = store::list_after(&core.db, app, &LogQuery::default(), position).await?;
    match entries.is_empty() && !store::has_app(&core.db, app).await? {
        true => Ok(None),
        false => Ok(Some(entries)),
    }
}

async fn wait_for_notice(notices: &mut NoticeSubscription, app: AppId) {
    let until = tokio::time::Instant::now() + POLL;
    let app = app.to_string();
    loop {
        let left = until.saturating_duration_since(tokio::time::Instant::now());
        match notices.wait_for_notice(&[NoticeChannel::Log], left).await {
            Some(id) if id != app => {}
            _ => return,
        }
    }
}
