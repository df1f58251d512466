use futures_util::future::join_all;
use serde_json::{Value, json};

use super::{RequestBody, grant, insert_app, send_request};
use crate::test_server::TestServer;

fn named(name: &str) -> RequestBody<'static> {
    RequestBody::Bare(json!({ "name": name }))
}

#[tokio::test]
async fn any_user_can_create_a_team_with_an_unused_name() {
    let tancho = TestServer::start().await;
    let ana = tancho.create_user("ana").await;
    let made = send_request(&tancho, Some(&ana), "POST /teams", named("web"))
        .await
        .expect_status(200);
    assert_eq!(made.body, "");
    send_request(
        &tancho,
        Some(&ana),
        "POST /1.0/teams",
        RequestBody::Form(&[("name", "form"), ("tag", "a"), ("tag", "b")]),
    )
    .await
    .expect_status(201);
    for line in ["POST /teams", "POST /1.0/teams"] {
        let again = send_request(&tancho, Some(&ana), line, named("web"))
            .await
            .expect_status(409);
        assert_eq!(again.body, "team already exists\n");
        for bad in ["", "x", "1team", "doc", "a/b", &"x".repeat(64)] {
            send_request(&tancho, Some(&ana), line, named(bad))
                .await
                .expect_status(400);
        }
        send_request(&tancho, Some(&ana), line, RequestBody::Text("{"))
            .await
            .expect_status(400);
        send_request(&tancho, None, line, named("new"))
            .await
            .expect_status(401);
    }
    let many =
        join_all((0..20).map(|_| send_request(&tancho, Some(&ana), "POST /1.0/teams", named("rush")))).await;
    let count = |status| many.iter().filter(|a| a.status == status).count();
    assert_eq!((count(201), count(409)), (1, 19), "{many:?}");
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn users_see_only_their_own_teams() {
    let tancho = TestServer::start().await;
    let (root, ana, bob) = (
        tancho.login_admin().await,
        tancho.create_user("ana").await,
        tancho.create_user("bob").await,
    );
    let body = json!({ "name": "web", "tags": ["front", "cost=42"] });
    send_request(&tancho, Some(&ana), "POST /1.0/teams", RequestBody::Bare(body))
        .await
        .expect_status(201);
    send_request(&tancho, Some(&bob), "POST /teams", named("data team"))
        .await
        .expect_status(200);
    insert_app(&tancho, "shop", "web", "ana@example.com").await;

    let list = |answer: crate::accounts::ApiResponse| answer.expect_status(200).json();
    assert_eq!(
        list(send_request(&tancho, Some(&ana), "GET /teams", RequestBody::None).await),
        json!([{ "name": "web" }])
    );
    let modern = list(send_request(&tancho, Some(&ana), "GET /1.0/teams", RequestBody::None).await);
    assert_eq!(modern[0]["tags"], json!(["front", "cost=42"]));
    assert!(
        modern[0]["permissions"]
            .as_array()
            .unwrap()
            .contains(&json!("app"))
    );
    assert_eq!(modern.as_array().unwrap().len(), 1);
    let all = list(send_request(&tancho, Some(&root), "GET /1.0/teams", RequestBody::None).await);
    assert_eq!(all.as_array().unwrap().len(), 2);
    assert_eq!(all[0]["permissions"], json!(["*"]));
    let eva = tancho.create_user("eva").await;
    assert_eq!(
        list(send_request(&tancho, Some(&eva), "GET /teams", RequestBody::None).await),
        json!([])
    );

    let info = list(send_request(&tancho, Some(&ana), "GET /teams/web", RequestBody::None).await);
    assert_eq!(info, json!({ "name": "web", "users": ["ana@example.com"] }));
    send_request(&tancho, Some(&bob), "GET /teams/web", RequestBody::None)
        .await
        .expect_status(403);
    send_request(&tancho, Some(&bob), "GET /teams/nothing", RequestBody::None)
        .await
        .expect_status(404);
    send_request(&tancho, Some(&bob), "GET /teams/1", RequestBody::None)
        .await
        .expect_status(404);
    send_request(&tancho, Some(&root), "GET /teams/data%20team", RequestBody::None)
        .await
        .expect_status(200);
    let info = list(send_request(&tancho, Some(&ana), "GET /1.4/teams/web", RequestBody::None).await);
    let role = json!({ "Name": "team-member", "ContextType": "team", "ContextValue": "web" });
    assert_eq!(
        info["users"],
        json!([{ "Email": "ana@example.com", "Roles": [role] }])
    );
    assert_eq!(info["pools"][0]["name"], "local");
    assert_eq!(info["apps"][0]["name"], "shop");
    send_request(&tancho, Some(&bob), "GET /1.4/teams/web", RequestBody::None)
        .await
        .expect_status(404);
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn team_members_can_add_and_remove_members() {
    let tancho = TestServer::start().await;
    let (root, ana, bob) = (
        tancho.login_admin().await,
        tancho.create_user("ana").await,
        tancho.create_user("bob").await,
    );
    let eva = tancho.create_user("eva").await;
    tancho.create_team(&ana, "web").await;
    let put = "PUT /teams/web/bob@example.com";
    send_request(&tancho, None, put, RequestBody::None)
        .await
        .expect_status(401);
    send_request(
        &tancho,
        Some(&ana),
        "PUT /teams/nothing/bob@example.com",
        RequestBody::None,
    )
    .await
    .expect_status(404);
    send_request(&tancho, Some(&bob), put, RequestBody::None)
        .await
        .expect_status(403);
    for unknown in ["nobody@example.com", "myuser"] {
        send_request(
            &tancho,
            Some(&ana),
            &format!("PUT /teams/web/{unknown}"),
            RequestBody::None,
        )
        .await
        .expect_status(404);
    }
    let last = "DELETE /teams/web/ana@example.com";
    send_request(&tancho, Some(&ana), last, RequestBody::None)
        .await
        .expect_status(403);
    send_request(
        &tancho,
        Some(&ana),
        "DELETE /teams/web/nobody@example.com",
        RequestBody::None,
    )
    .await
    .expect_status(403);
    send_request(&tancho, Some(&ana), put, RequestBody::None)
        .await
        .expect_status(200);
    send_request(&tancho, Some(&ana), put, RequestBody::None)
        .await
        .expect_status(409);
    send_request(&tancho, Some(&bob), "GET /teams/web", RequestBody::None)
        .await
        .expect_status(200);

    send_request(
        &tancho,
        Some(&ana),
        "DELETE /teams/nothing/bob@example.com",
        RequestBody::None,
    )
    .await
    .expect_status(404);
    send_request(
        &tancho,
        Some(&eva),
        "DELETE /teams/web/bob@example.com",
        RequestBody::None,
    )
    .await
    .expect_status(403);
    for unknown in ["nobody@example.com", "myuser", "eva@example.com"] {
        send_request(
            &tancho,
            Some(&ana),
            &format!("DELETE /teams/web/{unknown}"),
            RequestBody::None,
        )
        .await
        .expect_status(404);
    }
    let leaving = join_all([
        send_request(&tancho, Some(&ana), last, RequestBody::None),
        send_request(
            &tancho,
            Some(&bob),
            "DELETE /teams/web/bob@example.com",
            RequestBody::None,
        ),
    ])
    .await;
    let mut statuses: Vec<u16> = leaving.iter().map(|a| a.status).collect();
    statuses.sort();
    assert_eq!(statuses, [200, 403], "{leaving:?}");

    tancho.create_team(&ana, "red").await;
    grant(&tancho, &root, &eva, "team", "red", &["team.read", "team.update"]).await;
    let refused = send_request(
        &tancho,
        Some(&eva),
        "PUT /teams/red/bob@example.com",
        RequestBody::None,
    )
    .await
    .expect_status(403);
    assert!(
        refused.body.contains("not authorized"),
        "the caller lacks the permission: {refused:?}"
    );
    send_request(
        &tancho,
        Some(&eva),
        "DELETE /teams/red/eva@example.com",
        RequestBody::None,
    )
    .await
    .expect_status(200);
    send_request(&tancho, Some(&eva), "GET /teams/red", RequestBody::None)
        .await
        .expect_status(403);
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn team_in_use_cannot_be_removed() {
    let tancho = TestServer::start().await;
    let (ana, bob) = (tancho.create_user("ana").await, tancho.create_user("bob").await);
    tancho.create_team(&ana, "web").await;
    tancho.create_team(&ana, "ops").await;
    let app = insert_app(&tancho, "shop", "web", "ana@example.com").await;
    let refused = send_request(&tancho, Some(&ana), "DELETE /1.0/teams/web", RequestBody::None)
        .await
        .expect_status(403);
    assert!(refused.body.ends_with(":\nApps: shop\n"), "{refused:?}");
    send_request(&tancho, Some(&ana), "DELETE /teams/web", RequestBody::None)
        .await
        .expect_status(403);
    // The classic edition checks for apps before permissions, and shows other users no names.
    let stranger = send_request(&tancho, Some(&bob), "DELETE /teams/web", RequestBody::None)
        .await
        .expect_status(403);
    assert!(!stranger.body.contains("shop"));
    send_request(&tancho, Some(&bob), "DELETE /1.0/teams/web", RequestBody::None)
        .await
        .expect_status(404);
    send_request(&tancho, Some(&bob), "DELETE /teams/ops", RequestBody::None)
        .await
        .expect_status(404);
    send_request(&tancho, Some(&ana), "DELETE /teams/nothing", RequestBody::None)
        .await
        .expect_status(404);
    send_request(
        &tancho,
        Some(&ana),
        "DELETE /1.0/teams/nothing",
        RequestBody::None,
    )
    .await
    .expect_status(404);
    send_request(&tancho, None, "DELETE /teams/web", RequestBody::None)
        .await
        .expect_status(401);
    let db = &tancho.running.core.db;
    sqlx::query("insert into app_team values ($1, 'ops')")
        .bind(app)
        .execute(db)
        .await
        .unwrap();
    send_request(&tancho, Some(&ana), "DELETE /teams/ops", RequestBody::None)
        .await
        .expect_status(403);
    sqlx::query("delete from app").execute(db).await.unwrap();
    send_request(&tancho, Some(&ana), "DELETE /teams/ops", RequestBody::None)
        .await
        .expect_status(200);
    send_request(&tancho, Some(&ana), "DELETE /1.0/teams/web", RequestBody::None)
        .await
        .expect_status(200);
    // Their roles do not apply to a later team of the same name.
    tancho.create_team(&bob, "web").await;
    send_request(&tancho, Some(&ana), "GET /teams/web", RequestBody::None)
        .await
        .expect_status(403);
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn renamed_team_keeps_its_members_and_resources() {
    let tancho = TestServer::start().await;
    let (ana, bob) = (tancho.create_user("ana").await, tancho.create_user("bob").await);
    tancho.create_team(&ana, "web").await;
    tancho.create_team(&ana, "taken").await;
    insert_app(&tancho, "shop", "web", "ana@example.com").await;
    let to = |name: &str| RequestBody::Bare(json!({ "newname": name }));
    send_request(&tancho, Some(&ana), "PUT /1.6/teams/nothing", to("front"))
        .await
        .expect_status(404);
    send_request(&tancho, Some(&bob), "PUT /1.6/teams/web", to("front"))
        .await
        .expect_status(404);
    send_request(&tancho, Some(&ana), "PUT /1.6/teams/web", to("taken"))
        .await
        .expect_status(409);
    send_request(&tancho, Some(&ana), "PUT /1.6/teams/web", to("1x"))
        .await
        .expect_status(400);
    send_request(&tancho, None, "PUT /1.6/teams/web", to("front"))
        .await
        .expect_status(401);
    send_request(
        &tancho,
        Some(&ana),
        "PUT /1.6/teams/web",
        RequestBody::Bare(json!({ "tags": ["a"] })),
    )
    .await
    .expect_status(200);
    send_request(&tancho, Some(&ana), "PUT /1.6/teams/web", to("front"))
        .await
        .expect_status(200);
    send_request(&tancho, Some(&ana), "GET /teams/web", RequestBody::None)
        .await
        .expect_status(404);
    let info = send_request(&tancho, Some(&ana), "GET /1.4/teams/front", RequestBody::None)
        .await
        .expect_status(200)
        .json();
    assert_eq!(info["tags"], json!(["a"]));
    assert_eq!(info["apps"][0]["teamowner"], "front");
    let teams: Value = send_request(&tancho, Some(&ana), "GET /teams", RequestBody::None)
        .await
        .expect_status(200)
        .json();
    assert_eq!(teams, json!([{ "name": "front" }, { "name": "taken" }]));
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn default_role_added_concurrently_grants_no_permission_the_caller_lacks() {
    let tancho = TestServer::start().await;
    let (ana, bob) = (tancho.create_user("ana").await, tancho.create_user("bob").await);
    tancho.create_team(&ana, "web").await;
    let db = &tancho.running.core.db;
    let mut other = db.begin().await.unwrap();
    let lock = "select from team where name = 'web' for update";
    sqlx::query(lock).execute(&mut *other).await.unwrap();
    let line = format!("PUT /teams/web/{}", bob.email);
    let adding = send_request(&tancho, Some(&ana), &line, RequestBody::None);
    let changing = async {
        tancho.wait_for_blocked_query("select name from team %").await;
        for statement in [
            "insert into role (name, context_kind) values ('spy', 'team')",
            "insert into role_permission (role, permission) values ('spy', 'pool')",
            "insert into default_role (event, role) values ('team-create', 'spy')",
        ] {
            sqlx::query(statement).execute(&mut *other).await.unwrap();
        }
        other.commit().await.unwrap();
    };
    let (refused, ()) = tokio::join!(adding, changing);
    assert!(refused.expect_status(403).body.contains("pool"));
    let held = "select count(*) from user_role join user_account using (user_id) where email = $1";
    let held: i64 = sqlx::query_scalar(held)
        .bind(&bob.email)
        .fetch_one(db)
        .await
        .unwrap();
    assert_eq!(held, 0, "all or nothing");
    sqlx::query("delete from default_role where role = 'spy'")
        .execute(db)
        .await
        .unwrap();
    send_request(&tancho, Some(&ana), &line, RequestBody::None)
        .await
        .expect_status(200);
    let again = send_request(&tancho, Some(&ana), &line, RequestBody::None).await;
    again.expect_status(409);
    tancho.running.drain_and_stop().await;
}
