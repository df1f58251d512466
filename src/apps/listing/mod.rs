//! Streams lists of apps in batches, so that the first app need not wait for the last, and memory does not
//! grow with the list. The list is read page by page, and a page only once the channel has room for all of
//! it. So the database connection is held only for as long as the database takes, never for as long as a slow
//! client takes.

mod store;

use std::time::Duration;

use futures_util::TryStreamExt;
use tokio::sync::mpsc::{self, Sender};

use crate::apps::actions::visible_app_scopes;
use crate::apps::listing::store::AppPage;
use crate::apps::model::AppDescription;
use crate::apps::search;
use crate::core::Core;
use crate::db::Db;
use crate::kernel::error::Error;
use crate::kernel::names::TeamName;
use crate::kernel::permission::Permission;
use crate::kernel::request_context::RequestContext;

pub(in crate::apps) use store::AppFilter;
pub use store::AppScopes;

/// Sizes of the first and of later batches; the first is small, so that it comes at once.
const BATCH_SIZES: (usize, usize) = (8, 64);
/// Number of apps read by one statement.
const PAGE_SIZE: usize = 512;
/// Maximum number of batches of a page.
const BATCHES_PER_PAGE: usize = PAGE_SIZE / BATCH_SIZES.1 + 2;
/// How long a client may leave a page unread before the list is aborted.
const READER_TIMEOUT: Duration = Duration::from_secs(60);

/// A batch of apps, or the end of the list.
type AppBatch = Result<Option<Vec<AppDescription>>, Error>;

/// Streams the apps that the caller may read and that match the filter.
pub(super) fn list_apps(
    core: &Core,
    call: &RequestContext,
    mut filter: AppFilter,
) -> mpsc::Receiver<AppBatch> {
    filter.scopes = visible_app_scopes(call, Permission::APP_READ_INFO);
    let (sender, receiver) = mpsc::channel(BATCHES_PER_PAGE);
    let db = core.db.clone();
    core.tasks.spawn(async move {
        let last = send_pages(&db, filter, &sender).await.map(|()| None);
        // If this cannot be sent, the list ends without an end mark, which tells the reader that it is
        // truncated.
        let _ = sender.send_timeout(last, READER_TIMEOUT).await;
    });
    receiver
}

/// Sends page after page. Errors: `Unavailable` if the client stops reading.
async fn send_pages(db: &Db, mut filter: AppFilter, sender: &Sender<AppBatch>) -> Result<(), Error> {
    if !filter.name.is_empty() {
        let pattern = search::parse_pattern(&filter.name)?;
        let mut names = store::list_app_names(db, &filter).await?;
        names.retain(|name| pattern.is_match(name));
        filter.names = Some(names);
    }
    let mut page = AppPage {
        after: String::new(),
        limit: i64::try_from(PAGE_SIZE).unwrap_or(i64::MAX),
    };
    let mut size = BATCH_SIZES.0;
    loop {
        let Ok(Ok(mut permits)) =
            tokio::time::timeout(READER_TIMEOUT, sender.reserve_many(BATCHES_PER_PAGE)).await
        else {
            return Err(Error::unavailable("The client stopped reading the list."));
        };
        let mut rows = store::list_apps(db, &filter, &page);
        let (mut batch, mut read) = (Vec::new(), 0);
        let mut last = String::new();
        while let Some(full) = rows.try_next().await? {
            read += 1;
            last = full.app.name.to_string();
            batch.push(full);
            if batch.len() >= size
                && let Some(permit) = permits.next()
            {
                permit.send(Ok(Some(std::mem::take(&mut batch))));
                size = BATCH_SIZES.1;
            }
        }
        drop(rows);
        if let Some(permit) = permits.next().filter(|_| !batch.is_empty()) {
            permit.send(Ok(Some(batch)));
        }
        if read < PAGE_SIZE {
            return Ok(());
        }
        page.after = last;
    }
}

/// Returns the apps that a team has access to and that the caller may read.
pub async fn list_team_apps(
    core: &Core,
    call: &RequestContext,
    team: &TeamName,
) -> Result<Vec<AppDescription>, Error> {
    let scopes = AppScopes {
        teams: vec![team.to_string()],
        ..AppScopes::default()
    };
    let filter = AppFilter {
        scopes: Some(scopes),
        ..AppFilter::default()
    };
    let apps: Vec<AppDescription> = store::list_apps(&core.db, &filter, &AppPage::all())
        .try_collect()
        .await?;
    let may_read = |full: &AppDescription| {
        call.authorize(Permission::APP_READ_INFO, &full.app.permission_contexts())
            .is_ok()
    };
    Ok(apps.into_iter().filter(may_read).collect())
}
