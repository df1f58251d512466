//! Tests against small servers that each misbehave in one way.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::config::Settings;

fn outbound(change: impl FnOnce(&mut ServicesSettings)) -> OutboundClient {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut settings = Settings::defaults().services;
    settings.call_timeout = Duration::from_millis(400);
    change(&mut settings);
    OutboundClient::new(&settings, true).unwrap()
}

fn request(url: &str) -> OutboundRequest {
    OutboundRequest {
        method: Method::POST,
        url: url.parse().unwrap(),
        authorization: None,
        headers: HeaderMap::new(),
        form: Some("a=b".into()),
    }
}

/// Serves each connection with the result of `answer` for the request; with an empty result it hangs.
async fn server(answer: impl Fn(String) -> String + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, Arc::clone(&answer)));
        }
    });
    url
}

async fn serve(mut stream: TcpStream, answer: Arc<impl Fn(String) -> String + Send + Sync + 'static>) {
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    while !String::from_utf8_lossy(&text).ends_with("a=b") {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(n) => text.extend_from_slice(&buffer[..n]),
        }
    }
    let answer = answer(String::from_utf8_lossy(&text).into_owned());
    if answer.is_empty() {
        return std::future::pending().await;
    }
    // The client may have disconnected.
    let _ = stream.write_all(answer.as_bytes()).await;
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn redirect_that_adds_a_slash_gets_the_same_verb_and_body() {
    let url = server(
        |text| match text.starts_with("POST /x/?q=1 ") && text.ends_with("a=b") {
            true => ok("there"),
            false if text.starts_with("POST /x?q=1") => {
                "HTTP/1.1 308 Permanent Redirect\r\nlocation: /x/?q=1\r\ncontent-length: 0\r\n\r\n".into()
            }
            false => {
                "HTTP/1.1 302 Found\r\nlocation: http://example.com/y/\r\ncontent-length: 0\r\n\r\n".into()
            }
        },
    )
    .await;
    let outbound = outbound(|_| {});
    let answer = outbound
        .send_request(Uuid::nil(), "", &request(&format!("{url}/x?q=1")))
        .await
        .unwrap();
    assert_eq!(
        (answer.status.as_u16(), answer.body.as_slice()),
        (200, b"there".as_slice())
    );
    let answer = outbound
        .send_request(Uuid::nil(), "", &request(&format!("{url}/y")))
        .await
        .unwrap();
    assert_eq!(answer.status.as_u16(), 302, "another host is not visited");
}

#[tokio::test]
async fn errors_tell_whether_the_request_may_have_been_received() {
    let outbound = outbound(|s| s.max_answer_bytes.0 = 100);
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dead_url = format!("http://{}/", dead.local_addr().unwrap());
    drop(dead);
    let hung = server(|_| String::new()).await;
    let cut = server(|_| "HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nabc".into()).await;
    let long = server(|_| ok(&"x".repeat(101))).await;
    for (url, why, sent) in [
        (dead_url, OutboundErrorKind::Unreachable, false),
        (hung, OutboundErrorKind::TimedOut, true),
        (cut, OutboundErrorKind::ConnectionClosed, true),
        (long, OutboundErrorKind::ResponseTooLarge, true),
    ] {
        let failure = outbound
            .send_request(Uuid::new_v4(), "", &request(&url))
            .await
            .unwrap_err();
        assert_eq!(failure, OutboundError { kind: why, sent }, "{url}");
    }
}

#[tokio::test]
async fn dead_service_opens_its_circuit_and_full_one_is_busy_without_delaying_others() {
    let outbound = outbound(|s| {
        s.breaker_failures = 2;
        s.breaker_open_time = Duration::from_secs(60);
        s.concurrency_per_service = 1;
    });
    let hung = server(|_| String::new()).await;
    let good = request(&server(|_| ok("fine")).await);
    let (sick, well) = (Uuid::new_v4(), Uuid::new_v4());
    let hung = request(&hung);
    let calls = futures_util::future::join_all((0..6).map(|_| outbound.send_request(sick, "a", &hung)));
    let answer = tokio::time::timeout(
        Duration::from_millis(300),
        outbound.send_request(well, "a", &good),
    );
    let (answer, mut calls) = tokio::join!(answer, calls);
    assert_eq!(
        answer.unwrap().unwrap().body,
        b"fine",
        "another bulkhead is not delayed"
    );
    assert_eq!(
        calls.pop().unwrap().unwrap_err().kind,
        OutboundErrorKind::Busy,
        "the sixth of 1 + 4"
    );
    assert_eq!(calls[0].as_ref().unwrap_err().kind, OutboundErrorKind::TimedOut);
    outbound.send_request(sick, "a", &hung).await.unwrap_err();
    assert_eq!(
        outbound.send_request(sick, "a", &hung).await.unwrap_err().kind,
        OutboundErrorKind::CircuitOpen
    );
    outbound.forget_bulkhead(sick);
    assert_eq!(
        outbound.send_request(sick, "a", &hung).await.unwrap_err().kind,
        OutboundErrorKind::TimedOut
    );
}

#[tokio::test]
async fn private_addresses_are_refused_as_literals_and_by_dns_name() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let outbound = OutboundClient::new(&Settings::defaults().services, false).unwrap();
    for url in ["http://127.0.0.1:1/", "http://[::1]:1/", "http://localhost:1/"] {
        let failure = outbound
            .send_request(Uuid::nil(), "", &request(url))
            .await
            .unwrap_err();
        assert_eq!(
            failure,
            OutboundError::not_sent(OutboundErrorKind::PrivateAddress),
            "{url}"
        );
    }
}

#[tokio::test]
async fn many_calls_of_one_caller_leave_a_slot_to_another_one() {
    let outbound = outbound(|settings| {
        settings.concurrency_per_service = 2;
        settings.breaker_failures = 1000;
        settings.call_timeout = Duration::from_secs(30);
    });
    let url = server(|request| match request.contains("/hang") {
        true => String::new(),
        false => ok("{}"),
    })
    .await;
    let (bulkhead, hanging) = (Uuid::new_v4(), request(&format!("{url}/hang")));
    let good = request(&url);
    let mut calls: Vec<_> = (0..6)
        .map(|_| Box::pin(outbound.send_request(bulkhead, "greedy", &hanging)))
        .collect();
    for call in &mut calls {
        assert!(futures_util::FutureExt::now_or_never(call).is_none());
    }
    let answer = tokio::time::timeout(
        Duration::from_secs(5),
        outbound.send_request(bulkhead, "other", &good),
    )
    .await;
    assert_eq!(answer.unwrap().unwrap().status, 200);
}
