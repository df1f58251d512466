use serde_json::json;

use super::{RequestBody, insert_app, send_request};
use crate::test_server::TestServer;

#[tokio::test]
async fn passwords_and_tokens_are_not_stored_in_plaintext() {
    let tancho = TestServer::start().await;
    let root = tancho.login_admin().await;
    let form = [("email", "ana@example.com"), ("password", "canary-one")];
    send_request(&tancho, None, "POST /users", RequestBody::Form(&form))
        .await
        .expect_status(200);
    let login = send_request(
        &tancho,
        None,
        "POST /users/ana@example.com/tokens",
        RequestBody::Form(&form),
    )
    .await
    .expect_status(200)
    .json();
    let ana = crate::test_server::TestUser {
        email: "ana@example.com".into(),
        token: login["token"].as_str().unwrap().to_owned(),
    };
    let change = json!({ "old": "canary-one", "new": "canary-two" });
    send_request(
        &tancho,
        Some(&ana),
        "PUT /users/password",
        RequestBody::Bare(change),
    )
    .await
    .expect_status(200);
    let wrong = [("password", "canary-wrong")];
    send_request(
        &tancho,
        None,
        "POST /users/ana@example.com/tokens",
        RequestBody::Form(&wrong),
    )
    .await
    .expect_status(401);
    let key = send_request(&tancho, Some(&ana), "GET /1.0/users/api-key", RequestBody::None)
        .await
        .expect_status(200)
        .json();
    tancho.create_team(&ana, "web").await;
    insert_app(&tancho, "shop", "web", "ana@example.com").await;
    let token = send_request(
        &tancho,
        Some(&root),
        "POST /tokens",
        RequestBody::Bare(json!({ "client": "shop" })),
    )
    .await
    .expect_status(200)
    .json();
    let canaries = [
        "canary-",
        ana.token.as_str(),
        root.token.as_str(),
        key.as_str().unwrap(),
        token["token"].as_str().unwrap(),
    ];
    // The search finds strings that are stored, as text and as bytes.
    assert!(
        find_text_in_tables(&tancho, "ana@example.com")
            .await
            .contains(&"user_account".to_owned())
    );
    for canary in canaries {
        assert_eq!(
            find_text_in_tables(&tancho, canary).await,
            Vec::<String>::new(),
            "{canary}"
        );
    }
    tancho.running.drain_and_stop().await;
}

/// Returns the tables that contain a string in any row, including in bytes shown in hexadecimal.
async fn find_text_in_tables(tancho: &TestServer, text: &str) -> Vec<String> {
    let db = &tancho.running.core.db;
    let tables: Vec<String> = sqlx::query_scalar(
        "select table_name::text from information_schema.tables where table_schema = 'public' order by 1",
    )
    .fetch_all(db)
    .await
    .unwrap();
    assert!(tables.len() > 20);
    let mut found = Vec::new();
    for table in tables {
        let query = format!(
            "select count(*) from \"{table}\" t where position($1 in t::text) > 0 or position($2 in t::text) > 0"
        );
        let count: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(query))
            .bind(text)
            .bind(hex::encode(text))
            .fetch_one(db)
            .await
            .unwrap();
        if count > 0 {
            found.push(table);
        }
    }
    found
}
