//! The parts of a fixture: reachable units, fast builds, a service that responds.

use std::future::IntoFuture as _;
use std::io::Write as _;
use std::sync::{Arc, Mutex};

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::stream;
use serde_json::json;
use tancho::builders::platforms;
use tancho::provisioners::UnitRunner;
use tokio::net::TcpListener;

use crate::test_server::TestServer;

/// Installs the platforms where the builds of a server look for them.
pub(crate) fn install_platforms(tancho: &TestServer) {
    let home = &tancho.running.core.platforms_dir;
    let installed =
        platforms::install_platforms(&home.with_extension("all"), env!("CARGO_BIN_EXE_tancho").as_ref());
    std::fs::rename(installed.unwrap(), home).unwrap();
    // The data folder has a link to the program there, for its git children.
    let (program, place) = (home.with_extension("all").join("bin"), home.with_file_name("bin"));
    std::fs::remove_dir_all(&place).unwrap();
    std::fs::rename(program, place).unwrap();
}

/// Gives all units of the fake provisioner one address, where a listener accepts.
pub(crate) async fn listen_for_all_units(tancho: &TestServer) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (fake, stop) = (tancho.fake.clone(), tancho.running.core.stop.clone());
    let mut changes = fake.subscribe_changes();
    tokio::spawn(async move {
        while !stop.is_cancelled() {
            for report in fake.observe_units().await.unwrap() {
                if report.address != Some(address) {
                    fake.set_address(&report.unit, address);
                }
            }
            tokio::select! {
                accepted = listener.accept() => drop(accepted),
                changed = changes.changed() => if changed.is_err() { return },
                () = stop.cancelled() => return,
            }
        }
    });
}

/// Packs an app of a Procfile only.
pub(crate) fn archive(procfile: &str) -> Vec<u8> {
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    let mut header = tar::Header::new_gnu();
    header.set_size(procfile.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, "Procfile", procfile.as_bytes())
        .unwrap();
    let mut encoder = tar.into_inner().unwrap();
    encoder.flush().unwrap();
    encoder.finish().unwrap()
}

/// How a service responds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ServiceMode {
    Work,
    Refuse,
    HangUp,
}

/// A service that has plans, reports on its instances and returns two variables; below `/bare` it has no
/// plans. It stops with its server.
pub(crate) struct RecordedService {
    pub(crate) url: String,
    does: Arc<Mutex<ServiceMode>>,
}

impl RecordedService {
    pub(crate) async fn start(tancho: &TestServer) -> Self {
        let does = Arc::new(Mutex::new(ServiceMode::Work));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(answer).with_state(Arc::clone(&does));
        let stop = tancho.running.core.stop.clone();
        let serving = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned());
        tokio::spawn(serving.into_future());
        Self { url, does }
    }

    /// Sets how it behaves from now on.
    pub(crate) fn set_mode(&self, does: ServiceMode) {
        *self.does.lock().unwrap() = does;
    }
}

async fn answer(State(does): State<Arc<Mutex<ServiceMode>>>, request: Request) -> Response {
    let does = *does.lock().unwrap();
    match does {
        ServiceMode::Work => working_answer(&request),
        ServiceMode::Refuse => (StatusCode::INTERNAL_SERVER_ERROR, "no space left").into_response(),
        ServiceMode::HangUp => {
            let broken = stream::once(async { Err::<Bytes, _>(std::io::Error::other("gone")) });
            Body::from_stream(broken).into_response()
        }
    }
}

fn working_answer(request: &Request) -> Response {
    let path = request.uri().path();
    let plans = json!([
        { "name": "small", "description": "1 GB, one copy" },
        { "name": "large", "description": "100 GB, two copies" },
    ]);
    let vars = json!({ "DATABASE_HOST": "db.example.test", "DATABASE_PASSWORD": "s3cret" });
    match (request.method().as_str(), path) {
        ("GET", "/resources/plans") => Json(plans).into_response(),
        ("GET", "/bare/resources/plans") => Json(json!([])).into_response(),
        ("GET", _) if path.ends_with("/status") => StatusCode::NO_CONTENT.into_response(),
        ("GET", _) => Json(json!([{ "label": "Address", "value": "db.example.test:5432" }])).into_response(),
        ("POST", _) if path.ends_with("/bind-app") => (StatusCode::CREATED, Json(vars)).into_response(),
        ("POST", _) => StatusCode::CREATED.into_response(),
        _ => StatusCode::OK.into_response(),
    }
}
