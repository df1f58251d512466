use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;

use super::{Body, ask, put_app};
use crate::house::{House, PASSWORD, Person};

const LOGIN: &str = "POST /users/ana@example.com/tokens";

#[tokio::test]
async fn logins_answer_a_token_in_both_editions_and_forms() {
    let house = House::start().await;
    house.person("ana").await;
    let bare = || Body::Bare(json!({ "password": PASSWORD }));
    let form = [("password", PASSWORD)];
    let both = [("email", "ana@example.com"), ("password", PASSWORD)];
    let answers = [
        ask(&house, None, LOGIN, bare()).await,
        ask(&house, None, LOGIN, Body::Form(&form)).await,
        ask(
            &house,
            None,
            "POST /1.0/users/ana@example.com/tokens",
            Body::Form(&form),
        )
        .await,
        ask(&house, None, "POST /1.0/users/ana%40example.com/tokens", bare()).await,
        ask(&house, None, "POST /auth/login", Body::Form(&both)).await,
        ask(&house, None, "POST /1.0/auth/login", Body::Form(&both)).await,
    ];
    for answer in answers {
        let body = answer.is(200).json();
        let token = body["token"].as_str().unwrap().to_owned();
        let ana = Person {
            email: "ana@example.com".into(),
            token,
        };
        ask(&house, Some(&ana), "GET /users/info", Body::None)
            .await
            .is(200);
        assert_ne!(body["is_admin"], true);
    }
    house.running.stop().await;
}

#[tokio::test]
async fn failed_logins_have_the_statuses_of_the_contract() {
    let house = House::start().await;
    house.person("ana").await;
    for version in ["", "/1.0"] {
        let to = |email: &str| format!("POST {version}/users/{email}/tokens");
        let ana = to("ana@example.com");
        let password = |text: &str| Body::Bare(json!({ "password": text }));
        ask(&house, None, &to("nobody@example.com"), password(PASSWORD))
            .await
            .is(404);
        let wrong = ask(&house, None, &ana, password("wrongpass")).await.is(401);
        assert_eq!(wrong.body, "Authentication failed, wrong password.\n");
        ask(&house, None, &ana, password("")).await.is(400);
        ask(&house, None, &ana, password("five5")).await.is(400);
        ask(&house, None, &ana, password(&"x".repeat(51))).await.is(400);
        ask(&house, None, &to("ana"), password(PASSWORD)).await.is(400);
        for text in ["", "{", "null", "{}", "{\"password\": 5}", "{\"password\": null}"] {
            ask(&house, None, &ana, Body::Text(text)).await.is(400);
        }
        ask(&house, None, &ana, Body::Form(&[("other", "x")]))
            .await
            .is(400);
    }
    house.running.stop().await;
}

#[tokio::test]
async fn the_schemes_are_told_to_anybody() {
    let house = House::start().await;
    let answer = ask(&house, None, "GET /auth/scheme", Body::None).await.is(200);
    assert_eq!(answer.json()["name"], "native");
    let answer = ask(&house, None, "GET /1.18/auth/schemes", Body::None)
        .await
        .is(200);
    assert_eq!(
        answer.json(),
        json!([{ "name": "native", "default": true, "data": {} }])
    );
    house.running.stop().await;
}

