//! Requests that are ambiguous or malformed, sent to both servers: the router and the API.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::Uri;
use http_body_util::{BodyExt, Full};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tancho::http::serve::{ServerLimits, serve_api};
use tancho::proxy::{BackendSet, HostRoute, Proxy, ProxySettings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::*;

pub(super) const TABLE: &str = include_str!("heads.jsonl");

/// The timeout after which a client with an incomplete request is disconnected.
const SHORT: Duration = Duration::from_secs(2);

#[derive(Deserialize)]
struct RequestRow {
    title: String,
    /// Each character is one byte.
    raw: String,
    router: Option<String>,
    api: Option<String>,
}

/// The targets of the requests that were received completely.
type SeenTargets = Arc<Mutex<Vec<String>>>;

/// A unit that reads each request to its end.
async fn unit(seen: SeenTargets) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let seen = Arc::clone(&seen);
            let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                let seen = Arc::clone(&seen);
                async move {
                    let target = request.uri().to_string();
                    if request.into_body().collect().await.is_ok() {
                        seen.lock().unwrap().push(target);
                    }
                    Ok::<_, Infallible>(hyper::Response::new(Full::new(Bytes::from("ok"))))
                }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    addr
}

async fn router(seen: SeenTargets) -> SocketAddr {
    let backend = unit(seen).await;
    let proxy = Proxy::new(ProxySettings {
        header_timeout: SHORT,
        idle_timeout: SHORT,
        first_byte_timeout: Duration::from_secs(20),
        ..ProxySettings::default()
    });
    let route = HostRoute {
        host: "blog.test".into(),
        app: "blog".into(),
        backends: BackendSet::Ready(vec![backend]),
    };
    proxy.set_routes([route].into_iter().collect());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move { proxy.serve(listener, CancellationToken::new()).await });
    addr
}

async fn api(seen: SeenTargets) -> SocketAddr {
    let whole = |State(seen): State<SeenTargets>, uri: Uri, _body: Bytes| async move {
        seen.lock().unwrap().push(uri.to_string());
        "ok"
    };
    let app = Router::new().fallback(whole).with_state(seen);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let bounds = ServerLimits::new(100).with_timeouts(SHORT, SHORT);
    tokio::spawn(serve_api(listener, app, bounds, CancellationToken::new()));
    addr
}

/// Sends bytes on a new connection, and reads until the other side closes it.
async fn send_raw(addr: SocketAddr, raw: &str) -> String {
    let bytes: Vec<u8> = raw.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect();
    let mut stream = TcpStream::connect(addr).await.unwrap();
    // The other side may have closed: the test detects that by what it reads.
    let _ = stream.write_all(&bytes).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut answer))
        .await
        .expect("the connection should be closed by now");
    String::from_utf8_lossy(&answer).into_owned()
}

async fn check_rows(
    server: &str,
    addr: SocketAddr,
    seen: &SeenTargets,
    of: impl Fn(&RequestRow) -> Option<String>,
) {
    for row in parse_rows::<RequestRow>(TABLE) {
        let Some(expected) = of(&row) else { continue };
        let title = format!("{server}: {}", row.title);
        let answer = send_raw(addr, &row.raw).await;
        let status = answer.split(' ').nth(1).unwrap_or("none").to_owned();
        match expected.as_str() {
            "any" => {}
            "any4" => assert!(status.starts_with('4') || status == "none", "{title}: {answer}"),
            exact => {
                assert_eq!(status, exact, "{title}: {answer}");
                assert_eq!(
                    answer.matches("HTTP/1.1 ").count(),
                    1,
                    "exactly one response: {title}: {answer}"
                );
            }
        }
        let seen = std::mem::take(&mut *seen.lock().unwrap());
        assert!(
            !seen.iter().any(|target| target.contains("smuggled")),
            "{title}: {seen:?}"
        );
        if expected != "any" {
            assert!(seen.is_empty(), "{title}: {seen:?}");
        }
    }
    // Only these rows are rejected, not every request.
    let good = "GET /good HTTP/1.1\r\nHost: blog.test\r\nConnection: close\r\n\r\n";
    assert!(send_raw(addr, good).await.starts_with("HTTP/1.1 200"), "{server}");
    assert_eq!(*seen.lock().unwrap(), ["/good"]);
}

#[tokio::test]
async fn hostile_requests_are_rejected_by_the_router() {
    let seen = SeenTargets::default();
    let addr = router(Arc::clone(&seen)).await;
    check_rows("router", addr, &seen, |row| row.router.clone()).await;
}

#[tokio::test]
async fn hostile_requests_are_rejected_by_the_api() {
    let seen = SeenTargets::default();
    let addr = api(Arc::clone(&seen)).await;
    check_rows("api", addr, &seen, |row| row.api.clone()).await;
}
