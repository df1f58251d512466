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
async fn client_gets_the_first_chunk_before_the_unit_sends_the_last() {
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
                raw.read_head().await;
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
        let rig = start_proxy(ProxySettings::default(), blog_routes([unit.addr])).await;
        let mut client = RawConn::connect(rig.addr).await;
        client
            .send("GET / HTTP/1.1\r\nHost: blog.test\r\nConnection: close\r\n\r\n")
            .await;
        client.read_head().await;
        let mut seen = String::new();
        while !seen.ends_with("first") {
            seen.push_str(&client.read_exact(1).await);
        }
        go.send(()).await.unwrap();
        assert!(client.read_to_close().await.contains("last"), "{head}");
    }
}

#[tokio::test]
async fn unit_gets_the_first_chunk_before_the_client_sends_the_last() {
    let (seen, mut events) = mpsc::channel(1);
    let unit = raw_unit(move |mut raw, _| {
        let seen = seen.clone();
        async move {
            let head = raw.read_head().await;
            assert_eq!(header_value(&head, "transfer-encoding"), Some("chunked"));
            assert_eq!(raw.read_exact(10).await, "5\r\nfirst\r\n");
            seen.send(()).await.unwrap();
            assert_eq!(raw.read_exact(14).await, "4\r\nlast\r\n0\r\n\r\n");
            raw.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
            raw.read_head().await;
        }
    })
    .await;
    let rig = start_proxy(ProxySettings::default(), blog_routes([unit.addr])).await;
    let mut client = RawConn::connect(rig.addr).await;
    client
        .send("POST / HTTP/1.1\r\nHost: blog.test\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    client.send("5\r\nfirst\r\n").await;
    within_deadline(events.recv()).await.unwrap();
    client.send("4\r\nlast\r\n0\r\n\r\n").await;
    assert_eq!(status_of(&client.read_head().await), "200");
}

#[tokio::test]
async fn large_bodies_are_forwarded_both_ways_and_connections_are_reused() {
    const SIZE: usize = 3_000_000;
    let body: String = (0..SIZE).map(|i| char::from(b'a' + (i % 23) as u8)).collect();
    let unit = raw_unit(|mut raw, _| async move {
        loop {
            let head = raw.read_head().await;
            let Some(length) = header_value(&head, "content-length") else {
                return;
            };
            let body = raw.read_exact(length.parse().unwrap()).await;
            raw.send(&format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
                body.len()
            ))
            .await;
            raw.send(&body).await;
        }
    })
    .await;
    let rig = start_proxy(ProxySettings::default(), blog_routes([unit.addr])).await;
    let mut client = RawConn::connect(rig.addr).await;
    for _ in 0..3 {
        client
            .send(&format!(
                "PUT / HTTP/1.1\r\nHost: blog.test\r\nContent-Length: {SIZE}\r\n\r\n"
            ))
            .await;
        client.send(&body).await;
        assert!(client.read_response().await.1 == body);
    }
    assert_eq!(unit.accepted(), 1);
}

