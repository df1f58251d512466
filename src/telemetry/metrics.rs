//! Prometheus metrics, with all names in one place. They describe this process and need no query, so they are
//! available while the database is not.
//!
//! No label contains user input, such as the name of an app or a path: so their number is bounded and they
//! disclose nothing. Times are in seconds, sizes in bytes, by Prometheus' conventions.

use std::sync::OnceLock;
use std::time::Duration;

use metrics::{counter, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio_util::sync::CancellationToken;

/// The content type of [`render_metrics`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

const API_REQUESTS: &str = "tancho_http_requests_total";
const API_REQUEST_SECONDS: &str = "tancho_http_request_duration_seconds";
const SERVICE_CALL_SECONDS: &str = "tancho_service_call_duration_seconds";
const SAGA_STEPS: &str = "tancho_saga_steps_total";
const JOB_RUNS: &str = "tancho_job_runs_total";
const TRANSACTION_RETRIES: &str = "tancho_database_transaction_retries_total";
const DB_CONNECTIONS: &str = "tancho_database_connections";
const ROUTER_REQUESTS: &str = "tancho_router_requests_total";
const ROUTER_RESPONSES: &str = "tancho_router_responses_total";
const ROUTER_CONNECTIONS: &str = "tancho_router_connections_total";
const ROUTER_RETRIES: &str = "tancho_router_retries_total";
const ROUTER_REQUESTS_IN_FLIGHT: &str = "tancho_router_requests_in_flight";
const ROUTER_TUNNELS: &str = "tancho_router_tunnels";
const CERTIFICATES: &str = "tancho_certificates";
const CERTIFICATE_EXPIRY_SECONDS: &str = "tancho_certificate_expiry_seconds";

/// Histogram buckets for the durations of requests and calls; deploys take minutes.
const DURATION_BUCKETS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0,
];
/// The interval of histogram upkeep, so that recorded values do not accumulate.
pub const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// One per process, whatever number of servers a test starts in it.
static RECORDER_HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();

fn install_recorder() -> Option<&'static PrometheusHandle> {
    if RECORDER_HANDLE.get().is_none() {
        let builder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &DURATION_BUCKETS)
            .ok()?;
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        // Another thread may have installed one first.
        if metrics::set_global_recorder(recorder).is_ok() {
            describe_metrics();
            let _ = RECORDER_HANDLE.set(handle);
        }
    }
    RECORDER_HANDLE.get()
}

fn describe_metrics() {
    metrics::describe_counter!(API_REQUESTS, "Requests to the API, by route, method and status.");
    metrics::describe_histogram!(API_REQUEST_SECONDS, "Time until the head of an API response.");
    metrics::describe_histogram!(SERVICE_CALL_SECONDS, "Calls to services, by outcome.");
    metrics::describe_counter!(JOB_RUNS, "Attempts of runs of jobs that have ended, by outcome.");
    metrics::describe_counter!(SAGA_STEPS, "Saga steps, by kind, step, direction and outcome.");
    metrics::describe_counter!(
        TRANSACTION_RETRIES,
        "Transactions that were retried after a conflict."
    );
    metrics::describe_gauge!(DB_CONNECTIONS, "Database connections, by state.");
    metrics::describe_counter!(ROUTER_REQUESTS, "Requests to apps.");
    metrics::describe_counter!(
        ROUTER_RESPONSES,
        "Responses of apps and of the router, by status class."
    );
    metrics::describe_counter!(ROUTER_CONNECTIONS, "Client connections to the router.");
    metrics::describe_counter!(ROUTER_RETRIES, "Retries with another unit.");
    metrics::describe_gauge!(ROUTER_REQUESTS_IN_FLIGHT, "Requests to apps in progress.");
    metrics::describe_gauge!(ROUTER_TUNNELS, "Open tunnels (WebSockets and other upgrades).");
    metrics::describe_gauge!(CERTIFICATES, "Certificates of hosts of apps.");
    metrics::describe_gauge!(
        CERTIFICATE_EXPIRY_SECONDS,
        "Seconds until the first of these certificates expires; negative: it has."
    );
}

