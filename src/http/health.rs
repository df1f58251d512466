//! `GET /`, `GET /healthcheck`, `GET /info`, `GET /metrics`: the first page, the health, the version and the
//! metrics of the server; and the routes of former clients that only explain why they do nothing.
//!
//! Without parameters, the health check covers this process alone: it is alive and responds. With
//! `?check=all` its parts are checked: the database, the provisioners of its host, its own router. Parts of
//! other processes are not checked; a load balancer that asks this process cannot act on them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::{Extension, Json};
use schemars::JsonSchema;
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Mutex;

use crate::core::Core;
use crate::http::openapi;
use crate::kernel::error::Error;
use crate::telemetry::metrics;
use crate::web::answers::{RenderedJson, ShapedAnswer, TextStream};
use crate::web::errors::modern::{ModernError, ModernResult};
use crate::web::route_table::AuthPolicy::{AnyToken, Public, UserToken};
use crate::web::route_table::{GET, POST, RouteTable};
use crate::web::signature::JSON;
use crate::web::{Ctx, Params};

/// The time-out for each part.
const CHECK_TIMEOUT: Duration = Duration::from_secs(3);

/// When a check began, and its failures, one line each.
type HealthCheckResult = (Instant, Vec<String>);

/// Runs one check at a time, shared by all requests that came before it began, because anybody may request
/// one.
#[derive(Clone, Default)]
pub(super) struct SharedHealthCheck(Arc<Mutex<Option<HealthCheckResult>>>);

impl SharedHealthCheck {
    /// Returns the failures, one line each.
    async fn list_failures(&self, core: &Core) -> Vec<String> {
        let requested_at = Instant::now();
        let mut last = self.0.lock().await;
        if let Some((began, failures)) = last.as_ref()
            && *began >= requested_at
        {
            return failures.clone();
        }
        let began = Instant::now();
        let failures = check_components(core).await;
        *last = Some((began, failures.clone()));
        failures
    }
}

async fn check_components(core: &Core) -> Vec<String> {
    let database = async {
        let answered = crate::db::ping(&core.db).await;
        answered.map_err(|error| format!("database: {}", error.message()))
    };
    let provisioners = async {
        for (name, runner) in core.provisioners.runners() {
            match tokio::time::timeout(CHECK_TIMEOUT, runner.check_health()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::warn!(%error, name, "provisioner health check failed");
                    return Err(format!("provisioner: {name} cannot list its units"));
                }
                Err(_) => return Err(format!("provisioner: {name} timed out")),
            }
        }
        Ok(())
    };
    let router = async {
        let Some(address) = core.router else { return Ok(()) };
        match tokio::time::timeout(CHECK_TIMEOUT, probe_router(address)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                tracing::warn!(%error, "router health check failed");
                Err(String::from("router: cannot be reached"))
            }
            Err(_) => Err(String::from("router: timed out")),
        }
    };
    let (database, provisioners, router) = tokio::join!(database, provisioners, router);
    [database, provisioners, router]
        .into_iter()
        .filter_map(Result::err)
        .collect()
}

/// Requests a host that no app has; any response is a success. The router does not respond before it has a
/// table.
async fn probe_router(address: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    let request = b"GET / HTTP/1.1\r\nHost: healthcheck.invalid\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await?;
    let mut start = [0; 5];
    stream.read_exact(&mut start).await?;
    match &start == b"HTTP/" {
        true => Ok(()),
        false => Err(std::io::ErrorKind::InvalidData.into()),
    }
}

/// Responds with exactly `WORKING`, which load balancers and agents compare. With `?check=all` the parts are
/// checked too, and the response to failures is 503 with one line each.
pub(super) async fn check_health(
    ctx: Ctx,
    Extension(health_check): Extension<SharedHealthCheck>,
    params: Params,
) -> TextStream {
    let part = params.get_string("check").unwrap_or_default();
    if part.as_deref() == Some("all") {
        let failures = health_check.list_failures(&ctx.core).await;
        if !failures.is_empty() {
            let retry = [(header::RETRY_AFTER, "1")];
            let text = format!("{}\n", failures.join("\n"));
            return (StatusCode::SERVICE_UNAVAILABLE, retry, text)
                .into_response()
                .into();
        }
    }
    "WORKING".into_response().into()
}