#[tokio::test]
async fn the_token_is_the_last_of_one_or_two_words() {
    let house = House::start().await;
    let ana = house.person("ana").await;
    let asked = async |header: String| {
        let request = house.request(reqwest::Method::GET, "/users/info");
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
    ask(&house, None, "GET /users/info", Body::None).await.is(401);
    house.running.stop().await;
}

#[tokio::test]
async fn a_token_ends_in_its_time_though_cached() {
    let house = House::start().await;
    let ana = house.person("ana").await;
    let end = "update bearer set expires_at = now() + make_interval(secs => $1)";
    let db = &house.running.core.db;
    sqlx::query(end).bind(0.7).execute(db).await.unwrap();
    ask(&house, Some(&ana), "GET /users/info", Body::None)
        .await
        .is(200);
    let deadline = Instant::now() + Duration::from_secs(10);
    while ask(&house, Some(&ana), "GET /users/info", Body::None)
        .await
        .status
        == 200
    {
        assert!(Instant::now() < deadline, "the token goes on");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let ana = house.login("ana@example.com").await;
    sqlx::query(end).bind(-1.0).execute(db).await.unwrap();
    ask(&house, Some(&ana), "GET /users/info", Body::None)
        .await
        .is(401);
    house.running.stop().await;
}

#[tokio::test]
async fn logging_out_ends_that_session_at_once() {
    let house = House::start().await;
    for line in ["DELETE /users/tokens", "DELETE /1.0/users/tokens"] {
        let name = format!("ana{}", line.len());
        let (one, two) = (
            house.person(&name).await,
            house.login(&format!("{name}@example.com")).await,
        );
        for person in [&one, &two] {
            ask(&house, Some(person), "GET /users/info", Body::None)
                .await
                .is(200);
        }
        let answer = ask(&house, Some(&one), line, Body::None).await.is(200);
        assert_eq!(answer.body, "");
        ask(&house, Some(&one), "GET /users/info", Body::None)
            .await
            .is(401);
        ask(&house, Some(&two), "GET /users/info", Body::None)
            .await
            .is(200);
        ask(&house, Some(&one), line, Body::None).await.is(401);
        ask(&house, None, line, Body::None).await.is(401);
    }
    house.running.stop().await;
}

#[tokio::test]
async fn a_password_changes_for_who_knows_the_old_one() {
    let house = House::start().await;
    let ana = house.person("ana").await;
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
            ask(&house, Some(&ana), line, Body::Bare(body)).await.is(status);
        }
        let form = [
            ("old", PASSWORD),
            ("new", "newsecret"),
            ("confirm", "othersecret"),
        ];
        ask(&house, Some(&ana), line, Body::Form(&form)).await.is(400);
        ask(&house, None, line, Body::Form(&form)).await.is(401);
    }
    let other = house.login("ana@example.com").await;
    let form = [("old", PASSWORD), ("new", "newsecret"), ("confirm", "newsecret")];
    ask(&house, Some(&ana), "PUT /1.0/users/password", Body::Form(&form))
        .await
        .is(200);
    ask(&house, None, LOGIN, Body::Form(&[("password", PASSWORD)]))
        .await
        .is(401);
    ask(&house, None, LOGIN, Body::Form(&[("password", "newsecret")]))
        .await
        .is(200);
    for person in [&ana, &other] {
        ask(&house, Some(person), "GET /users/info", Body::None)
            .await
            .is(200);
    }
    let back = json!({ "old": "newsecret", "new": PASSWORD });
    ask(&house, Some(&ana), "PUT /users/password", Body::Bare(back))
        .await
        .is(200);
    house.login("ana@example.com").await;
    house.running.stop().await;
}

#[tokio::test]
async fn guessing_at_an_account_ends_soon() {
    let house = House::with(|s| s.auth.login_attempts_per_account = 5).await;
    let (ana, _) = (house.person("ana").await, house.person("bob").await);
    let wrong = [("password", "wrongpass")];
    let right = [("password", PASSWORD)];
    let answers = join_all((0..30).map(|_| ask(&house, None, LOGIN, Body::Form(&wrong)))).await;
    let count = |status| answers.iter().filter(|a| a.status == status).count();
    assert_eq!((count(401), count(429)), (5, 25), "{answers:?}");
    let refused = ask(&house, None, LOGIN, Body::Form(&right)).await.is(429);
    assert!(refused.body.contains("seconds"), "{refused:?}");
    // The old password is no way around it.
    let body = json!({ "old": PASSWORD, "new": "newsecret" });
    ask(&house, Some(&ana), "PUT /users/password", Body::Bare(body))
        .await
        .is(429);
    ask(
        &house,
        None,
        "POST /users/bob@example.com/tokens",
        Body::Form(&right),
    )
    .await
    .is(200);

    let db = &house.running.core.db;
    sqlx::query("update login_failure set failed_at = failed_at - interval '1 hour'")
        .execute(db)
        .await
        .unwrap();
    ask(&house, None, LOGIN, Body::Form(&right)).await.is(200);
    let left: i64 = sqlx::query_scalar("select count(*) from login_failure")
        .fetch_one(db)
        .await
        .unwrap();
    assert_eq!(left, 0, "old failures go, a success leaves none");
    for _ in 0..3 {
        for _ in 0..4 {
            ask(&house, None, LOGIN, Body::Form(&wrong)).await.is(401);
        }
        ask(&house, None, LOGIN, Body::Form(&right)).await.is(200);
    }
    house.running.stop().await;
}

