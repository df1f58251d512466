//! Requests that could be read in two ways, and heads that are too long or too slow.

use super::*;

/// A unit that counts what reaches it.
async fn counting() -> (RawUnit, Arc<AtomicUsize>) {
    let seen = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&seen);
    let unit = raw_unit(move |mut raw, _| {
        let counter = Arc::clone(&counter);
        async move {
            while !raw.head().await.is_empty() {
                counter.fetch_add(1, Ordering::SeqCst);
                raw.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            }
        }
    })
    .await;
    (unit, seen)
}

#[tokio::test]
async fn requests_with_doubtful_lengths_are_refused_and_the_connection_closed() {
    let (unit, seen) = counting().await;
    let rig = rig(ProxySettings::default(), blog([unit.addr])).await;
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
        let answer = ask(rig.addr, &raw).await;
        assert_eq!(status(&answer), "400", "{lines}: {answer}");
        assert_eq!(
            answer.matches("HTTP/1.1 ").count(),
            1,
            "nothing follows: {lines}: {answer}"
        );
    }
    assert_eq!(seen.load(Ordering::SeqCst), 0, "no unit saw any of it");
}

#[tokio::test]
async fn a_doubtful_request_in_a_pipeline_is_refused_after_the_good_one_is_answered() {
    let (unit, seen) = counting().await;
    let rig = rig(ProxySettings::default(), blog([unit.addr])).await;
    let good = "GET /good HTTP/1.1\r\nHost: blog.test\r\n\r\n";
    let bad =
        "POST /bad HTTP/1.1\r\nHost: blog.test\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n";
    let answer = ask(rig.addr, &format!("{good}{bad}{good}")).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert!(answer.contains("\r\n\r\nokHTTP/1.1 400"), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 2, "{answer}");
    assert_eq!(seen.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_malformed_chunk_gets_400_and_its_unit_no_whole_request() {
    let (whole, mut told) = tokio::sync::mpsc::channel(1);
    let unit = raw_unit(move |mut raw, _| {
        let whole = whole.clone();
        async move {
            raw.head().await;
            let _ = whole.send(raw.rest().await).await;
        }
    })
    .await;
    let rig = rig(ProxySettings::default(), blog([unit.addr])).await;
    let raw = "POST / HTTP/1.1\r\nHost: blog.test\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\nzz\r\n\r\n";
    let answer = ask(rig.addr, raw).await;
    assert!(matches!(status(&answer), "400" | "none"), "{answer}");
    let body = soon(told.recv()).await.unwrap();
    assert!(!body.contains("0\r\n\r\n"), "{body}");
}

#[tokio::test]
async fn a_head_that_is_too_long_gets_431() {
    let rig = rig(ProxySettings::default(), blog([])).await;
    let long = "a".repeat(40 * 1024);
    let answer = ask(
        rig.addr,
        &format!("GET / HTTP/1.1\r\nHost: blog.test\r\nX: {long}\r\n\r\n"),
    )
    .await;
    assert_eq!(status(&answer), "431");
    let many = "X: y\r\n".repeat(200);
    let answer = ask(
        rig.addr,
        &format!("GET / HTTP/1.1\r\nHost: blog.test\r\n{many}\r\n"),
    )
    .await;
    assert_eq!(status(&answer), "431");
}

#[tokio::test]
async fn a_slow_head_is_cut_however_it_drips_and_a_quiet_client_too() {
    let (unit, _) = counting().await;
    let settings = ProxySettings {
        header_timeout: Duration::from_millis(120),
        ..ProxySettings::default()
    };
    let rig = rig(settings, blog([unit.addr])).await;
    assert_eq!(ask(rig.addr, "").await, "", "a client that says nothing");
    assert_eq!(ask(rig.addr, "PRI * HTTP/2.0\r\n").await, "", "half a preface");
    // A request first, so that it is not the deadline of a new connection that strikes.
    let mut client = Raw::to(rig.addr).await;
    client.send("GET / HTTP/1.1\r\nHost: blog.test\r\n\r\n").await;
    assert_eq!(client.answer().await.1, "ok");
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
    let _ = soon(reading.read_to_end(&mut rest)).await;
    assert!(rest.is_empty(), "{rest:?}");
    drip.abort();
}

#[tokio::test]
async fn a_client_between_two_requests_has_longer_than_one_within_a_head() {
    let (unit, _) = counting().await;
    let settings = ProxySettings {
        header_timeout: Duration::from_millis(40),
        idle_timeout: Duration::from_millis(600),
        ..ProxySettings::default()
    };
    let rig = rig(settings, blog([unit.addr])).await;
    let mut client = Raw::to(rig.addr).await;
    let begun = std::time::Instant::now();
    client.send("GET / HTTP/1.1\r\nHost: blog.test\r\n\r\n").await;
    assert_eq!(client.answer().await.1, "ok");
    assert_eq!(client.rest().await, "");
    assert!(
        begun.elapsed() >= Duration::from_millis(550),
        "{:?}",
        begun.elapsed()
    );
}
