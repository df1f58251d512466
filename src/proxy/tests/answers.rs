use super::*;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[tokio::test]
async fn request_and_response_are_forwarded() {
    let unit = fixed_unit("HTTP/1.1 201 Created\r\nContent-Length: 2\r\nX-Own: 1\r\n\r\nok").await;
    let rig = start_proxy(ProxySettings::default(), blog_routes([unit.addr])).await;
    let answer = send_get(rig.addr, "BLOG.test.:80", "").await;
    assert!(answer.starts_with("HTTP/1.1 201 Created\r\n"), "{answer}");
    assert_eq!(header_value(&answer, "x-own"), Some("1"));
    assert!(answer.ends_with("\r\n\r\nok"), "{answer}");
    let stats = rig.proxy.read_stats();
    assert_eq!(
        (stats.requests, stats.by_class, stats.retried),
        (1, [0, 1, 0, 0, 0], 0)
    );
    wait_until(|| rig.proxy.read_stats().in_flight == 0 && rig.proxy.read_stats().connections == 0).await;
}

#[tokio::test]
async fn unknown_host_gets_404_with_its_name_and_the_request_id() {
    let rig = start_proxy(ProxySettings::default(), HostRoutes::default()).await;
    let answer = send_get(rig.addr, "Nobody.test", "X-Request-Id: abc-1\r\n").await;
    assert_eq!(status_of(&answer), "404");
    assert_eq!(
        header_value(&answer, "content-type"),
        Some("text/plain; charset=utf-8")
    );
    assert_eq!(header_value(&answer, "x-request-id"), Some("abc-1"));
    assert!(
        answer.contains("nobody.test") && answer.contains("Request id: abc-1"),
        "{answer}"
    );
    let html = send_get(rig.addr, "nobody.test", "Accept: text/html,*/*\r\n").await;
    assert_eq!(
        header_value(&html, "content-type"),
        Some("text/html; charset=utf-8")
    );
}

#[tokio::test]
async fn app_without_units_gets_503_with_the_reason() {
    let route = HostRoute {
        host: "*.test".into(),
        app: "blog".into(),
        backends: BackendSet::None {
            reason: "the app is <stopped>".into(),
        },
    };
    let rig = start_proxy(ProxySettings::default(), [route].into_iter().collect()).await;
    let answer = send_get(rig.addr, "any.test", "").await;
    assert_eq!(status_of(&answer), "503");
    assert_eq!(header_value(&answer, "retry-after"), Some("1"));
    assert!(
        answer.contains("The app blog is unavailable: the app is <stopped>."),
        "{answer}"
    );
    let html = send_get(rig.addr, "any.test", "Accept: text/html\r\n").await;
    assert!(html.contains("the app is &lt;stopped&gt;"), "{html}");
}

#[tokio::test]
async fn request_without_a_host_or_with_two_gets_400() {
    let rig = start_proxy(ProxySettings::default(), blog_routes([])).await;
    for lines in [
        "",
        "Host: blog.test\r\nHost: other.test\r\n",
        "Host: bl og\r\n",
        "Host:\r\n",
    ] {
        let answer = send_raw(rig.addr, &format!("GET / HTTP/1.1\r\n{lines}\r\n")).await;
        assert_eq!(status_of(&answer), "400", "{lines}");
        assert!(header_value(&answer, "x-request-id").is_some(), "{answer}");
    }
    let answer = send_raw(
        rig.addr,
        "CONNECT blog.test:443 HTTP/1.1\r\nHost: blog.test\r\n\r\n",
    )
    .await;
    assert_eq!(status_of(&answer), "400");
}

