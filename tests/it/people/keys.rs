use serde_json::json;

use super::{Body, ask};
use crate::house::House;

const ED: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAPMNFE7dC/023ABVuTfPoqb7GmqdUnVQ8d2KCp3xDuq ana@laptop";
const ECDSA: &str = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBLpQwYPmSL5T5Jj2PrQQz6MlU4LVYUiBKbF+RDEQoXcA7ILLCiRu4WrBD9I3AH+GSHqt2a40g7XPcPeEBswFeNQ= x";

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
