//! Requests with ambiguous framing, and heads that are too long or too slow.

use super::*;

/// A unit that counts the requests that reach it.
async fn counting_unit() -> (RawUnit, Arc<AtomicUsize>) {
    let seen = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&seen);
    let unit = raw_unit(move |mut raw, _| {
        let counter = Arc::clone(&counter);
        async move {
            while !raw.read_head().await.is_empty() {
                counter.fetch_add(1, Ordering::SeqCst);
                raw.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            }
        }
    })
    .await;
    (unit, seen)
}

#[tokio::test]
async fn ambiguous_request_lengths_are_refused_and_connection_closed() {
    let (unit, seen) = counting_unit().await;
    let rig = start_proxy(ProxySettings::default(), blog_routes([unit.addr])).await;
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: blog.test\r\n\r\n";
    for lines in [
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
        "transfer-encoding:chunked\r\nX: y\r\ncontent-length:4\r\n",
        "Content-Length: 4\r\nContent-Length: 5\r\n",
        "Content-Length: 4, 5\r\n",
        "Content-Length: +4\r\n",
        "Content-Length: 0x4\r\n",
        "Transfer-Encoding: gzip\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Transfer-Encoding:\x0bchunked\r\n",
        "X: y\r\n Content-Length: 4\r\n",
    ] {
        let raw = format!("POST / HTTP/1.1\r\nHost: blog.test\r\n{lines}\r\n0\r\n\r\n{smuggled}");
        let answer = send_raw(rig.addr, &raw).await;
        assert_eq!(status_of(&answer), "400", "{lines}: {answer}");
        assert_eq!(
            answer.matches("HTTP/1.1 ").count(),
            1,
            "exactly one response: {lines}: {answer}"
        );
    }
    assert_eq!(seen.load(Ordering::SeqCst), 0, "no unit saw any of it");
}

#[tokio::test]
async fn ambiguous_pipelined_request_is_refused_after_the_first_response() {
    let (unit, seen) = counting_unit().await;
    let rig = start_proxy(ProxySettings::default(), blog_routes([unit.addr])).await;
    let good = "GET /good HTTP/1.1\r\nHost: blog.test\r\n\r\n";
    let bad =
        "POST /bad HTTP/1.1\r\nHost: blog.test\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n";
    let answer = send_raw(rig.addr, &format!("{good}{bad}{good}")).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert!(answer.contains("\r\n\r\nokHTTP/1.1 400"), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 2, "{answer}");
    assert_eq!(seen.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn malformed_chunk_gets_400_and_the_unit_gets_no_complete_request() {
    let (whole, mut events) = tokio::sync::mpsc::channel(1);
    let unit = raw_unit(move |mut raw, _| {
        let whole = whole.clone();
        async move {
            raw.read_head().await;
            let _ = whole.send(raw.read_to_close().await).await;
        }
    })
    .await;
    let rig = start_proxy(ProxySettings::default(), blog_routes([unit.addr])).await;
    let raw = "POST / HTTP/1.1\r\nHost: blog.test\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\nzz\r\n\r\n";
    let answer = send_raw(rig.addr, raw).await;
    assert!(matches!(status_of(&answer), "400" | "none"), "{answer}");
    let body = within_deadline(events.recv()).await.unwrap();
    assert!(!body.contains("0\r\n\r\n"), "{body}");
}

#[tokio::test]
async fn too_long_head_gets_431() {
    let rig = start_proxy(ProxySettings::default(), blog_routes([])).await;
    let long = "a".repeat(40 * 1024);
    let answer = send_raw(
        rig.addr,
        &format!("GET / HTTP/1.1\r\nHost: blog.test\r\nX: {long}\r\n\r\n"),
    )
    .await;
    assert_eq!(status_of(&answer), "431");
    let many = "X: y\r\n".repeat(200);
    let answer = send_raw(
        rig.addr,
        &format!("GET / HTTP/1.1\r\nHost: blog.test\r\n{many}\r\n"),
    )
    .await;
    assert_eq!(status_of(&answer), "431");
}

#[tokio::test]
async fn slow_heads_and_silent_clients_are_disconnected() {
    let (unit, _) = counting_unit().await;
    let settings = ProxySettings {
        header_timeout: Duration::from_millis(120),
        ..ProxySettings::default()
    };
    let rig = start_proxy(settings, blog_routes([unit.addr])).await;
    assert_eq!(send_raw(rig.addr, "").await, "", "a client that says nothing");
    assert_eq!(
        send_raw(rig.addr, "PRI * HTTP/2.0\r\n").await,
        "",
        "half a preface"
    );
    // A request first, so that the timeout of a new connection does not apply.
    let mut client = RawConn::connect(rig.addr).await;
    client.send("GET / HTTP/1.1\r\nHost: blog.test\r\n\r\n").await;
    assert_eq!(client.read_response().await.1, "ok");
    client.send("GET / HTTP/1.1\r\n").await;
    let (mut reading, mut writing) = client.0.into_inner().into_split();
    let drip = tokio::spawn(async move {
        loop {
            if writing.write_all(b"X: y\r\n").await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let mut rest = Vec::new();
    let _ = within_deadline(reading.read_to_end(&mut rest)).await;
    assert!(rest.is_empty(), "{rest:?}");
    drip.abort();
}

#[tokio::test]
async fn idle_timeout_between_requests_is_longer_than_the_header_timeout() {
    let (unit, _) = counting_unit().await;
    let settings = ProxySettings {
        header_timeout: Duration::from_millis(40),
        idle_timeout: Duration::from_millis(600),
        ..ProxySettings::default()
    };
    let rig = start_proxy(settings, blog_routes([unit.addr])).await;
    let mut client = RawConn::connect(rig.addr).await;
    let begun = std::time::Instant::now();
    client.send("GET / HTTP/1.1\r\nHost: blog.test\r\n\r\n").await;
    assert_eq!(client.read_response().await.1, "ok");
    assert_eq!(client.read_to_close().await, "");
    assert!(
        begun.elapsed() >= Duration::from_millis(550),
        "{:?}",
        begun.elapsed()
    );
}
