//! Each route requires the permission for the data it shows.

use super::{app, get};
use crate::accounts::grant;
use crate::test_server::TestServer;

#[tokio::test]
async fn app_info_permission_does_not_show_deploys_or_their_logs() {
    let tancho = TestServer::start().await;
    let (root, alice, eve) = (
        tancho.login_admin().await,
        tancho.create_user("alice").await,
        tancho.create_user("eve").await,
    );
    tancho.create_team(&alice, "red").await;
    app(&tancho, &alice, "shop", "red").await;
    sqlx::raw_sql(
        "insert into event (event_id, target_kind, target_value, kind, owner_kind, owner_name)
         values ('5f3e8a1b9c4d2e0001a7b3d9', 'app', 'shop', 'app.deploy', 'user', 'nobody');
         insert into event_line (event_id, message) values ('5f3e8a1b9c4d2e0001a7b3d9', 'a line of the build');
         update event set ended_at = now(), outcome = 'done' where event_id = '5f3e8a1b9c4d2e0001a7b3d9';
         insert into deploy (event_id, app_id, origin, user_name)
         select '5f3e8a1b9c4d2e0001a7b3d9', app_id, 'app-deploy', 'alice@example.com' from app",
    )
    .execute(&tancho.running.core.db)
    .await
    .unwrap();
    grant(&tancho, &root, &eve, "team", "red", &["app.read.info"]).await;
    let answer = get(&tancho, &eve, "/1.0/deploys").await;
    assert!(!answer.body.contains("shop"), "{answer:?}");
    let answer = get(&tancho, &eve, "/1.0/deploys?app=shop").await;
    assert!(!answer.body.contains("alice"), "{answer:?}");
    get(&tancho, &eve, "/1.0/deploys/5f3e8a1b9c4d2e0001a7b3d9")
        .await
        .expect_status(404);
    grant(&tancho, &root, &eve, "app", "shop", &["app.read.deploy"]).await;
    let answer = get(&tancho, &eve, "/1.0/deploys").await.expect_status(200);
    assert!(answer.body.contains("shop"), "{answer:?}");
    let answer = get(&tancho, &eve, "/1.0/deploys/5f3e8a1b9c4d2e0001a7b3d9")
        .await
        .expect_status(200);
    assert!(answer.body.contains("a line of the build"), "{answer:?}");
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn team_info_shows_only_apps_the_caller_can_read() {
    let tancho = TestServer::start().await;
    let (root, alice, eve) = (
        tancho.login_admin().await,
        tancho.create_user("alice").await,
        tancho.create_user("eve").await,
    );
    tancho.create_team(&alice, "red").await;
    app(&tancho, &alice, "shop", "red").await;
    grant(&tancho, &root, &eve, "team", "red", &["team.read"]).await;
    let team = get(&tancho, &eve, "/1.4/teams/red").await.expect_status(200);
    assert!(!team.body.contains("shop"), "{team:?}");
    let team = get(&tancho, &alice, "/1.4/teams/red").await.expect_status(200);
    assert!(team.body.contains("shop"), "{team:?}");
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn user_without_permissions_lists_only_themselves() {
    let tancho = TestServer::start().await;
    let (eve, _) = (tancho.create_user("eve").await, tancho.create_user("alice").await);
    let emails = async |query: &str| {
        let users = get(&tancho, &eve, &format!("/1.0/users{query}"))
            .await
            .expect_status(200)
            .json();
        let users = users.as_array().unwrap().iter();
        users
            .map(|u| u["Email"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(emails("").await, ["eve@example.com"]);
    assert_eq!(emails("?userEmail=EVE@example.com").await, ["eve@example.com"]);
    assert!(emails("?userEmail=alice@example.com").await.is_empty());
    tancho.running.drain_and_stop().await;
}
