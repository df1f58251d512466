use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;

use super::{RequestBody, insert_app, send_request};
use crate::test_server::{PASSWORD, TestServer, TestUser};

const LOGIN: &str = "POST /users/ana@example.com/tokens";

#[tokio::test]
async fn login_returns_a_token_in_both_editions_and_body_formats() {
    let tancho = TestServer::start().await;
    tancho.create_user("ana").await;
    let bare = || RequestBody::Bare(json!({ "password": PASSWORD }));
    let form = [("password", PASSWORD)];
    let both = [("email", "ana@example.com"), ("password", PASSWORD)];
    let answers = [
        send_request(&tancho, None, LOGIN, bare()).await,
        send_request(&tancho, None, LOGIN, RequestBody::Form(&form)).await,
        send_request(
            &tancho,
            None,
            "POST /1.0/users/ana@example.com/tokens",
            RequestBody::Form(&form),
        )
        .await,
        send_request(&tancho, None, "POST /1.0/users/ana%40example.com/tokens", bare()).await,
        send_request(&tancho, None, "POST /auth/login", RequestBody::Form(&both)).await,
        send_request(&tancho, None, "POST /1.0/auth/login", RequestBody::Form(&both)).await,
    ];
    for answer in answers {
        let body = answer.expect_status(200).json();
        let token = body["token"].as_str().unwrap().to_owned();
        let ana = TestUser {
            email: "ana@example.com".into(),
            token,
        };
        send_request(&tancho, Some(&ana), "GET /users/info", RequestBody::None)
            .await
            .expect_status(200);
        assert_ne!(body["is_admin"], true);
    }
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn failed_logins_return_the_documented_statuses() {
    let tancho = TestServer::start().await;
    tancho.create_user("ana").await;
    for version in ["", "/1.0"] {
        let to = |email: &str| format!("POST {version}/users/{email}/tokens");
        let ana = to("ana@example.com");
        let password = |text: &str| RequestBody::Bare(json!({ "password": text }));
        send_request(&tancho, None, &to("nobody@example.com"), password(PASSWORD))
            .await
            .expect_status(404);
        let wrong = send_request(&tancho, None, &ana, password("wrongpass"))
            .await
            .expect_status(401);
        assert_eq!(wrong.body, "Authentication failed, wrong password.\n");
        send_request(&tancho, None, &ana, password(""))
            .await
            .expect_status(400);
        send_request(&tancho, None, &ana, password("five5"))
            .await
            .expect_status(400);
        send_request(&tancho, None, &ana, password(&"x".repeat(51)))
            .await
            .expect_status(400);
        send_request(&tancho, None, &to("ana"), password(PASSWORD))
            .await
            .expect_status(400);
        for text in ["", "{", "null", "{}", "{\"password\": 5}", "{\"password\": null}"] {
            send_request(&tancho, None, &ana, RequestBody::Text(text))
                .await
                .expect_status(400);
        }
        send_request(&tancho, None, &ana, RequestBody::Form(&[("other", "x")]))
            .await
            .expect_status(400);
    }
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn auth_schemes_are_public() {
    let tancho = TestServer::start().await;
    let answer = send_request(&tancho, None, "GET /auth/scheme", RequestBody::None)
        .await
        .expect_status(200);
    assert_eq!(answer.json()["name"], "native");
    let answer = send_request(&tancho, None, "GET /1.18/auth/schemes", RequestBody::None)
        .await
        .expect_status(200);
    assert_eq!(
        answer.json(),
        json!([{ "name": "native", "default": true, "data": {} }])
    );
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn authorization_header_accepts_a_token_with_or_without_scheme() {
    let tancho = TestServer::start().await;
    let ana = tancho.create_user("ana").await;
    let asked = async |header: String| {
        let request = tancho.request(reqwest::Method::GET, "/users/info");
        request
            .header("authorization", header)
            .send()
            .await
            .unwrap()
            .status()
            .as_u16()
    };
    for good in ["bearer ", "Bearer ", "token ", ""] {
        assert_eq!(asked(format!("{good}{}", ana.token)).await, 200, "{good:?}");
    }
    for bad in [
        format!("one two {}", ana.token),
        format!("bearer {}0", ana.token),
        "bearer".into(),
        "bearer ".into(),
        format!("bearer {}", "x".repeat(5000)),
    ] {
        assert_eq!(asked(bad.clone()).await, 401, "{bad:?}");
    }
    send_request(&tancho, None, "GET /users/info", RequestBody::None)
        .await
        .expect_status(401);
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn cached_token_expires_on_time() {
    let tancho = TestServer::start().await;
    let ana = tancho.create_user("ana").await;
    let end = "update access_token set expires_at = now() + make_interval(secs => $1)";
    let db = &tancho.running.core.db;
    sqlx::query(end).bind(0.7).execute(db).await.unwrap();
    send_request(&tancho, Some(&ana), "GET /users/info", RequestBody::None)
        .await
        .expect_status(200);
    let deadline = Instant::now() + Duration::from_secs(10);
    while send_request(&tancho, Some(&ana), "GET /users/info", RequestBody::None)
        .await
        .status
        == 200
    {
        assert!(Instant::now() < deadline, "the token stays valid");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let ana = tancho.login("ana@example.com").await;
    sqlx::query(end).bind(-1.0).execute(db).await.unwrap();
    send_request(&tancho, Some(&ana), "GET /users/info", RequestBody::None)
        .await
        .expect_status(401);
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn logout_ends_the_session_immediately() {
    let tancho = TestServer::start().await;
    for line in ["DELETE /users/tokens", "DELETE /1.0/users/tokens"] {
        let name = format!("ana{}", line.len());
        let (one, two) = (
            tancho.create_user(&name).await,
            tancho.login(&format!("{name}@example.com")).await,
        );
        for user in [&one, &two] {
            send_request(&tancho, Some(user), "GET /users/info", RequestBody::None)
                .await
                .expect_status(200);
        }
        let answer = send_request(&tancho, Some(&one), line, RequestBody::None)
            .await
            .expect_status(200);
        assert_eq!(answer.body, "");
        send_request(&tancho, Some(&one), "GET /users/info", RequestBody::None)
            .await
            .expect_status(401);
        send_request(&tancho, Some(&two), "GET /users/info", RequestBody::None)
            .await
            .expect_status(200);
        send_request(&tancho, Some(&one), line, RequestBody::None)
            .await
            .expect_status(401);
        send_request(&tancho, None, line, RequestBody::None)
            .await
            .expect_status(401);
    }
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn password_change_requires_the_current_password() {
    let tancho = TestServer::start().await;
    let ana = tancho.create_user("ana").await;
    for line in ["PUT /users/password", "PUT /1.0/users/password"] {
        for (old, new, status) in [
            ("", "newsecret", 400),
            (PASSWORD, "", 400),
            ("wrongpass", "newsecret", 403),
            ("bad", "newsecret", 403),
            (PASSWORD, "five5", 400),
            (PASSWORD, &"x".repeat(51), 400),
        ] {
            let body = json!({ "old": old, "new": new });
            send_request(&tancho, Some(&ana), line, RequestBody::Bare(body))
                .await
                .expect_status(status);
        }
        let form = [
            ("old", PASSWORD),
            ("new", "newsecret"),
            ("confirm", "othersecret"),
        ];
        send_request(&tancho, Some(&ana), line, RequestBody::Form(&form))
            .await
            .expect_status(400);
        send_request(&tancho, None, line, RequestBody::Form(&form))
            .await
            .expect_status(401);
    }
    let other = tancho.login("ana@example.com").await;
    let form = [("old", PASSWORD), ("new", "newsecret"), ("confirm", "newsecret")];
    send_request(
        &tancho,
        Some(&ana),
        "PUT /1.0/users/password",
        RequestBody::Form(&form),
    )
    .await
    .expect_status(200);
    send_request(&tancho, None, LOGIN, RequestBody::Form(&[("password", PASSWORD)]))
        .await
        .expect_status(401);
    send_request(
        &tancho,
        None,
        LOGIN,
        RequestBody::Form(&[("password", "newsecret")]),
    )
    .await
    .expect_status(200);
    // The session that has changed the password continues; the others end.
    for (user, status) in [(&ana, 200), (&other, 401)] {
        send_request(&tancho, Some(user), "GET /users/info", RequestBody::None)
            .await
            .expect_status(status);
    }
    let back = json!({ "old": "newsecret", "new": PASSWORD });
    send_request(
        &tancho,
        Some(&ana),
        "PUT /users/password",
        RequestBody::Bare(back),
    )
    .await
    .expect_status(200);
    tancho.login("ana@example.com").await;
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn password_guesses_per_account_are_limited() {
    let tancho = TestServer::start_with(|s| s.auth.login_attempts_per_account = 5).await;
    let (ana, _) = (tancho.create_user("ana").await, tancho.create_user("bob").await);
    let wrong = [("password", "wrongpass")];
    let right = [("password", PASSWORD)];
    let answers =
        join_all((0..30).map(|_| send_request(&tancho, None, LOGIN, RequestBody::Form(&wrong)))).await;
    let count = |status| answers.iter().filter(|a| a.status == status).count();
    assert_eq!((count(401), count(429)), (5, 25), "{answers:?}");
    let refused = send_request(&tancho, None, LOGIN, RequestBody::Form(&right))
        .await
        .expect_status(429);
    assert!(refused.body.contains("seconds"), "{refused:?}");
    // The old password does not get around the limit.
    let body = json!({ "old": PASSWORD, "new": "newsecret" });
    send_request(
        &tancho,
        Some(&ana),
        "PUT /users/password",
        RequestBody::Bare(body),
    )
    .await
    .expect_status(429);
    send_request(
        &tancho,
        None,
        "POST /users/bob@example.com/tokens",
        RequestBody::Form(&right),
    )
    .await
    .expect_status(200);

    let db = &tancho.running.core.db;
    sqlx::query("update login_failure set failed_at = failed_at - interval '1 hour'")
        .execute(db)
        .await
        .unwrap();
    send_request(&tancho, None, LOGIN, RequestBody::Form(&right))
        .await
        .expect_status(200);
    let left: i64 = sqlx::query_scalar("select count(*) from login_failure")
        .fetch_one(db)
        .await
        .unwrap();
    assert_eq!(left, 0, "old failures are deleted, and a success records none");
    for _ in 0..3 {
        for _ in 0..4 {
            send_request(&tancho, None, LOGIN, RequestBody::Form(&wrong))
                .await
                .expect_status(401);
        }
        send_request(&tancho, None, LOGIN, RequestBody::Form(&right))
            .await
            .expect_status(200);
    }
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn password_guesses_per_address_are_limited() {
    let tancho = TestServer::start_with(|s| s.auth.login_attempts_per_address = 6).await;
    for name in ["ana", "bob", "eva"] {
        tancho.create_user(name).await;
    }
    for n in 0..6 {
        let name = ["ana", "bob", "eva"][n % 3];
        let line = format!("POST /1.0/users/{name}@example.com/tokens");
        send_request(
            &tancho,
            None,
            &line,
            RequestBody::Form(&[("password", "wrongpass")]),
        )
        .await
        .expect_status(401);
    }
    let right = [("password", PASSWORD)];
    send_request(&tancho, None, LOGIN, RequestBody::Form(&right))
        .await
        .expect_status(429);
    send_request(
        &tancho,
        None,
        "POST /users/nobody@example.com/tokens",
        RequestBody::Form(&right),
    )
    .await
    .expect_status(429);
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn oldest_session_ends_when_the_session_limit_is_exceeded() {
    let tancho = TestServer::start_with(|s| s.auth.max_sessions = 2).await;
    let one = tancho.create_user("ana").await;
    send_request(&tancho, Some(&one), "GET /users/info", RequestBody::None)
        .await
        .expect_status(200);
    let two = tancho.login("ana@example.com").await;
    send_request(&tancho, Some(&one), "GET /users/info", RequestBody::None)
        .await
        .expect_status(200);
    let three = tancho.login("ana@example.com").await;
    send_request(&tancho, Some(&one), "GET /users/info", RequestBody::None)
        .await
        .expect_status(401);
    for user in [&two, &three] {
        send_request(&tancho, Some(user), "GET /users/info", RequestBody::None)
            .await
            .expect_status(200);
    }
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn administrators_can_create_app_tokens() {
    let tancho = TestServer::start().await;
    let (root, ana) = (tancho.login_admin().await, tancho.create_user("ana").await);
    tancho.create_team(&ana, "web").await;
    insert_app(&tancho, "shop", "web", "ana@example.com").await;
    let body = || RequestBody::Bare(json!({ "client": "shop", "export": false }));
    send_request(&tancho, Some(&ana), "POST /tokens", body())
        .await
        .expect_status(403);
    send_request(
        &tancho,
        Some(&root),
        "POST /tokens",
        RequestBody::Bare(json!({ "client": "gone" })),
    )
    .await
    .expect_status(404);
    send_request(&tancho, Some(&root), "POST /tokens", RequestBody::Bare(json!({})))
        .await
        .expect_status(400);
    send_request(&tancho, Some(&root), "POST /tokens", RequestBody::Text("{"))
        .await
        .expect_status(400);
    let made = send_request(&tancho, Some(&root), "POST /tokens", body())
        .await
        .expect_status(200)
        .json();
    for (a, b) in [
        ("token", "Token"),
        ("creation", "Creation"),
        ("expires", "Expires"),
        ("app", "AppName"),
    ] {
        assert_eq!(made[a], made[b]);
    }
    assert_eq!(made["expires"], 31_536_000_000_000_000_i64);
    assert_eq!(made["app"], "shop");
    let app = TestUser {
        email: String::new(),
        token: made["token"].as_str().unwrap().to_owned(),
    };
    send_request(&tancho, Some(&app), "GET /1.0/info", RequestBody::None)
        .await
        .expect_status(200);
    for line in [
        "GET /teams",
        "GET /users/info",
        "POST /teams",
        "DELETE /users",
        "POST /1.0/roles",
    ] {
        send_request(&tancho, Some(&app), line, RequestBody::None)
            .await
            .expect_status(403);
    }
    send_request(&tancho, Some(&app), "DELETE /users/tokens", RequestBody::None)
        .await
        .expect_status(200);
    send_request(&tancho, Some(&app), "GET /1.0/info", RequestBody::None)
        .await
        .expect_status(401);
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn login_without_a_free_hash_slot_gets_503_and_counts_as_no_failure() {
    let tancho = TestServer::start().await;
    tancho.create_user("ana").await;
    let core = &tancho.running.core;
    let slots = &core.caller_limits.login_hashes;
    let other = "192.0.2.1".to_owned();
    let busy: Vec<_> = std::iter::from_fn(|| slots.try_acquire(&other)).collect();
    let right = [("password", PASSWORD)];
    send_request(&tancho, None, LOGIN, RequestBody::Form(&right))
        .await
        .expect_status(503);
    drop(busy);
    let db = &core.db;
    let counted: i64 = sqlx::query_scalar("select count(*) from login_failure where subject not like 's:%'")
        .fetch_one(db)
        .await
        .unwrap();
    // Registrations count too, whether they succeed or not.
    assert_eq!(counted, 0, "an unchecked password is no failure");
    send_request(&tancho, None, LOGIN, RequestBody::Form(&right))
        .await
        .expect_status(200);
    tancho.running.drain_and_stop().await;
}