#[tokio::test]
async fn slow_client_slows_the_unit_down() {
    let (sent, sending) = (Arc::new(AtomicUsize::new(0)), 64 * 1024 * 1024);
    let counter = Arc::clone(&sent);
    let unit = raw_unit(move |mut raw, _| {
        let counter = Arc::clone(&counter);
        async move {
            raw.read_head().await;
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
    let rig = start_proxy(ProxySettings::default(), blog_routes([unit.addr])).await;
    let mut client = RawConn::connect(rig.addr).await;
    client
        .send("GET / HTTP/1.1\r\nHost: blog.test\r\nConnection: close\r\n\r\n")
        .await;
    client.read_head().await;
    // It stops once the kernel's buffers are full.
    let mut before = usize::MAX;
    within_deadline(async {
        while before != sent.load(Ordering::SeqCst) {
            before = sent.load(Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    assert!(
        before < sending / 2,
        "{before} bytes were read from the unit for a client that reads none"
    );
    assert_eq!(client.read_to_close().await.len(), sending);
}

#[tokio::test]
async fn trailers_are_forwarded_both_ways() {
    let unit = raw_unit(|mut raw, _| async move {
        let head = raw.read_head().await;
        assert_eq!(header_value(&head, "trailer"), Some("x-sum"));
        let body = raw.read_exact("2\r\nab\r\n0\r\n".len()).await;
        let trailer = raw.read_head().await;
        assert!(
            body.starts_with("2\r\nab") && trailer.starts_with("x-sum: 1\r\n"),
            "{body}{trailer}"
        );
        raw.send("HTTP/1.1 200 OK\r\nTrailer: X-Done\r\nTransfer-Encoding: chunked\r\n\r\n")
            .await;
        raw.send("2\r\nok\r\n0\r\nX-Done: yes\r\n\r\n").await;
        raw.read_head().await;
    })
    .await;
    let rig = start_proxy(ProxySettings::default(), blog_routes([unit.addr])).await;
    let raw = "POST / HTTP/1.1\r\nHost: blog.test\r\nTE: trailers\r\nTrailer: x-sum\r\nConnection: close\r\n\
        Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nX-Sum: 1\r\n\r\n";
    let answer = send_raw(rig.addr, raw).await;
    assert!(
        answer.ends_with("2\r\nok\r\n0\r\nx-done: yes\r\n\r\n"),
        "{answer}"
    );
}

#[tokio::test]
async fn forbidden_trailers_are_dropped() {
    let unit = raw_unit(|mut raw, _| async move {
        raw.read_head().await;
        raw.read_exact("2\r\nab\r\n0\r\n".len()).await;
        let trailer = raw.read_head().await.to_lowercase();
        raw.send("HTTP/1.1 200 OK\r\nConnection: x-private\r\nTrailer: X-Done, X-Private, Set-Cookie, X-Request-Id\r\nTransfer-Encoding: chunked\r\n\r\n")
            .await;
        let body = format!("{:x}\r\n{trailer}\r\n0\r\n", trailer.len());
        raw.send(&body).await;
        raw.send("X-Done: yes\r\nX-Private: no\r\nSet-Cookie: a=b\r\nX-Request-Id: mine\r\nContent-Length: 0\r\n\r\n")
            .await;
        raw.read_head().await;
    })
    .await;
    let rig = start_proxy(ProxySettings::default(), blog_routes([unit.addr])).await;
    let raw = "POST / HTTP/1.1\r\nHost: blog.test\r\nTE: trailers\r\nTrailer: x-sum\r\nConnection: close, x-hop\r\n\
        Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nX-Sum: 1\r\nX_Forwarded_For: 6.6.6.6\r\n\
        X-Forwarded-For: 6.6.6.6\r\nX.Real.Ip: 6.6.6.6\r\nX_Request_Id: mine\r\nX-Hop: 1\r\nAuthorization: a\r\n\
        Cookie: a=b\r\nTransfer_Encoding: chunked\r\n\r\n";
    let answer = send_raw(rig.addr, raw).await;
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let body = body.to_lowercase();
    assert_eq!(body, "c\r\nx-sum: 1\r\n\r\n\r\n0\r\nx-done: yes\r\n\r\n");
}

#[tokio::test]
async fn interim_responses_are_discarded() {
    let unit = raw_unit(|mut raw, _| async move {
        raw.read_head().await;
        raw.send("HTTP/1.1 103 Early Hints\r\nSet-Cookie: a=b\r\nContent-Length: 9\r\n\r\n")
            .await;
        raw.send("HTTP/1.1 102 Processing\r\nConnection: close\r\nX-Forwarded-For: 1.1.1.1\r\n\r\n")
            .await;
        raw.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        raw.read_head().await;
    })
    .await;
    let rig = start_proxy(ProxySettings::default(), blog_routes([unit.addr])).await;
    let answer = send_get(rig.addr, "blog.test", "").await;
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\nok"),
        "{answer}"
    );
    assert!(
        !answer.contains("set-cookie") && !answer.contains("1.1.1.1"),
        "{answer}"
    );
}

#[tokio::test]
async fn upgrade_to_an_unrequested_protocol_is_refused() {
    for (protocol, expected) in [("h2c", "502"), ("websocket, h2c", "502"), ("WebSocket", "101")] {
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade, x-private\r\nUpgrade: {protocol}\r\n\
             Content-Length: 5\r\nX-Private: 1\r\n\r\n"
        );
        let unit = raw_unit(move |mut raw, _| {
            let answer = answer.clone();
            async move {
                raw.read_head().await;
                raw.send(&answer).await;
            }
        })
        .await;
        let rig = start_proxy(ProxySettings::default(), blog_routes([unit.addr])).await;
        let mut client = RawConn::connect(rig.addr).await;
        client.send(UPGRADE).await;
        let head = client.read_head().await;
        assert_eq!(status_of(&head), expected, "{protocol}: {head}");
        if expected == "101" {
            assert_eq!(header_value(&head, "content-length"), None, "{head}");
            assert_eq!(header_value(&head, "x-private"), None, "{head}");
        }
    }
}

#[tokio::test]
async fn expect_100_continue_is_forwarded_to_the_unit_and_back() {
    let unit = raw_unit(|mut raw, _| async move {
        let head = raw.read_head().await;
        assert_eq!(header_value(&head, "expect"), Some("100-continue"));
        raw.send("HTTP/1.1 100 Continue\r\n\r\n").await;
        let body = raw.read_exact(4).await;
        raw.send(&format!("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n{body}"))
            .await;
        raw.read_head().await;
    })
    .await;
    let rig = start_proxy(ProxySettings::default(), blog_routes([unit.addr])).await;
    let mut client = RawConn::connect(rig.addr).await;
    let head = "POST / HTTP/1.1\r\nHost: blog.test\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n";
    client.send(head).await;
    assert_eq!(status_of(&client.read_head().await), "100");
    client.send("body").await;
    assert_eq!(client.read_response().await.1, "body");
}

#[tokio::test]
async fn unit_can_refuse_an_expected_body_before_it_is_sent() {
    let unit = fixed_unit("HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n").await;
    let rig = start_proxy(ProxySettings::default(), blog_routes([unit.addr])).await;
    let head = "POST / HTTP/1.1\r\nHost: blog.test\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n";
    let answer = send_raw(rig.addr, head).await;
    assert_eq!(status_of(&answer), "413", "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
}

#[tokio::test]
async fn response_before_the_end_of_a_large_body_reaches_the_client() {
    let unit = raw_unit(|mut raw, _| async move {
        raw.read_head().await;
        raw.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
            .await;
        raw.read_to_close().await;
    })
    .await;
    let rig = start_proxy(ProxySettings::default(), blog_routes([unit.addr])).await;
    let mut client = RawConn::connect(rig.addr).await;
    client
        .send("POST / HTTP/1.1\r\nHost: blog.test\r\nContent-Length: 50000000\r\n\r\nsome")
        .await;
    let (head, body) = client.read_response().await;
    assert_eq!((status_of(&head), &*body), ("403", "no"));
    assert!(head.to_lowercase().contains("connection: close\r\n"), "{head}");
}

#[tokio::test]
async fn incomplete_response_body_is_incomplete_at_the_client() {
    let unit = raw_unit(|mut raw, _| async move {
        raw.read_head().await;
        raw.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
            .await;
    })
    .await;
    let rig = start_proxy(ProxySettings::default(), blog_routes([unit.addr])).await;
    let answer = send_get(rig.addr, "blog.test", "").await;
    assert!(
        !answer.contains("0\r\n\r\n"),
        "the client must detect that it is incomplete: {answer}"
    );
}

/// A unit that upgrades to an echo in upper case.
async fn uppercase_echo_unit() -> RawUnit {
    raw_unit(|mut raw, _| async move {
        let head = raw.read_head().await;
        assert_eq!(header_value(&head, "connection"), Some("upgrade"));
        assert_eq!(header_value(&head, "upgrade"), Some("websocket"));
        assert_eq!(header_value(&head, "sec-websocket-key"), Some("x"));
        raw.send(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello\n",
        )
        .await;
        loop {
            let line = raw.read_line().await;
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
async fn upgrade_becomes_a_bidirectional_tunnel() {
    let unit = uppercase_echo_unit().await;
    let rig = start_proxy(ProxySettings::default(), blog_routes([unit.addr])).await;
    let mut client = RawConn::connect(rig.addr).await;
    client.send(UPGRADE).await;
    let head = client.read_head().await;
    assert_eq!(status_of(&head), "101");
    assert_eq!(header_value(&head, "connection"), Some("upgrade"));
    assert_eq!(header_value(&head, "upgrade"), Some("websocket"));
    assert_eq!(client.read_line().await, "hello\n");
    // Bytes that look like an ambiguous request are only data now.
    for line in [
        "ping\n",
        "POST / HTTP/1.1\r\n",
        "content-length: 1\r\n",
        "transfer-encoding: chunked\r\n",
    ] {
        client.send(line).await;
        assert_eq!(client.read_line().await, line.to_uppercase());
    }
    assert_eq!(
        (rig.proxy.read_stats().tunnels, rig.proxy.read_stats().connections),
        (1, 1)
    );
    client.0.get_mut().shutdown().await.unwrap();
    assert_eq!(client.read_to_close().await, "");
    wait_until(|| rig.proxy.read_stats().tunnels == 0 && rig.proxy.read_stats().connections == 0).await;
    assert_eq!(rig.proxy.read_stats().by_class, [1, 0, 0, 0, 0]);
}

#[tokio::test]
async fn idle_tunnel_is_closed() {
    let unit = uppercase_echo_unit().await;
    let settings = ProxySettings {
        idle_timeout: Duration::from_millis(100),
        ..ProxySettings::default()
    };
    let rig = start_proxy(settings, blog_routes([unit.addr])).await;
    let mut client = RawConn::connect(rig.addr).await;
    client.send(UPGRADE).await;
    assert_eq!(status_of(&client.read_head().await), "101");
    assert_eq!(client.read_to_close().await, "hello\n");
    wait_until(|| rig.proxy.read_stats().tunnels == 0).await;
}

#[tokio::test]
async fn tunnel_is_closed_after_the_drain_timeout() {
    let unit = uppercase_echo_unit().await;
    let settings = ProxySettings {
        drain: Duration::from_millis(100),
        ..ProxySettings::default()
    };
    let mut rig = start_proxy(settings, blog_routes([unit.addr])).await;
    let mut client = RawConn::connect(rig.addr).await;
    client.send(UPGRADE).await;
    client.read_head().await;
    assert_eq!(client.read_line().await, "hello\n");
    rig.cancel.cancel();
    client.send("still\n").await;
    assert_eq!(client.read_line().await, "STILL\n");
    assert_eq!(client.read_to_close().await, "");
    within_deadline(&mut rig.serving).await.unwrap();
}

#[tokio::test]
async fn refused_upgrade_is_answered_and_the_connection_closed() {
    let unit = fixed_unit("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    let rig = start_proxy(ProxySettings::default(), blog_routes([unit.addr])).await;
    let answer = send_raw(rig.addr, UPGRADE).await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok"),
        "{answer}"
    );
    assert_eq!(header_value(&answer, "connection"), Some("close"));
}

type Http2 = http2::SendRequest<http_body_util::combinators::BoxBody<Bytes, std::convert::Infallible>>;

async fn connect_http2(addr: SocketAddr) -> Http2 {
    let io = TokioIo::new(TcpStream::connect(addr).await.unwrap());
    let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    sender
}

#[tokio::test]
async fn http2_with_prior_knowledge_is_forwarded_as_http1() {
    let unit = head_echo_unit().await;
    let rig = start_proxy(ProxySettings::default(), blog_routes([unit.addr])).await;
    let mut sender = connect_http2(rig.addr).await;
    let request = http::Request::post("http://blog.test:80/a?b")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .header("te", "trailers")
        .body(Empty::new().boxed())
        .unwrap();
    let response = within_deadline(sender.send_request(request)).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["x-request-id"].len(), 32);
    let seen = within_deadline(response.into_body().collect())
        .await
        .unwrap()
        .to_bytes();
    let seen = std::str::from_utf8(&seen).unwrap();
    assert!(
        seen.starts_with("POST /a?b HTTP/1.1\r\nhost: blog.test:80\r\n"),
        "{seen}"
    );
    assert_eq!(header_value(seen, "cookie"), Some("a=1; b=2"));
    assert_eq!(header_value(seen, "content-length"), Some("0"));
    let unknown = http::Request::get("http://other.test/")
        .body(Empty::new().boxed())
        .unwrap();
    assert_eq!(
        within_deadline(sender.send_request(unknown))
            .await
            .unwrap()
            .status(),
        404
    );
}

#[tokio::test]
async fn http2_streams_many_bodies_at_once() {
    let unit = raw_unit(|mut raw, _| async move {
        while !raw.read_head().await.is_empty() {
            let mut body = String::new();
            loop {
                let size = raw.read_line().await;
                let size = usize::from_str_radix(size.trim(), 16).unwrap();
                body.push_str(raw.read_exact(size + 2).await.trim_end());
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
    let rig = start_proxy(ProxySettings::default(), blog_routes([unit.addr])).await;
    let sender = connect_http2(rig.addr).await;
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
            let answer = within_deadline(answer)
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
    assert_eq!(rig.proxy.read_stats().by_class, [0, 50, 0, 0, 0]);
}
