//! API clients that are deliberately slow, and many of them. Those of the router are in `src/proxy/tests`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use axum::routing::{get, post};
use tancho::http::serve::{ServerLimits, serve_api};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const PATIENCE: Duration = Duration::from_secs(30);

async fn within_deadline<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("timed out")
}

async fn start_api(app: Router, bounds: ServerLimits) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(serve_api(listener, app, bounds, CancellationToken::new()));
    addr
}

fn hello_app() -> Router {
    Router::new().route("/", get(async || "hello"))
}

/// Reads a response with `hello`.
async fn read_hello(stream: &mut TcpStream) {
    let mut text = Vec::new();
    while !text.ends_with(b"hello") {
        let mut part = [0; 512];
        let count = within_deadline(stream.read(&mut part)).await.unwrap();
        assert!(count > 0, "{}", String::from_utf8_lossy(&text));
        text.extend_from_slice(&part[..count]);
    }
}

/// Reads the rest until the other side closes.
async fn read_to_close(stream: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    let _ = within_deadline(stream.read_to_end(&mut rest)).await;
    rest
}

#[tokio::test]
async fn slow_heads_and_silent_clients_are_disconnected() {
    let bounds = ServerLimits::new(100).with_timeouts(Duration::from_millis(200), PATIENCE * 2);
    let addr = start_api(hello_app(), bounds).await;
    for beginning in ["", "G", "PRI * HTTP/2.0\r\n", "GET / HTTP/1.1\r\nHost: a\r\n"] {
        let mut client = TcpStream::connect(addr).await.unwrap();
        client.write_all(beginning.as_bytes()).await.unwrap();
        assert!(read_to_close(&mut client).await.is_empty(), "{beginning:?}");
    }
    // A request first, so that the timeout of a new connection does not apply.
    let mut client = TcpStream::connect(addr).await.unwrap();
    client.write_all(GET).await.unwrap();
    read_hello(&mut client).await;
    client.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    let (mut reading, mut writing) = client.into_split();
    let drip = async move {
        while writing.write_all(b"X: y\r\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let mut after = Vec::new();
    let cut = async { drop(reading.read_to_end(&mut after).await) };
    within_deadline(async { tokio::join!(drip, cut) }).await;
    assert!(after.is_empty(), "{}", String::from_utf8_lossy(&after));
}

#[tokio::test]
async fn idle_timeout_between_requests_is_longer_than_the_header_timeout() {
    let idle = Duration::from_millis(600);
    let addr = start_api(
        hello_app(),
        ServerLimits::new(100).with_timeouts(Duration::from_millis(40), idle),
    )
    .await;
    let begun = Instant::now();
    let mut client = TcpStream::connect(addr).await.unwrap();
    client.write_all(GET).await.unwrap();
    read_hello(&mut client).await;
    assert!(read_to_close(&mut client).await.is_empty());
    assert!(
        begun.elapsed() >= idle - Duration::from_millis(50),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn slow_response_is_not_aborted() {
    let idle = Duration::from_millis(100);
    let slow = get(async move || {
        tokio::time::sleep(idle * 8).await;
        "hello"
    });
    let addr = start_api(
        Router::new().route("/", slow),
        ServerLimits::new(100).with_timeouts(idle, idle),
    )
    .await;
    let mut client = TcpStream::connect(addr).await.unwrap();
    client.write_all(GET).await.unwrap();
    read_hello(&mut client).await;
}

async fn wait_until(mut condition: impl FnMut() -> bool) {
    within_deadline(async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn client_that_does_not_read_its_response_is_disconnected() {
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
    let addr = start_api(
        Router::new().route("/", endless),
        ServerLimits::new(100).with_timeouts(idle, idle),
    )
    .await;
    let before = Arc::strong_count(&mine);
    let mut client = TcpStream::connect(addr).await.unwrap();
    client.write_all(GET).await.unwrap();
    wait_until(|| Arc::strong_count(&mine) > before).await;
    // On this side nothing is read and nothing is closed.
    wait_until(|| Arc::strong_count(&mine) <= before).await;
    drop(client);
}

#[tokio::test]
async fn connections_over_the_limit_wait() {
    let addr = start_api(
        hello_app(),
        ServerLimits::new(2).with_timeouts(PATIENCE, PATIENCE),
    )
    .await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut client = TcpStream::connect(addr).await.unwrap();
        client.write_all(GET).await.unwrap();
        read_hello(&mut client).await;
        held.push(client);
    }
    let mut third = TcpStream::connect(addr).await.unwrap();
    third.write_all(GET).await.unwrap();
    let early = tokio::time::timeout(Duration::from_millis(300), third.readable()).await;
    assert!(early.is_err(), "it should wait");
    held.pop();
    read_hello(&mut third).await;
}

/// Connects from an address of this machine.
async fn connect_from(source: &str, addr: SocketAddr) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(format!("{source}:0").parse().unwrap()).unwrap();
    within_deadline(socket.connect(addr)).await.unwrap()
}

#[tokio::test]
async fn api_connections_per_address_are_limited() {
    let bounds = ServerLimits::new(4)
        .with_timeouts(PATIENCE, PATIENCE)
        .with_address_limit(2, Vec::new());
    let addr = start_api(hello_app(), bounds).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut client = connect_from("127.0.0.1", addr).await;
        client.write_all(GET).await.unwrap();
        read_hello(&mut client).await;
        held.push(client);
    }
    for _ in 0..20 {
        let mut more = connect_from("127.0.0.1", addr).await;
        let said = read_to_close(&mut more).await;
        let said = String::from_utf8_lossy(&said);
        assert!(
            said.starts_with("HTTP/1.1 503 ") && said.contains("from your address"),
            "{said}"
        );
    }
    let mut other = connect_from("127.0.0.2", addr).await;
    other.write_all(GET).await.unwrap();
    read_hello(&mut other).await;
    // A released slot can be taken again.
    held.pop();
    let mut again = connect_from("127.0.0.1", addr).await;
    retry_until_served(&mut again, addr).await;
}

/// Retries on new connections until the request is served.
async fn retry_until_served(stream: &mut TcpStream, addr: SocketAddr) {
    within_deadline(async {
        loop {
            let mut part = [0; 512];
            let _ = stream.write_all(GET).await;
            match stream.read(&mut part).await {
                Ok(count) if part[..count].starts_with(b"HTTP/1.1 200 ") => return,
                _ => *stream = connect_from("127.0.0.1", addr).await,
            }
        }
    })
    .await;
}

#[tokio::test]
async fn trusted_load_balancer_may_use_all_connections() {
    let trusted = vec!["127.0.0.1".parse().unwrap()];
    let bounds = ServerLimits::new(4)
        .with_timeouts(PATIENCE, PATIENCE)
        .with_address_limit(1, trusted);
    let addr = start_api(hello_app(), bounds).await;
    let mut held = Vec::new();
    for _ in 0..4 {
        let mut client = connect_from("127.0.0.1", addr).await;
        client.write_all(GET).await.unwrap();
        read_hello(&mut client).await;
        held.push(client);
    }
}

#[tokio::test]
async fn client_rejected_while_sending_gets_the_response() {
    let refusing = Router::new().route("/", post(async || StatusCode::PAYLOAD_TOO_LARGE));
    let addr = start_api(refusing, ServerLimits::new(100)).await;
    // More than two socket buffers hold, so that the server must read it.
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
            within_deadline(client.write_all(part)).await.expect(&framing);
        }
        let mut answer = String::new();
        within_deadline(client.read_to_string(&mut answer))
            .await
            .expect(&framing);
        assert!(answer.starts_with("HTTP/1.1 413"), "{framing}: {answer}");
    }
}
