//! Hostile input to the API: path traversal in names, line breaks in headers, endless bodies, and services at
//! internal addresses.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tancho::config::AutoFlag;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::test_server::{TestServer, TestUser};

const INJECTED: &str = "harmless\r\nX-Injected: 1\r\n\r\n<b>";

/// Sends raw bytes and returns the response; the server closes the connection.
async fn send_raw(tancho: &TestServer, text: &str) -> String {
    let mut stream = TcpStream::connect(tancho.running.api_addr.unwrap())
        .await
        .unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let reading = stream.read_to_end(&mut answer);
    let _ = tokio::time::timeout(Duration::from_secs(60), reading)
        .await
        .expect("an end");
    String::from_utf8_lossy(&answer).into_owned()
}

/// The head of an answer to bytes that are sent as they are.
async fn read_head_of_answer(tancho: &TestServer, text: &str) -> String {
    let mut stream = TcpStream::connect(tancho.running.api_addr.unwrap())
        .await
        .unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap().to_lowercase()
}

/// Or a client that keeps its connections would send its next request on one that ends.
#[tokio::test]
async fn answer_before_the_end_of_a_body_says_that_the_connection_ends() {
    let (tancho, root) = start_with_app().await;
    let head = |path: &str, more: &str| {
        let token = &root.token;
        format!("POST {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: bearer {token}\r\n{more}\r\n\r\n")
    };
    let large = "content-type: application/json\r\ncontent-length: 900000000";
    let chunked = "content-type: application/json\r\ntransfer-encoding: chunked";
    for (status, text) in [
        (404, head("/1.0/nothing", large) + "x"),
        (413, head("/1.0/apps/nothing/deploy", large) + "x"),
        (413, head("/1.0/apps", large) + "x"),
        (
            404,
            head("/1.0/nothing", chunked) + "1\r\nx\r\n1\r\ny\r\n0\r\n\r\n",
        ),
    ] {
        let head = read_head_of_answer(&tancho, &text).await;
        assert!(head.starts_with(&format!("http/1.1 {status}")), "{text}: {head}");
        assert!(head.contains("connection: close\r\n"), "{text}: {head}");
    }
    // One that was read leaves the connection open.
    let body = "content-type: application/json\r\ncontent-length: 2";
    for path in ["/1.0/apps", "/1.0/nothing"] {
        let head = read_head_of_answer(&tancho, &(head(path, body) + "{}")).await;
        assert!(!head.contains("connection: close"), "{path}: {head}");
    }
}

async fn start_with_app() -> (TestServer, TestUser) {
    start_with_settings(|_| {}).await
}

async fn start_with_settings(change: impl FnOnce(&mut tancho::config::Settings)) -> (TestServer, TestUser) {
    let tancho = TestServer::start_with(change).await;
    let root = tancho.login_admin().await;
    tancho.create_team(&root, "makers").await;
    (tancho, root)
}

