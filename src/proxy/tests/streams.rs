//! Bodies, tunnels and HTTP/2.

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::Frame;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::*;

#[tokio::test]
async fn the_client_sees_the_first_chunk_before_the_unit_sends_the_last() {
    for head in [
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nfirst",
        "HTTP/1.1 200 OK\r\n\r\nfirst",
    ] {
        let (go, gone) = mpsc::channel::<()>(1);
        let gone = Arc::new(tokio::sync::Mutex::new(gone));
        let unit = raw_unit(move |mut raw, _| {
            let gone = Arc::clone(&gone);
            async move {
                raw.head().await;
                raw.send(head).await;
                gone.lock().await.recv().await;
                raw.send(if head.contains("chunked") {
                    "4\r\nlast\r\n0\r\n\r\n"
                } else {
                    "last"
                })
                .await;
            }
        })
        .await;
        let rig = rig(ProxySettings::default(), blog([unit.addr])).await;
        let mut client = Raw::to(rig.addr).await;
        client
            .send("GET / HTTP/1.1\r\nHost: blog.test\r\nConnection: close\r\n\r\n")
            .await;
        client.head().await;
        let mut seen = String::new();
        while !seen.ends_with("first") {
            seen.push_str(&client.exactly(1).await);
        }
        go.send(()).await.unwrap();
        assert!(client.rest().await.contains("last"), "{head}");
    }
}

#[tokio::test]
async fn the_unit_sees_the_first_chunk_before_the_client_sends_the_last() {
    let (seen, mut told) = mpsc::channel(1);
    let unit = raw_unit(move |mut raw, _| {
        let seen = seen.clone();
        async move {
            let head = raw.head().await;
            assert_eq!(header(&head, "transfer-encoding"), Some("chunked"));
            assert_eq!(raw.exactly(10).await, "5\r\nfirst\r\n");
            seen.send(()).await.unwrap();
            assert_eq!(raw.exactly(14).await, "4\r\nlast\r\n0\r\n\r\n");
            raw.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
            raw.head().await;
        }
    })
    .await;
    let rig = rig(ProxySettings::default(), blog([unit.addr])).await;
    let mut client = Raw::to(rig.addr).await;
    client
        .send("POST / HTTP/1.1\r\nHost: blog.test\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    client.send("5\r\nfirst\r\n").await;
    soon(told.recv()).await.unwrap();
    client.send("4\r\nlast\r\n0\r\n\r\n").await;
    assert_eq!(status(&client.head().await), "200");
}

#[tokio::test]
async fn large_bodies_pass_both_ways_whole_and_the_connections_live_on() {
    const SIZE: usize = 3_000_000;
    let body: String = (0..SIZE).map(|i| char::from(b'a' + (i % 23) as u8)).collect();
    let unit = raw_unit(|mut raw, _| async move {
        loop {
            let head = raw.head().await;
            let Some(length) = header(&head, "content-length") else {
                return;
            };
            let body = raw.exactly(length.parse().unwrap()).await;
            raw.send(&format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
                body.len()
            ))
            .await;
            raw.send(&body).await;
        }
    })
    .await;
    let rig = rig(ProxySettings::default(), blog([unit.addr])).await;
    let mut client = Raw::to(rig.addr).await;
    for _ in 0..3 {
        client
            .send(&format!(
                "PUT / HTTP/1.1\r\nHost: blog.test\r\nContent-Length: {SIZE}\r\n\r\n"
            ))
            .await;
        client.send(&body).await;
        assert!(client.answer().await.1 == body);
    }
    assert_eq!(unit.accepted(), 1);
}

