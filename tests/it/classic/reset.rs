//! Password reset, in both editions.

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::json;

use super::{find_mail, secret_line};
use crate::test_server::{PASSWORD, TestServer};

async fn post(tancho: &TestServer, path: &str) -> (u16, String) {
    let answer = tancho.request(Method::POST, path).send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

async fn login(tancho: &TestServer, email: &str, password: &str) -> u16 {
    let request = tancho.request(Method::POST, &format!("/users/{email}/tokens"));
    let body = json!({ "password": password }).to_string();
    request.body(body).send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn reset_token_from_a_mail_works_once_and_mails_a_new_password() {
    for version in ["", "/1.0"] {
        let tancho = TestServer::start().await;
        let ana = tancho.create_user("ana").await;
        let bob = tancho.create_user("bob").await;
        let path = |email: &str| format!("{version}/users/{email}/password");
        assert_eq!(post(&tancho, &path(&ana.email)).await, (200, String::new()));
        let letter = find_mail(&tancho, &ana.email, "24 hours").await;
        let token = secret_line(&letter);
        let with = |email: &str| format!("{}?token={token}", path(email));
        assert_eq!(post(&tancho, &with(&bob.email)).await.0, 400);
        assert_eq!(login(&tancho, &ana.email, PASSWORD).await, 200);
        // Of ten concurrent requests with the token, one succeeds.
        let all = join_all((0..10).map(|_| async { post(&tancho, &with(&ana.email)).await })).await;
        let good = all.iter().filter(|(status, _)| *status == 200).count();
        let refused = all
            .iter()
            .filter(|(status, _)| matches!(*status, 400 | 409))
            .count();
        assert_eq!((good, refused), (1, 9), "{all:?}");
        let password = secret_line(&find_mail(&tancho, &ana.email, "Change it soon").await);
        assert!((12..=50).contains(&password.len()), "{password}");
        assert_eq!(login(&tancho, &ana.email, PASSWORD).await, 401);
        assert_eq!(login(&tancho, &ana.email, &password).await, 200);
        // The sessions of the old password have ended.
        assert_eq!(tancho.send_json(&ana, Method::GET, "/teams", None).await.0, 401);
        tancho.running.drain_and_stop().await;
    }
}

#[tokio::test]
async fn reset_token_expires_after_24_hours_or_when_another_is_used() {
    let tancho = TestServer::start().await;
    let ana = tancho.create_user("ana").await;
    let path = format!("/users/{}/password", ana.email);
    let mut tokens: Vec<String> = Vec::new();
    for n in 0..3 {
        post(&tancho, &path).await;
        wait_for_mails(&tancho, n + 1).await;
        tokens.push(secret_line(&find_mail(&tancho, &ana.email, "24 hours").await));
    }
    tokens.dedup();
    assert_eq!(tokens.len(), 3);
    let age = |hours: i32| {
        sqlx::query("update password_reset set created_at = now() - make_interval(hours => $1)")
            .bind(hours)
            .execute(&tancho.running.core.db)
    };
    age(25).await.unwrap();
    assert_eq!(post(&tancho, &format!("{path}?token={}", tokens[0])).await.0, 400);
    age(23).await.unwrap();
    assert_eq!(post(&tancho, &format!("{path}?token={}", tokens[0])).await.0, 200);
    assert_eq!(post(&tancho, &format!("{path}?token={}", tokens[1])).await.0, 400);
    tancho.running.drain_and_stop().await;
}

async fn wait_for_mails(tancho: &TestServer, count: usize) {
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        let letters = std::fs::read_dir(tancho.running.core.data_dir.mail_dir()).unwrap();
        let found = letters
            .filter(|e| e.as_ref().unwrap().path().extension().is_some_and(|e| e == "eml"))
            .count();
        if found >= count {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{found} letters");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn reset_mails_and_token_attempts_are_limited() {
    let tancho = TestServer::start_with(|settings| settings.auth.login_attempts_per_address = 12).await;
    let (ana, bob) = (tancho.create_user("ana").await, tancho.create_user("bob").await);
    let path = format!("/users/{}/password", ana.email);
    let asked = join_all((0..8).map(|_| post(&tancho, &path))).await;
    let good = asked.iter().filter(|(status, _)| *status == 200).count();
    let late = asked.iter().filter(|(status, _)| *status == 429).count();
    assert_eq!((good, late), (5, 3), "{asked:?}");
    let bobs = format!("/users/{}/password?token=x", bob.email);
    for status in [400, 400, 400, 400, 429] {
        assert_eq!(post(&tancho, &bobs).await.0, status);
    }
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn reset_tokens_and_new_passwords_are_not_stored_in_plaintext() {
    let tancho = TestServer::start().await;
    let ana = tancho.create_user("ana").await;
    let path = format!("/users/{}/password", ana.email);
    post(&tancho, &path).await;
    let token = secret_line(&find_mail(&tancho, &ana.email, "24 hours").await);
    post(&tancho, &format!("{path}?token={token}")).await;
    let password = secret_line(&find_mail(&tancho, &ana.email, "Change it soon").await);
    for table in [
        "saga",
        "event",
        "event_line",
        "password_reset",
        "login_failure",
        "user_account",
    ] {
        let all: String = sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
            "select coalesce(string_agg(t::text, ' '), '') from {table} t"
        )))
        .fetch_one(&tancho.running.core.db)
        .await
        .unwrap();
        assert!(
            !all.contains(&token) && !all.contains(&password),
            "{table}: {all}"
        );
    }
    tancho.running.drain_and_stop().await;
}
