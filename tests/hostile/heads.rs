//! Requests that could be read in two ways, or are none, at both doors: the router and the API.

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
use tancho::http::serve::{Bounds, serve};
use tancho::proxy::{Backends, Proxy, ProxySettings, Route};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::*;

pub(super) const TABLE: &str = include_str!("heads.jsonl");

/// A client that leaves something open is let go after it.
const SHORT: Duration = Duration::from_secs(2);

#[derive(Deserialize)]
struct Row {
    title: String,
    /// A character is a byte.
    raw: String,
    router: Option<String>,
    api: Option<String>,
}

/// The targets of the requests that came through whole.
type Seen = Arc<Mutex<Vec<String>>>;

/// A unit that reads each request to its end.
async fn unit(seen: Seen) -> SocketAddr {
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

async fn router(seen: Seen) -> SocketAddr {
    let backend = unit(seen).await;
    let proxy = Proxy::new(ProxySettings {
        header_timeout: SHORT,
        idle_timeout: SHORT,
        first_byte_timeout: Duration::from_secs(20),
        ..ProxySettings::default()
    });
    let route = Route {
        host: "blog.test".into(),
        app: "blog".into(),
        state: Backends::Ready(vec![backend]),
    };
    proxy.set_routes([route].into_iter().collect());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move { proxy.serve(listener, CancellationToken::new()).await });
    addr
}

async fn api(seen: Seen) -> SocketAddr {
    let whole = |State(seen): State<Seen>, uri: Uri, _body: Bytes| async move {
        seen.lock().unwrap().push(uri.to_string());
        "ok"
    };
    let app = Router::new().fallback(whole).with_state(seen);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let bounds = Bounds::new(100).within(SHORT, SHORT);
    tokio::spawn(serve(listener, app, bounds, CancellationToken::new()));
    addr
}

/// Sends bytes on a new connection, and reads until the other side closes it.
async fn ask(addr: SocketAddr, raw: &str) -> String {
    let bytes: Vec<u8> = raw.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect();
    let mut stream = TcpStream::connect(addr).await.unwrap();
    // The other side may have closed: then the test sees it by what it reads.
    let _ = stream.write_all(&bytes).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut answer))
        .await
        .expect("the connection is closed at some time");
    String::from_utf8_lossy(&answer).into_owned()
}

async fn check(door: &str, addr: SocketAddr, seen: &Seen, of: impl Fn(&Row) -> Option<String>) {
    for row in rows::<Row>(TABLE) {
        let Some(expected) = of(&row) else { continue };
        let title = format!("{door}: {}", row.title);
        let answer = ask(addr, &row.raw).await;
        let status = answer.split(' ').nth(1).unwrap_or("none").to_owned();
        match expected.as_str() {
            "any" => {}
            "any4" => assert!(status.starts_with('4') || status == "none", "{title}: {answer}"),
            exact => {
                assert_eq!(status, exact, "{title}: {answer}");
                assert_eq!(
                    answer.matches("HTTP/1.1 ").count(),
                    1,
                    "nothing follows: {title}: {answer}"
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
    // It is these rows that are refused, not everything.
    let good = "GET /good HTTP/1.1\r\nHost: blog.test\r\nConnection: close\r\n\r\n";
    assert!(ask(addr, good).await.starts_with("HTTP/1.1 200"), "{door}");
    assert_eq!(*seen.lock().unwrap(), ["/good"]);
}

#[tokio::test]
async fn no_hostile_request_passes_the_router() {
    let seen = Seen::default();
    let addr = router(Arc::clone(&seen)).await;
    check("router", addr, &seen, |row| row.router.clone()).await;
}

#[tokio::test]
async fn no_hostile_request_passes_the_api() {
    let seen = Seen::default();
    let addr = api(Arc::clone(&seen)).await;
    check("api", addr, &seen, |row| row.api.clone()).await;
}
