//! Rollouts, draining, and many connections.

use std::sync::atomic::AtomicBool;

use super::*;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A unit that can be told to stop: it takes no more connections, closes those that idle, and finishes
/// what it has begun, as a well-behaved server does.
struct Stoppable {
    unit: RawUnit,
    stop: CancellationToken,
}

async fn stoppable() -> Stoppable {
    let stop = CancellationToken::new();
    let told = stop.clone();
    let unit = raw_unit(move |mut raw, _| {
        let told = told.clone();
        async move {
            loop {
                let head = tokio::select! {
                    biased;
                    head = raw.head() => head,
                    () = told.cancelled() => return,
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
    Stoppable { unit, stop }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swapping_backends_under_load_loses_no_request() {
    let mut current = [stoppable().await, stoppable().await];
    let rig = rig(
        ProxySettings::default(),
        blog(current.iter().map(|s| s.unit.addr)),
    )
    .await;
    let (over, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..8)
        .map(|number| {
            let (over, asked, addr) = (Arc::clone(&over), Arc::clone(&asked), rig.addr);
            tokio::spawn(async move {
                let method = if number % 2 == 0 { "GET" } else { "POST" };
                let request = format!("{method} / HTTP/1.1\r\nHost: blog.test\r\n\r\n");
                let mut client = Raw::to(addr).await;
                while !over.load(Ordering::SeqCst) {
                    client.send(&request).await;
                    let (head, body) = client.answer().await;
                    assert_eq!((status(&head), &*body), ("200", "ok"), "{head}");
                    asked.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    for _ in 0..12 {
        let before = asked.load(Ordering::SeqCst);
        until(|| asked.load(Ordering::SeqCst) > before + 50).await;
        let next = [stoppable().await, stoppable().await];
        rig.proxy.set_routes(blog(next.iter().map(|s| s.unit.addr)));
        // What was in flight with the old ones finishes before they go, as a rollout waits for it.
        until(|| current.iter().all(|old| rig.proxy.is_through_with(old.unit.addr))).await;
        for old in std::mem::replace(&mut current, next) {
            old.stop.cancel();
        }
    }
    over.store(true, Ordering::SeqCst);
    for client in clients {
        soon(client).await.expect("no client saw a failure");
    }
    let stats = rig.proxy.stats();
    assert_eq!(stats.by_class[1], stats.requests);
    assert!(stats.requests > 600, "{stats:?}");
}

#[tokio::test]
async fn idle_connections_to_an_address_that_left_the_table_close_at_the_swap() {
    let (seen, mut told) = tokio::sync::mpsc::channel(1);
    let unit = raw_unit(move |mut raw, number| {
        let seen = seen.clone();
        async move {
            raw.head().await;
            if number > 0 {
                raw.send(OK).await;
            }
            seen.send((number, "asked")).await.unwrap();
            raw.rest().await;
            let _ = seen.send((number, "closed")).await;
        }
    })
    .await;
    let rig = rig(ProxySettings::default(), blog([unit.addr])).await;
    // A request in flight keeps the address in use, though not the idle connection beside it.
    let mut client = Raw::to(rig.addr).await;
    client.send("GET / HTTP/1.1\r\nHost: blog.test\r\n\r\n").await;
    assert_eq!(soon(told.recv()).await, Some((0, "asked")));
    assert_eq!(status(&get(rig.addr, "blog.test", "").await), "200");
    assert_eq!(soon(told.recv()).await, Some((1, "asked")));
    rig.proxy.set_routes(blog([closed_door().await]));
    assert_eq!(soon(told.recv()).await, Some((1, "closed")));
    assert_eq!(rig.proxy.stats().in_flight, 1);
}

#[tokio::test]
async fn what_is_in_flight_with_a_backend_that_left_finishes_and_its_connection_is_not_kept() {
    let (seen, mut told) = tokio::sync::mpsc::channel(1);
    let (go, gone) = tokio::sync::watch::channel(false);
    let unit = raw_unit(move |mut raw, _| {
        let (seen, mut gone) = (seen.clone(), gone.clone());
        async move {
            raw.head().await;
            raw.send("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf").await;
            seen.send("asked").await.unwrap();
            gone.wait_for(|go| *go).await.unwrap();
            raw.send("half").await;
            raw.rest().await;
            seen.send("closed").await.unwrap();
        }
    })
    .await;
    let rig = rig(ProxySettings::default(), blog([unit.addr])).await;
    let mut client = Raw::to(rig.addr).await;
    client.send("GET / HTTP/1.1\r\nHost: blog.test\r\n\r\n").await;
    assert_eq!(soon(told.recv()).await, Some("asked"));
    assert!(!rig.proxy.is_through_with(unit.addr));
    rig.proxy.set_routes(Routes::default());
    assert!(!rig.proxy.is_through_with(unit.addr));
    go.send(true).unwrap();
    assert_eq!(client.answer().await.1, "halfhalf");
    assert_eq!(soon(told.recv()).await, Some("closed"));
    assert!(rig.proxy.is_through_with(unit.addr));
}

#[tokio::test]
async fn a_slow_request_with_a_unit_that_stays_does_not_hold_up_the_one_that_leaves() {
    let (seen, mut told) = tokio::sync::mpsc::channel(1);
    let slow = raw_unit(move |mut raw, _| {
        let seen = seen.clone();
        async move {
            raw.head().await;
            seen.send(()).await.unwrap();
            raw.rest().await;
        }
    })
    .await;
    let leaving = fixed_unit(OK).await;
    let rig = rig(ProxySettings::default(), blog([slow.addr, leaving.addr])).await;
    let mut clients = Vec::new();
    for _ in 0..2 {
        let mut client = Raw::to(rig.addr).await;
        client.send("GET / HTTP/1.1\r\nHost: blog.test\r\n\r\n").await;
        clients.push(client);
    }
    soon(told.recv()).await.unwrap();
    rig.proxy.set_routes(blog([slow.addr]));
    until(|| rig.proxy.is_through_with(leaving.addr)).await;
    assert!(!rig.proxy.is_through_with(slow.addr));
}

#[tokio::test]
async fn a_request_that_finds_closed_doors_looks_into_the_new_table() {
    // A door that is slow to refuse: its queue is full, so that nobody gets in before the time is over.
    let door = tokio::net::TcpSocket::new_v4().unwrap();
    door.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let addr = door.local_addr().unwrap();
    let _listener = door.listen(1).unwrap();
    let mut queue = Vec::new();
    for _ in 0..16 {
        queue.push(tokio::spawn(TcpStream::connect(addr)));
    }
    let settings = ProxySettings {
        connect_timeout: Duration::from_millis(300),
        ..ProxySettings::default()
    };
    let rig = rig(settings, blog([addr])).await;
    until(|| queue.iter().filter(|c| c.is_finished()).count() >= 2).await;
    let mut client = Raw::to(rig.addr).await;
    client.send("POST / HTTP/1.1\r\nHost: blog.test\r\n\r\n").await;
    until(|| rig.proxy.stats().in_flight == 1).await;
    let unit = fixed_unit(OK).await;
    rig.proxy.set_routes(blog([unit.addr]));
    assert_eq!(client.answer().await.1, "ok");
    assert_eq!(rig.proxy.stats().retried, 1);
    for waiting in queue {
        waiting.abort();
    }
}

#[tokio::test]
async fn an_address_that_stays_keeps_its_connections_over_a_swap() {
    let unit = fixed_unit(OK).await;
    let rig = rig(ProxySettings::default(), blog([unit.addr])).await;
    for _ in 0..3 {
        assert_eq!(status(&get(rig.addr, "blog.test", "").await), "200");
        rig.proxy.set_routes(blog([unit.addr]));
    }
    assert_eq!(unit.accepted(), 1);
}

#[tokio::test]
async fn a_connection_that_the_unit_closed_while_idle_costs_no_request() {
    let unit = raw_unit(|mut raw, _| async move {
        raw.head().await;
        raw.send(OK).await;
    })
    .await;
    let rig = rig(ProxySettings::default(), blog([unit.addr])).await;
    let mut client = Raw::to(rig.addr).await;
    for _ in 0..50 {
        client.send("GET / HTTP/1.1\r\nHost: blog.test\r\n\r\n").await;
        assert_eq!(client.answer().await.1, "ok");
    }
    assert_eq!(unit.accepted(), 50);
}

#[tokio::test]
async fn unused_connections_to_a_unit_are_closed_after_their_time() {
    let unit = fixed_unit(OK).await;
    let settings = ProxySettings {
        unit_idle_timeout: Duration::from_millis(10),
        ..ProxySettings::default()
    };
    let rig = rig(settings, blog([unit.addr])).await;
    assert_eq!(status(&get(rig.addr, "blog.test", "").await), "200");
    let idle = || rig.proxy.inner.addresses().known[&unit.addr].idle_count();
    assert_eq!(idle(), 1);
    until(|| idle() == 0).await;
}

#[tokio::test]
async fn draining_answers_what_is_in_flight_closes_what_is_idle_and_accepts_no_more() {
    let (seen, mut told) = tokio::sync::mpsc::channel(1);
    let (go, gone) = tokio::sync::watch::channel(false);
    let unit = raw_unit(move |mut raw, number| {
        let (seen, mut gone) = (seen.clone(), gone.clone());
        async move {
            while !raw.head().await.is_empty() {
                if number == 0 {
                    seen.send(()).await.unwrap();
                    gone.wait_for(|go| *go).await.unwrap();
                }
                raw.send(OK).await;
            }
        }
    })
    .await;
    let mut rig = rig(ProxySettings::default(), blog([unit.addr])).await;
    let mut busy = Raw::to(rig.addr).await;
    busy.send("GET / HTTP/1.1\r\nHost: blog.test\r\n\r\n").await;
    soon(told.recv()).await.unwrap();
    let mut idle = Raw::to(rig.addr).await;
    idle.send("GET / HTTP/1.1\r\nHost: blog.test\r\n\r\n").await;
    assert_eq!(idle.answer().await.1, "ok");
    let mut quiet = Raw::to(rig.addr).await;
    until(|| rig.proxy.stats().connections == 3).await;
    rig.cancel.cancel();
    assert_eq!(idle.rest().await, "");
    assert_eq!(quiet.rest().await, "");
    assert!(TcpStream::connect(rig.addr).await.is_err(), "nobody listens");
    assert_eq!(rig.proxy.stats().in_flight, 1);
    go.send(true).unwrap();
    let (head, body) = busy.answer().await;
    assert_eq!(
        (status(&head), header(&head, "connection"), &*body),
        ("200", Some("close"), "ok")
    );
    assert_eq!(busy.rest().await, "");
    soon(&mut rig.serving).await.unwrap();
}

#[tokio::test]
async fn a_request_that_outlasts_the_drain_is_cut() {
    let (seen, mut told) = tokio::sync::mpsc::channel(1);
    let unit = raw_unit(move |mut raw, _| {
        let seen = seen.clone();
        async move {
            raw.head().await;
            seen.send(()).await.unwrap();
            raw.rest().await;
        }
    })
    .await;
    let settings = ProxySettings {
        drain: Duration::from_millis(50),
        ..ProxySettings::default()
    };
    let mut rig = rig(settings, blog([unit.addr])).await;
    let mut client = Raw::to(rig.addr).await;
    client.send("GET / HTTP/1.1\r\nHost: blog.test\r\n\r\n").await;
    soon(told.recv()).await.unwrap();
    rig.cancel.cancel();
    assert_eq!(client.rest().await, "");
    soon(&mut rig.serving).await.unwrap();
    let stats = rig.proxy.stats();
    assert_eq!((stats.in_flight, stats.connections), (0, 0));
}

#[tokio::test]
async fn a_client_that_leaves_ends_its_request_at_the_unit() {
    let (seen, mut told) = tokio::sync::mpsc::channel(1);
    let unit = raw_unit(move |mut raw, _| {
        let seen = seen.clone();
        async move {
            raw.head().await;
            seen.send("asked").await.unwrap();
            raw.rest().await;
            seen.send("closed").await.unwrap();
        }
    })
    .await;
    let rig = rig(ProxySettings::default(), blog([unit.addr])).await;
    let mut client = Raw::to(rig.addr).await;
    client.send("GET / HTTP/1.1\r\nHost: blog.test\r\n\r\n").await;
    assert_eq!(soon(told.recv()).await, Some("asked"));
    drop(client);
    assert_eq!(soon(told.recv()).await, Some("closed"));
    until(|| rig.proxy.stats().in_flight == 0).await;
}

#[tokio::test]
async fn more_connections_than_allowed_are_turned_away_and_idle_ones_make_room() {
    const MOST: usize = 300;
    let unit = fixed_unit(OK).await;
    let settings = ProxySettings {
        max_connections: MOST,
        header_timeout: Duration::from_secs(2),
        ..ProxySettings::default()
    };
    let rig = rig(settings, blog([unit.addr])).await;
    let mut clients = Vec::new();
    for _ in 0..MOST {
        let mut client = Raw::to(rig.addr).await;
        client.send("GET / HTTP/1.1\r\nHost: blog.test\r\n\r\n").await;
        assert_eq!(client.answer().await.1, "ok");
        clients.push(client);
    }
    let turned_away = ask(rig.addr, "").await;
    assert_eq!(status(&turned_away), "503", "{turned_away}");
    let (head, body) = turned_away.split_once("\r\n\r\n").unwrap();
    assert_eq!(header(head, "content-length"), Some(&*body.len().to_string()));
    assert!(rig.proxy.stats().connections <= MOST as u64);
    // The idle ones must go far sooner than after `idle_timeout`.
    until(|| rig.proxy.stats().connections <= (MOST / 4 * 3) as u64).await;
    assert_eq!(status(&get(rig.addr, "blog.test", "").await), "200");
}

#[tokio::test]
async fn thousands_of_idle_connections_do_not_hinder_a_request() {
    let unit = fixed_unit(OK).await;
    let rig = rig(ProxySettings::default(), blog([unit.addr])).await;
    let mut idle = Vec::new();
    for _ in 0..2000 {
        match TcpStream::connect(rig.addr).await {
            Ok(stream) => idle.push(stream),
            // As many as this machine gives a process.
            Err(_) => break,
        }
    }
    idle.truncate(idle.len().saturating_sub(16));
    assert!(idle.len() > 200, "{}", idle.len());
    assert_eq!(status(&get(rig.addr, "blog.test", "").await), "200");
}
