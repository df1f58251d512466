//! Routes: the map from hosts to addresses of units. A unit gets requests while it belongs to the main
//! process of its version, is *serving*, is ready and has an address. So a promotion to a release whose main
//! process has another name has no gap either.
//!
//! Each router follows the table: a notice reports that it may have changed, a cheap poll makes up for lost
//! notices, and while the database is unavailable the router keeps the last table.

mod app_routers;
pub mod modern;
mod rebuild;
mod store;

pub use rebuild::{AppRoutes, rebuild_routes};

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::db::Db;
use crate::db::notices::{NoticeChannel, NoticeHub};
use crate::kernel::error::Error;
use crate::kernel::ids::ReplicaId;
use crate::kernel::public_hosts::PlatformHosts;
use crate::proxy::{BackendSet, HostRoute, HostRoutes, Proxy};
use crate::routing::store::AppRouteRow;

/// Minimum time between two reloads.
const MIN_INTERVAL: Duration = Duration::from_millis(50);
/// Maximum pause after a reload that was expensive, or that waited for the database.
const MAX_PAUSE: Duration = Duration::from_millis(500);
/// Poll interval without a notice.
const POLL: Duration = Duration::from_secs(2);

/// Returns the present routes.
pub async fn load_table(db: &Db, platform: &PlatformHosts) -> Result<HostRoutes, Error> {
    Ok(load_routes(db, platform).await?.0)
}

/// Returns the routes, and the cnames that get none: they were added before the rules for cnames, or before
/// the platform got its present hosts.
async fn load_routes(db: &Db, platform: &PlatformHosts) -> Result<(HostRoutes, Vec<String>), Error> {
    let mut ready: HashMap<uuid::Uuid, Vec<SocketAddr>> = HashMap::new();
    for (app, address) in store::list_ready_addresses(db).await? {
        if let Ok(address) = address.parse() {
            ready.entry(app.0).or_default().push(address);
        }
    }
    let apps = store::list_app_routes(db).await?;
    let mut routes = Vec::new();
    let mut refused = Vec::new();
    for app in apps {
        let state = match ready.remove(&app.app_id.0) {
            Some(addresses) => BackendSet::Ready(addresses),
            None => BackendSet::None {
                reason: unavailable_reason(&app).to_owned(),
            },
        };
        let own = format!("{}.{}", app.label, platform.app_domain());
        let (cnames, bad): (Vec<_>, Vec<_>) = app
            .cnames
            .into_iter()
            .partition(|cname| platform.check_cname(cname).is_ok());
        refused.extend(bad);
        routes.extend(std::iter::once(own).chain(cnames).map(|host| HostRoute {
            host: host.to_ascii_lowercase(),
            app: app.name.clone(),
            backends: state.clone(),
        }));
    }
    let routes: HostRoutes = routes.into_iter().collect();
    refused.sort();
    Ok((routes.with_own_domain(platform.app_domain()), refused))
}

fn unavailable_reason(app: &AppRouteRow) -> &'static str {
    match app {
        AppRouteRow { deployed: false, .. } => "the app has no version deployed yet",
        AppRouteRow { stopped: true, .. } => "the app is stopped",
        AppRouteRow { units: 0, .. } => "the app has no units",
        _ => "no unit is ready",
    }
}

/// Keeps the routes of a proxy up to date until `stop`, and records their version in the database, so that a
/// rollout can wait for the routers. Cancels `loaded` once there is a first table.
pub async fn follow_routes(
    db: Db,
    replica: ReplicaId,
    notices: NoticeHub,
    platform: PlatformHosts,
    proxy: Proxy,
    loaded: CancellationToken,
    stop: CancellationToken,
) {
    let mut notices = notices.subscribe();
    let mut feed = RouteFeed {
        db,
        platform,
        proxy,
        router: replica,
        loaded: None,
        refused: Vec::new(),
    };
    loop {
        let began = Instant::now();
        let pause = match feed.refresh_table().await {
            Ok(()) => {
                loaded.cancel();
                (began.elapsed() * 5).clamp(MIN_INTERVAL, MAX_PAUSE)
            }
            Err(error) => {
                tracing::warn!(error = %error.report(), "cannot read the routes; keeping the last ones");
                feed.loaded = None;
                Duration::from_millis(500)
            }
        };
        let next = async {
            tokio::time::sleep(pause).await;
            notices.wait_for_notice(&[NoticeChannel::Routes], POLL).await;
        };
        tokio::select! {
            () = next => {}
            () = stop.cancelled() => break,
        }
    }
    // Rollouts need not wait for this router any more. If this write fails, they wait until their timeout.
    let _ = store::delete_router_seen(&feed.db, feed.router).await;
}

/// Deletes the record of a dead router, so that rollouts do not wait for it.
pub async fn forget_router(db: &Db, dead: ReplicaId) -> Result<(), Error> {
    Ok(store::delete_router_seen(db, dead).await?)
}

/// The state of the route updates of one proxy.
struct RouteFeed {
    db: Db,
    platform: PlatformHosts,
    proxy: Proxy,
    router: ReplicaId,
    /// The version of the routes that the proxy has.
    loaded: Option<i64>,
    /// The cnames without a route that were last logged.
    refused: Vec<String>,
}

impl RouteFeed {
    /// Reloads the routes if they may have changed.
    async fn refresh_table(&mut self) -> Result<(), Error> {
        // Read before the routes, so that a change in between is seen by the next poll.
        let (version, at) = store::find_version(&self.db).await?;
        if self.loaded != Some(version) {
            let (routes, refused) = load_routes(&self.db, &self.platform).await?;
            self.proxy.set_routes(routes);
            self.loaded = Some(version);
            self.warn_refused(refused);
        }
        Ok(store::upsert_router_seen(&self.db, self.router, at).await?)
    }

    /// Logs each cname that has newly lost its route.
    fn warn_refused(&mut self, refused: Vec<String>) {
        for cname in refused.iter().filter(|cname| !self.refused.contains(cname)) {
            let reason = self.platform.check_cname(cname).err();
            tracing::warn!(
                %cname,
                reason,
                "a cname is not allowed and gets no route; remove it from its app"
            );
        }
        self.refused = refused;
    }
}
