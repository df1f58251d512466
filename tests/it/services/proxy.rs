//! The proxies of services: what they pass on, to whom, and what they refuse.

use std::future::IntoFuture as _;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use futures_util::{StreamExt, stream};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::accounts::{RequestBody, send_request};
use crate::test_server::{TestServer, TestUser};

/// A service that responds with what it received; `/slow` below any path responds with a stream that does not
/// end, `/broken` with an error.
async fn start_echo_service(tancho: &TestServer) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/base", listener.local_addr().unwrap());
    let serving = axum::serve(listener, Router::new().fallback(echo));
    let stop = tancho.running.core.stop.clone();
    tokio::spawn(
        serving
            .with_graceful_shutdown(stop.cancelled_owned())
            .into_future(),
    );
    url
}

async fn echo(request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    if path.ends_with("/slow") {
        let first = stream::once(async { Ok::<_, std::io::Error>(Bytes::from_static(b"first")) });
        return Body::from_stream(first.chain(stream::pending())).into_response();
    }
    if path.ends_with("/mirror") {
        return Body::from_stream(body.into_data_stream()).into_response();
    }
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let headers: serde_json::Map<String, Value> = parts
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), json!(String::from_utf8_lossy(value.as_bytes()))))
        .collect();
    let said = json!({
        "method": parts.method.as_str(), "path": path, "query": parts.uri.query().unwrap_or_default(),
        "headers": headers, "body": String::from_utf8_lossy(&body),
    });
    let status = match path.ends_with("/broken") {
        true => StatusCode::INTERNAL_SERVER_ERROR,
        false => StatusCode::ACCEPTED,
    };
    let headers = [
        ("x-of-service", "yes"),
        ("set-cookie", "a=b"),
        ("connection", "close"),
    ];
    (status, headers, Json(said)).into_response()
}

/// A server with the service `db` of team `red`, and its instance `main`.
pub(super) struct ProxyFixture {
    pub(super) tancho: TestServer,
    pub(super) root: TestUser,
    pub(super) ana: TestUser,
    pub(super) bob: TestUser,
}

impl ProxyFixture {
    pub(super) async fn start() -> Self {
        let tancho = TestServer::start_with(|settings| {
            settings.services.call_timeout = Duration::from_secs(2);
            settings.api.max_upload_bytes = tancho::kernel::byte_size::ByteSize(1 << 20);
        })
        .await;
        let root = tancho.login_admin().await;
        let (ana, bob) = (tancho.create_user("ana").await, tancho.create_user("bob").await);
        tancho.create_team(&ana, "red").await;
        tancho.create_team(&bob, "blue").await;
        let url = start_echo_service(&tancho).await;
        let fixture = Self {
            tancho,
            root,
            ana,
            bob,
        };
        let service = format!("id=db&username=u&password=s3cret-pw&team=red&endpoint={url}");
        fixture.form(&fixture.root, "POST /1.0/services", &service).await;
        let instance = "name=main&owner=red";
        fixture
            .form(&fixture.ana, "POST /1.0/services/db/instances", instance)
            .await;
        fixture
    }

    pub(super) async fn form(&self, who: &TestUser, line: &str, body: &str) {
        let (method, path) = line.split_once(' ').unwrap();
        let answer = self
            .tancho
            .request_as(who, method.parse().unwrap(), path)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(body.to_owned())
            .send()
            .await
            .unwrap();
        assert!(
            answer.status().is_success(),
            "{line}: {}",
            answer.text().await.unwrap()
        );
    }

    /// Sends a request and returns its status and text.
    pub(super) async fn send(&self, who: &TestUser, line: &str) -> (u16, String) {
        let answer = send_request(&self.tancho, Some(who), line, RequestBody::None).await;
        (answer.status, answer.body)
    }

    /// Sends a request that the service receives; returns what it received.
    pub(super) async fn received(&self, who: &TestUser, line: &str) -> Value {
        let (status, text) = self.send(who, line).await;
        assert_eq!(status, 202, "{line}: {text}");
        serde_json::from_str(&text).unwrap()
    }

    pub(super) async fn proxy_events(&self) -> Vec<(String, Value)> {
        let events = sqlx::query_as(
            "select target_kind || ' ' || target_value || ' ' || kind || ' ' || outcome, start_data
             from event where kind like '%.proxy' order by started_at",
        );
        events.fetch_all(&self.tancho.running.core.db).await.unwrap()
    }
}

