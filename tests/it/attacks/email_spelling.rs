//! One e-mail address is one account, in any spelling.

use serde_json::json;

use super::{get, request_ok, sql};
use crate::accounts::{RequestBody, grant, send_request};
use crate::test_server::{PASSWORD, TestServer, TestUser};

async fn sign_up(tancho: &TestServer, email: &str) -> u16 {
    let body = json!({ "email": email, "password": PASSWORD });
    send_request(tancho, None, "POST /users", RequestBody::Bare(body))
        .await
        .status
}

async fn email_of(tancho: &TestServer, user: &TestUser) -> String {
    let info = get(tancho, user, "/users/info").await.expect_status(200).json();
    info["Email"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn differently_spelled_email_is_the_same_account() {
    let tancho = TestServer::start().await;
    assert_eq!(sign_up(&tancho, "Bob@Example.COM").await, 200);
    for taken in ["bob@example.com", "BOB@EXAMPLE.COM", "Bob@Example.COM"] {
        assert_eq!(sign_up(&tancho, taken).await, 409, "{taken}");
    }
    let bob = tancho.login("bob@example.com").await;
    tancho.login("BOB@example.com").await;
    assert_eq!(
        email_of(&tancho, &bob).await,
        "Bob@Example.COM",
        "the spelling is kept"
    );
    let root = tancho.login_admin().await;
    // Roles, teams, quotas, keys and removal.
    tancho.create_team(&root, "red").await;
    send_request(
        &tancho,
        Some(&root),
        "PUT /teams/red/bOB@example.com",
        RequestBody::None,
    )
    .await
    .expect_status(200);
    get(&tancho, &bob, "/1.4/teams/red").await.expect_status(200);
    send_request(
        &tancho,
        Some(&root),
        "PUT /teams/red/bob@example.com",
        RequestBody::None,
    )
    .await
    .expect_status(409);
    send_request(
        &tancho,
        Some(&root),
        "DELETE /teams/red/BOB@example.com",
        RequestBody::None,
    )
    .await
    .expect_status(200);
    get(&tancho, &bob, "/1.4/teams/red").await.expect_status(404);
    request_ok(
        &tancho,
        &root,
        "PUT /1.0/users/BOB@EXAMPLE.com/quota",
        json!({ "limit": 7 }),
    )
    .await;
    let quota = get(&tancho, &bob, "/1.0/users/bob@example.com/quota")
        .await
        .expect_status(200)
        .json();
    assert_eq!(quota["limit"], 7);
    let view = get(&tancho, &bob, "/quota/boB@example.com")
        .await
        .expect_status(200)
        .json();
    assert_eq!(view["Limit"], 7);
    get(&tancho, &bob, "/users/bOb@example.com/keys")
        .await
        .expect_status(200);
    let line = "POST /users/BoB@example.com/password";
    send_request(&tancho, None, line, RequestBody::None)
        .await
        .expect_status(200);
    let eve = tancho.create_user("eve").await;
    grant(&tancho, &root, &eve, "user", "bob@EXAMPLE.com", &["user.read"]).await;
    get(&tancho, &eve, "/users/BOB@example.com/keys")
        .await
        .expect_status(200);
    send_request(
        &tancho,
        Some(&root),
        "DELETE /1.0/users?user=BOB@EXAMPLE.COM",
        RequestBody::None,
    )
    .await
    .expect_status(200);
    get(&tancho, &bob, "/users/info").await.expect_status(401);
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn concurrent_registrations_of_differently_spelled_emails_create_one_user() {
    let tancho = TestServer::start().await;
    let spellings = [
        "ana@example.com",
        "Ana@example.com",
        "ANA@example.com",
        "ana@EXAMPLE.com",
    ];
    let answers = futures_util::future::join_all(spellings.map(|email| sign_up(&tancho, email))).await;
    let mut sorted = answers.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, [200, 409, 409, 409]);
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn invalid_email_is_rejected_with_a_short_error() {
    let tancho = TestServer::start().await;
    let long = format!("{}@example.com", "a".repeat(250));
    for bad in [
        "ána@example.com",
        "аna@example.com",
        "ana@exämple.com",
        "ana @example.com",
        "ana@example.com ",
        "ana\u{0}@example.com",
        "ana@example",
        long.as_str(),
    ] {
        let body = json!({ "email": bad, "password": PASSWORD });
        for line in ["POST /users", "POST /1.0/users"] {
            let answer = send_request(&tancho, None, line, RequestBody::Bare(body.clone()))
                .await
                .expect_status(400);
            assert!(
                answer.body.trim_end().lines().count() == 1 && answer.body.len() < 400,
                "{answer:?}"
            );
        }
    }
    let users: i64 = sqlx::query_scalar("select count(*) from user_account")
        .fetch_one(&tancho.running.core.db)
        .await
        .unwrap();
    assert_eq!(users, 0);
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn existing_accounts_with_differently_spelled_emails_both_remain() {
    let tancho = TestServer::start().await;
    let older = tancho.create_user("bob").await;
    // As before addresses were compared case-insensitively.
    sql(
        &tancho,
        "alter table user_account disable trigger user_set_email_key;
         insert into user_account (user_id, email, password_hash, created_at)
         select gen_random_uuid(), 'Bob@example.com', password_hash, now() from user_account;
         alter table user_account enable trigger user_set_email_key",
    )
    .await;
    let younger = tancho.login("Bob@example.com").await;
    assert_eq!(email_of(&tancho, &younger).await, "Bob@example.com");
    assert_eq!(email_of(&tancho, &older).await, "bob@example.com");
    // Any other spelling belongs to the older account.
    let other = tancho.login("BOB@example.com").await;
    assert_eq!(email_of(&tancho, &other).await, "bob@example.com");
    // The two accounts are not mixed up.
    send_request(
        &tancho,
        Some(&younger),
        "DELETE /1.0/users?user=bob@example.com",
        RequestBody::None,
    )
    .await
    .expect_status(403);
    get(&tancho, &younger, "/1.0/users/bob@example.com/quota")
        .await
        .expect_status(403);
    get(&tancho, &younger, "/1.0/users/Bob@example.com/quota")
        .await
        .expect_status(200);
    send_request(&tancho, Some(&younger), "DELETE /users", RequestBody::None)
        .await
        .expect_status(200);
    assert_eq!(email_of(&tancho, &older).await, "bob@example.com");
    assert_eq!(sign_up(&tancho, "Bob@example.com").await, 409);
    tancho.running.drain_and_stop().await;
}
