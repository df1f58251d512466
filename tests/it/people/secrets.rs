use serde_json::json;

use super::{Body, ask, put_app};
use crate::house::House;

#[tokio::test]
async fn no_password_and_no_token_is_in_the_database_in_clear() {
    let house = House::start().await;
    let root = house.admin().await;
    let form = [("email", "ana@example.com"), ("password", "canary-one")];
    ask(&house, None, "POST /users", Body::Form(&form)).await.is(200);
    let login = ask(
        &house,
        None,
        "POST /users/ana@example.com/tokens",
        Body::Form(&form),
    )
    .await
    .is(200)
    .json();
    let ana = crate::house::Person {
        email: "ana@example.com".into(),
        token: login["token"].as_str().unwrap().to_owned(),
    };
    let change = json!({ "old": "canary-one", "new": "canary-two" });
    ask(&house, Some(&ana), "PUT /users/password", Body::Bare(change))
        .await
        .is(200);
    let wrong = [("password", "canary-wrong")];
    ask(
        &house,
        None,
        "POST /users/ana@example.com/tokens",
        Body::Form(&wrong),
    )
    .await
    .is(401);
    let key = ask(&house, Some(&ana), "GET /1.0/users/api-key", Body::None)
        .await
        .is(200)
        .json();
    house.team(&ana, "web").await;
    put_app(&house, "shop", "web", "ana@example.com").await;
    let token = ask(
        &house,
        Some(&root),
        "POST /tokens",
        Body::Bare(json!({ "client": "shop" })),
    )
    .await
    .is(200)
    .json();
    let canaries = [
        "canary-",
        ana.token.as_str(),
        root.token.as_str(),
        key.as_str().unwrap(),
        token["token"].as_str().unwrap(),
    ];
    // The search finds what is there, as text and as bytes.
    assert!(
        finds(&house, "ana@example.com")
            .await
            .contains(&"user_account".to_owned())
    );
    for canary in canaries {
        assert_eq!(finds(&house, canary).await, Vec::<String>::new(), "{canary}");
    }
    house.running.stop().await;
}

/// The tables that have a text in any row, also where bytes are shown in hexadecimal.
async fn finds(house: &House, text: &str) -> Vec<String> {
    let db = &house.running.core.db;
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
