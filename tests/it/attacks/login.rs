//! Password guessing, lockouts, and load by password hashing.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::json;
use tancho::config::Settings;

use crate::test_server::{PASSWORD, TestServer};

/// Delays below this are not counted: the machine has other work.
const FLOOR: Duration = Duration::from_secs(3);

/// Starts a server behind a proxy, so that a test can send from any address.
async fn start_behind_proxy(change: impl FnOnce(&mut Settings)) -> TestServer {
    TestServer::start_with(|settings| {
        settings.api.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
        change(settings);
    })
    .await
}

struct LoginReply {
    status: u16,
    body: String,
    retry_after: Option<u64>,
}

async fn post(tancho: &TestServer, from: &str, path: &str, body: serde_json::Value) -> LoginReply {
    let request = tancho.request(Method::POST, path).header("x-forwarded-for", from);
    let answer = request.body(body.to_string()).send().await.unwrap();
    let header = answer.headers().get("retry-after").cloned();
    LoginReply {
        status: answer.status().as_u16(),
        retry_after: header.map(|value| value.to_str().unwrap().parse().unwrap()),
        body: answer.text().await.unwrap(),
    }
}

async fn login(tancho: &TestServer, from: &str, email: &str, password: &str) -> LoginReply {
    let body = json!({ "password": password });
    post(tancho, from, &format!("/users/{email}/tokens"), body).await
}

async fn sign_up(tancho: &TestServer, from: &str, email: &str) -> LoginReply {
    let body = json!({ "email": email, "password": PASSWORD });
    post(tancho, from, "/users", body).await
}

