//! Clients of the API that are slow on purpose, and many. The router's are in `src/proxy/tests`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use axum::routing::{get, post};
use tancho::http::serve::{Bounds, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const PATIENCE: Duration = Duration::from_secs(30);

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what)
        .await
        .expect("it should have come by now")
}

async fn start(app: Router, bounds: Bounds) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, app, bounds, CancellationToken::new()));
    addr
}

fn hello() -> Router {
    Router::new().route("/", get(async || "hello"))
}

/// Reads an answer of `hello`.
async fn greeted(stream: &mut TcpStream) {
    let mut text = Vec::new();
    while !text.ends_with(b"hello") {
        let mut part = [0; 512];
        let count = soon(stream.read(&mut part)).await.unwrap();
        assert!(count > 0, "{}", String::from_utf8_lossy(&text));
        text.extend_from_slice(&part[..count]);
    }
}

/// The rest until the other side closes.
async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    let _ = soon(stream.read_to_end(&mut rest)).await;
    rest
}

#[tokio::test]
async fn a_slow_head_is_cut_however_it_drips_and_a_quiet_client_too() {
    let bounds = Bounds::new(100).within(Duration::from_millis(200), PATIENCE * 2);
    let addr = start(hello(), bounds).await;
    for beginning in ["", "G", "PRI * HTTP/2.0\r\n", "GET / HTTP/1.1\r\nHost: a\r\n"] {
        let mut client = TcpStream::connect(addr).await.unwrap();
        client.write_all(beginning.as_bytes()).await.unwrap();
        assert!(rest(&mut client).await.is_empty(), "{beginning:?}");
    }
    // A request first, so that it is not the deadline of a new connection that strikes.
    let mut client = TcpStream::connect(addr).await.unwrap();
    client.write_all(GET).await.unwrap();
    greeted(&mut client).await;
    client.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    let (mut reading, mut writing) = client.into_split();
    let drip = async move {
        while writing.write_all(b"X: y\r\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let mut after = Vec::new();
    let cut = async { drop(reading.read_to_end(&mut after).await) };
    soon(async { tokio::join!(drip, cut) }).await;
    assert!(after.is_empty(), "{}", String::from_utf8_lossy(&after));
}

#[tokio::test]
async fn a_client_between_two_requests_has_longer_but_not_for_ever() {
    let idle = Duration::from_millis(600);
    let addr = start(hello(), Bounds::new(100).within(Duration::from_millis(40), idle)).await;
    let begun = Instant::now();
    let mut client = TcpStream::connect(addr).await.unwrap();
    client.write_all(GET).await.unwrap();
    greeted(&mut client).await;
    assert!(rest(&mut client).await.is_empty());
    assert!(
        begun.elapsed() >= idle - Duration::from_millis(50),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn an_answer_that_takes_its_time_is_not_cut() {
    let idle = Duration::from_millis(100);
    let slow = get(async move || {
        tokio::time::sleep(idle * 8).await;
        "hello"
    });
    let addr = start(
        Router::new().route("/", slow),
        Bounds::new(100).within(idle, idle),
    )
    .await;
    let mut client = TcpStream::connect(addr).await.unwrap();
    client.write_all(GET).await.unwrap();
    greeted(&mut client).await;
}

async fn until(mut condition: impl FnMut() -> bool) {
    soon(async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answer_is_cut() {
    let held = Arc::new(());
    let mine = Arc::clone(&held);
    let endless = get(async move || {
        let parts = futures_util::stream::repeat_with(move || {
            let _held = &held;
            Ok::<_, std::io::Error>(Bytes::from_static(&[b'x'; 64 << 10]))
        });
        Body::from_stream(parts)
    });
    let idle = Duration::from_millis(300);
    let addr = start(
        Router::new().route("/", endless),
        Bounds::new(100).within(idle, idle),
    )
    .await;
    let before = Arc::strong_count(&mine);
    let mut client = TcpStream::connect(addr).await.unwrap();
    client.write_all(GET).await.unwrap();
    until(|| Arc::strong_count(&mine) > before).await;
    // Nothing is read, and nothing is closed, on this side.
    until(|| Arc::strong_count(&mine) <= before).await;
    drop(client);
}

#[tokio::test]
async fn more_connections_than_allowed_wait_for_a_place() {
    let addr = start(hello(), Bounds::new(2).within(PATIENCE, PATIENCE)).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut client = TcpStream::connect(addr).await.unwrap();
        client.write_all(GET).await.unwrap();
        greeted(&mut client).await;
        held.push(client);
    }
    let mut third = TcpStream::connect(addr).await.unwrap();
    third.write_all(GET).await.unwrap();
    let early = tokio::time::timeout(Duration::from_millis(300), third.readable()).await;
    assert!(early.is_err(), "it should wait");
    held.pop();
    greeted(&mut third).await;
}

#[tokio::test]
async fn who_is_refused_while_still_sending_reads_the_answer() {
    let refusing = Router::new().route("/", post(async || StatusCode::PAYLOAD_TOO_LARGE));
    let addr = start(refusing, Bounds::new(100)).await;
    // More than two sockets hold, so that the server must take it.
    let content = vec![b'x'; 32 << 20];
    let chunked = format!("{:x}\r\n", content.len());
    for (framing, before, after) in [
        (format!("Content-Length: {}", content.len()), "", ""),
        (
            "Transfer-Encoding: chunked".into(),
            chunked.as_str(),
            "\r\n0\r\n\r\n",
        ),
    ] {
        let mut client = TcpStream::connect(addr).await.unwrap();
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n{before}");
        for part in [head.as_bytes(), &content, after.as_bytes()] {
            soon(client.write_all(part)).await.expect(&framing);
        }
        let mut answer = String::new();
        soon(client.read_to_string(&mut answer)).await.expect(&framing);
        assert!(answer.starts_with("HTTP/1.1 413"), "{framing}: {answer}");
    }
}
