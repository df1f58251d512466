//! The proxy over real sockets: raw bytes in front, small units behind.

mod answers;
mod framing;
mod hosts;
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

use super::{Backends, Proxy, ProxySettings, Route, Routes};

/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(20);

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what)
        .await
        .expect("it should have come by now")
}

async fn until(mut condition: impl FnMut() -> bool) {
    soon(async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

struct Rig {
    proxy: Proxy,
    addr: SocketAddr,
    cancel: CancellationToken,
    serving: JoinHandle<()>,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.cancel.cancel();
        self.serving.abort();
    }
}

async fn rig(settings: ProxySettings, routes: Routes) -> Rig {
    let proxy = Proxy::new(settings);
    proxy.set_routes(routes);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let cancel = CancellationToken::new();
    let serving = tokio::spawn({
        let (proxy, cancel) = (proxy.clone(), cancel.clone());
        async move { proxy.serve(listener, cancel).await }
    });
    Rig {
        proxy,
        addr,
        cancel,
        serving,
    }
}

/// One app `blog` at `blog.test`.
fn blog(backends: impl IntoIterator<Item = SocketAddr>) -> Routes {
    [Route {
        host: "blog.test".into(),
        app: "blog".into(),
        state: Backends::Ready(backends.into_iter().collect()),
    }]
    .into_iter()
    .collect()
}

/// A listener on which nobody listens any more.
async fn closed_door() -> SocketAddr {
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
    F: Fn(Raw, usize) -> Fut + Send + 'static,
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
            tokio::spawn(converse(Raw::new(stream), number));
        }
    });
    RawUnit { addr, accepted, task }
}

/// A unit that gives the same bytes for every head, on as many connections as it is asked.
async fn fixed_unit(answer: &'static str) -> RawUnit {
    raw_unit(move |mut raw, _| async move {
        while !raw.head().await.is_empty() {
            raw.send(answer).await;
        }
    })
    .await
}

/// A unit that answers with the head that it got, and closes.
async fn mirror() -> RawUnit {
    raw_unit(|mut raw, _| async move {
        let head = raw.head().await;
        raw.send(&format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{head}",
            head.len()
        ))
        .await;
    })
    .await
}

/// A socket with lines and exact reads.
struct Raw(BufReader<TcpStream>);

impl Raw {
    fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Self(BufReader::new(stream))
    }

    async fn to(addr: SocketAddr) -> Self {
        Self::new(TcpStream::connect(addr).await.unwrap())
    }

    async fn send(&mut self, text: &str) {
        // The other side may have closed: then the test sees it by what it reads.
        let _ = self.0.get_mut().write_all(text.as_bytes()).await;
    }

    /// A head with its empty line, or nothing at the end.
    async fn head(&mut self) -> String {
        let mut head = String::new();
        loop {
            match soon(self.0.read_line(&mut head)).await {
                Ok(0) | Err(_) => return String::new(),
                Ok(_) if head.ends_with("\r\n\r\n") => return head,
                Ok(_) => {}
            }
        }
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        let _ = soon(self.0.read_line(&mut line)).await;
        line
    }

    async fn exactly(&mut self, count: usize) -> String {
        let mut bytes = vec![0; count];
        soon(self.0.read_exact(&mut bytes)).await.expect("bytes");
        String::from_utf8(bytes).unwrap()
    }

    /// Head and body of an answer that tells its length.
    async fn answer(&mut self) -> (String, String) {
        let head = self.head().await;
        let length = header(&head, "content-length").map_or(0, |l| l.parse().unwrap());
        let body = self.exactly(length).await;
        (head, body)
    }

    async fn rest(&mut self) -> String {
        let mut bytes = Vec::new();
        let _ = soon(self.0.read_to_end(&mut bytes)).await;
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then_some(value.trim())
    })
}

fn status(head: &str) -> &str {
    head.split(' ').nth(1).unwrap_or("none")
}

/// Sends bytes on a new connection, and reads until the proxy closes it.
async fn ask(addr: SocketAddr, raw: &str) -> String {
    let mut client = Raw::to(addr).await;
    client.send(raw).await;
    client.rest().await
}

/// A GET with more header lines, on its own connection.
async fn get(addr: SocketAddr, host: &str, lines: &str) -> String {
    ask(
        addr,
        &format!("GET /x?y=1 HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{lines}\r\n"),
    )
    .await
}
