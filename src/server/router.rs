//! The router: a proxy with the routes, and the certificates, of the database.

use futures_util::future;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::config::{RouterSettings, Settings};
use crate::db::Db;
use crate::db::notices::NoticeHub;
use crate::kernel::drain_plan::DrainPlan;
use crate::kernel::ids::ReplicaId;
use crate::kernel::public_hosts::PlatformHosts;
use crate::proxy::{Proxy, ProxySettings};
use crate::routing;
use crate::server::https::RouterHttps;
use crate::telemetry::metrics;

/// What a router needs of its process.
pub struct RouterParts {
    pub settings: Settings,
    pub db: Db,
    pub replica: ReplicaId,
    pub notices: NoticeHub,
    /// How connections end.
    pub drain: DrainPlan,
    /// Cancelled by the router once it accepts connections.
    pub serving: CancellationToken,
    /// Ends the router.
    pub stop: CancellationToken,
}

/// Runs the router until `stop` is cancelled and its connections have ended, with the routes in the database.
pub async fn run_router(parts: RouterParts, (listener, https): (TcpListener, Option<RouterHttps>)) {
    let settings = &parts.settings;
    let platform = PlatformHosts::new(&settings.router.domain, &settings.api.public_url);
    let proxy_settings = build_proxy_settings(&settings.router, https.as_ref(), parts.drain.clone());
    let proxy = Proxy::new(proxy_settings);
    let (routes, certificates) = (CancellationToken::new(), CancellationToken::new());
    let stop_feeds = CancellationToken::new();
    let serving_tls = async {
        match https {
            Some(https) => {
                let loaded = (routes.clone(), certificates.clone());
                https
                    .serve(proxy.clone(), &parts, loaded, stop_feeds.clone())
                    .await;
            }
            None => certificates.cancel(),
        }
    };
    let feed = routing::follow_routes(
        parts.db.clone(),
        parts.replica,
        parts.notices.clone(),
        platform,
        proxy.clone(),
        routes.clone(),
        stop_feeds.clone(),
    );
    let serving = async {
        // Clients wait meanwhile: without a table they would get 404 for existing apps.
        tokio::select! {
            () = routes.cancelled() => proxy.serve(listener, parts.stop.clone()).await,
            () = parts.stop.cancelled() => {}
        }
    };
    let announcing = async {
        future::join(routes.cancelled(), certificates.cancelled()).await;
        parts.serving.cancel();
        std::future::pending::<()>().await;
    };
    // Where another process has taken over, connections may stay for long, and need routes that are up to date.
    let stopping = async {
        parts.stop.cancelled().await;
        if !parts.drain.is_taken_over() {
            stop_feeds.cancel();
        }
        std::future::pending::<()>().await;
    };
    let serving = async {
        tokio::select! {
            _ = future::join(serving, serving_tls) => stop_feeds.cancel(),
            () = announcing => {}
            () = stopping => {}
        }
    };
    let counting = async {
        let mut ticks = tokio::time::interval(metrics::UPKEEP_INTERVAL);
        loop {
            ticks.tick().await;
            metrics::record_router_stats(&proxy.read_stats());
        }
    };
    tokio::select! {
        _ = future::join(feed, serving) => {}
        () = counting => {}
    }
}

fn build_proxy_settings(
    settings: &RouterSettings,
    https: Option<&RouterHttps>,
    drain_plan: DrainPlan,
) -> ProxySettings {
    let defaults = ProxySettings::default();
    ProxySettings {
        first_byte_timeout: settings.first_byte_timeout,
        idle_timeout: settings.idle_timeout,
        max_connections: settings.max_connections,
        max_connections_per_address: settings.connections_per_address(),
        drain: settings.drain_timeout,
        drain_plan,
        trust_forwarded: settings.trust_forwarded,
        https_port: https.map_or(defaults.https_port, |https| {
            settings.https_public_port(https.address())
        }),
        ..defaults
    }
}
