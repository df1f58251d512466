use futures_util::future::join_all;
use serde_json::json;
use tancho::kernel::ids::AppId;
use tancho::quotas;

use super::{ApiResponse, RequestBody, grant, insert_app, send_request};
use crate::test_server::{TestServer, TestUser};

#[tokio::test]
async fn user_quota_can_be_read_and_changed() {
    let tancho = TestServer::start_with(|s| s.quota.apps_per_user = 8).await;
    let (root, ana, bob) = (
        tancho.login_admin().await,
        tancho.create_user("ana").await,
        tancho.create_user("bob").await,
    );
    let path = "/1.0/users/ana@example.com/quota";
    let get = format!("GET {path}");
    for who in [&root, &ana] {
        let quota = send_request(&tancho, Some(who), &get, RequestBody::None)
            .await
            .expect_status(200)
            .json();
        assert_eq!(quota, json!({ "limit": 8, "inuse": 0 }));
    }
    send_request(&tancho, Some(&bob), &get, RequestBody::None)
        .await
        .expect_status(403);
    send_request(&tancho, None, &get, RequestBody::None)
        .await
        .expect_status(401);
    send_request(
        &tancho,
        Some(&root),
        "GET /1.0/users/nobody@example.com/quota",
        RequestBody::None,
    )
    .await
    .expect_status(404);
    let put = format!("PUT {path}");
    for who in [&ana, &bob] {
        send_request(&tancho, Some(who), &put, RequestBody::Form(&[("limit", "100")]))
            .await
            .expect_status(403);
    }
    tancho.create_team(&ana, "web").await;
    for name in ["a", "b", "c"] {
        insert_app(&tancho, name, "web", "ana@example.com").await;
    }
    for (limit, status) in [
        ("2", 403),
        ("3", 200),
        ("x", 400),
        ("-2", 400),
        ("", 400),
        ("10", 200),
    ] {
        send_request(&tancho, Some(&root), &put, RequestBody::Form(&[("limit", limit)]))
            .await
            .expect_status(status);
    }
    send_request(
        &tancho,
        Some(&root),
        &put,
        RequestBody::Bare(json!({ "limit": 12 })),
    )
    .await
    .expect_status(200);
    let quota = send_request(&tancho, Some(&ana), &get, RequestBody::None)
        .await
        .expect_status(200)
        .json();
    assert_eq!(quota, json!({ "limit": 12, "inuse": 3 }));
    let line = "PUT /1.0/users/nobody@example.com/quota";
    send_request(&tancho, Some(&root), line, RequestBody::Form(&[("limit", "1")]))
        .await
        .expect_status(404);
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn legacy_quota_route_serves_users_and_apps() {
    let tancho = TestServer::start().await;
    let (root, ana, bob) = (
        tancho.login_admin().await,
        tancho.create_user("ana").await,
        tancho.create_user("bob").await,
    );
    tancho.create_team(&ana, "web").await;
    let app = insert_app(&tancho, "shop", "web", "ana@example.com").await;
    let db = &tancho.running.core.db;
    sqlx::query("insert into app_process (app_id, process, units) values ($1, 'web', 3)")
        .bind(app)
        .execute(db)
        .await
        .unwrap();
    let view = send_request(
        &tancho,
        Some(&ana),
        "GET /quota/ana@example.com",
        RequestBody::None,
    )
    .await
    .expect_status(200)
    .json();
    assert_eq!(
        view,
        json!({ "items": 1, "available": -1, "Limit": -1, "InUse": 1 })
    );
    sqlx::query("update user_account set quota_limit = 12")
        .execute(db)
        .await
        .unwrap();
    let view = send_request(
        &tancho,
        Some(&root),
        "GET /quota/ana@example.com",
        RequestBody::None,
    )
    .await
    .expect_status(200)
    .json();
    assert_eq!(
        view,
        json!({ "items": 1, "available": 11, "Limit": 12, "InUse": 1 })
    );
    sqlx::query("update app set quota_limit = 5")
        .execute(db)
        .await
        .unwrap();
    let view = send_request(&tancho, Some(&ana), "GET /quota/shop", RequestBody::None)
        .await
        .expect_status(200)
        .json();
    assert_eq!(
        view,
        json!({ "items": 3, "available": 2, "Limit": 5, "InUse": 3 })
    );
    for unknown in ["nobody@example.com", "gone", "NO%20NAME"] {
        send_request(
            &tancho,
            Some(&root),
            &format!("GET /quota/{unknown}"),
            RequestBody::None,
        )
        .await
        .expect_status(404);
    }
    send_request(
        &tancho,
        Some(&bob),
        "GET /quota/ana@example.com",
        RequestBody::None,
    )
    .await
    .expect_status(403);
    // The refusal does not reveal whether the resource exists.
    let mut refusals = Vec::new();
    for owner in ["shop", "gone", "nobody@example.com"] {
        let line = format!("GET /quota/{owner}");
        let refused = send_request(&tancho, Some(&bob), &line, RequestBody::None).await;
        refusals.push(refused.expect_status(403).body);
    }
    refusals.dedup();
    assert_eq!(refusals.len(), 1, "{refusals:?}");
    send_request(&tancho, None, "GET /quota/shop", RequestBody::None)
        .await
        .expect_status(401);
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn team_members_can_read_but_not_change_team_quota() {
    let tancho = TestServer::start().await;
    let (root, ana, bob) = (
        tancho.login_admin().await,
        tancho.create_user("ana").await,
        tancho.create_user("bob").await,
    );
    tancho.create_team(&ana, "web").await;
    let quota = send_request(
        &tancho,
        Some(&ana),
        "GET /1.12/teams/web/quota",
        RequestBody::None,
    )
    .await
    .expect_status(200)
    .json();
    assert_eq!(quota, json!({ "limit": -1, "inuse": 0 }));
    send_request(
        &tancho,
        Some(&bob),
        "GET /1.12/teams/web/quota",
        RequestBody::None,
    )
    .await
    .expect_status(404);
    let put = "PUT /1.12/teams/web/quota";
    send_request(&tancho, Some(&ana), put, RequestBody::Form(&[("limit", "5")]))
        .await
        .expect_status(403);
    send_request(&tancho, Some(&root), put, RequestBody::Form(&[("limit", "5")]))
        .await
        .expect_status(200);
    send_request(&tancho, Some(&root), put, RequestBody::Form(&[("limit", "many")]))
        .await
        .expect_status(400);
    send_request(
        &tancho,
        Some(&root),
        "PUT /1.12/teams/gone/quota",
        RequestBody::Form(&[("limit", "5")]),
    )
    .await
    .expect_status(404);
    insert_app(&tancho, "shop", "web", "ana@example.com").await;
    send_request(&tancho, Some(&root), put, RequestBody::Form(&[("limit", "0")]))
        .await
        .expect_status(403);
    let quota = send_request(
        &tancho,
        Some(&ana),
        "GET /1.12/teams/web/quota",
        RequestBody::None,
    )
    .await
    .expect_status(200)
    .json();
    assert_eq!(quota, json!({ "limit": 5, "inuse": 1 }));
    grant(&tancho, &root, &bob, "team", "web", &["team.read.quota"]).await;
    send_request(
        &tancho,
        Some(&bob),
        "GET /1.12/teams/web/quota",
        RequestBody::None,
    )
    .await
    .expect_status(200);
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn concurrent_app_creations_do_not_exceed_the_quota() {
    let tancho = TestServer::start_with(|s| s.quota.apps_per_user = 3).await;
    let ana = tancho.create_user("ana").await;
    tancho.create_team(&ana, "web").await;
    let made = join_all((0..20).map(|n| create_app(&tancho, &ana, n))).await;
    let count = |status| made.iter().filter(|a| a.status == status).count();
    assert_eq!((count(201), count(403)), (3, 17), "{made:?}");
    let refused = made.iter().find(|a| a.status == 403).unwrap();
    assert_eq!(refused.body, "Quota exceeded\n");
    tancho.running.drain_and_stop().await;
}

async fn create_app(tancho: &TestServer, who: &TestUser, n: usize) -> ApiResponse {
    let body = json!({ "name": format!("app{n}"), "platform": "python", "teamOwner": "web" });
    send_request(tancho, Some(who), "POST /1.0/apps", RequestBody::Bare(body)).await
}

#[tokio::test]
async fn unit_quota_counts_the_units_requested_by_processes() {
    let tancho = TestServer::start().await;
    let ana = tancho.create_user("ana").await;
    tancho.create_team(&ana, "web").await;
    let app = insert_app(&tancho, "shop", "web", "ana@example.com").await;
    let db = &tancho.running.core.db;
    sqlx::query("update app set quota_limit = 5")
        .execute(db)
        .await
        .unwrap();
    let added = join_all((0..10).map(|n| async move {
        let mut tx = db.begin().await.unwrap();
        quotas::check_unit_quota(&mut tx, AppId(app), 2).await?;
        sqlx::query("insert into app_process (app_id, process, units) values ($1, $2, 2)")
            .bind(app)
            .bind(format!("p{n}"))
            .execute(&mut *tx)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        Ok::<_, tancho::kernel::error::Error>(())
    }))
    .await;
    assert_eq!(added.iter().filter(|r| r.is_ok()).count(), 2);
    let refused = added.into_iter().find_map(Result::err).unwrap();
    assert_eq!(refused.message(), "Quota exceeded. Available: 1, Requested: 2.");
    tancho.running.drain_and_stop().await;
}