#[tokio::test]
async fn failed_logins_never_lock_out_the_owner() {
    let tancho = start_behind_proxy(|s| s.auth.login_attempts_per_account = 3).await;
    tancho.create_user("ana").await;
    let ana = "ana@example.com";
    assert_eq!(login(&tancho, "192.0.2.1", ana, PASSWORD).await.status, 200);
    // An attacker tries from one address, and then from many.
    for (n, status) in [401, 401, 401, 429].into_iter().enumerate() {
        assert_eq!(
            login(&tancho, "198.51.100.1", ana, "wrongpass").await.status,
            status,
            "{n}"
        );
    }
    let mut tried = Vec::new();
    for n in 0..30 {
        let from = format!("203.0.113.{n}");
        tried.push(login(&tancho, &from, ana, "wrongpass").await.status);
    }
    let looked_at = tried.iter().filter(|status| **status == 401).count();
    assert_eq!(looked_at, 12, "five times as many as from one address: {tried:?}");
    // From other addresses even the correct password has to wait; from the address of an earlier login it
    // does not.
    assert_eq!(login(&tancho, "203.0.113.99", ana, PASSWORD).await.status, 429);
    assert_eq!(login(&tancho, "192.0.2.1", ana, PASSWORD).await.status, 200);
    for status in [401, 401, 401, 429] {
        assert_eq!(login(&tancho, "192.0.2.1", ana, "wrongpass").await.status, status);
    }
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn all_addresses_of_one_ipv6_network_count_as_one() {
    let tancho = start_behind_proxy(|s| s.auth.login_attempts_per_account = 3).await;
    tancho.create_user("ana").await;
    let mut tried = Vec::new();
    for n in 0..6 {
        let from = format!("2001:db8:1:2::{n:x}");
        tried.push(login(&tancho, &from, "ana@example.com", "wrongpass").await.status);
    }
    assert_eq!(tried, [401, 401, 401, 429, 429, 429]);
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn differently_spelled_email_counts_toward_the_same_login_limit() {
    let tancho = start_behind_proxy(|s| s.auth.login_attempts_per_account = 3).await;
    tancho.create_user("ana").await;
    for (email, status) in [
        ("ana@example.com", 401),
        ("Ana@example.com", 401),
        ("aNa@EXAMPLE.com", 401),
        ("anA@Example.com", 429),
    ] {
        assert_eq!(
            login(&tancho, "192.0.2.1", email, "wrongpass").await.status,
            status
        );
    }
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn new_user_with_a_removed_users_email_has_no_login_failures() {
    let tancho = start_behind_proxy(|s| s.auth.login_attempts_per_account = 3).await;
    let ana = tancho.create_user("ana").await;
    for _ in 0..3 {
        login(&tancho, "192.0.2.1", "ana@example.com", "wrongpass").await;
    }
    let gone = tancho.send_json(&ana, Method::DELETE, "/users", None).await;
    assert_eq!(gone.0, 200, "{}", gone.1);
    assert_eq!(sign_up(&tancho, "192.0.2.1", "ana@example.com").await.status, 200);
    assert_eq!(
        login(&tancho, "192.0.2.1", "ana@example.com", PASSWORD)
            .await
            .status,
        200
    );
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn git_password_failures_count_toward_the_login_limit() {
    let tancho = start_behind_proxy(|s| s.auth.login_attempts_per_account = 3).await;
    tancho.create_user("ana").await;
    let path = "/git/shop.git/info/refs?service=git-upload-pack";
    for status in [401, 401, 401, 429] {
        let request = tancho
            .request(Method::GET, path)
            .header("x-forwarded-for", "192.0.2.1")
            .basic_auth("ana@example.com", Some("wrongpass"));
        assert_eq!(request.send().await.unwrap().status(), status);
    }
    assert_eq!(
        login(&tancho, "192.0.2.1", "ana@example.com", PASSWORD)
            .await
            .status,
        429
    );
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn registrations_per_address_are_limited_with_retry_after() {
    let tancho = start_behind_proxy(|s| s.auth.login_attempts_per_address = 4).await;
    for n in 0..4 {
        // A registration that fails costs as much.
        let email = format!("user{}@example.com", n / 2);
        let status = sign_up(&tancho, "192.0.2.1", &email).await.status;
        assert_eq!(status, if n % 2 == 0 { 200 } else { 409 });
    }
    let refused = sign_up(&tancho, "192.0.2.1", "more@example.com").await;
    assert_eq!(refused.status, 429);
    let seconds = refused.retry_after.unwrap();
    assert!((2..=300).contains(&seconds), "{seconds}");
    assert!(
        refused.body.contains(&format!("in {seconds} seconds")),
        "{}",
        refused.body
    );
    assert_eq!(
        sign_up(&tancho, "192.0.2.2", "more@example.com").await.status,
        200
    );
    // A logged-in user is limited alike.
    let more = tancho.login("more@example.com").await;
    for n in 0..5 {
        let body = json!({ "email": format!("mine{n}@example.com"), "password": PASSWORD });
        let made = tancho
            .send_json(&more, Method::POST, "/1.0/users", Some(body))
            .await;
        assert_eq!(made.0, if n < 4 { 201 } else { 429 }, "{}", made.1);
    }
    // An administrator who creates users is not limited.
    let root = tancho.login_admin().await;
    for n in 0..6 {
        let body = json!({ "email": format!("made{n}@example.com"), "password": PASSWORD });
        let made = tancho
            .send_json(&root, Method::POST, "/1.0/users", Some(body))
            .await;
        assert_eq!(made.0, 201, "{}", made.1);
    }
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn registrations_do_not_block_logins() {
    let tancho = start_behind_proxy(|s| {
        s.auth.hash_memory_kib = 19 * 1024;
        s.auth.login_attempts_per_address = 1000;
    })
    .await;
    tancho.create_user("ana").await;
    let storm = join_all((0..60).map(|n| {
        let (tancho, from) = (&tancho, format!("198.51.100.{n}"));
        async move {
            sign_up(tancho, &from, &format!("user{n}@example.com"))
                .await
                .status
        }
    }));
    let logins = async || {
        let began = Instant::now();
        for _ in 0..3 {
            assert_eq!(
                login(&tancho, "192.0.2.1", "ana@example.com", PASSWORD)
                    .await
                    .status,
                200
            );
        }
        began.elapsed()
    };
    let idle = logins().await;
    let (signed_up, took) = tokio::join!(storm, logins());
    assert!(
        took < (idle * 2).max(FLOOR),
        "{took:?}, and {idle:?} without registrations"
    );
    let busy = signed_up.iter().filter(|status| **status == 503).count();
    assert!(
        signed_up.iter().all(|status| matches!(status, 200 | 503)),
        "{signed_up:?}"
    );
    assert!(busy < 60, "some succeed");
    tancho.running.drain_and_stop().await;
}
