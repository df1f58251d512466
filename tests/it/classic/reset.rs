//! A forgotten password, in both editions.

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::json;

use super::{mailed, secret_line};
use crate::house::{House, PASSWORD};

async fn post(house: &House, path: &str) -> (u16, String) {
    let answer = house.request(Method::POST, path).send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

async fn login(house: &House, email: &str, password: &str) -> u16 {
    let request = house.request(Method::POST, &format!("/users/{email}/tokens"));
    let body = json!({ "password": password }).to_string();
    request.body(body).send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn a_token_by_mail_brings_a_new_password_by_mail_once() {
    for version in ["", "/1.0"] {
        let house = House::start().await;
        let ana = house.person("ana").await;
        let bob = house.person("bob").await;
        let path = |email: &str| format!("{version}/users/{email}/password");
        assert_eq!(post(&house, &path(&ana.email)).await, (200, String::new()));
        let letter = mailed(&house, &ana.email, "24 hours").await;
        let token = secret_line(&letter);
        let with = |email: &str| format!("{}?token={token}", path(email));
        assert_eq!(post(&house, &with(&bob.email)).await.0, 400);
        assert_eq!(login(&house, &ana.email, PASSWORD).await, 200);
        // Of ten who use it at once, one gets through.
        let all = join_all((0..10).map(|_| async { post(&house, &with(&ana.email)).await })).await;
        let good = all.iter().filter(|(status, _)| *status == 200).count();
        let refused = all
            .iter()
            .filter(|(status, _)| matches!(*status, 400 | 409))
            .count();
        assert_eq!((good, refused), (1, 9), "{all:?}");
        let password = secret_line(&mailed(&house, &ana.email, "Change it soon").await);
        assert!((12..=50).contains(&password.len()), "{password}");
        assert_eq!(login(&house, &ana.email, PASSWORD).await, 401);
        assert_eq!(login(&house, &ana.email, &password).await, 200);
        // Sessions go on.
        house.read(&ana, "/teams").await;
        house.running.stop().await;
    }
}

#[tokio::test]
async fn a_token_ends_after_24_hours_and_when_another_one_is_used() {
    let house = House::start().await;
    let ana = house.person("ana").await;
    let path = format!("/users/{}/password", ana.email);
    let mut tokens: Vec<String> = Vec::new();
    for n in 0..3 {
        post(&house, &path).await;
        until_letters(&house, n + 1).await;
        tokens.push(secret_line(&mailed(&house, &ana.email, "24 hours").await));
    }
    tokens.dedup();
    assert_eq!(tokens.len(), 3);
    let age = |hours: i32| {
        sqlx::query("update password_reset set created_at = now() - make_interval(hours => $1)")
            .bind(hours)
            .execute(&house.running.core.db)
    };
    age(25).await.unwrap();
    assert_eq!(post(&house, &format!("{path}?token={}", tokens[0])).await.0, 400);
    age(23).await.unwrap();
    assert_eq!(post(&house, &format!("{path}?token={}", tokens[0])).await.0, 200);
    assert_eq!(post(&house, &format!("{path}?token={}", tokens[1])).await.0, 400);
    house.running.stop().await;
}

async fn until_letters(house: &House, count: usize) {
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        let letters = std::fs::read_dir(house.running.core.dirs.mail()).unwrap();
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
async fn nobody_floods_a_mailbox_or_tries_tokens_without_end() {
    let house = House::with(|settings| settings.auth.login_attempts_per_address = 12).await;
    let (ana, bob) = (house.person("ana").await, house.person("bob").await);
    let path = format!("/users/{}/password", ana.email);
    let asked = join_all((0..8).map(|_| post(&house, &path))).await;
    let good = asked.iter().filter(|(status, _)| *status == 200).count();
    let late = asked.iter().filter(|(status, _)| *status == 429).count();
    assert_eq!((good, late), (5, 3), "{asked:?}");
    let bobs = format!("/users/{}/password?token=x", bob.email);
    for status in [400, 400, 400, 400, 429] {
        assert_eq!(post(&house, &bobs).await.0, status);
    }
    house.running.stop().await;
}

#[tokio::test]
async fn neither_token_nor_password_lies_in_the_database() {
    let house = House::start().await;
    let ana = house.person("ana").await;
    let path = format!("/users/{}/password", ana.email);
    post(&house, &path).await;
    let token = secret_line(&mailed(&house, &ana.email, "24 hours").await);
    post(&house, &format!("{path}?token={token}")).await;
    let password = secret_line(&mailed(&house, &ana.email, "Change it soon").await);
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
        .fetch_one(&house.running.core.db)
        .await
        .unwrap();
        assert!(
            !all.contains(&token) && !all.contains(&password),
            "{table}: {all}"
        );
    }
    house.running.stop().await;
}
