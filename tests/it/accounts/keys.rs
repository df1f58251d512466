use std::time::{Duration, Instant};

use serde_json::json;
use tancho::kernel::request_context::Actor;

use super::{RequestBody, send_request};
use crate::test_server::TestServer;

const ED: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAPMNFE7dC/023ABVuTfPoqb7GmqdUnVQ8d2KCp3xDuq ana@laptop";
const ECDSA: &str = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBLpQwYPmSL5T5Jj2PrQQz6MlU4LVYUiBKbF+RDEQoXcA7ILLCiRu4WrBD9I3AH+GSHqt2a40g7XPcPeEBswFeNQ= x";

/// Lookups of each kind.
const LOOKS: i64 = 50;

#[tokio::test]
async fn ssh_keys_are_added_listed_and_removed() {
    let tancho = TestServer::start().await;
    let (ana, bob) = (tancho.create_user("ana").await, tancho.create_user("bob").await);
    let key = |text: &str| RequestBody::Bare(json!({ "key": text }));
    let post = "POST /users/keys";
    send_request(&tancho, None, post, key(ED))
        .await
        .expect_status(401);
    for bad in [
        "",
        "my-key",
        "ssh-rsa AAAA",
        "-----BEGIN OPENSSH PRIVATE KEY-----",
    ] {
        send_request(&tancho, Some(&ana), post, key(bad))
            .await
            .expect_status(400);
    }
    send_request(&tancho, Some(&ana), post, RequestBody::Text("{"))
        .await
        .expect_status(400);
    send_request(&tancho, Some(&ana), post, RequestBody::None)
        .await
        .expect_status(400);
    send_request(&tancho, Some(&ana), post, key(ED))
        .await
        .expect_status(200);
    send_request(&tancho, Some(&ana), post, key(ED))
        .await
        .expect_status(409);
    send_request(&tancho, Some(&bob), post, key(ED))
        .await
        .expect_status(409);
    let form = [("key", ECDSA), ("name", "laptop")];
    send_request(&tancho, Some(&ana), post, RequestBody::Form(&form))
        .await
        .expect_status(200);
    let list = send_request(
        &tancho,
        Some(&ana),
        "GET /users/ana@example.com/keys",
        RequestBody::None,
    )
    .await
    .expect_status(200)
    .json();
    assert_eq!(list, json!({ "ana@example.com-1": ED, "laptop": ECDSA }));
    send_request(
        &tancho,
        Some(&bob),
        "GET /users/ana@example.com/keys",
        RequestBody::None,
    )
    .await
    .expect_status(403);

    let delete = "DELETE /users/keys";
    send_request(&tancho, Some(&ana), delete, RequestBody::None)
        .await
        .expect_status(400);
    send_request(&tancho, Some(&ana), delete, RequestBody::Text("{"))
        .await
        .expect_status(400);
    send_request(&tancho, Some(&ana), delete, key("my-key"))
        .await
        .expect_status(404);
    send_request(&tancho, Some(&bob), delete, key(ED))
        .await
        .expect_status(404);
    send_request(&tancho, None, delete, key(ED))
        .await
        .expect_status(401);
    send_request(&tancho, Some(&ana), delete, key(ED))
        .await
        .expect_status(200);
    send_request(&tancho, Some(&ana), delete, key(ED))
        .await
        .expect_status(404);
    send_request(
        &tancho,
        Some(&ana),
        "DELETE /users/keys/laptop",
        RequestBody::None,
    )
    .await
    .expect_status(200);
    send_request(
        &tancho,
        Some(&ana),
        "DELETE /users/keys/laptop",
        RequestBody::None,
    )
    .await
    .expect_status(404);
    send_request(&tancho, Some(&bob), post, key(ED))
        .await
        .expect_status(200);
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn duplicate_ssh_key_name_is_rejected_unless_forced() {
    let tancho = TestServer::start().await;
    let ana = tancho.create_user("ana").await;
    let named =
        |text: &str, force: bool| RequestBody::Bare(json!({ "key": text, "name": "laptop", "force": force }));
    send_request(&tancho, Some(&ana), "POST /users/keys", named(ED, false))
        .await
        .expect_status(200);
    send_request(&tancho, Some(&ana), "POST /users/keys", named(ECDSA, false))
        .await
        .expect_status(409);
    send_request(&tancho, Some(&ana), "POST /users/keys", named(ECDSA, true))
        .await
        .expect_status(200);
    let list = send_request(
        &tancho,
        Some(&ana),
        "GET /users/ana@example.com/keys",
        RequestBody::None,
    )
    .await
    .expect_status(200)
    .json();
    assert_eq!(list, json!({ "laptop": ECDSA }));
    let told = "select start_data from event where start_data ? 'replaced'";
    let told: Vec<serde_json::Value> = sqlx::query_scalar(told)
        .fetch_all(&tancho.running.core.db)
        .await
        .unwrap();
    let [data] = &told[..] else {
        panic!("{told:?}");
    };
    let first =
        "select start_data ->> 'key' from event where kind = 'user.update' order by started_at limit 1";
    let first: String = sqlx::query_scalar(first)
        .fetch_one(&tancho.running.core.db)
        .await
        .unwrap();
    assert_eq!(data["replaced"], first, "the event has the replaced key");
    assert_ne!(data["key"], first);
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn ssh_key_lookup_uses_an_index() {
    let tancho = TestServer::start().await;
    let ana = tancho.create_user("ana").await;
    let db = &tancho.running.core.db;
    let many = "insert into ssh_key (user_id, name, fingerprint, body)
                select user_id, 'key-' || n, 'SHA256:' || n, 'ssh-ed25519 ' || n
                from user_account, generate_series(1, 10000) n";
    sqlx::query(many).execute(db).await.unwrap();
    sqlx::query("analyze ssh_key").execute(db).await.unwrap();
    send_request(
        &tancho,
        Some(&ana),
        "POST /users/keys",
        RequestBody::Bare(json!({ "key": ED })),
    )
    .await
    .expect_status(200);
    let fingerprint = "SHA256:wD/Qe7PUEEZq+oSnFqyYWHGIuVmsXJhDp/lNQn7i5Y4";
    for _ in 0..LOOKS {
        let found = tancho::users::authenticate_key(&tancho.running.core, fingerprint)
            .await
            .unwrap();
        let (actor, _) = found.unwrap();
        assert!(
            matches!(&actor, Actor::User { email, .. } if email.as_str() == ana.email),
            "{actor:?}"
        );
        let none = tancho::users::authenticate_key(&tancho.running.core, "SHA256:none")
            .await
            .unwrap();
        assert!(none.is_none());
    }
    // Postgres counts how it has read the table, and reports it with a delay.
    let counts =
        "select t.seq_scan, i.idx_scan from pg_stat_user_tables t join pg_stat_user_indexes i using (relid)
                  where t.relname = 'ssh_key' and i.indexrelname = 'ssh_key_fingerprint_key'";
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let (whole, by_index): (i64, i64) = sqlx::query_as(counts).fetch_one(db).await.unwrap();
        assert!(whole < LOOKS, "{whole} sequential scans");
        if by_index >= 2 * LOOKS {
            break;
        }
        assert!(Instant::now() < deadline, "{by_index} index scans");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    tancho.running.drain_and_stop().await;
}
