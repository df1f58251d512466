//! Roles on a removed resource do not apply to a later resource of the same name.

use futures_util::future::join_all;
use serde_json::json;

use super::{app, get, remove_app, request_ok, service, sql};
use crate::accounts::{RequestBody, grant, send_request};
use crate::test_server::TestServer;

#[tokio::test]
async fn roles_on_a_removed_app_do_not_apply_to_a_new_app_of_the_same_name() {
    let tancho = TestServer::start().await;
    let (root, alice, bob, carol) = (
        tancho.login_admin().await,
        tancho.create_user("alice").await,
        tancho.create_user("bob").await,
        tancho.create_user("carol").await,
    );
    tancho.create_team(&alice, "red").await;
    tancho.create_team(&bob, "blue").await;
    app(&tancho, &alice, "shop", "red").await;
    grant(&tancho, &root, &carol, "app", "shop", &["app"]).await;
    get(&tancho, &carol, "/1.0/apps/shop/env")
        .await
        .expect_status(200);
    remove_app(&tancho, &alice, "shop").await;
    app(&tancho, &bob, "shop", "blue").await;
    get(&tancho, &carol, "/1.0/apps/shop/env")
        .await
        .expect_status(403);
    let info = get(&tancho, &carol, "/users/info")
        .await
        .expect_status(200)
        .json();
    assert_eq!(info["Roles"], json!([]), "no role is left");
    // A role on the new resource is effective.
    grant(&tancho, &root, &carol, "app", "shop", &["app.read"]).await;
    get(&tancho, &carol, "/1.0/apps/shop/env")
        .await
        .expect_status(200);
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn roles_on_every_kind_of_removed_resource_are_deleted() {
    let tancho = TestServer::start().await;
    let (root, alice, carol) = (
        tancho.login_admin().await,
        tancho.create_user("alice").await,
        tancho.create_user("carol").await,
    );
    tancho.create_team(&alice, "red").await;
    tancho.create_team(&alice, "mine").await;
    service(&tancho, "db", "red", "one").await;
    sql(
        &tancho,
        "insert into pool (name, provisioner) values ('gpu', 'local')",
    )
    .await;
    tancho.create_user("dave").await;
    for (kind, name, permission) in [
        ("team", "mine", "app"),
        ("service", "db", "service"),
        ("service-instance", "db/one", "service-instance"),
        ("pool", "gpu", "app.deploy"),
        ("user", "Dave@EXAMPLE.com", "user"),
    ] {
        grant(&tancho, &root, &carol, kind, name, &[permission]).await;
    }
    let info = get(&tancho, &carol, "/users/info")
        .await
        .expect_status(200)
        .json();
    assert_eq!(info["Roles"].as_array().unwrap().len(), 5, "{info}");
    // In whatever way they are removed: by slices that know nothing of roles, or by SQL of an operator.
    for line in [
        "DELETE /1.0/teams/mine",
        "DELETE /1.0/users?user=dave@example.com",
    ] {
        let who = if line.contains("teams") { &alice } else { &root };
        send_request(&tancho, Some(who), line, RequestBody::None)
            .await
            .expect_status(200);
    }
    sql(
        &tancho,
        "delete from service_instance_team; delete from service_instance; delete from service_owner;
         delete from service; delete from pool where name = 'gpu'",
    )
    .await;
    let left: i64 = sqlx::query_scalar(
        "select count(*) from role_assignment ra join user_account u using (user_id)
         where u.email = 'carol@example.com'",
    )
    .fetch_one(&tancho.running.core.db)
    .await
    .unwrap();
    assert_eq!(left, 0);
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn roles_follow_a_renamed_team() {
    let tancho = TestServer::start().await;
    let (root, alice, bob, carol) = (
        tancho.login_admin().await,
        tancho.create_user("alice").await,
        tancho.create_user("bob").await,
        tancho.create_user("carol").await,
    );
    tancho.create_team(&alice, "payroll").await;
    grant(&tancho, &root, &carol, "team", "payroll", &["team.read"]).await;
    request_ok(
        &tancho,
        &alice,
        "PUT /1.6/teams/payroll",
        json!({ "newname": "payroll-hr" }),
    )
    .await;
    tancho.create_team(&bob, "payroll").await;
    get(&tancho, &carol, "/1.4/teams/payroll")
        .await
        .expect_status(404);
    get(&tancho, &alice, "/1.4/teams/payroll")
        .await
        .expect_status(404);
    get(&tancho, &carol, "/1.4/teams/payroll-hr")
        .await
        .expect_status(200);
    get(&tancho, &alice, "/1.4/teams/payroll-hr")
        .await
        .expect_status(200);
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn role_assignment_on_an_unknown_resource_is_rejected() {
    let tancho = TestServer::start().await;
    let (root, carol) = (tancho.login_admin().await, tancho.create_user("carol").await);
    for (kind, value) in [
        ("app", "nothing"),
        ("team", "nothing"),
        ("pool", "nothing"),
        ("service", "nothing"),
        ("service-instance", "no/thing"),
        ("user", "nobody@example.com"),
        ("volume", "data"),
        ("job", "nightly"),
    ] {
        let role = format!("on-{kind}");
        let fields = [("name", role.as_str()), ("context", kind)];
        send_request(
            &tancho,
            Some(&root),
            "POST /1.0/roles",
            RequestBody::Form(&fields),
        )
        .await
        .expect_status(201);
        let fields = [("email", carol.email.as_str()), ("context", value)];
        let line = format!("POST /1.0/roles/{role}/user");
        send_request(&tancho, Some(&root), &line, RequestBody::Form(&fields))
            .await
            .expect_status(400);
    }
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn role_assigned_during_removal_of_its_resource_is_deleted() {
    let tancho = TestServer::start().await;
    let (root, alice, carol) = (
        tancho.login_admin().await,
        tancho.create_user("alice").await,
        tancho.create_user("carol").await,
    );
    let fields = [("name", "helper"), ("context", "team")];
    send_request(
        &tancho,
        Some(&root),
        "POST /1.0/roles",
        RequestBody::Form(&fields),
    )
    .await
    .expect_status(201);
    for n in 0..20 {
        let team = format!("team{n}");
        tancho.create_team(&alice, &team).await;
        let fields = [("email", carol.email.as_str()), ("context", team.as_str())];
        let remove = format!("DELETE /1.0/teams/{team}");
        let (given, gone) = tokio::join!(
            join_all((0..4).map(|_| send_request(
                &tancho,
                Some(&root),
                "POST /1.0/roles/helper/user",
                RequestBody::Form(&fields)
            ))),
            send_request(&tancho, Some(&alice), &remove, RequestBody::None)
        );
        assert!(
            given.iter().all(|a| matches!(a.status, 200 | 400 | 409)),
            "{given:?}"
        );
        gone.expect_status(200);
    }
    let left: i64 = sqlx::query_scalar("select count(*) from user_role where role = 'helper'")
        .fetch_one(&tancho.running.core.db)
        .await
        .unwrap();
    assert_eq!(left, 0);
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn role_assigned_during_removal_of_its_user_is_rejected() {
    let tancho = TestServer::start().await;
    let (root, alice) = (tancho.login_admin().await, tancho.create_user("alice").await);
    let fields = [("name", "helper"), ("context", "team")];
    send_request(
        &tancho,
        Some(&root),
        "POST /1.0/roles",
        RequestBody::Form(&fields),
    )
    .await
    .expect_status(201);
    tancho.create_team(&alice, "red").await;
    for n in 0..10 {
        let leaving = tancho.create_user(&format!("leaving{n}")).await;
        let fields = [("email", leaving.email.as_str()), ("context", "red")];
        let (given, gone) = tokio::join!(
            join_all((0..4).map(|_| send_request(
                &tancho,
                Some(&root),
                "POST /1.0/roles/helper/user",
                RequestBody::Form(&fields)
            ))),
            send_request(&tancho, Some(&leaving), "DELETE /1.0/users", RequestBody::None)
        );
        assert!(given.iter().all(|a| matches!(a.status, 200 | 404)), "{given:?}");
        gone.expect_status(200);
    }
    let left: i64 = sqlx::query_scalar("select count(*) from user_role where role = 'helper'")
        .fetch_one(&tancho.running.core.db)
        .await
        .unwrap();
    assert_eq!(left, 0);
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn removed_roles_end_on_other_replicas_immediately() {
    let tancho = TestServer::start().await;
    let other = tancho.start_replica(|_| {}).await;
    let (root, carol) = (tancho.login_admin().await, tancho.create_user("carol").await);
    sql(
        &tancho,
        "insert into pool (name, provisioner) values ('gpu', 'local')",
    )
    .await;
    grant(&tancho, &root, &carol, "pool", "gpu", &["app.read"]).await;
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    let held = async || get(&other, &carol, "/users/info").await.expect_status(200).json()["Roles"].clone();
    assert_eq!(held().await.as_array().unwrap().len(), 1);
    // Not by an action of this server, which would notify the others itself.
    sql(&tancho, "delete from pool where name = 'gpu'").await;
    let denied = async || {
        let body = json!({ "name": "x" });
        send_request(
            &other,
            Some(&carol),
            "GET /1.1/events?target.type=app",
            RequestBody::Bare(body),
        )
        .await
    };
    denied().await.expect_status(200);
    loop {
        let token =
            tancho::kernel::encryption::digest_token(&tancho::kernel::secret::Secret::new(&carol.token));
        let known = other.running.core.auth_cache.get(&token).await;
        if known.is_none_or(|known| known.grants.is_empty()) {
            break;
        }
        assert!(
            std::time::Instant::now() < deadline,
            "the roles stay in the cache"
        );
        denied().await.expect_status(200);
    }
    other.running.drain_and_stop().await;
    tancho.running.drain_and_stop().await;
}
