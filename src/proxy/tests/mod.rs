//! Tests of the proxy over real sockets: raw bytes in front, small units behind.

mod answers;
mod framing;
mod hosts;
mod https;
mod lifecycle;
mod streams;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{BackendSet, HostRoute, HostRoutes, Proxy, ProxySettings};
use crate::kernel::drain_plan::DrainPlan;

/// The maximum that any test waits.
const PATIENCE: Duration = Duration::from_secs(20);

async fn within_deadline<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("timed out")
}

async fn wait_until(mut condition: impl FnMut() -> bool) {
    within_deadline(async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

struct RunningProxy {
    proxy: Proxy,
    addr: SocketAddr,
    cancel: CancellationToken,
    serving: JoinHandle<()>,
}

impl Drop for RunningProxy {
    fn drop(&mut self) {
        self.cancel.cancel();
        self.serving.abort();
    }
}

async fn start_proxy(settings: ProxySettings, routes: HostRoutes) -> RunningProxy {
    let proxy = Proxy::new(settings);
    proxy.set_routes(routes);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let cancel = CancellationToken::new();
    let serving = tokio::spawn({
        let (proxy, cancel) = (proxy.clone(), cancel.clone());
        async move { proxy.serve(listener, cancel).await }
    });
    RunningProxy {
        proxy,
        addr,
        cancel,
        serving,
    }
}

/// Routes `blog.test` to the app `blog`.
fn blog_routes(backends: impl IntoIterator<Item = SocketAddr>) -> HostRoutes {
    [HostRoute {
        host: "blog.test".into(),
        app: "blog".into(),
        backends: BackendSet::Ready(backends.into_iter().collect()),
    }]
    .into_iter()
    .collect()
}

/// Returns an address on which nothing listens.
async fn closed_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
}

/// A unit of raw sockets: the closure gets each connection with its number.
struct RawUnit {
    addr: SocketAddr,
    accepted: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for RawUnit {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl RawUnit {
    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

async fn raw_unit<F, Fut>(converse: F) -> RawUnit
where
    F: Fn(RawConn, usize) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&accepted);
    let task = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let number = count.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(converse(RawConn::new(stream), number));
        }
    });
    RawUnit { addr, accepted, task }
}

/// A unit that sends the same bytes for every head, on any number of connections.
async fn fixed_unit(answer: &'static str) -> RawUnit {
    raw_unit(move |mut raw, _| async move {
        while !raw.read_head().await.is_empty() {
            raw.send(answer).await;
        }
    })
    .await
}

/// A unit that responds with the head it received, and closes.
async fn head_echo_unit() -> RawUnit {
    raw_unit(|mut raw, _| async move {
        let head = raw.read_head().await;
        raw.send(&format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{head}",
            head.len()
        ))
        .await;
    })
    .await
}

/// A socket with buffered line reads and exact reads.
struct RawConn(BufReader<TcpStream>);

impl RawConn {
    fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Self(BufReader::new(stream))
    }

    async fn connect(addr: SocketAddr) -> Self {
        Self::new(TcpStream::connect(addr).await.unwrap())
    }

    async fn send(&mut self, text: &str) {
        // The other side may have closed: the test detects that by what it reads.
        let _ = self.0.get_mut().write_all(text.as_bytes()).await;
    }

    /// Reads a head with its empty line, or nothing at the end.
    async fn read_head(&mut self) -> String {
        let mut head = String::new();
        loop {
            match within_deadline(self.0.read_line(&mut head)).await {
                Ok(0) | Err(_) => return String::new(),
                Ok(_) if head.ends_with("\r\n\r\n") => return head,
                Ok(_) => {}
            }
        }
    }

    async fn read_line(&mut self) -> String {
        let mut line = String::new();
        let _ = within_deadline(self.0.read_line(&mut line)).await;
        line
    }

    async fn read_exact(&mut self, count: usize) -> String {
        let mut bytes = vec![0; count];
        within_deadline(self.0.read_exact(&mut bytes))
            .await
            .expect("bytes");
        String::from_utf8(bytes).unwrap()
    }

    /// Reads the head and body of a response with a length.
    async fn read_response(&mut self) -> (String, String) {
        let head = self.read_head().await;
        let length = header_value(&head, "content-length").map_or(0, |l| l.parse().unwrap());
        let body = self.read_exact(length).await;
        (head, body)
    }

    async fn read_to_close(&mut self) -> String {
        let mut bytes = Vec::new();
        let _ = within_deadline(self.0.read_to_end(&mut bytes)).await;
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

fn header_value<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then_some(value.trim())
    })
}

fn status_of(head: &str) -> &str {
    head.split(' ').nth(1).unwrap_or("none")
}

/// Sends bytes on a new connection, and reads until the proxy closes it.
async fn send_raw(addr: SocketAddr, raw: &str) -> String {
    let mut client = RawConn::connect(addr).await;
    client.send(raw).await;
    client.read_to_close().await
}

/// Sends a GET with additional header lines, on its own connection.
async fn send_get(addr: SocketAddr, host: &str, lines: &str) -> String {
    send_raw(
        addr,
        &format!("GET /x?y=1 HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{lines}\r\n"),
    )
    .await
}
