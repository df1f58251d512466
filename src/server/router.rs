//! The router: a proxy with the routes, and the certificates, of the database.

use futures_util::future;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::config::{RouterSettings, Settings};
use crate::db::Db;
use crate::db::notices::NoticeHub;
use crate::kernel::ids::ReplicaId;
use crate::kernel::public_hosts::PlatformHosts;
use crate::proxy::{Proxy, ProxySettings};
use crate::routing;
use crate::server::https::RouterHttps;
use crate::telemetry::metrics;

/// Runs the router until `stop` is cancelled, with the routes in the database.
pub async fn run_router(
    settings: Settings,
    db: Db,
    replica: ReplicaId,
    notices: NoticeHub,
    (listener, https): (TcpListener, Option<RouterHttps>),
    stop: CancellationToken,
) {
    let platform = PlatformHosts::new(&settings.router.domain, &settings.api.public_url);
    let proxy = Proxy::new(proxy_settings(&settings.router, https.as_ref()));
    let loaded = CancellationToken::new();
    let serving_tls = async {
        if let Some(https) = https {
            let database = (db.clone(), notices.clone(), replica);
            https
                .serve(proxy.clone(), database, &settings, loaded.clone(), stop.clone())
                .await;
        }
    };
    let feed = routing::follow_routes(
        db.clone(),
        replica,
        notices.clone(),
        platform,
        proxy.clone(),
        loaded.clone(),
        stop.clone(),
    );
    let serving = async {
        // Clients wait meanwhile: without a table they would get 404 for existing apps.
        tokio::select! {
            () = loaded.cancelled() => proxy.serve(listener, stop.clone()).await,
            () = stop.cancelled() => {}
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
        _ = future::join3(feed, serving, serving_tls) => {}
        () = counting => {}
    }
}

fn proxy_settings(settings: &RouterSettings, https: Option<&RouterHttps>) -> ProxySettings {
    let defaults = ProxySettings::default();
    ProxySettings {
        first_byte_timeout: settings.first_byte_timeout,
        idle_timeout: settings.idle_timeout,
        max_connections: settings.max_connections,
        max_connections_per_address: settings.connections_per_address(),
        drain: settings.drain_timeout,
        trust_forwarded: settings.trust_forwarded,
        https_port: https.map_or(defaults.https_port, |https| {
            settings.https_public_port(https.address())
        }),
        ..defaults
    }
}
