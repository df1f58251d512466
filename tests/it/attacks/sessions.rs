//! A stolen session or key ends with the password, and can be revoked.

use serde_json::{Value, json};

use super::get;
use crate::accounts::{RequestBody, send_request};
use crate::test_server::{PASSWORD, TestServer, TestUser};

async fn api_key(tancho: &TestServer, user: &TestUser) -> TestUser {
    let key: Value = get(tancho, user, "/1.0/users/api-key")
        .await
        .expect_status(200)
        .json();
    TestUser {
        email: user.email.clone(),
        token: key.as_str().unwrap().to_owned(),
    }
}

async fn status(tancho: &TestServer, user: &TestUser) -> u16 {
    get(tancho, user, "/users/info").await.status
}

#[tokio::test]
async fn password_change_ends_other_sessions_the_api_key_and_reset_tokens() {
    let tancho = TestServer::start().await;
    let (ana, stolen, bob) = (
        tancho.create_user("ana").await,
        tancho.login("ana@example.com").await,
        tancho.create_user("bob").await,
    );
    let key = api_key(&tancho, &ana).await;
    send_request(
        &tancho,
        None,
        "POST /users/ana@example.com/password",
        RequestBody::None,
    )
    .await
    .expect_status(200);
    for user in [&ana, &stolen, &key] {
        assert_eq!(status(&tancho, user).await, 200);
    }
    let body = json!({ "old": PASSWORD, "new": "othersecret" });
    send_request(
        &tancho,
        Some(&ana),
        "PUT /users/password",
        RequestBody::Bare(body),
    )
    .await
    .expect_status(200);
    assert_eq!(status(&tancho, &ana).await, 200);
    assert_eq!(status(&tancho, &stolen).await, 401);
    assert_eq!(status(&tancho, &key).await, 401);
    assert_eq!(status(&tancho, &bob).await, 200);
    let good: i64 = sqlx::query_scalar("select count(*) from password_reset where used_at is null")
        .fetch_one(&tancho.running.core.db)
        .await
        .unwrap();
    assert_eq!(good, 0);
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn password_change_with_the_api_key_ends_that_key() {
    let tancho = TestServer::start().await;
    let ana = tancho.create_user("ana").await;
    let key = api_key(&tancho, &ana).await;
    let body = json!({ "old": PASSWORD, "new": "othersecret" });
    send_request(
        &tancho,
        Some(&key),
        "PUT /users/password",
        RequestBody::Bare(body),
    )
    .await
    .expect_status(200);
    assert_eq!(status(&tancho, &key).await, 401);
    assert_eq!(status(&tancho, &ana).await, 401);
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn users_can_end_their_own_sessions_and_administrators_those_of_others() {
    let tancho = TestServer::start().await;
    let (root, bob) = (tancho.login_admin().await, tancho.create_user("bob").await);
    for line in [
        "DELETE /users/tokens?all=true",
        "DELETE /1.0/users/tokens?all=true",
        "DELETE /1.0/users/tokens?all=true&user=ANA@example.com",
    ] {
        sqlx::raw_sql("delete from user_account where email = 'ana@example.com'")
            .execute(&tancho.running.core.db)
            .await
            .unwrap();
        let (ana, stolen) = (
            tancho.create_user("ana").await,
            tancho.login("ana@example.com").await,
        );
        let key = api_key(&tancho, &ana).await;
        let other = line.contains("user=");
        if other {
            send_request(&tancho, Some(&bob), line, RequestBody::None)
                .await
                .expect_status(403);
            assert_eq!(status(&tancho, &stolen).await, 200);
        }
        let who = if other { &root } else { &ana };
        send_request(&tancho, Some(who), line, RequestBody::None)
            .await
            .expect_status(200);
        for user in [&ana, &stolen, &key] {
            assert_eq!(status(&tancho, user).await, 401, "{line}");
        }
        assert_eq!(status(&tancho, &tancho.login("ana@example.com").await).await, 200);
    }
    assert_eq!(status(&tancho, &bob).await, 200);
    assert_eq!(status(&tancho, &root).await, 200);
    let line = "DELETE /1.0/users/tokens?user=bob@example.com";
    send_request(&tancho, Some(&root), line, RequestBody::None)
        .await
        .expect_status(400);
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn administrator_can_remove_the_last_member_of_a_team() {
    let tancho = TestServer::start().await;
    let (root, ana) = (tancho.login_admin().await, tancho.create_user("ana").await);
    tancho.create_team(&ana, "web").await;
    send_request(&tancho, Some(&ana), "DELETE /users", RequestBody::None)
        .await
        .expect_status(403);
    send_request(
        &tancho,
        Some(&root),
        "DELETE /1.0/users?user=ana@example.com",
        RequestBody::None,
    )
    .await
    .expect_status(200);
    get(&tancho, &root, "/1.4/teams/web").await.expect_status(200);
    let again = tancho.create_user("ana").await;
    get(&tancho, &again, "/1.4/teams/web").await.expect_status(404);
    send_request(
        &tancho,
        Some(&root),
        "PUT /teams/web/ana@example.com",
        RequestBody::None,
    )
    .await
    .expect_status(200);
    get(&tancho, &again, "/1.4/teams/web").await.expect_status(200);
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn users_can_list_and_remove_their_own_keys_by_name() {
    let tancho = TestServer::start().await;
    let (ana, bob) = (tancho.create_user("ana").await, tancho.create_user("bob").await);
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAPMNFE7dC/023ABVuTfPoqb7GmqdUnVQ8d2KCp3xDuq a@b";
    let body = json!({ "name": "laptop", "key": key });
    send_request(&tancho, Some(&ana), "POST /users/keys", RequestBody::Bare(body))
        .await
        .expect_status(200);
    let keys = get(&tancho, &ana, "/users/keys").await.expect_status(200).json();
    assert!(
        keys["laptop"].as_str().unwrap().starts_with("ssh-ed25519 "),
        "{keys}"
    );
    assert_eq!(
        get(&tancho, &bob, "/users/keys").await.expect_status(200).json(),
        json!({})
    );
    let name = || RequestBody::Bare(json!({ "name": "laptop" }));
    send_request(&tancho, Some(&bob), "DELETE /users/keys", name())
        .await
        .expect_status(404);
    send_request(
        &tancho,
        Some(&ana),
        "DELETE /users/keys",
        RequestBody::Bare(json!({})),
    )
    .await
    .expect_status(400);
    send_request(&tancho, Some(&ana), "DELETE /users/keys", name())
        .await
        .expect_status(200);
    assert_eq!(
        get(&tancho, &ana, "/users/keys").await.expect_status(200).json(),
        json!({})
    );
    tancho.running.drain_and_stop().await;
}
