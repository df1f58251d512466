use std::time::{Duration, Instant};

use serde_json::json;
use tancho::kernel::call::Actor;

use super::{Body, ask};
use crate::house::House;

const ED: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAPMNFE7dC/023ABVuTfPoqb7GmqdUnVQ8d2KCp3xDuq ana@laptop";
const ECDSA: &str = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBLpQwYPmSL5T5Jj2PrQQz6MlU4LVYUiBKbF+RDEQoXcA7ILLCiRu4WrBD9I3AH+GSHqt2a40g7XPcPeEBswFeNQ= x";

/// Lookups of one kind.
const LOOKS: i64 = 50;

#[tokio::test]
async fn keys_come_and_go() {
    let house = House::start().await;
    let (ana, bob) = (house.person("ana").await, house.person("bob").await);
    let key = |text: &str| Body::Bare(json!({ "key": text }));
    let post = "POST /users/keys";
    ask(&house, None, post, key(ED)).await.is(401);
    for bad in [
        "",
        "my-key",
        "ssh-rsa AAAA",
        "-----BEGIN OPENSSH PRIVATE KEY-----",
    ] {
        ask(&house, Some(&ana), post, key(bad)).await.is(400);
    }
    ask(&house, Some(&ana), post, Body::Text("{")).await.is(400);
    ask(&house, Some(&ana), post, Body::None).await.is(400);
    ask(&house, Some(&ana), post, key(ED)).await.is(200);
    ask(&house, Some(&ana), post, key(ED)).await.is(409);
    ask(&house, Some(&bob), post, key(ED)).await.is(409);
    let form = [("key", ECDSA), ("name", "laptop")];
    ask(&house, Some(&ana), post, Body::Form(&form)).await.is(200);
    let list = ask(&house, Some(&ana), "GET /users/ana@example.com/keys", Body::None)
        .await
        .is(200)
        .json();
    assert_eq!(list, json!({ "ana@example.com-1": ED, "laptop": ECDSA }));
    ask(&house, Some(&bob), "GET /users/ana@example.com/keys", Body::None)
        .await
        .is(403);

    let delete = "DELETE /users/keys";
    ask(&house, Some(&ana), delete, Body::None).await.is(400);
    ask(&house, Some(&ana), delete, Body::Text("{")).await.is(400);
    ask(&house, Some(&ana), delete, key("my-key")).await.is(404);
    ask(&house, Some(&bob), delete, key(ED)).await.is(404);
    ask(&house, None, delete, key(ED)).await.is(401);
    ask(&house, Some(&ana), delete, key(ED)).await.is(200);
    ask(&house, Some(&ana), delete, key(ED)).await.is(404);
    ask(&house, Some(&ana), "DELETE /users/keys/laptop", Body::None)
        .await
        .is(200);
    ask(&house, Some(&ana), "DELETE /users/keys/laptop", Body::None)
        .await
        .is(404);
    ask(&house, Some(&bob), post, key(ED)).await.is(200);
    house.running.stop().await;
}

#[tokio::test]
async fn a_name_is_taken_unless_forced() {
    let house = House::start().await;
    let ana = house.person("ana").await;
    let named =
        |text: &str, force: bool| Body::Bare(json!({ "key": text, "name": "laptop", "force": force }));
    ask(&house, Some(&ana), "POST /users/keys", named(ED, false))
        .await
        .is(200);
    ask(&house, Some(&ana), "POST /users/keys", named(ECDSA, false))
        .await
        .is(409);
    ask(&house, Some(&ana), "POST /users/keys", named(ECDSA, true))
        .await
        .is(200);
    let list = ask(&house, Some(&ana), "GET /users/ana@example.com/keys", Body::None)
        .await
        .is(200)
        .json();
    assert_eq!(list, json!({ "laptop": ECDSA }));
    house.running.stop().await;
}

#[tokio::test]
async fn among_ten_thousand_keys_one_is_found_by_its_index() {
    let house = House::start().await;
    let ana = house.person("ana").await;
    let db = &house.running.core.db;
    let many = "insert into ssh_key (user_id, name, fingerprint, body)
                select user_id, 'key-' || n, 'SHA256:' || n, 'ssh-ed25519 ' || n
                from user_account, generate_series(1, 10000) n";
    sqlx::query(many).execute(db).await.unwrap();
    sqlx::query("analyze ssh_key").execute(db).await.unwrap();
    ask(
        &house,
        Some(&ana),
        "POST /users/keys",
        Body::Bare(json!({ "key": ED })),
    )
    .await
    .is(200);
    let fingerprint = "SHA256:wD/Qe7PUEEZq+oSnFqyYWHGIuVmsXJhDp/lNQn7i5Y4";
    for _ in 0..LOOKS {
        let found = tancho::users::admit_key(&house.running.core, fingerprint)
            .await
            .unwrap();
        let (actor, _) = found.unwrap();
        assert!(
            matches!(&actor, Actor::User { email, .. } if email.as_str() == ana.email),
            "{actor:?}"
        );
        let none = tancho::users::admit_key(&house.running.core, "SHA256:none")
            .await
            .unwrap();
        assert!(none.is_none());
    }
    // Postgres counts how it has read the table, and says so a little later.
    let counts =
        "select t.seq_scan, i.idx_scan from pg_stat_user_tables t join pg_stat_user_indexes i using (relid)
                  where t.relname = 'ssh_key' and i.indexrelname = 'ssh_key_fingerprint_key'";
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let (whole, by_index): (i64, i64) = sqlx::query_as(counts).fetch_one(db).await.unwrap();
        assert!(whole < LOOKS, "{whole} times it was read as a whole");
        if by_index >= 2 * LOOKS {
            break;
        }
        assert!(Instant::now() < deadline, "{by_index} times by the index");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    house.running.stop().await;
}