#[tokio::test]
async fn proxied_requests_reach_the_service_with_its_credentials_and_return_its_response() {
    let fixture = ProxyFixture::start().await;
    let (tancho, ana) = (&fixture.tancho, &fixture.ana);
    let answer = tancho
        .request_as(
            ana,
            Method::POST,
            "/1.20/services/db/resources/main/rules/a%20b?x=1&y=%26",
        )
        .header("content-type", "text/x-own")
        .header("x-tsuru-user", "root@example.com")
        .header("connection", "x-mine")
        .header("x-mine", "1")
        .header("cookie", "a=b")
        .body("three words here")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 202);
    assert_eq!(answer.headers()["x-of-service"], "yes");
    assert_eq!(answer.headers()["content-security-policy"], "sandbox");
    assert!(!answer.headers().contains_key("set-cookie"));
    let got: Value = answer.json().await.unwrap();
    assert_eq!(
        (&got["method"], &got["path"], &got["query"], &got["body"]),
        (
            &json!("POST"),
            &json!("/base/resources/main/rules/a%20b"),
            &json!("x=1&y=%26"),
            &json!("three words here")
        )
    );
    let headers = &got["headers"];
    assert_eq!(headers["content-type"], "text/x-own");
    assert_eq!(headers["content-length"], "16");
    assert_eq!(headers["authorization"], "Basic dTpzM2NyZXQtcHc=");
    assert_eq!(headers["x-tsuru-user"], "ana@example.com");
    assert_eq!(headers["x-tsuru-eventid"].as_str().unwrap().len(), 24);
    for gone in ["x-mine", "cookie"] {
        assert!(headers.get(gone).is_none(), "{headers}");
    }
    assert!(!got.to_string().contains(&ana.token));

    // Callbacks, with and without the prefix of their instance.
    for callback in ["/resources/main/rules", "/rules", "rules", "%2Frules"] {
        let got = fixture
            .received(
                ana,
                &format!("GET /1.0/services/db/proxy/main?callback={callback}&z=1"),
            )
            .await;
        assert_eq!(
            (&got["path"], &got["query"]),
            (&json!("/base/resources/main/rules"), &json!("z=1"))
        );
        assert!(
            got["headers"].get("x-tsuru-eventid").is_none(),
            "a read has no event"
        );
    }
    for (line, path) in [
        ("GET /1.0/services/db/proxy/main", "/base/resources/main"),
        (
            "GET /services/db/resources/main/rules/",
            "/base/resources/main/rules/",
        ),
        (
            "DELETE /1.20/services/db/resources/main/rules/1",
            "/base/resources/main/rules/1",
        ),
        (
            "PATCH /1.20/services/db/resources/main/rules/1",
            "/base/resources/main/rules/1",
        ),
        (
            "PUT /1.0/services/proxy/service/db?callback=/settings",
            "/base/settings",
        ),
        (
            "POST /1.21/services/db/authenticated-resources/me",
            "/base/authenticated-resources/me",
        ),
    ] {
        assert_eq!(fixture.received(ana, line).await["path"], path, "{line}");
    }
    let (status, text) = fixture
        .send(ana, "GET /1.20/services/db/resources/main/broken")
        .await;
    assert!(status == 500 && text.contains("\"path\""), "{text}");
    fixture.tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn proxied_paths_cannot_leave_their_resource() {
    let fixture = ProxyFixture::start().await;
    let (tancho, ana) = (&fixture.tancho, &fixture.ana);
    let api = tancho.running.api_addr.unwrap();
    // Sent as they are: a client library would resolve dots.
    let raw = async |target: &str| {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut connection = tokio::net::TcpStream::connect(api).await.unwrap();
        let request = format!(
            "GET {target} HTTP/1.1\r\nhost: {api}\r\nauthorization: bearer {}\r\nconnection: close\r\n\r\n",
            ana.token
        );
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut text = Vec::new();
        connection.read_to_end(&mut text).await.unwrap();
        String::from_utf8_lossy(&text).into_owned()
    };
    for tail in [
        "../other/x",
        "x/../../other",
        "%2e%2e/other",
        "..%2fother",
        "x%2f..%2f..%2fother",
        "%252e%252e/other",
        ".%2e;/other",
        "x//y",
        "%5c..%5cother",
        "%ff",
        "x%00",
    ] {
        for target in [
            format!("/1.20/services/db/resources/main/{tail}"),
            format!("/1.0/services/db/proxy/main?callback=/{tail}"),
            format!("/1.0/services/db/proxy/main?callback=/resources/main/{tail}"),
            format!("/1.0/services/proxy/service/db?callback=/x/{tail}"),
            format!("/1.21/services/db/authenticated-resources/{tail}"),
        ] {
            let answer = raw(&target).await;
            assert!(answer.starts_with("HTTP/1.1 400 "), "{target}: {answer}");
        }
    }
    for callback in ["//evil.example.com/x", "http://evil.example.com/x"] {
        let answer = raw(&format!("/1.0/services/db/proxy/main?callback={callback}")).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{callback}: {answer}");
    }
    let fine = raw("/1.20/services/db/resources/main/x..y/...?to=../../z").await;
    assert!(
        fine.starts_with("HTTP/1.1 202 ") && fine.contains("/base/resources/main/x..y/..."),
        "{fine}"
    );
    fixture.tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn changing_proxied_requests_record_events_and_those_that_bind_are_refused() {
    let fixture = ProxyFixture::start().await;
    let ana = &fixture.ana;
    for method in ["POST", "PUT", "PATCH", "DELETE"] {
        for target in [
            "/1.0/services/db/proxy/main",
            "/1.0/services/db/proxy/main?callback=/resources/main/",
            "/1.0/services/db/proxy/main?callback=/resources/main/bind-app",
            "/1.20/services/db/resources/main/bind",
            "/1.20/services/db/resources/main/bind-app/",
            "/1.20/services/db/resources/main/Bind-Job",
            "/1.20/services/db/resources/main/binds/jobs/x",
        ] {
            let (status, text) = fixture.send(ana, &format!("{method} {target}")).await;
            assert_eq!(status, 400, "{method} {target}: {text}");
        }
    }
    fixture
        .received(ana, "GET /1.20/services/db/resources/main/bind-app")
        .await;
    assert_eq!(
        fixture.proxy_events().await,
        [],
        "neither refusals nor reads are recorded"
    );
    fixture
        .received(ana, "POST /1.20/services/db/resources/main/rules?secret=1")
        .await;
    fixture
        .received(ana, "DELETE /1.0/services/proxy/service/db?callback=/x")
        .await;
    fixture
        .received(&fixture.bob, "PUT /1.21/services/db/authenticated-resources/y")
        .await;
    let wanted = [
        (
            "service-instance db/main service-instance.update.proxy done",
            "POST",
            "/rules",
        ),
        ("service db service.update.proxy done", "DELETE", "/x"),
        (
            "service db service.update.proxy done",
            "PUT",
            "/authenticated-resources/y",
        ),
    ];
    let wanted =
        wanted.map(|(event, method, path)| (event.to_owned(), json!({ "method": method, "path": path })));
    assert_eq!(fixture.proxy_events().await, wanted);
    fixture.tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn proxies_admit_only_callers_with_the_permission() {
    let fixture = ProxyFixture::start().await;
    let bob = &fixture.bob;
    for (line, status) in [
        ("GET /1.20/services/db/resources/main/x", 404),
        ("POST /1.0/services/db/proxy/main?callback=/x", 404),
        ("GET /1.0/services/proxy/service/db?callback=/x", 403),
        ("GET /1.0/services/proxy/service/gone?callback=/x", 404),
        ("GET /1.20/services/db/resources/gone/x", 404),
        ("GET /1.21/services/gone/authenticated-resources/x", 404),
        ("GET /1.21/services/db/authenticated-resources/x", 202),
    ] {
        let (got, text) = fixture.send(bob, line).await;
        assert_eq!(got, status, "{line}: {text}");
    }
    // A restricted service offers nothing to teams without access.
    fixture
        .form(&fixture.ana, "PUT /1.0/services/db/team/red", "")
        .await;
    sqlx::query("update service set is_restricted = true")
        .execute(&fixture.tancho.running.core.db)
        .await
        .unwrap();
    let (status, _) = fixture
        .send(bob, "GET /1.21/services/db/authenticated-resources/x")
        .await;
    assert_eq!(status, 404);
    fixture
        .received(&fixture.ana, "GET /1.21/services/db/authenticated-resources/x")
        .await;
    let (status, _) = fixture
        .send(
            &TestUser {
                email: String::new(),
                token: "none".into(),
            },
            "GET /1.21/services/db/authenticated-resources/x",
        )
        .await;
    assert_eq!(status, 401);
    fixture.tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn proxied_bodies_are_streamed_both_ways_without_database_connections() {
    let fixture = ProxyFixture::start().await;
    let (tancho, ana) = (&fixture.tancho, &fixture.ana);
    // A chunk comes back before the next one is sent.
    let (sender, receiver) = mpsc::channel::<Result<Bytes, std::io::Error>>(1);
    let body = stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|c| (c, receiver))
    });
    let request = tancho
        .request_as(ana, Method::POST, "/1.20/services/db/resources/main/mirror")
        .body(reqwest::Body::wrap_stream(body));
    sender.send(Ok(Bytes::from_static(b"one"))).await.unwrap();
    let mut answer = request.send().await.unwrap();
    assert_eq!(answer.chunk().await.unwrap().unwrap(), "one");
    sender.send(Ok(Bytes::from_static(b"two"))).await.unwrap();
    assert_eq!(answer.chunk().await.unwrap().unwrap(), "two");
    drop(sender);
    assert_eq!(answer.chunk().await.unwrap(), None);

    // More open exchanges than the pool has connections (5), and the database still answers.
    let open = (0..7).map(|_| async {
        let path = "/1.20/services/db/resources/main/slow";
        let mut answer = tancho.request_as(ana, Method::PUT, path).send().await.unwrap();
        assert_eq!(answer.chunk().await.unwrap().unwrap(), "first");
        answer
    });
    let mut open = futures_util::future::join_all(open).await;
    let (status, _) = fixture.send(ana, "GET /1.0/teams").await;
    assert_eq!(status, 200);
    // A service that stops sending is given up.
    let ended = open.pop().unwrap().chunk().await;
    assert!(ended.is_err(), "{ended:?}");
    drop(open);
    let too_large = tancho
        .request_as(ana, Method::POST, "/1.20/services/db/resources/main/mirror")
        .body(reqwest::Body::wrap_stream(stream::iter((0..40).map(|_| {
            Ok::<_, std::io::Error>(Bytes::from(vec![b'x'; 64 << 10]))
        }))));
    // Refused, or broken off where the response had begun.
    let refused = match too_large.send().await {
        Ok(answer) => answer.status() == 413 || answer.bytes().await.is_err(),
        Err(_) => true,
    };
    assert!(refused, "a body above the limit was passed on");
    fixture.tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn proxies_never_call_private_addresses_and_a_dead_service_is_an_error() {
    let tancho = TestServer::start_with(|settings| {
        settings.services.allow_private_addresses = tancho::config::AutoFlag::No;
    })
    .await;
    let (root, ana) = (tancho.login_admin().await, tancho.create_user("ana").await);
    tancho.create_team(&ana, "red").await;
    for (name, endpoint) in [
        ("local", "http://127.0.0.1:9"),
        ("meta", "http://169.254.169.254"),
    ] {
        let body =
            json!({ "id": name, "username": "u", "password": "pw", "team": "red", "endpoint": endpoint });
        send_request(
            &tancho,
            Some(&root),
            "POST /1.0/services",
            RequestBody::Bare(body),
        )
        .await
        .expect_status(201);
        let line = format!("GET /1.0/services/proxy/service/{name}?callback=/latest");
        let refused = send_request(&tancho, Some(&ana), &line, RequestBody::None)
            .await
            .expect_status(500);
        assert!(refused.body.contains("is at a private address"), "{refused:?}");
    }
    tancho.running.drain_and_stop().await;

    let fixture = ProxyFixture::start().await;
    sqlx::query("update service set endpoint = 'http://127.0.0.1:1'")
        .execute(&fixture.tancho.running.core.db)
        .await
        .unwrap();
    let (status, text) = fixture
        .send(&fixture.ana, "GET /1.20/services/db/resources/main/x")
        .await;
    assert!(
        status == 500 && text.contains("The service db cannot be reached"),
        "{status} {text}"
    );
    fixture.tancho.running.drain_and_stop().await;
}