/// Enables the metrics and maintains them until `stop` is cancelled.
pub async fn maintain_metrics(stop: CancellationToken) {
    let Some(page) = install_recorder() else { return };
    gauge!("tancho_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    let mut ticks = tokio::time::interval(UPKEEP_INTERVAL);
    loop {
        tokio::select! {
            _ = ticks.tick() => page.run_upkeep(),
            () = stop.cancelled() => return,
        }
    }
}

/// Renders all metrics in the text format.
pub fn render_metrics() -> String {
    install_recorder()
        .map(PrometheusHandle::render)
        .unwrap_or_default()
}

/// Records a request to the API; the duration is that until the response head. `route` is a pattern of the
/// route table.
pub fn record_api_request(method: &http::Method, route: Option<&str>, status: u16, took: Duration) {
    // Clients may send arbitrary methods and paths.
    let method = match method.as_str() {
        known @ ("GET" | "HEAD" | "POST" | "PUT" | "DELETE" | "PATCH" | "OPTIONS") => known.to_owned(),
        _ => "other".to_owned(),
    };
    let route = route.unwrap_or("none").to_owned();
    histogram!(API_REQUEST_SECONDS, "method" => method.clone(), "route" => route.clone()).record(took);
    counter!(API_REQUESTS, "method" => method, "route" => route, "status" => status.to_string()).increment(1);
}

/// Records a call to a service.
pub fn record_service_call(outcome: &'static str, took: Duration) {
    histogram!(SERVICE_CALL_SECONDS, "outcome" => outcome).record(took);
}

/// Records a saga step.
pub fn record_saga_step(kind: &'static str, step: &'static str, undoing: bool, outcome: &'static str) {
    let direction = if undoing { "undo" } else { "forward" };
    counter!(SAGA_STEPS, "kind" => kind, "step" => step, "direction" => direction, "outcome" => outcome)
        .increment(1);
}

/// Records the end of an attempt of a run of a job.
pub fn record_job_run(is_success: bool) {
    let outcome = if is_success { "succeeded" } else { "failed" };
    counter!(JOB_RUNS, "outcome" => outcome).increment(1);
}

/// Records a transaction retry.
pub fn record_transaction_retry() {
    counter!(TRANSACTION_RETRIES).increment(1);
}

/// Records the number of database connections.
pub fn record_db_connections(idle: usize, all: u32) {
    let idle = u32::try_from(idle).unwrap_or(u32::MAX);
    gauge!(DB_CONNECTIONS, "state" => "idle").set(idle);
    gauge!(DB_CONNECTIONS, "state" => "busy").set(all.saturating_sub(idle));
}

/// Records how many certificates there are, and when the first of them expires.
#[expect(clippy::cast_precision_loss, reason = "nobody has 2^53 certificates")]
pub fn record_certificates(count: usize, seconds_left: Option<f64>) {
    gauge!(CERTIFICATES).set(count as f64);
    if let Some(seconds) = seconds_left {
        gauge!(CERTIFICATE_EXPIRY_SECONDS).set(seconds);
    }
}

/// The counters of a router since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouterStats {
    /// Client connections, tunnels included.
    pub connections: u64,
    /// Requests started.
    pub requests: u64,
    /// Requests whose response is not complete; without tunnels.
    pub in_flight: u64,
    /// Responses by status class: 1xx, 2xx, 3xx, 4xx, 5xx; of units and of the router itself.
    pub by_class: [u64; 5],
    /// Retries.
    pub retried: u64,
    /// Open tunnels.
    pub tunnels: u64,
}

/// Publishes the counters of a router.
#[expect(clippy::cast_precision_loss, reason = "nobody has 2^53 requests in flight")]
pub fn record_router_stats(read: &RouterStats) {
    counter!(ROUTER_REQUESTS).absolute(read.requests);
    counter!(ROUTER_CONNECTIONS).absolute(read.connections);
    counter!(ROUTER_RETRIES).absolute(read.retried);
    gauge!(ROUTER_REQUESTS_IN_FLIGHT).set(read.in_flight as f64);
    gauge!(ROUTER_TUNNELS).set(read.tunnels as f64);
    for (class, count) in ["1xx", "2xx", "3xx", "4xx", "5xx"].into_iter().zip(read.by_class) {
        counter!(ROUTER_RESPONSES, "class" => class).absolute(count);
    }
}
