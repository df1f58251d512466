//! What stands on a stage: units that can be reached, builds that are quick, a service that answers.

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
use tancho::provisioners::Provisioner;
use tokio::net::TcpListener;

use crate::house::House;

/// Puts the platforms where the builds of a house look for them.
pub(crate) fn can_build(house: &House) {
    let home = &house.running.core.platforms_dir;
    let installed = platforms::install(&home.with_extension("all"), env!("CARGO_BIN_EXE_tancho").as_ref());
    std::fs::rename(installed.unwrap(), home).unwrap();
    let program = home.with_extension("all").join("bin");
    std::fs::rename(program, home.with_file_name("bin")).unwrap();
}

/// Gives all units of the provisioner that only remembers one address, where somebody listens.
pub(crate) async fn everybody_listens(house: &House) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (fake, stop) = (house.fake.clone(), house.running.core.stop.clone());
    let mut changes = fake.changes();
    tokio::spawn(async move {
        while !stop.is_cancelled() {
            for report in fake.observe().await.unwrap() {
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

/// An app's files: a Procfile alone.
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

/// How a service takes its calls.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Does {
    Work,
    Refuse,
    HangUp,
}

/// A service that has plans, tells of its instances and gives two variables; below `/bare` it has no
/// plans. It ends with its house.
pub(crate) struct Service {
    pub(crate) url: String,
    does: Arc<Mutex<Does>>,
}

impl Service {
    pub(crate) async fn start(house: &House) -> Self {
        let does = Arc::new(Mutex::new(Does::Work));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(answer).with_state(Arc::clone(&does));
        let stop = house.running.core.stop.clone();
        let serving = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned());
        tokio::spawn(serving.into_future());
        Self { url, does }
    }

    /// What it does from now on.
    pub(crate) fn does(&self, does: Does) {
        *self.does.lock().unwrap() = does;
    }
}

async fn answer(State(does): State<Arc<Mutex<Does>>>, request: Request) -> Response {
    let does = *does.lock().unwrap();
    match does {
        Does::Work => work(&request),
        Does::Refuse => (StatusCode::INTERNAL_SERVER_ERROR, "no space left").into_response(),
        Does::HangUp => {
            let broken = stream::once(async { Err::<Bytes, _>(std::io::Error::other("gone")) });
            Body::from_stream(broken).into_response()
        }
    }
}

fn work(request: &Request) -> Response {
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