/// `GET /1.2/metrics`: the metrics of this process, for Prometheus. Public, as clients expect; they name no
/// user and no app.
pub(super) async fn get_metrics(ctx: Ctx) -> TextStream {
    metrics::record_db_connections(ctx.core.db.num_idle(), ctx.core.db.size());
    (
        [(header::CONTENT_TYPE, metrics::CONTENT_TYPE)],
        metrics::render_metrics(),
    )
        .into_response()
        .into()
}

/// `GET /1.0/openapi.json`: the description of the API. Public, as it is in the documentation.
pub(super) async fn get_openapi() -> ShapedAnswer<RenderedJson<serde_json::Value>> {
    let kind = [(header::CONTENT_TYPE, JSON)];
    (kind, openapi::DOCUMENT).into_response().into()
}

/// The newest version of the API that has a route here.
const API_VERSION: &str = "1.31";
/// The parts of the API that not every server of this API has.
const FEATURES: &str = "event-blocks,event-webhooks,git,forges";

/// Contains strings only, because clients cannot decode other types.
#[derive(Debug, JsonSchema, Serialize)]
pub(super) struct ServerInfoView {
    api_version: &'static str,
    /// Separated by commas.
    features: &'static str,
    name: &'static str,
    /// The provisioners that a pool can have, separated by commas.
    provisioners: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    ssh: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ssh_host_key: Option<String>,
    version: &'static str,
}

/// `GET /1.0/info`
pub(super) async fn get_server_info(ctx: Ctx) -> ModernResult<Json<ServerInfoView>> {
    let ssh = ctx.core.public.ssh.as_ref();
    Ok(Json(ServerInfoView {
        api_version: API_VERSION,
        features: FEATURES,
        name: "tancho",
        provisioners: ctx.core.provisioners.names().join(","),
        ssh: ssh.map(|ssh| format!("{}:{}", ssh.host, ssh.port)),
        ssh_host_key: ssh.map(|ssh| ssh.fingerprint.clone()),
        version: env!("CARGO_PKG_VERSION"),
    }))
}

/// `GET /1.0/`: how to begin, for people who open the address of the API.
pub(super) async fn get_first_page(ctx: Ctx) -> String {
    let url = &ctx.core.public.api_url;
    format!(
        "This is the API of Tancho, a platform as a service. Use it with the tsuru client:\n\n\
         \ttsuru target add default {url} --set-current\n\ttsuru login\n"
    )
}

/// `POST /1.0/swap`: swapping is a matter of routable versions today. Errors: always `Precondition`.
pub(super) async fn refuse_swap() -> ModernError {
    ModernError(Error::precondition("swapping is deprecated"))
}

/// `GET /1.0/logs`: a WebSocket on which agents of former versions sent the lines of units. Errors: always
/// `Invalid`.
pub(super) async fn refuse_log_agent() -> ModernError {
    ModernError(Error::invalid(
        "This server collects the log lines of units itself: read them with GET /apps/{app}/log.",
    ))
}

/// The routes of the server itself.
#[rustfmt::skip]
pub(super) fn routes(table: RouteTable) -> RouteTable {
    table
        .add_versioned_route("1.0", GET, "/", Public, get_first_page)
        .add_versioned_route("1.0", GET, "/healthcheck", Public, check_health)
        .add_versioned_route("1.0", GET, "/healthcheck/", Public, check_health)
        .add_versioned_route("1.0", GET, "/openapi.json", Public, get_openapi)
        .add_versioned_route("1.2", GET, "/metrics", Public, get_metrics)
        .add_versioned_route("1.0", GET, "/info", AnyToken, get_server_info)
        .add_versioned_route("1.0", GET, "/logs", AnyToken, refuse_log_agent)
        .add_versioned_route("1.0", POST, "/swap", UserToken, refuse_swap)
}