#[tokio::test]
async fn a_slow_client_slows_the_unit() {
    let (sent, sending) = (Arc::new(AtomicUsize::new(0)), 64 * 1024 * 1024);
    let counter = Arc::clone(&sent);
    let unit = raw_unit(move |mut raw, _| {
        let counter = Arc::clone(&counter);
        async move {
            raw.head().await;
            raw.send(&format!("HTTP/1.1 200 OK\r\nContent-Length: {sending}\r\n\r\n"))
                .await;
            let piece = "x".repeat(64 * 1024);
            while counter.load(Ordering::SeqCst) < sending {
                raw.send(&piece).await;
                counter.fetch_add(piece.len(), Ordering::SeqCst);
            }
        }
    })
    .await;
    let rig = rig(ProxySettings::default(), blog([unit.addr])).await;
    let mut client = Raw::to(rig.addr).await;
    client
        .send("GET / HTTP/1.1\r\nHost: blog.test\r\nConnection: close\r\n\r\n")
        .await;
    client.head().await;
    // It stands still once the buffers of the kernel are full.
    let mut before = usize::MAX;
    soon(async {
        while before != sent.load(Ordering::SeqCst) {
            before = sent.load(Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    assert!(
        before < sending / 2,
        "{before} bytes were taken from the unit for a client that reads none"
    );
    assert_eq!(client.rest().await.len(), sending);
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let unit = raw_unit(|mut raw, _| async move {
        let head = raw.head().await;
        assert_eq!(header(&head, "trailer"), Some("x-sum"));
        let body = raw.exactly("2\r\nab\r\n0\r\n".len()).await;
        let trailer = raw.head().await;
        assert!(
            body.starts_with("2\r\nab") && trailer.starts_with("x-sum: 1\r\n"),
            "{body}{trailer}"
        );
        raw.send("HTTP/1.1 200 OK\r\nTrailer: X-Done\r\nTransfer-Encoding: chunked\r\n\r\n")
            .await;
        raw.send("2\r\nok\r\n0\r\nX-Done: yes\r\n\r\n").await;
        raw.head().await;
    })
    .await;
    let rig = rig(ProxySettings::default(), blog([unit.addr])).await;
    let raw = "POST / HTTP/1.1\r\nHost: blog.test\r\nTE: trailers\r\nTrailer: x-sum\r\nConnection: close\r\n\
        Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nX-Sum: 1\r\n\r\n";
    let answer = ask(rig.addr, raw).await;
    assert!(
        answer.ends_with("2\r\nok\r\n0\r\nx-done: yes\r\n\r\n"),
        "{answer}"
    );
}

#[tokio::test]
async fn the_client_is_told_to_continue_when_the_unit_says_so() {
    let unit = raw_unit(|mut raw, _| async move {
        let head = raw.head().await;
        assert_eq!(header(&head, "expect"), Some("100-continue"));
        raw.send("HTTP/1.1 100 Continue\r\n\r\n").await;
        let body = raw.exactly(4).await;
        raw.send(&format!("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n{body}"))
            .await;
        raw.head().await;
    })
    .await;
    let rig = rig(ProxySettings::default(), blog([unit.addr])).await;
    let mut client = Raw::to(rig.addr).await;
    let head = "POST / HTTP/1.1\r\nHost: blog.test\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n";
    client.send(head).await;
    assert_eq!(status(&client.head().await), "100");
    client.send("body").await;
    assert_eq!(client.answer().await.1, "body");
}

#[tokio::test]
async fn a_unit_that_wants_no_body_refuses_before_it_is_sent() {
    let unit = fixed_unit("HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n").await;
    let rig = rig(ProxySettings::default(), blog([unit.addr])).await;
    let head = "POST / HTTP/1.1\r\nHost: blog.test\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n";
    let answer = ask(rig.addr, head).await;
    assert_eq!(status(&answer), "413", "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
}

#[tokio::test]
async fn an_answer_before_the_end_of_a_large_body_reaches_the_client() {
    let unit = raw_unit(|mut raw, _| async move {
        raw.head().await;
        raw.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
            .await;
        raw.rest().await;
    })
    .await;
    let rig = rig(ProxySettings::default(), blog([unit.addr])).await;
    let mut client = Raw::to(rig.addr).await;
    client
        .send("POST / HTTP/1.1\r\nHost: blog.test\r\nContent-Length: 50000000\r\n\r\nsome")
        .await;
    let (head, body) = client.answer().await;
    assert_eq!((status(&head), &*body), ("403", "no"));
}

#[tokio::test]
async fn a_body_that_breaks_off_at_the_unit_breaks_off_at_the_client() {
    let unit = raw_unit(|mut raw, _| async move {
        raw.head().await;
        raw.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
            .await;
    })
    .await;
    let rig = rig(ProxySettings::default(), blog([unit.addr])).await;
    let answer = get(rig.addr, "blog.test", "").await;
    assert!(
        !answer.contains("0\r\n\r\n"),
        "the client must see that it is not whole: {answer}"
    );
}

/// A unit that switches to an echo in capitals.
async fn shouting() -> RawUnit {
    raw_unit(|mut raw, _| async move {
        let head = raw.head().await;
        assert_eq!(header(&head, "connection"), Some("upgrade"));
        assert_eq!(header(&head, "upgrade"), Some("websocket"));
        assert_eq!(header(&head, "sec-websocket-key"), Some("x"));
        raw.send(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello\n",
        )
        .await;
        loop {
            let line = raw.line().await;
            if line.is_empty() {
                return;
            }
            raw.send(&line.to_uppercase()).await;
        }
    })
    .await
}

const UPGRADE: &str = "GET /ws HTTP/1.1\r\nHost: blog.test\r\nConnection: keep-alive, Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n";

#[tokio::test]
async fn an_upgrade_becomes_a_tunnel_both_ways() {
    let unit = shouting().await;
    let rig = rig(ProxySettings::default(), blog([unit.addr])).await;
    let mut client = Raw::to(rig.addr).await;
    client.send(UPGRADE).await;
    let head = client.head().await;
    assert_eq!(status(&head), "101");
    assert_eq!(header(&head, "connection"), Some("upgrade"));
    assert_eq!(header(&head, "upgrade"), Some("websocket"));
    assert_eq!(client.line().await, "hello\n");
    // What looks like a doubtful request is only bytes now.
    for line in [
        "ping\n",
        "POST / HTTP/1.1\r\n",
        "content-length: 1\r\n",
        "transfer-encoding: chunked\r\n",
    ] {
        client.send(line).await;
        assert_eq!(client.line().await, line.to_uppercase());
    }
    assert_eq!((rig.proxy.stats().tunnels, rig.proxy.stats().connections), (1, 1));
    client.0.get_mut().shutdown().await.unwrap();
    assert_eq!(client.rest().await, "");
    until(|| rig.proxy.stats().tunnels == 0 && rig.proxy.stats().connections == 0).await;
    assert_eq!(rig.proxy.stats().by_class, [1, 0, 0, 0, 0]);
}

#[tokio::test]
async fn a_tunnel_in_which_nothing_moves_is_closed() {
    let unit = shouting().await;
    let settings = ProxySettings {
        idle_timeout: Duration::from_millis(100),
        ..ProxySettings::default()
    };
    let rig = rig(settings, blog([unit.addr])).await;
    let mut client = Raw::to(rig.addr).await;
    client.send(UPGRADE).await;
    assert_eq!(status(&client.head().await), "101");
    assert_eq!(client.rest().await, "hello\n");
    until(|| rig.proxy.stats().tunnels == 0).await;
}

#[tokio::test]
async fn a_tunnel_ends_when_the_time_to_drain_is_over() {
    let unit = shouting().await;
    let settings = ProxySettings {
        drain: Duration::from_millis(100),
        ..ProxySettings::default()
    };
    let mut rig = rig(settings, blog([unit.addr])).await;
    let mut client = Raw::to(rig.addr).await;
    client.send(UPGRADE).await;
    client.head().await;
    assert_eq!(client.line().await, "hello\n");
    rig.cancel.cancel();
    client.send("still\n").await;
    assert_eq!(client.line().await, "STILL\n");
    assert_eq!(client.rest().await, "");
    soon(&mut rig.serving).await.unwrap();
}

#[tokio::test]
async fn an_upgrade_that_the_unit_refuses_is_answered_and_the_connection_closed() {
    let unit = fixed_unit("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    let rig = rig(ProxySettings::default(), blog([unit.addr])).await;
    let answer = ask(rig.addr, UPGRADE).await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok"),
        "{answer}"
    );
    assert_eq!(header(&answer, "connection"), Some("close"));
}

type Http2 = http2::SendRequest<http_body_util::combinators::BoxBody<Bytes, std::convert::Infallible>>;

async fn http2(addr: SocketAddr) -> Http2 {
    let io = TokioIo::new(TcpStream::connect(addr).await.unwrap());
    let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    sender
}

#[tokio::test]
async fn http2_with_prior_knowledge_reaches_a_unit_as_http1() {
    let unit = mirror().await;
    let rig = rig(ProxySettings::default(), blog([unit.addr])).await;
    let mut sender = http2(rig.addr).await;
    let request = http::Request::post("http://blog.test:80/a?b")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .header("te", "trailers")
        .body(Empty::new().boxed())
        .unwrap();
    let response = soon(sender.send_request(request)).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["x-request-id"].len(), 32);
    let seen = soon(response.into_body().collect()).await.unwrap().to_bytes();
    let seen = std::str::from_utf8(&seen).unwrap();
    assert!(
        seen.starts_with("POST /a?b HTTP/1.1\r\nhost: blog.test:80\r\n"),
        "{seen}"
    );
    assert_eq!(header(seen, "cookie"), Some("a=1; b=2"));
    assert_eq!(header(seen, "content-length"), Some("0"));
    let unknown = http::Request::get("http://other.test/")
        .body(Empty::new().boxed())
        .unwrap();
    assert_eq!(soon(sender.send_request(unknown)).await.unwrap().status(), 404);
}

#[tokio::test]
async fn http2_streams_many_bodies_at_once() {
    let unit = raw_unit(|mut raw, _| async move {
        while !raw.head().await.is_empty() {
            let mut body = String::new();
            loop {
                let size = raw.line().await;
                let size = usize::from_str_radix(size.trim(), 16).unwrap();
                body.push_str(raw.exactly(size + 2).await.trim_end());
                if size == 0 {
                    break;
                }
            }
            raw.send(&format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            ))
            .await;
        }
    })
    .await;
    let rig = rig(ProxySettings::default(), blog([unit.addr])).await;
    let sender = http2(rig.addr).await;
    let mut asking = tokio::task::JoinSet::new();
    for number in 0..50 {
        let mut sender = sender.clone();
        asking.spawn(async move {
            let (more, pieces) = mpsc::channel(1);
            let body = BodyExt::boxed(StreamBody::new(ReceiverStream::new(pieces)));
            let request = http::Request::put("http://blog.test/").body(body).unwrap();
            let answer = tokio::spawn(sender.send_request(request));
            let text = format!("piece-{number};");
            for _ in 0..20 {
                more.send(Ok(Frame::data(Bytes::from(text.clone()))))
                    .await
                    .unwrap();
            }
            drop(more);
            let answer = soon(answer)
                .await
                .unwrap()
                .unwrap()
                .into_body()
                .collect()
                .await
                .unwrap();
            assert_eq!(answer.to_bytes(), text.repeat(20));
        });
    }
    while let Some(result) = asking.join_next().await {
        result.unwrap();
    }
    assert_eq!(rig.proxy.stats().by_class, [0, 50, 0, 0, 0]);
}
