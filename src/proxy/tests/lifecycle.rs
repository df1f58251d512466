//! Rollouts, draining, and many connections.

use std::sync::atomic::AtomicBool;

use super::*;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A unit that can be stopped: it accepts no more connections, closes idle ones, and finishes requests in
/// progress, as a well-behaved server does.
struct DrainableUnit {
    unit: RawUnit,
    stop: CancellationToken,
}

async fn start_drainable_unit() -> DrainableUnit {
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let unit = raw_unit(move |mut raw, _| {
        let stopped = stopped.clone();
        async move {
            loop {
                let head = tokio::select! {
                    biased;
                    head = raw.read_head() => head,
                    () = stopped.cancelled() => return,
                };
                if head.is_empty() {
                    return;
                }
                tokio::task::yield_now().await;
                raw.send(OK).await;
            }
        }
    })
    .await;
    DrainableUnit { unit, stop }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swapping_backends_under_load_loses_no_request() {
    let mut current = [start_drainable_unit().await, start_drainable_unit().await];
    let rig = start_proxy(
        ProxySettings::default(),
        blog_routes(current.iter().map(|s| s.unit.addr)),
    )
    .await;
    let (over, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..8)
        .map(|number| {
            let (over, asked, addr) = (Arc::clone(&over), Arc::clone(&asked), rig.addr);
            tokio::spawn(async move {
                let method = if number % 2 == 0 { "GET" } else { "POST" };
                let request = format!("{method} / HTTP/1.1\r\nHost: blog.test\r\n\r\n");
                let mut client = RawConn::connect(addr).await;
                while !over.load(Ordering::SeqCst) {
                    client.send(&request).await;
                    let (head, body) = client.read_response().await;
                    assert_eq!((status_of(&head), &*body), ("200", "ok"), "{head}");
                    asked.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    for _ in 0..12 {
        let before = asked.load(Ordering::SeqCst);
        wait_until(|| asked.load(Ordering::SeqCst) > before + 50).await;
        let next = [start_drainable_unit().await, start_drainable_unit().await];
        rig.proxy
            .set_routes(blog_routes(next.iter().map(|s| s.unit.addr)));
        // Requests in flight to the old backends finish before these stop, as in a rollout.
        wait_until(|| current.iter().all(|old| rig.proxy.is_drained(old.unit.addr))).await;
        for old in std::mem::replace(&mut current, next) {
            old.stop.cancel();
        }
    }
    over.store(true, Ordering::SeqCst);
    for client in clients {
        within_deadline(client).await.expect("no client saw a failure");
    }
    let stats = rig.proxy.read_stats();
    assert_eq!(stats.by_class[1], stats.requests);
    assert!(stats.requests > 600, "{stats:?}");
}

#[tokio::test]
async fn idle_connections_to_a_removed_address_close_at_the_swap() {
    let (seen, mut events) = tokio::sync::mpsc::channel(1);
    let unit = raw_unit(move |mut raw, number| {
        let seen = seen.clone();
        async move {
            raw.read_head().await;
            if number > 0 {
                raw.send(OK).await;
            }
            seen.send((number, "asked")).await.unwrap();
            raw.read_to_close().await;
            let _ = seen.send((number, "closed")).await;
        }
    })
    .await;
    let rig = start_proxy(ProxySettings::default(), blog_routes([unit.addr])).await;
    // A request in flight keeps the address in use, but not the idle connection beside it.
    let mut client = RawConn::connect(rig.addr).await;
    client.send("GET / HTTP/1.1\r\nHost: blog.test\r\n\r\n").await;
    assert_eq!(within_deadline(events.recv()).await, Some((0, "asked")));
    assert_eq!(status_of(&send_get(rig.addr, "blog.test", "").await), "200");
    assert_eq!(within_deadline(events.recv()).await, Some((1, "asked")));
    rig.proxy.set_routes(blog_routes([closed_port().await]));
    assert_eq!(within_deadline(events.recv()).await, Some((1, "closed")));
    assert_eq!(rig.proxy.read_stats().in_flight, 1);
}

#[tokio::test]
async fn in_flight_request_of_a_removed_backend_finishes_and_connection_closes() {
    let (seen, mut events) = tokio::sync::mpsc::channel(1);
    let (go, gone) = tokio::sync::watch::channel(false);
    let unit = raw_unit(move |mut raw, _| {
        let (seen, mut gone) = (seen.clone(), gone.clone());
        async move {
            raw.read_head().await;
            raw.send("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf").await;
            seen.send("asked").await.unwrap();
            gone.wait_for(|go| *go).await.unwrap();
            raw.send("half").await;
            raw.read_to_close().await;
            seen.send("closed").await.unwrap();
        }
    })
    .await;
    let rig = start_proxy(ProxySettings::default(), blog_routes([unit.addr])).await;
    let mut client = RawConn::connect(rig.addr).await;
    client.send("GET / HTTP/1.1\r\nHost: blog.test\r\n\r\n").await;
    assert_eq!(within_deadline(events.recv()).await, Some("asked"));
    assert!(!rig.proxy.is_drained(unit.addr));
    rig.proxy.set_routes(HostRoutes::default());
    assert!(!rig.proxy.is_drained(unit.addr));
    go.send(true).unwrap();
    assert_eq!(client.read_response().await.1, "halfhalf");
    assert_eq!(within_deadline(events.recv()).await, Some("closed"));
    assert!(rig.proxy.is_drained(unit.addr));
}

#[tokio::test]
async fn slow_request_to_a_kept_unit_does_not_delay_draining() {
    let (seen, mut events) = tokio::sync::mpsc::channel(1);
    let slow = raw_unit(move |mut raw, _| {
        let seen = seen.clone();
        async move {
            raw.read_head().await;
            seen.send(()).await.unwrap();
            raw.read_to_close().await;
        }
    })
    .await;
    let leaving = fixed_unit(OK).await;
    let rig = start_proxy(ProxySettings::default(), blog_routes([slow.addr, leaving.addr])).await;
    let mut clients = Vec::new();
    for _ in 0..2 {
        let mut client = RawConn::connect(rig.addr).await;
        client.send("GET / HTTP/1.1\r\nHost: blog.test\r\n\r\n").await;
        clients.push(client);
    }
    within_deadline(events.recv()).await.unwrap();
    rig.proxy.set_routes(blog_routes([slow.addr]));
    wait_until(|| rig.proxy.is_drained(leaving.addr)).await;
    assert!(!rig.proxy.is_drained(slow.addr));
}

#[tokio::test]
async fn request_to_refusing_backends_retries_with_the_new_table() {
    // A backend that is slow to refuse: its backlog is full, so connecting times out.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let addr = socket.local_addr().unwrap();
    let _listener = socket.listen(1).unwrap();
    let mut queue = Vec::new();
    for _ in 0..16 {
        queue.push(tokio::spawn(TcpStream::connect(addr)));
    }
    let settings = ProxySettings {
        connect_timeout: Duration::from_millis(300),
        ..ProxySettings::default()
    };
    let rig = start_proxy(settings, blog_routes([addr])).await;
    wait_until(|| queue.iter().filter(|c| c.is_finished()).count() >= 2).await;
    let mut client = RawConn::connect(rig.addr).await;
    client.send("POST / HTTP/1.1\r\nHost: blog.test\r\n\r\n").await;
    wait_until(|| rig.proxy.read_stats().in_flight == 1).await;
    let unit = fixed_unit(OK).await;
    rig.proxy.set_routes(blog_routes([unit.addr]));
    assert_eq!(client.read_response().await.1, "ok");
    assert_eq!(rig.proxy.read_stats().retried, 1);
    for waiting in queue {
        waiting.abort();
    }
}

#[tokio::test]
async fn address_that_stays_keeps_its_connections_over_a_swap() {
    let unit = fixed_unit(OK).await;
    let rig = start_proxy(ProxySettings::default(), blog_routes([unit.addr])).await;
    for _ in 0..3 {
        assert_eq!(status_of(&send_get(rig.addr, "blog.test", "").await), "200");
        rig.proxy.set_routes(blog_routes([unit.addr]));
    }
    assert_eq!(unit.accepted(), 1);
}

#[tokio::test]
async fn connection_closed_by_the_unit_while_idle_loses_no_request() {
    let unit = raw_unit(|mut raw, _| async move {
        raw.read_head().await;
        raw.send(OK).await;
    })
    .await;
    let rig = start_proxy(ProxySettings::default(), blog_routes([unit.addr])).await;
    let mut client = RawConn::connect(rig.addr).await;
    for _ in 0..50 {
        client.send("GET / HTTP/1.1\r\nHost: blog.test\r\n\r\n").await;
        assert_eq!(client.read_response().await.1, "ok");
    }
    assert_eq!(unit.accepted(), 50);
}

#[tokio::test]
async fn idle_connections_to_a_unit_are_closed_after_the_timeout() {
    let unit = fixed_unit(OK).await;
    let settings = ProxySettings {
        unit_idle_timeout: Duration::from_millis(10),
        ..ProxySettings::default()
    };
    let rig = start_proxy(settings, blog_routes([unit.addr])).await;
    assert_eq!(status_of(&send_get(rig.addr, "blog.test", "").await), "200");
    let idle = || rig.proxy.inner.lock_addresses().active[&unit.addr].count_idle();
    assert_eq!(idle(), 1);
    wait_until(|| idle() == 0).await;
}

#[tokio::test]
async fn draining_finishes_requests_closes_idle_connections_and_accepts_no_more() {
    let (seen, mut events) = tokio::sync::mpsc::channel(1);
    let (go, gone) = tokio::sync::watch::channel(false);
    let unit = raw_unit(move |mut raw, number| {
        let (seen, mut gone) = (seen.clone(), gone.clone());
        async move {
            while !raw.read_head().await.is_empty() {
                if number == 0 {
                    seen.send(()).await.unwrap();
                    gone.wait_for(|go| *go).await.unwrap();
                }
                raw.send(OK).await;
            }
        }
    })
    .await;
    let mut rig = start_proxy(ProxySettings::default(), blog_routes([unit.addr])).await;
    let mut busy = RawConn::connect(rig.addr).await;
    busy.send("GET / HTTP/1.1\r\nHost: blog.test\r\n\r\n").await;
    within_deadline(events.recv()).await.unwrap();
    let mut idle = RawConn::connect(rig.addr).await;
    idle.send("GET / HTTP/1.1\r\nHost: blog.test\r\n\r\n").await;
    assert_eq!(idle.read_response().await.1, "ok");
    let mut quiet = RawConn::connect(rig.addr).await;
    wait_until(|| rig.proxy.read_stats().connections == 3).await;
    rig.cancel.cancel();
    assert_eq!(idle.read_to_close().await, "");
    assert_eq!(quiet.read_to_close().await, "");
    assert!(TcpStream::connect(rig.addr).await.is_err(), "nobody listens");
    assert_eq!(rig.proxy.read_stats().in_flight, 1);
    go.send(true).unwrap();
    let (head, body) = busy.read_response().await;
    assert_eq!(
        (status_of(&head), header_value(&head, "connection"), &*body),
        ("200", Some("close"), "ok")
    );
    assert_eq!(busy.read_to_close().await, "");
    within_deadline(&mut rig.serving).await.unwrap();
}

#[tokio::test]
async fn connections_end_after_their_next_response_when_another_process_has_taken_over() {
    let unit = fixed_unit("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    let plan = DrainPlan::default();
    let settings = ProxySettings {
        drain: Duration::ZERO,
        drain_plan: plan.clone(),
        ..ProxySettings::default()
    };
    let mut rig = start_proxy(settings, blog_routes([unit.addr])).await;
    let request = "GET / HTTP/1.1\r\nHost: blog.test\r\n\r\n";
    // One that has had a response, and one that has not sent a byte.
    let mut kept = RawConn::connect(rig.addr).await;
    kept.send(request).await;
    let (head, _) = kept.read_response().await;
    assert_eq!(header_value(&head, "connection"), None, "{head}");
    let mut fresh = RawConn::connect(rig.addr).await;
    wait_until(|| rig.proxy.read_stats().connections == 2).await;
    plan.set_taken_over(Duration::from_secs(60));
    rig.cancel.cancel();
    wait_until(|| std::net::TcpStream::connect(rig.addr).is_err()).await;
    for client in [&mut kept, &mut fresh] {
        client.send(request).await;
        let (head, body) = client.read_response().await;
        assert_eq!((status_of(&head), &*body), ("200", "ok"), "{head}");
        assert_eq!(header_value(&head, "connection"), Some("close"), "{head}");
        assert_eq!(client.read_to_close().await, "");
    }
    within_deadline(&mut rig.serving).await.unwrap();
}

#[tokio::test]
async fn request_that_exceeds_the_drain_timeout_is_aborted() {
    let (seen, mut events) = tokio::sync::mpsc::channel(1);
    let unit = raw_unit(move |mut raw, _| {
        let seen = seen.clone();
        async move {
            raw.read_head().await;
            seen.send(()).await.unwrap();
            raw.read_to_close().await;
        }
    })
    .await;
    let settings = ProxySettings {
        drain: Duration::from_millis(50),
        ..ProxySettings::default()
    };
    let mut rig = start_proxy(settings, blog_routes([unit.addr])).await;
    let mut client = RawConn::connect(rig.addr).await;
    client.send("GET / HTTP/1.1\r\nHost: blog.test\r\n\r\n").await;
    within_deadline(events.recv()).await.unwrap();
    rig.cancel.cancel();
    assert_eq!(client.read_to_close().await, "");
    within_deadline(&mut rig.serving).await.unwrap();
    let stats = rig.proxy.read_stats();
    assert_eq!((stats.in_flight, stats.connections), (0, 0));
}

#[tokio::test]
async fn client_disconnect_aborts_its_request_at_the_unit() {
    let (seen, mut events) = tokio::sync::mpsc::channel(1);
    let unit = raw_unit(move |mut raw, _| {
        let seen = seen.clone();
        async move {
            raw.read_head().await;
            seen.send("asked").await.unwrap();
            raw.read_to_close().await;
            seen.send("closed").await.unwrap();
        }
    })
    .await;
    let rig = start_proxy(ProxySettings::default(), blog_routes([unit.addr])).await;
    let mut client = RawConn::connect(rig.addr).await;
    client.send("GET / HTTP/1.1\r\nHost: blog.test\r\n\r\n").await;
    assert_eq!(within_deadline(events.recv()).await, Some("asked"));
    drop(client);
    assert_eq!(within_deadline(events.recv()).await, Some("closed"));
    wait_until(|| rig.proxy.read_stats().in_flight == 0).await;
}

#[tokio::test]
async fn connections_over_the_limit_are_rejected_and_idle_ones_closed() {
    const MOST: usize = 300;
    let unit = fixed_unit(OK).await;
    let settings = ProxySettings {
        max_connections: MOST,
        header_timeout: Duration::from_secs(2),
        ..ProxySettings::default()
    };
    let rig = start_proxy(settings, blog_routes([unit.addr])).await;
    let mut clients = Vec::new();
    for _ in 0..MOST {
        let mut client = RawConn::connect(rig.addr).await;
        client.send("GET / HTTP/1.1\r\nHost: blog.test\r\n\r\n").await;
        assert_eq!(client.read_response().await.1, "ok");
        clients.push(client);
    }
    let turned_away = send_raw(rig.addr, "").await;
    assert_eq!(status_of(&turned_away), "503", "{turned_away}");
    let (head, body) = turned_away.split_once("\r\n\r\n").unwrap();
    assert_eq!(
        header_value(head, "content-length"),
        Some(&*body.len().to_string())
    );
    assert!(rig.proxy.read_stats().connections <= MOST as u64);
    // Idle connections must be closed far sooner than after `idle_timeout`.
    wait_until(|| rig.proxy.read_stats().connections <= (MOST / 4 * 3) as u64).await;
    assert_eq!(status_of(&send_get(rig.addr, "blog.test", "").await), "200");
}

#[tokio::test]
async fn connections_per_address_are_limited() {
    let unit = fixed_unit(OK).await;
    let settings = ProxySettings {
        max_connections: 8,
        max_connections_per_address: 4,
        ..ProxySettings::default()
    };
    let rig = start_proxy(settings, blog_routes([unit.addr])).await;
    let mut held = Vec::new();
    for _ in 0..4 {
        let mut client = RawConn::connect(rig.addr).await;
        client.send("GET / HTTP/1.1\r\nHost: blog.test\r\n\r\n").await;
        assert_eq!(client.read_response().await.1, "ok");
        held.push(client);
    }
    for _ in 0..20 {
        let turned_away = send_raw(rig.addr, "").await;
        assert_eq!(status_of(&turned_away), "503", "{turned_away}");
        assert!(turned_away.contains("from your address"), "{turned_away}");
    }
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut other = RawConn::new(within_deadline(socket.connect(rig.addr)).await.unwrap());
    other.send("GET / HTTP/1.1\r\nHost: blog.test\r\n\r\n").await;
    assert_eq!(other.read_response().await.1, "ok");
    held.clear();
    wait_until(|| rig.proxy.read_stats().connections <= 1).await;
    assert_eq!(status_of(&send_get(rig.addr, "blog.test", "").await), "200");
}

#[tokio::test]
async fn thousands_of_idle_connections_do_not_hinder_a_request() {
    let unit = fixed_unit(OK).await;
    let rig = start_proxy(ProxySettings::default(), blog_routes([unit.addr])).await;
    let mut idle = Vec::new();
    for _ in 0..2000 {
        match TcpStream::connect(rig.addr).await {
            Ok(stream) => idle.push(stream),
            // As many as the file descriptor limit of this process allows.
            Err(_) => break,
        }
    }
    idle.truncate(idle.len().saturating_sub(16));
    assert!(idle.len() > 200, "{}", idle.len());
    assert_eq!(status_of(&send_get(rig.addr, "blog.test", "").await), "200");
}
