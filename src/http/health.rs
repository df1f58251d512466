//! `GET /healthcheck`, `GET /info`, `GET /metrics`: whether the server is up, which it is, and how it fares.
//!
//! Without a question it is about this process alone: it is alive and answers. With `?check=all` its parts are
//! tried: the database, the provisioners of its host, its own router. Parts of other processes are theirs to
//! tell; a load balancer that asks this one can do nothing about them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Mutex;

use crate::core::Core;
use crate::http::kit::Input;
use crate::telemetry::metrics;

/// For each part to answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// When a look began, and what was sick, one line each.
type Look = (Instant, Vec<String>);

/// One look at all parts at a time, shared by all who asked before it began: anybody may ask.
#[derive(Clone, Default)]
pub(super) struct Checkup(Arc<Mutex<Option<Look>>>);

impl Checkup {
    /// What is sick, one line each.
    async fn sick(&self, core: &Core) -> Vec<String> {
        let asked = Instant::now();
        let mut last = self.0.lock().await;
        if let Some((began, sick)) = last.as_ref()
            && *began >= asked
        {
            return sick.clone();
        }
        let began = Instant::now();
        let sick = look(core).await;
        *last = Some((began, sick.clone()));
        sick
    }
}

async fn look(core: &Core) -> Vec<String> {
    let database = async {
        let answered = crate::db::ping(&core.db).await;
        answered.map_err(|problem| format!("database: {}", problem.words()))
    };
    let provisioners = async {
        for provisioner in core.provisioners.values() {
            let name = provisioner.name();
            match tokio::time::timeout(PATIENCE, provisioner.observe()).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => {
                    tracing::warn!(%error, name, "a provisioner is sick");
                    return Err(format!("provisioner: {name} cannot tell what it runs"));
                }
                Err(_) => return Err(format!("provisioner: {name} does not answer in time")),
            }
        }
        Ok(())
    };
    let router = async {
        let Some(address) = core.router else { return Ok(()) };
        match tokio::time::timeout(PATIENCE, knock(address)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                tracing::warn!(%error, "the router is sick");
                Err(String::from("router: it does not answer"))
            }
            Err(_) => Err(String::from("router: it does not answer in time")),
        }
    };
    let (database, provisioners, router) = tokio::join!(database, provisioners, router);
    [database, provisioners, router]
        .into_iter()
        .filter_map(Result::err)
        .collect()
}

/// Asks the router for a host that no app has; any answer is good. It gives none before it has a table.
async fn knock(address: SocketAddr) -> std::io::Result<()> {
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

/// Exactly `WORKING`, which load balancers and agents compare. With `?check=all` the parts are tried too,
/// and the answer is 503 with a line for each that is sick.
pub(super) async fn healthcheck(
    State(core): State<Core>,
    Extension(checkup): Extension<Checkup>,
    input: Input,
) -> Response {
    if matches!(input.text("check"), Ok(Some(what)) if what == "all") {
        let sick = checkup.sick(&core).await;
        if !sick.is_empty() {
            let retry = [(header::RETRY_AFTER, "1")];
            let text = format!("{}\n", sick.join("\n"));
            return (StatusCode::SERVICE_UNAVAILABLE, retry, text).into_response();
        }
    }
    "WORKING".into_response()
}

/// `GET /1.2/metrics`: figures of this process, for Prometheus. Open, as clients expect; they tell of nobody.
pub(super) async fn figures(State(core): State<Core>) -> impl IntoResponse {
    metrics::connections(core.db.num_idle(), core.db.size());
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics::page())
}

/// `GET /1.0/info`: texts only.
pub(super) async fn info(State(core): State<Core>) -> Json<Value> {
    let mut info = json!({ "version": env!("CARGO_PKG_VERSION"), "name": "tancho" });
    if let Some(ssh) = &core.public.ssh {
        info["ssh"] = format!("{}:{}", ssh.host, ssh.port).into();
        info["ssh_host_key"] = ssh.fingerprint.clone().into();
    }
    Json(info)
}
