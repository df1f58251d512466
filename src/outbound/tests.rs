//! Against small servers that misbehave in one way each.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::config::Settings;

fn outbound(change: impl FnOnce(&mut ServicesSettings)) -> Outbound {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut settings = Settings::defaults().services;
    settings.timeout = Duration::from_millis(400);
    change(&mut settings);
    Outbound::new(&settings, true).unwrap()
}

fn request(url: &str) -> Request {
    Request {
        method: Method::POST,
        url: url.parse().unwrap(),
        authorization: None,
        headers: HeaderMap::new(),
        form: Some("a=b".into()),
    }
}

/// Answers each connection with what `answer` makes of the request; an empty answer hangs.
async fn server(answer: impl Fn(String) -> String + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
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
                kept.push(stream);
                continue;
            }
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    url
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn a_redirect_that_adds_a_slash_gets_the_same_verb_and_body() {
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
        .send(Uuid::nil(), &request(&format!("{url}/x?q=1")))
        .await
        .unwrap();
    assert_eq!(
        (answer.status.as_u16(), answer.body.as_slice()),
        (200, b"there".as_slice())
    );
    let answer = outbound
        .send(Uuid::nil(), &request(&format!("{url}/y")))
        .await
        .unwrap();
    assert_eq!(answer.status.as_u16(), 302, "another host is not visited");
}

#[tokio::test]
async fn failures_say_whether_the_request_may_have_arrived() {
    let outbound = outbound(|s| s.max_answer_bytes.0 = 100);
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dead_url = format!("http://{}/", dead.local_addr().unwrap());
    drop(dead);
    let hung = server(|_| String::new()).await;
    let cut = server(|_| "HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nabc".into()).await;
    let long = server(|_| ok(&"x".repeat(101))).await;
    for (url, why, sent) in [
        (dead_url, Why::Unreachable, false),
        (hung, Why::TimedOut, true),
        (cut, Why::Cut, true),
        (long, Why::TooLong, true),
    ] {
        let failure = outbound.send(Uuid::new_v4(), &request(&url)).await.unwrap_err();
        assert_eq!(failure, Failure { why, sent }, "{url}");
    }
}

#[tokio::test]
async fn a_dead_lane_rests_and_a_full_one_is_busy_while_others_go_on() {
    let outbound = outbound(|s| {
        s.breaker_failures = 2;
        s.breaker = Duration::from_secs(60);
        s.concurrency_per_service = 1;
    });
    let hung = server(|_| String::new()).await;
    let good = request(&server(|_| ok("fine")).await);
    let (sick, well) = (Uuid::new_v4(), Uuid::new_v4());
    let hung = request(&hung);
    let calls = futures_util::future::join_all((0..6).map(|_| outbound.send(sick, &hung)));
    let answer = tokio::time::timeout(Duration::from_millis(300), outbound.send(well, &good));
    let (answer, mut calls) = tokio::join!(answer, calls);
    assert_eq!(
        answer.unwrap().unwrap().body,
        b"fine",
        "another lane is not delayed"
    );
    assert_eq!(
        calls.pop().unwrap().unwrap_err().why,
        Why::Busy,
        "the sixth of 1 + 4"
    );
    assert_eq!(calls[0].as_ref().unwrap_err().why, Why::TimedOut);
    outbound.send(sick, &hung).await.unwrap_err();
    assert_eq!(outbound.send(sick, &hung).await.unwrap_err().why, Why::Resting);
    outbound.forget(sick);
    assert_eq!(outbound.send(sick, &hung).await.unwrap_err().why, Why::TimedOut);
}

#[tokio::test]
async fn private_addresses_are_refused_by_number_and_by_name() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let outbound = Outbound::new(&Settings::defaults().services, false).unwrap();
    for url in ["http://127.0.0.1:1/", "http://[::1]:1/", "http://localhost:1/"] {
        let failure = outbound.send(Uuid::nil(), &request(url)).await.unwrap_err();
        assert_eq!(failure, Failure::unsent(Why::Private), "{url}");
    }
}
