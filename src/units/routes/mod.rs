//! Routes: which addresses stand behind which host. A unit stands there while it is of the main process
//! of its version, in phase *serving*, ready, and has an address; so a switch to a release whose main
//! process has another name has no gap either.
//!
//! Whoever routes follows the table: a notice says that it may have changed, a cheap look now and then
//! makes up for lost notices, and while the database is away the last table stays.

mod store;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::db::Db;
use crate::db::listen::{Channel, Notices};
use crate::kernel::ids::ReplicaId;
use crate::kernel::problem::Problem;
use crate::proxy::{Backends, Proxy, Route, Routes};
use crate::units::routes::store::AppRow;

/// The shortest time between two tables.
const PACE: Duration = Duration::from_millis(50);
/// The longest rest after a table that was dear, or that the database has kept waiting for.
const REST: Duration = Duration::from_millis(500);
/// How often the table is looked at without a notice.
const POLL: Duration = Duration::from_secs(2);

/// All routes as they are now. `domain` is the one below which apps have their addresses.
pub async fn table(db: &Db, domain: &str) -> Result<Routes, Problem> {
    let mut ready: HashMap<uuid::Uuid, Vec<SocketAddr>> = HashMap::new();
    for (app, address) in store::list_ready(db).await? {
        if let Ok(address) = address.parse() {
            ready.entry(app.0).or_default().push(address);
        }
    }
    let apps = store::list_apps(db).await?;
    let routes = apps.into_iter().flat_map(|app| {
        let state = match ready.remove(&app.app_id.0) {
            Some(addresses) => Backends::Ready(addresses),
            None => Backends::None {
                reason: reason(&app).to_owned(),
            },
        };
        let own = format!("{}.{domain}", app.label);
        let hosts = std::iter::once(own).chain(app.cnames);
        hosts.map(move |host| Route {
            host: host.to_ascii_lowercase(),
            app: app.name.clone(),
            state: state.clone(),
        })
    });
    Ok(routes.collect::<Vec<_>>().into_iter().collect())
}

fn reason(app: &AppRow) -> &'static str {
    match app {
        AppRow { deployed: false, .. } => "the app has no version deployed yet",
        AppRow { stopped: true, .. } => "the app is stopped",
        AppRow { units: 0, .. } => "it has no units",
        _ => "no unit is ready",
    }
}

/// Keeps the table of a proxy true until `stop`, and tells the database how new it is, so that a rollout
/// can wait for the routers. `loaded` is cancelled once there is a first table.
pub async fn follow(
    db: Db,
    replica: ReplicaId,
    notices: Notices,
    domain: String,
    proxy: Proxy,
    loaded: CancellationToken,
    stop: CancellationToken,
) {
    let mut notices = notices.subscribe();
    let mut feed = Feed {
        db,
        domain,
        proxy,
        router: replica,
        loaded: None,
    };
    loop {
        let began = Instant::now();
        let pause = match feed.refresh().await {
            Ok(()) => {
                loaded.cancel();
                (began.elapsed() * 5).clamp(PACE, REST)
            }
            Err(problem) => {
                tracing::warn!(problem = %problem.chain(), "the routes cannot be read; the last ones stay");
                feed.loaded = None;
                Duration::from_millis(500)
            }
        };
        let next = async {
            tokio::time::sleep(pause).await;
            notices.wait(&[Channel::Routes], POLL).await;
        };
        tokio::select! {
            () = next => {}
            () = stop.cancelled() => break,
        }
    }
    // Nobody needs to wait for this router any more; if that cannot be said, they wait a few seconds.
    let _ = store::delete_seen(&feed.db, feed.router).await;
}

/// A router that has died is not waited for.
pub async fn forget(db: &Db, dead: ReplicaId) -> Result<(), Problem> {
    Ok(store::delete_seen(db, dead).await?)
}

/// What feeds one proxy.
struct Feed {
    db: Db,
    domain: String,
    proxy: Proxy,
    router: ReplicaId,
    /// The mark of the table that the proxy has.
    loaded: Option<String>,
}

impl Feed {
    /// Loads the table if it may have changed.
    async fn refresh(&mut self) -> Result<(), Problem> {
        // Read before the table, so that a change in between is seen the next time.
        let (mark, at) = store::mark(&self.db).await?;
        if self.loaded.as_ref() != Some(&mark) {
            self.proxy.set_routes(table(&self.db, &self.domain).await?);
            self.loaded = Some(mark);
        }
        Ok(store::put_seen(&self.db, self.router, at).await?)
    }
}
