//! Figures for Prometheus, all names in one place. They are those of this process, and cost no query: they are
//! there while the database is away.
//!
//! No label holds what a user has written, such as the name of an app or a path: so they stay few, and say
//! nothing to a stranger. Times are in seconds, sizes in bytes, as Prometheus wants it.

use std::sync::OnceLock;
use std::time::Duration;

use metrics::{counter, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio_util::sync::CancellationToken;

/// What Prometheus takes for the text of [`page`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

const REQUESTS: &str = "tancho_http_requests_total";
const REQUEST_SECONDS: &str = "tancho_http_request_seconds";
const CALL_SECONDS: &str = "tancho_service_call_seconds";
const STEPS: &str = "tancho_saga_steps_total";
const LOST_RACES: &str = "tancho_database_lost_races_total";
const CONNECTIONS: &str = "tancho_database_connections";
const ROUTED: &str = "tancho_router_requests_total";
const ROUTED_STATUS: &str = "tancho_router_responses_total";
const ROUTED_OPEN: &str = "tancho_router_connections_total";
const ROUTED_RETRIES: &str = "tancho_router_retries_total";
const ROUTED_NOW: &str = "tancho_router_in_flight";
const TUNNELS: &str = "tancho_router_tunnels";

/// Bounds of the times of requests and calls; deploys take minutes.
const SECONDS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0,
];
/// Figures are added up this often, so that what is measured does not pile up unread.
pub const PERIOD: Duration = Duration::from_secs(5);

/// One for the process, whatever number of servers a test starts in it.
static PAGE: OnceLock<PrometheusHandle> = OnceLock::new();

fn installed() -> Option<&'static PrometheusHandle> {
    if PAGE.get().is_none() {
        let builder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)
            .ok()?;
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        // Whoever comes second has lost nothing.
        if metrics::set_global_recorder(recorder).is_ok() {
            describe();
            let _ = PAGE.set(handle);
        }
    }
    PAGE.get()
}

fn describe() {
    metrics::describe_counter!(REQUESTS, "Requests to the API, by route, method and status.");
    metrics::describe_histogram!(REQUEST_SECONDS, "Until the head of an answer of the API.");
    metrics::describe_histogram!(CALL_SECONDS, "Calls to services, by how they ended.");
    metrics::describe_counter!(STEPS, "Steps of durable work, by kind, step and how they ended.");
    metrics::describe_counter!(LOST_RACES, "Transactions that had to be run again.");
    metrics::describe_gauge!(CONNECTIONS, "Connections to the database, by state.");
    metrics::describe_counter!(ROUTED, "Requests to apps.");
    metrics::describe_counter!(ROUTED_STATUS, "Answers of apps and of the router, by class.");
    metrics::describe_counter!(ROUTED_OPEN, "Connections of the clients of apps.");
    metrics::describe_counter!(ROUTED_RETRIES, "Tries after the first, with another unit.");
    metrics::describe_gauge!(ROUTED_NOW, "Requests to apps that are not through yet.");
    metrics::describe_gauge!(TUNNELS, "Tunnels (WebSockets and the like) that are open.");
}

/// Begins to count, and keeps adding up until `stop`.
pub async fn keep(stop: CancellationToken) {
    let Some(page) = installed() else { return };
    gauge!("tancho_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    let mut ticks = tokio::time::interval(PERIOD);
    loop {
        tokio::select! {
            _ = ticks.tick() => page.run_upkeep(),
            () = stop.cancelled() => return,
        }
    }
}

/// All figures as text.
pub fn page() -> String {
    installed().map(PrometheusHandle::render).unwrap_or_default()
}

/// A request to the API has been answered; the time is that of its head. `route` is a pattern of the table.
pub fn answered(method: &http::Method, route: Option<&str>, status: u16, took: Duration) {
    // A client may invent a method, and a path.
    let method = match method.as_str() {
        known @ ("GET" | "HEAD" | "POST" | "PUT" | "DELETE" | "PATCH" | "OPTIONS") => known.to_owned(),
        _ => "other".to_owned(),
    };
    let route = route.unwrap_or("none").to_owned();
    histogram!(REQUEST_SECONDS, "method" => method.clone(), "route" => route.clone()).record(took);
    counter!(REQUESTS, "method" => method, "route" => route, "status" => status.to_string()).increment(1);
}

/// A call to a service has ended.
pub fn called(outcome: &'static str, took: Duration) {
    histogram!(CALL_SECONDS, "outcome" => outcome).record(took);
}

/// A step of durable work has ended.
pub fn stepped(kind: &'static str, step: &'static str, undoing: bool, outcome: &'static str) {
    let way = if undoing { "undo" } else { "forward" };
    counter!(STEPS, "kind" => kind, "step" => step, "way" => way, "outcome" => outcome).increment(1);
}

/// A transaction has to be run again.
pub fn lost_race() {
    counter!(LOST_RACES).increment(1);
}

/// How many connections to the database there are.
pub fn connections(idle: usize, all: u32) {
    let idle = u32::try_from(idle).unwrap_or(u32::MAX);
    gauge!(CONNECTIONS, "state" => "idle").set(idle);
    gauge!(CONNECTIONS, "state" => "busy").set(all.saturating_sub(idle));
}

/// What a router has counted since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouterStats {
    /// Connections of clients, tunnels included.
    pub connections: u64,
    /// Requests begun.
    pub requests: u64,
    /// Requests whose answer is not through yet; tunnels do not count.
    pub in_flight: u64,
    /// Answers by class: 1xx, 2xx, 3xx, 4xx, 5xx; units' and the router's own.
    pub by_class: [u64; 5],
    /// Tries after the first.
    pub retried: u64,
    /// Tunnels open now.
    pub tunnels: u64,
}

/// Shows what the router has counted.
#[expect(clippy::cast_precision_loss, reason = "nobody has 2^53 requests in flight")]
pub fn routed(read: &RouterStats) {
    counter!(ROUTED).absolute(read.requests);
    counter!(ROUTED_OPEN).absolute(read.connections);
    counter!(ROUTED_RETRIES).absolute(read.retried);
    gauge!(ROUTED_NOW).set(read.in_flight as f64);
    gauge!(TUNNELS).set(read.tunnels as f64);
    for (class, count) in ["1xx", "2xx", "3xx", "4xx", "5xx"].into_iter().zip(read.by_class) {
        counter!(ROUTED_STATUS, "class" => class).absolute(count);
    }
}
