//! Quotas cannot be exceeded by moving apps, and their counts stay exact.

use futures_util::future::join_all;
use serde_json::json;

use super::{app, get, remove_app, request_ok};
use crate::accounts::{RequestBody, send_request};
use crate::test_server::{TestServer, TestUser};

async fn in_use(tancho: &TestServer, who: &TestUser, path: &str) -> i64 {
    let quota = get(tancho, who, path).await.expect_status(200).json();
    quota["inuse"].as_i64().unwrap()
}

#[tokio::test]
async fn app_moved_to_another_team_counts_toward_that_teams_quota() {
    let tancho = TestServer::start().await;
    let (root, ana) = (tancho.login_admin().await, tancho.create_user("ana").await);
    for team in ["small", "large"] {
        tancho.create_team(&ana, team).await;
    }
    let limit = json!({ "limit": 1 });
    request_ok(&tancho, &root, "PUT /1.12/teams/small/quota", limit).await;
    for name in ["one", "two", "three"] {
        app(&tancho, &ana, name, "large").await;
    }
    let move_to = async |name: &str, team: &str| {
        let body = json!({ "teamowner": team });
        send_request(
            &tancho,
            Some(&ana),
            &format!("PUT /1.0/apps/{name}"),
            RequestBody::Bare(body),
        )
        .await
    };
    // Three apps move to a team with a limit of one, in turn and concurrently.
    let moved = join_all(["one", "two", "three"].map(|name| move_to(name, "small"))).await;
    let good = moved.iter().filter(|a| a.status == 200).count();
    let refused = moved.iter().filter(|a| a.status == 403).count();
    assert_eq!((good, refused), (1, 2), "{moved:?}");
    let small = "/1.12/teams/small/quota";
    assert_eq!(in_use(&tancho, &ana, small).await, 1);
    assert_eq!(in_use(&tancho, &ana, "/1.12/teams/large/quota").await, 2);
    let line = "POST /1.0/apps";
    let body = json!({ "name": "four", "platform": "python", "teamOwner": "small" });
    send_request(&tancho, Some(&ana), line, RequestBody::Bare(body))
        .await
        .expect_status(403);
    // Moved back and removed: the quota is released, and refused moves count nothing.
    let name: String = sqlx::query_scalar("select name from app where team_owner = 'small'")
        .fetch_one(&tancho.running.core.db)
        .await
        .unwrap();
    move_to(&name, "small").await.expect_status(200);
    move_to(&name, "large").await.expect_status(200);
    assert_eq!(in_use(&tancho, &ana, small).await, 0);
    app(&tancho, &ana, "four", "small").await;
    remove_app(&tancho, &ana, "four").await;
    assert_eq!(in_use(&tancho, &ana, small).await, 0);
    assert_eq!(in_use(&tancho, &ana, "/1.0/users/ana@example.com/quota").await, 3);
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn failed_app_creation_does_not_use_quota() {
    let tancho = TestServer::start().await;
    let (ana, bob) = (tancho.create_user("ana").await, tancho.create_user("bob").await);
    tancho.create_team(&ana, "red").await;
    tancho.create_team(&bob, "blue").await;
    app(&tancho, &bob, "shop", "blue").await;
    let body = || RequestBody::Bare(json!({ "name": "shop", "platform": "python", "teamOwner": "red" }));
    for _ in 0..3 {
        send_request(&tancho, Some(&ana), "POST /1.0/apps", body())
            .await
            .expect_status(409);
    }
    assert_eq!(in_use(&tancho, &ana, "/1.12/teams/red/quota").await, 0);
    assert_eq!(in_use(&tancho, &ana, "/1.0/users/ana@example.com/quota").await, 0);
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn new_user_with_a_removed_users_email_has_none_of_their_quota_usage() {
    let tancho = TestServer::start().await;
    let (ana, bob) = (tancho.create_user("ana").await, tancho.create_user("bob").await);
    tancho.create_team(&ana, "red").await;
    send_request(
        &tancho,
        Some(&ana),
        "PUT /teams/red/bob@example.com",
        RequestBody::None,
    )
    .await
    .expect_status(200);
    app(&tancho, &ana, "shop", "red").await;
    send_request(&tancho, Some(&ana), "DELETE /users", RequestBody::None)
        .await
        .expect_status(200);
    let again = tancho.create_user("ana").await;
    assert_eq!(
        in_use(&tancho, &again, "/1.0/users/ana@example.com/quota").await,
        0
    );
    assert_eq!(in_use(&tancho, &bob, "/1.12/teams/red/quota").await, 1);
    tancho.running.drain_and_stop().await;
}