#[tokio::test]
async fn malformed_unit_response_gives_502_without_address() {
    for nonsense in [
        "not http at all\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        "HTTP/1.1 200",
        "",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
    ] {
        let unit = raw_unit(move |mut raw, _| async move {
            raw.read_head().await;
            raw.send(nonsense).await;
        })
        .await;
        let rig = start_proxy(ProxySettings::default(), blog_routes([unit.addr])).await;
        let answer = send_get(rig.addr, "blog.test", "").await;
        assert_eq!(status_of(&answer), "502", "{nonsense}");
        assert!(answer.contains("the app blog"), "{answer}");
        assert!(
            !answer.contains("127.0.0.1") && !answer.contains(&unit.addr.port().to_string()),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn unit_that_does_not_respond_in_time_gets_504() {
    let unit = raw_unit(|mut raw, _| async move {
        raw.read_head().await;
        raw.read_to_close().await;
    })
    .await;
    let settings = ProxySettings {
        first_byte_timeout: Duration::from_millis(50),
        ..ProxySettings::default()
    };
    let rig = start_proxy(settings, blog_routes([unit.addr])).await;
    let answer = send_get(rig.addr, "blog.test", "").await;
    assert_eq!(status_of(&answer), "504");
    assert!(answer.contains("the app blog"), "{answer}");
}

#[tokio::test]
async fn client_that_does_not_send_its_body_gets_408() {
    let unit = raw_unit(|mut raw, _| async move {
        raw.read_head().await;
        raw.read_to_close().await;
    })
    .await;
    let settings = ProxySettings {
        first_byte_timeout: Duration::from_millis(50),
        ..ProxySettings::default()
    };
    let rig = start_proxy(settings, blog_routes([unit.addr])).await;
    let answer = send_raw(
        rig.addr,
        "POST / HTTP/1.1\r\nHost: blog.test\r\nContent-Length: 9\r\n\r\nhalf",
    )
    .await;
    assert_eq!(status_of(&answer), "408");
}

#[tokio::test]
async fn refused_connections_to_all_backends_give_502() {
    let rig = start_proxy(
        ProxySettings::default(),
        blog_routes([closed_port().await, closed_port().await]),
    )
    .await;
    let answer = send_get(rig.addr, "blog.test", "").await;
    assert_eq!(status_of(&answer), "502");
    assert!(
        answer.contains("No unit of the app blog accepts connections."),
        "{answer}"
    );
    assert_eq!(rig.proxy.read_stats().retried, 1);
}

#[tokio::test]
async fn refused_connection_is_retried_on_the_next_backend_even_with_a_body() {
    let unit = raw_unit(|mut raw, _| async move {
        while !raw.read_head().await.is_empty() {
            let body = raw.read_exact(4).await;
            raw.send(&format!("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n{body}"))
                .await;
        }
    })
    .await;
    let rig = start_proxy(
        ProxySettings::default(),
        blog_routes([closed_port().await, unit.addr]),
    )
    .await;
    for _ in 0..8 {
        let post = "POST / HTTP/1.1\r\nHost: blog.test\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbody";
        let answer = send_raw(rig.addr, post).await;
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.ends_with("body"),
            "{answer}"
        );
    }
    assert_eq!(
        rig.proxy.read_stats().retried,
        1,
        "a backend that refused is not tried again for a while"
    );
}

#[tokio::test]
async fn closed_connection_is_retried_only_for_idempotent_requests() {
    // The first connection is closed after the head was read, later ones respond.
    let unit = || {
        raw_unit(|mut raw, number| async move {
            raw.read_head().await;
            if number > 0 {
                raw.send(OK).await;
            }
        })
    };
    let (one, two) = (unit().await, unit().await);
    let both = start_proxy(ProxySettings::default(), blog_routes([one.addr, two.addr])).await;
    let answer = send_raw(
        both.addr,
        "POST / HTTP/1.1\r\nHost: blog.test\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert_eq!(status_of(&answer), "502", "the unit may have acted on it");
    assert_eq!(both.proxy.read_stats().retried, 0);

    let (first, second) = (unit().await, fixed_unit(OK).await);
    let both = start_proxy(ProxySettings::default(), blog_routes([first.addr, second.addr])).await;
    for _ in 0..4 {
        assert_eq!(status_of(&send_get(both.addr, "blog.test", "").await), "200");
    }
    assert_eq!(both.proxy.read_stats().retried, 1);
}

#[tokio::test]
async fn request_that_crashes_a_unit_is_retried_once() {
    let asked = Arc::new(AtomicUsize::new(0));
    let unit = || {
        let asked = Arc::clone(&asked);
        raw_unit(move |mut raw, _| {
            let asked = Arc::clone(&asked);
            async move {
                loop {
                    let head = raw.read_head().await;
                    if head.contains("/crash") {
                        asked.fetch_add(1, Ordering::SeqCst);
                        return;
                    }
                    if head.is_empty() {
                        return;
                    }
                    raw.send(OK).await;
                }
            }
        })
    };
    let mut units = Vec::new();
    for _ in 0..6 {
        units.push(unit().await);
    }
    let rig = start_proxy(
        ProxySettings::default(),
        blog_routes(units.iter().map(|unit| unit.addr)),
    )
    .await;
    let crash = |method: &str| {
        let head = format!("{method} /crash HTTP/1.1\r\nHost: blog.test\r\nConnection: close\r\n\r\n");
        async move { send_raw(rig.addr, &head).await }
    };
    assert_eq!(status_of(&crash("GET").await), "502");
    assert_eq!(asked.swap(0, Ordering::SeqCst), 2);
    // Nor over connections kept from earlier requests.
    for _ in 0..12 {
        let answer = send_get(rig.addr, "blog.test", "").await;
        assert_eq!(status_of(&answer), "200");
    }
    assert_eq!(status_of(&crash("DELETE").await), "502");
    assert_eq!(asked.swap(0, Ordering::SeqCst), 2);
    assert_eq!(status_of(&crash("POST").await), "502");
    assert_eq!(asked.swap(0, Ordering::SeqCst), 1, "it may not be repeated");
}

#[tokio::test]
async fn refusing_units_are_skipped() {
    let mut addresses = Vec::new();
    for _ in 0..5 {
        addresses.push(closed_port().await);
    }
    let last = fixed_unit(OK).await;
    addresses.push(last.addr);
    let rig = start_proxy(ProxySettings::default(), blog_routes(addresses)).await;
    assert_eq!(status_of(&send_get(rig.addr, "blog.test", "").await), "200");
}

#[tokio::test]
async fn load_is_spread_over_the_backends() {
    let units = [fixed_unit(OK).await, fixed_unit(OK).await, fixed_unit(OK).await];
    let rig = start_proxy(
        ProxySettings::default(),
        blog_routes(units.iter().map(|u| u.addr)),
    )
    .await;
    for _ in 0..6 {
        assert_eq!(status_of(&send_get(rig.addr, "blog.test", "").await), "200");
    }
    for unit in &units {
        assert_eq!(unit.accepted(), 1, "and its connection is kept");
    }
}

#[tokio::test]
async fn forwarded_headers_are_overwritten_unless_trusted() {
    let lines = "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\n\
        X-Real-IP: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\nX_Forwarded_For: 6.6.6.6\r\nX-Forwarded-Port: 1\r\n";
    let unit = head_echo_unit().await;
    let strict = start_proxy(ProxySettings::default(), blog_routes([unit.addr])).await;
    let seen = send_get(strict.addr, "Blog.Test:80", lines).await;
    assert!(
        !seen.contains("6.6.6.6") && !seen.contains("evil") && !seen.contains("port: 1"),
        "{seen}"
    );
    for (name, value) in [
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "Blog.Test:80"),
        ("x-real-ip", "127.0.0.1"),
        ("host", "Blog.Test:80"),
    ] {
        assert_eq!(header_value(body_of(&seen), name), Some(value), "{name}");
    }
    let trusting = ProxySettings {
        trust_forwarded: true,
        ..ProxySettings::default()
    };
    let trusting = start_proxy(trusting, blog_routes([unit.addr])).await;
    let seen = send_get(trusting.addr, "blog.test", lines).await;
    for (name, value) in [
        ("x-forwarded-for", "6.6.6.6, 127.0.0.1"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "evil"),
        ("x-real-ip", "6.6.6.6"),
        ("forwarded", "for=6.6.6.6"),
    ] {
        assert_eq!(header_value(body_of(&seen), name), Some(value), "{name}");
    }
}

fn body_of(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap().1
}

#[tokio::test]
async fn hop_by_hop_headers_are_not_forwarded() {
    let unit = raw_unit(|mut raw, _| async move {
        let head = raw.read_head().await;
        raw.send(&format!(
            "HTTP/1.1 200 OK\r\nConnection: X-Private\r\nX-Private: 1\r\nKeep-Alive: timeout=5\r\n\
             Proxy-Connection: x\r\nX-Request-Id: forged\r\nX-Own: 2\r\nContent-Length: {}\r\n\r\n{head}",
            head.len()
        ))
        .await;
    })
    .await;
    let rig = start_proxy(ProxySettings::default(), blog_routes([unit.addr])).await;
    let lines = "Connection: X-Secret, Host, X-Request-Id\r\nX-Secret: 1\r\nKeep-Alive: 5\r\nTE: trailers, gzip\r\n\
        Proxy-Connection: x\r\nProxy-Authorization: x\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\nX-Own: 1\r\nX-Request-Id: mine\r\n";
    let answer = send_get(rig.addr, "blog.test", lines).await;
    let (head, seen) = answer.split_once("\r\n\r\n").unwrap();
    for name in [
        "x-secret",
        "keep-alive",
        "proxy-connection",
        "proxy-authorization",
        "upgrade",
        "http2-settings",
    ] {
        assert_eq!(header_value(seen, name), None, "{name} in {seen}");
    }
    assert_eq!(header_value(seen, "te"), Some("trailers"));
    assert_eq!(header_value(seen, "connection"), Some("te"));
    assert_eq!(header_value(seen, "host"), Some("blog.test"));
    assert_eq!(header_value(seen, "x-own"), Some("1"));
    assert_eq!(header_value(seen, "x-request-id"), Some("mine"));
    assert_eq!(header_value(seen, "via"), None);
    for name in ["x-private", "keep-alive", "proxy-connection"] {
        assert_eq!(header_value(head, name), None, "{name} in {head}");
    }
    assert_eq!(header_value(head, "x-own"), Some("2"));
    assert_eq!(header_value(head, "x-request-id"), Some("mine"));
}

#[tokio::test]
async fn invalid_request_id_is_replaced() {
    let unit = head_echo_unit().await;
    let rig = start_proxy(ProxySettings::default(), blog_routes([unit.addr])).await;
    let mut ids = std::collections::HashSet::new();
    for bad in [
        "",
        "X-Request-Id: a b\r\n",
        "X-Request-Id: <x>\r\n",
        "X-Request-Id:\r\n",
    ] {
        let answer = send_get(rig.addr, "blog.test", bad).await;
        let id = header_value(&answer, "x-request-id").unwrap().to_owned();
        assert_eq!(header_value(body_of(&answer), "x-request-id"), Some(&*id));
        assert_eq!(id.len(), 32);
        assert!(ids.insert(id));
    }
    let long = "a".repeat(129);
    let answer = send_get(rig.addr, "blog.test", &format!("X-Request-Id: {long}\r\n")).await;
    assert_ne!(header_value(&answer, "x-request-id"), Some(&*long));
}

#[tokio::test]
async fn host_of_an_absolute_target_takes_precedence() {
    let unit = head_echo_unit().await;
    let rig = start_proxy(ProxySettings::default(), blog_routes([unit.addr])).await;
    let raw = "GET http://Blog.test:80/a?b=c HTTP/1.1\r\nHost: other.test\r\nConnection: close\r\n\r\n";
    let answer = send_raw(rig.addr, raw).await;
    assert!(
        body_of(&answer).starts_with("GET /a?b=c HTTP/1.1\r\nhost: Blog.test:80\r\n"),
        "{answer}"
    );
}

#[tokio::test]
async fn head_204_and_304_have_no_body_and_keep_the_connection() {
    let unit = raw_unit(|mut raw, _| async move {
        loop {
            let head = raw.read_head().await;
            let target = head.split(' ').nth(1).unwrap_or_default();
            raw.send(match target {
                "/204" => "HTTP/1.1 204 No Content\r\n\r\n",
                "/304" => "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\nETag: \"1\"\r\n\r\n",
                "/chunked" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                "/head" => "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n",
                _ => return,
            })
            .await;
        }
    })
    .await;
    let rig = start_proxy(ProxySettings::default(), blog_routes([unit.addr])).await;
    let mut client = RawConn::connect(rig.addr).await;
    for (line, length) in [
        ("GET /204", None),
        ("HEAD /head", Some("9")),
        ("GET /304", None),
        ("HEAD /chunked", None),
    ] {
        client
            .send(&format!("{line} HTTP/1.1\r\nHost: blog.test\r\n\r\n"))
            .await;
        let head = client.read_head().await;
        assert!(
            matches!(status_of(&head), "200" | "204" | "304"),
            "{line}: {head}"
        );
        assert_eq!(header_value(&head, "content-length"), length, "{line}");
    }
    assert_eq!(unit.accepted(), 1, "one connection to the unit carried all");
}

#[tokio::test]
async fn http_1_0_clients_get_a_body_that_ends_with_the_connection() {
    let unit = fixed_unit("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n").await;
    let rig = start_proxy(ProxySettings::default(), blog_routes([unit.addr])).await;
    let answer = send_raw(rig.addr, "GET / HTTP/1.0\r\nHost: blog.test\r\n\r\n").await;
    assert!(answer.ends_with("\r\n\r\nok"), "{answer}");
    assert_eq!(header_value(&answer, "transfer-encoding"), None);
}