#[tokio::test]
async fn path_traversal_in_urls_reaches_no_file() {
    let (tancho, root) = start_with_app().await;
    let names = [
        "..%2f..%2f..%2fetc%2fpasswd",
        "%2e%2e",
        "..",
        "../..",
        "..%5c..%5cx",
        "x%00y",
        "x%0d%0aX-Injected:%201",
        "%ff%fe",
        "$(id)",
        "x;id",
        "%25%32%66",
        "x%2fy",
        "~root",
        "*",
    ];
    let paths = [
        ("GET", "/apps/{}"),
        ("DELETE", "/apps/{}"),
        ("GET", "/apps/{}/env"),
        ("GET", "/apps/{}/restart"),
        ("POST", "/apps/{}/deploy"),
        ("GET", "/1.0/apps/{}"),
        ("GET", "/1.0/apps/{}/log"),
        ("PUT", "/1.0/apps/{}/units"),
        ("GET", "/services/{}"),
        ("GET", "/services/{}/doc"),
        ("DELETE", "/services/{}"),
        ("GET", "/services/instances/{}"),
        ("DELETE", "/services/instances/{}"),
        ("PUT", "/services/instances/{}/{}"),
        ("GET", "/teams/{}"),
        ("DELETE", "/teams/{}"),
        ("PUT", "/1.0/platforms/{}"),
        ("DELETE", "/1.0/platforms/{}"),
        ("GET", "/1.0/platforms/{}"),
        ("DELETE", "/1.0/pools/{}"),
        ("GET", "/1.0/events/{}"),
        ("GET", "/healers/{}"),
        ("GET", "/quota/{}"),
    ];
    for (method, path) in paths {
        for name in names {
            let path = path.replace("{}", name);
            let answer = send_raw(
                &tancho,
                &format!(
                    "{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: bearer {}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
                    root.token
                ),
            )
            .await;
            let status = answer.split(' ').nth(1).unwrap_or("none");
            assert!(status.starts_with('4'), "{method} {path}: {answer}");
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            assert!(
                !head.to_ascii_lowercase().contains("x-injected"),
                "{method} {path}: {answer}"
            );
            assert!(!body.contains("root:"), "{method} {path}: {answer}");
        }
    }
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn path_traversal_in_bodies_reaches_no_file() {
    let (tancho, root) = start_with_app().await;
    let bad = [
        "../x",
        "/etc/x",
        "x\r\nX-Injected: 1",
        "x\u{0}y",
        "..",
        "",
        "x/y",
        "\u{202e}x",
    ];
    for name in bad {
        let bodies = [
            ("POST", "/apps", json!({"name": name, "platform": "python"})),
            (
                "POST",
                "/apps",
                json!({"name": "fine", "platform": if name.is_empty() { "/" } else { name }}),
            ),
            ("POST", "/teams", json!({"name": name})),
            (
                "POST",
                "/users",
                json!({"email": format!("{name}/@example.com"), "password": "correct horse"}),
            ),
            (
                "POST",
                "/services/instances",
                json!({"name": name, "service_name": "none", "owner": "makers"}),
            ),
            ("POST", "/1.0/pools", json!({"name": name})),
            ("POST", "/1.0/plans", json!({"name": name, "memory": "1G"})),
            ("POST", "/1.0/roles", json!({"name": name, "context": "global"})),
        ];
        for (method, path, body) in bodies {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let (status, text) = tancho.send_json(&root, method, path, Some(body.clone())).await;
            assert!((400..500).contains(&status), "{path} {body}: {status} {text}");
            assert!(
                !text.contains('\r') && text.trim_end().lines().count() <= 1,
                "{path} {body}: {text:?}"
            );
        }
    }
    assert_eq!(
        tancho.read_json(&root, "/teams").await.as_array().unwrap().len(),
        1
    );
    tancho.running.drain_and_stop().await;
}

/// Returns true if any string of a response contains the text.
fn contains_text(value: &Value, text: &str) -> bool {
    match value {
        Value::String(found) => found.contains(text),
        Value::Array(all) => all.iter().any(|value| contains_text(value, text)),
        Value::Object(all) => all.values().any(|value| contains_text(value, text)),
        _ => false,
    }
}

#[tokio::test]
async fn line_breaks_in_stored_strings_inject_no_header_or_line() {
    let (tancho, root) = start_with_app().await;
    let app = json!({"name": "board", "platform": "python", "teamOwner": "makers", "description": INJECTED});
    let (status, text) = tancho
        .send_json(&root, Method::POST, "/1.0/apps", Some(app))
        .await;
    let described = status < 300;
    assert!(described || status == 400, "{status} {text}");
    if !described {
        let app = json!({"name": "board", "platform": "python", "teamOwner": "makers"});
        assert!(
            tancho
                .send_json(&root, Method::POST, "/1.0/apps", Some(app))
                .await
                .0
                < 300
        );
    }
    let tries = [
        (Method::POST, "/apps/board/env", json!({"A\r\nB": "x"}), true),
        (Method::POST, "/apps/board/env", json!({"KEY": INJECTED}), false),
        (Method::PUT, "/1.0/apps/board", json!({"tags": [INJECTED]}), false),
        (
            Method::POST,
            "/1.0/apps/board/cname",
            json!({"cname": ["a.test\r\nX-Injected: 1"]}),
            true,
        ),
        (
            Method::POST,
            "/1.0/teams",
            json!({"name": "others", "tags": [INJECTED]}),
            false,
        ),
        (
            Method::POST,
            "/1.0/services",
            json!({"id": "notes", "password": "x", "endpoint": {"production": "127.0.0.1:1"}, "team": "makers"}),
            false,
        ),
        (Method::PUT, "/services/notes/doc", json!(INJECTED), false),
        (
            Method::POST,
            "/1.0/roles",
            json!({"name": "helper", "context": "global", "description": INJECTED}),
            false,
        ),
        (
            Method::POST,
            "/users/keys",
            json!({"name": INJECTED, "key": "ssh-ed25519 AAAA\r\nX-Injected: 1"}),
            true,
        ),
    ];
    for (method, path, body, must_fail) in tries {
        let (status, text) = tancho.send_json(&root, method, path, Some(body)).await;
        assert!(status < 500, "{path}: {status} {text}");
        assert!(
            !must_fail || (400..500).contains(&status),
            "{path}: {status} {text}"
        );
    }
    for path in [
        "/apps/board",
        "/apps",
        "/1.0/apps/board",
        "/1.0/events",
        "/services/notes/doc",
        "/1.0/teams",
        "/1.0/roles",
        "/apps/board/env",
    ] {
        let answer = tancho.request_as(&root, Method::GET, path).send().await.unwrap();
        assert!(answer.headers().get("x-injected").is_none(), "{path}");
        let text = answer.text().await.unwrap();
        if let Ok(value) = serde_json::from_str::<Value>(&text) {
            // In JSON the string is returned as it was given.
            assert!(!text.contains('\r'), "{path}: {text}");
            assert!(
                !contains_text(&value, "X-Injected")
                    || contains_text(&value, INJECTED)
                    || path == "/1.0/events",
                "{path}: {text}"
            );
        }
    }
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn oversized_and_stalled_bodies_are_rejected() {
    let (tancho, root) = start_with_settings(|settings| {
        settings.api.max_body_bytes.0 = 4096;
        settings.api.max_upload_bytes.0 = 64 << 10;
        settings.api.request_timeout = Duration::from_secs(1);
    })
    .await;
    let long = "x".repeat(5000);
    let (status, text) = tancho
        .send_json(&root, Method::POST, "/teams", Some(json!({"name": long})))
        .await;
    assert_eq!(status, 413, "{text}");
    let head = |path: &str, lines: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: bearer {}\r\nConnection: close\r\n{lines}\r\n",
            root.token
        )
    };
    // A large Content-Length costs nothing; chunks are counted as they arrive.
    let answer = send_raw(&tancho, &head("/teams", "Content-Length: 99999999999\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    let chunks = format!("{:x}\r\n{long}\r\n0\r\n\r\n", long.len());
    let answer = send_raw(
        &tancho,
        &(head("/teams", "Transfer-Encoding: chunked\r\n") + &chunks),
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    // Deep nesting.
    let nested = format!("{}{}", "[".repeat(2000), "]".repeat(2000));
    let lines = format!(
        "Content-Type: application/json\r\nContent-Length: {}\r\n",
        nested.len()
    );
    let answer = send_raw(&tancho, &(head("/teams", &lines) + &nested)).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");

    let app = json!({"name": "board", "platform": "python", "teamOwner": "makers"});
    assert!(
        tancho
            .send_json(&root, Method::POST, "/1.0/apps", Some(app))
            .await
            .0
            < 300
    );
    let part = "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.tar\"\r\n\r\n";
    // An upload over the size limit, and one that stalls.
    let large = format!("{part}{}\r\n--b--\r\n", "x".repeat(100 << 10));
    let lines = format!(
        "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {}\r\n",
        large.len()
    );
    let answer = send_raw(&tancho, &(head("/apps/board/deploy", &lines) + &large)).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    let lines = "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 5000\r\n";
    let answer = send_raw(&tancho, &(head("/apps/board/deploy", lines) + part)).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    let left = std::fs::read_dir(tancho.running.core.data_dir.uploads_dir())
        .unwrap()
        .count();
    assert_eq!(left, 0, "no upload is left");
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn services_at_private_addresses_are_never_called() {
    let (tancho, root) =
        start_with_settings(|settings| settings.services.allow_private_addresses = AutoFlag::No).await;
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let called = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&called);
    tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            counter.fetch_add(1, Ordering::SeqCst);
        }
    });
    let hosts = [
        "127.0.0.1",
        "127.1",
        "0x7f000001",
        "2130706433",
        "0177.0.0.1",
        "127.0.0.1.",
        "0.0.0.0",
        "localhost",
        "LOCALHOST.",
        "%31%32%37.0.0.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:0:7f00:1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "169.254.169.254",
        "10.0.0.1",
        "192.168.0.1",
        "[fe80::1]",
        "[fd00::1]",
    ];
    for (at, host) in hosts.iter().enumerate() {
        let id = format!("s{at}");
        let manifest =
            format!("id: {id}\npassword: x\nteam: makers\nendpoint:\n  production: 'http://{host}:{port}'\n");
        let answer = tancho
            .request_as(&root, Method::POST, "/services")
            .body(manifest)
            .send()
            .await
            .unwrap();
        if answer.status().is_client_error() {
            continue;
        }
        assert!(answer.status().is_success(), "{host}");
        let instance = json!({"name": format!("i{at}"), "service_name": id, "owner": "makers"});
        let (status, text) = tancho
            .send_json(&root, Method::POST, "/services/instances", Some(instance))
            .await;
        assert!(
            status >= 400 && (text.contains("private address") || text.contains("cannot be reached")),
            "{host}: {status} {text}"
        );
    }
    assert_eq!(called.load(Ordering::SeqCst), 0);
    assert_eq!(
        TcpStream::connect(("127.0.0.1", port)).await.map(drop).ok(),
        Some(())
    );
    tancho.running.drain_and_stop().await;
}