#[tokio::test]
async fn guessing_from_an_address_ends_soon() {
    let house = House::with(|s| s.auth.login_attempts_per_address = 6).await;
    for name in ["ana", "bob", "eva"] {
        house.person(name).await;
    }
    for n in 0..6 {
        let name = ["ana", "bob", "eva"][n % 3];
        let line = format!("POST /1.0/users/{name}@example.com/tokens");
        ask(&house, None, &line, Body::Form(&[("password", "wrongpass")]))
            .await
            .is(401);
    }
    let right = [("password", PASSWORD)];
    ask(&house, None, LOGIN, Body::Form(&right)).await.is(429);
    ask(
        &house,
        None,
        "POST /users/nobody@example.com/tokens",
        Body::Form(&right),
    )
    .await
    .is(429);
    house.running.stop().await;
}

#[tokio::test]
async fn the_oldest_session_goes_when_there_are_too_many() {
    let house = House::with(|s| s.auth.max_sessions = 2).await;
    let one = house.person("ana").await;
    ask(&house, Some(&one), "GET /users/info", Body::None)
        .await
        .is(200);
    let two = house.login("ana@example.com").await;
    ask(&house, Some(&one), "GET /users/info", Body::None)
        .await
        .is(200);
    let three = house.login("ana@example.com").await;
    ask(&house, Some(&one), "GET /users/info", Body::None)
        .await
        .is(401);
    for person in [&two, &three] {
        ask(&house, Some(person), "GET /users/info", Body::None)
            .await
            .is(200);
    }
    house.running.stop().await;
}

#[tokio::test]
async fn administrators_make_tokens_for_apps() {
    let house = House::start().await;
    let (root, ana) = (house.admin().await, house.person("ana").await);
    house.team(&ana, "web").await;
    put_app(&house, "shop", "web", "ana@example.com").await;
    let body = || Body::Bare(json!({ "client": "shop", "export": false }));
    ask(&house, Some(&ana), "POST /tokens", body()).await.is(403);
    ask(
        &house,
        Some(&root),
        "POST /tokens",
        Body::Bare(json!({ "client": "gone" })),
    )
    .await
    .is(404);
    ask(&house, Some(&root), "POST /tokens", Body::Bare(json!({})))
        .await
        .is(400);
    ask(&house, Some(&root), "POST /tokens", Body::Text("{"))
        .await
        .is(400);
    let made = ask(&house, Some(&root), "POST /tokens", body())
        .await
        .is(200)
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
    let app = Person {
        email: String::new(),
        token: made["token"].as_str().unwrap().to_owned(),
    };
    ask(&house, Some(&app), "GET /1.0/info", Body::None).await.is(200);
    for line in [
        "GET /teams",
        "GET /users/info",
        "POST /teams",
        "DELETE /users",
        "POST /1.0/roles",
    ] {
        ask(&house, Some(&app), line, Body::None).await.is(403);
    }
    ask(&house, Some(&app), "DELETE /users/tokens", Body::None)
        .await
        .is(200);
    ask(&house, Some(&app), "GET /1.0/info", Body::None).await.is(401);
    house.running.stop().await;
}

#[tokio::test]
async fn who_waits_too_long_for_a_hash_is_told_to_come_again() {
    let house = House::start().await;
    house.person("ana").await;
    let core = &house.running.core;
    let all = u32::try_from(core.settings.auth.hash_concurrency).unwrap();
    let busy = core.hashing.acquire_many(all).await.unwrap();
    let right = [("password", PASSWORD)];
    ask(&house, None, LOGIN, Body::Form(&right)).await.is(503);
    drop(busy);
    let db = &core.db;
    let counted: i64 = sqlx::query_scalar("select count(*) from login_failure")
        .fetch_one(db)
        .await
        .unwrap();
    assert_eq!(counted, 0, "a password that nobody looked at was not wrong");
    ask(&house, None, LOGIN, Body::Form(&right)).await.is(200);
    house.running.stop().await;
}
