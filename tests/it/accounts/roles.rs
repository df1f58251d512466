use serde_json::json;

use super::{RequestBody, grant, send_request};
use crate::test_server::TestServer;

#[tokio::test]
async fn permissions_are_listed_root_first_and_parents_before_children() {
    let tancho = TestServer::start().await;
    send_request(&tancho, None, "GET /1.0/permissions", RequestBody::None)
        .await
        .expect_status(401);
    let ana = tancho.create_user("ana").await;
    let list = send_request(&tancho, Some(&ana), "GET /1.0/permissions", RequestBody::None)
        .await
        .expect_status(200)
        .json();
    assert_eq!(list[0], json!({ "Name": "", "Contexts": ["global"] }));
    let names: Vec<&str> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p["Name"].as_str().unwrap())
        .collect();
    for (at, name) in names.iter().enumerate() {
        if let Some((parent, _)) = name.rsplit_once('.') {
            assert!(names[..at].contains(&parent), "{name}");
        }
    }
    let app = list
        .as_array()
        .unwrap()
        .iter()
        .find(|p| p["Name"] == "app")
        .unwrap();
    assert_eq!(app["Contexts"], json!(["global", "app", "team", "pool"]));
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn roles_can_be_created_changed_and_removed() {
    let tancho = TestServer::start().await;
    let (root, ana) = (tancho.login_admin().await, tancho.create_user("ana").await);
    let new = [
        ("name", "deployer"),
        ("context", "team"),
        ("description", "may deploy"),
    ];
    send_request(&tancho, Some(&root), "POST /1.0/roles", RequestBody::Form(&new))
        .await
        .expect_status(201);
    send_request(&tancho, Some(&root), "POST /1.0/roles", RequestBody::Form(&new))
        .await
        .expect_status(409);
    send_request(&tancho, Some(&ana), "POST /1.0/roles", RequestBody::Form(&new))
        .await
        .expect_status(403);
    send_request(&tancho, None, "POST /1.0/roles", RequestBody::Form(&new))
        .await
        .expect_status(401);
    let bad = [("name", "x"), ("context", "galaxy")];
    let refused = send_request(&tancho, Some(&root), "POST /1.0/roles", RequestBody::Form(&bad))
        .await
        .expect_status(400);
    assert_eq!(refused.body, "invalid context type \"galaxy\"\n");
    send_request(
        &tancho,
        Some(&root),
        "POST /1.0/roles",
        RequestBody::Form(&[("name", "1"), ("context", "team")]),
    )
    .await
    .expect_status(400);

    let add = "POST /1.0/roles/deployer/permissions";
    let two = [("permission", "app.deploy"), ("permission", "app.update.env.set")];
    send_request(&tancho, Some(&root), add, RequestBody::Form(&two))
        .await
        .expect_status(200);
    let refused = send_request(
        &tancho,
        Some(&root),
        add,
        RequestBody::Form(&[("permission", "app.fly")]),
    )
    .await
    .expect_status(400);
    assert!(refused.body.contains("app.fly"));
    send_request(
        &tancho,
        Some(&root),
        add,
        RequestBody::Form(&[("permission", "*")]),
    )
    .await
    .expect_status(400);
    send_request(
        &tancho,
        Some(&root),
        add,
        RequestBody::Form(&[("permission", "user.create")]),
    )
    .await
    .expect_status(400);
    send_request(&tancho, Some(&root), add, RequestBody::None)
        .await
        .expect_status(400);
    send_request(&tancho, Some(&ana), add, RequestBody::Form(&two))
        .await
        .expect_status(403);
    send_request(
        &tancho,
        Some(&root),
        "POST /1.0/roles/gone/permissions",
        RequestBody::Form(&two),
    )
    .await
    .expect_status(404);
    let role = send_request(&tancho, Some(&root), "GET /1.0/roles/deployer", RequestBody::None)
        .await
        .expect_status(200)
        .json();
    assert_eq!(
        role,
        json!({ "name": "deployer", "context": "team", "Description": "may deploy",
                "scheme_names": ["app.deploy", "app.update.env.set"], "dynamic_scheme_names": [] })
    );
    send_request(&tancho, Some(&ana), "GET /1.0/roles/deployer", RequestBody::None)
        .await
        .expect_status(403);
    send_request(&tancho, Some(&root), "GET /1.0/roles/gone", RequestBody::None)
        .await
        .expect_status(404);
    send_request(&tancho, Some(&ana), "GET /1.0/roles", RequestBody::None)
        .await
        .expect_status(403);
    let list = send_request(&tancho, Some(&root), "GET /1.0/roles", RequestBody::None)
        .await
        .expect_status(200)
        .json();
    assert_eq!(list[0]["name"], "AllowAll");
    assert_eq!(list[0]["scheme_names"], json!(["*"]));

    let change = [
        ("name", "deployer"),
        ("newName", "releaser"),
        ("description", ""),
        ("contextType", "app"),
    ];
    send_request(&tancho, Some(&ana), "PUT /1.4/roles", RequestBody::Form(&change))
        .await
        .expect_status(403);
    send_request(&tancho, Some(&root), "PUT /1.4/roles", RequestBody::Form(&change))
        .await
        .expect_status(200);
    send_request(&tancho, Some(&root), "PUT /1.4/roles", RequestBody::Form(&change))
        .await
        .expect_status(404);
    let taken = [("name", "releaser"), ("newName", "team-member")];
    send_request(&tancho, Some(&root), "PUT /1.4/roles", RequestBody::Form(&taken))
        .await
        .expect_status(409);
    let unfit = [("name", "releaser"), ("contextType", "user")];
    send_request(&tancho, Some(&root), "PUT /1.4/roles", RequestBody::Form(&unfit))
        .await
        .expect_status(400);
    let role = send_request(&tancho, Some(&root), "GET /1.0/roles/releaser", RequestBody::None)
        .await
        .expect_status(200)
        .json();
    assert_eq!(
        (&role["context"], &role["Description"]),
        (&json!("app"), &json!("may deploy"))
    );
    let line = "DELETE /1.0/roles/releaser/permissions/app.deploy";
    send_request(&tancho, Some(&ana), line, RequestBody::None)
        .await
        .expect_status(403);
    send_request(&tancho, Some(&root), line, RequestBody::None)
        .await
        .expect_status(200);
    send_request(
        &tancho,
        Some(&root),
        "DELETE /1.0/roles/gone/permissions/app",
        RequestBody::None,
    )
    .await
    .expect_status(404);
    send_request(
        &tancho,
        Some(&root),
        "DELETE /1.0/roles/releaser/permissions/app.fly",
        RequestBody::None,
    )
    .await
    .expect_status(400);

    send_request(
        &tancho,
        Some(&ana),
        "DELETE /1.0/roles/releaser",
        RequestBody::None,
    )
    .await
    .expect_status(403);
    send_request(
        &tancho,
        Some(&root),
        "DELETE /1.0/roles/releaser",
        RequestBody::None,
    )
    .await
    .expect_status(200);
    send_request(
        &tancho,
        Some(&root),
        "DELETE /1.0/roles/releaser",
        RequestBody::None,
    )
    .await
    .expect_status(404);
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn role_grants_permissions_from_assignment_until_removal() {
    let tancho = TestServer::start().await;
    let (root, ana, bob) = (
        tancho.login_admin().await,
        tancho.create_user("ana").await,
        tancho.create_user("bob").await,
    );
    tancho.create_team(&ana, "web").await;
    let new = [("name", "reader"), ("context", "team")];
    send_request(&tancho, Some(&root), "POST /1.0/roles", RequestBody::Form(&new))
        .await
        .expect_status(201);
    let assign = "POST /1.0/roles/reader/user";
    let to = |email: &'static str, context: &'static str| [("email", email), ("context", context)];
    send_request(&tancho, Some(&bob), "GET /1.4/teams/web", RequestBody::None)
        .await
        .expect_status(404);
    for (email, context, status) in [
        ("bob@example.com", "", 400),
        ("bob@example.com", "nothing", 400),
        ("nobody@example.com", "web", 404),
        ("bob", "web", 400),
        ("bob@example.com", "web", 200),
        ("bob@example.com", "web", 200),
    ] {
        send_request(
            &tancho,
            Some(&root),
            assign,
            RequestBody::Form(&to(email, context)),
        )
        .await
        .expect_status(status);
    }
    send_request(
        &tancho,
        Some(&ana),
        assign,
        RequestBody::Form(&to("bob@example.com", "web")),
    )
    .await
    .expect_status(403);
    send_request(
        &tancho,
        Some(&root),
        "POST /1.0/roles/gone/user",
        RequestBody::Form(&to("bob@example.com", "web")),
    )
    .await
    .expect_status(404);
    send_request(&tancho, Some(&bob), "GET /1.4/teams/web", RequestBody::None)
        .await
        .expect_status(404);
    let read = [("permission", "team.read")];
    send_request(
        &tancho,
        Some(&root),
        "POST /1.0/roles/reader/permissions",
        RequestBody::Form(&read),
    )
    .await
    .expect_status(200);
    send_request(&tancho, Some(&bob), "GET /1.4/teams/web", RequestBody::None)
        .await
        .expect_status(200);
    send_request(&tancho, Some(&bob), "DELETE /1.0/teams/web", RequestBody::None)
        .await
        .expect_status(403);
    let refused = send_request(
        &tancho,
        Some(&root),
        "DELETE /1.0/roles/reader",
        RequestBody::None,
    )
    .await
    .expect_status(412);
    assert!(refused.body.contains("users assigned"), "{refused:?}");
    let kind = [("name", "reader"), ("contextType", "global")];
    send_request(&tancho, Some(&root), "PUT /1.4/roles", RequestBody::Form(&kind))
        .await
        .expect_status(412);

    let end = "DELETE /1.0/roles/reader/user/bob@example.com?context=web";
    send_request(&tancho, Some(&ana), end, RequestBody::None)
        .await
        .expect_status(403);
    send_request(&tancho, Some(&root), end, RequestBody::None)
        .await
        .expect_status(200);
    send_request(&tancho, Some(&bob), "GET /1.4/teams/web", RequestBody::None)
        .await
        .expect_status(404);
    send_request(&tancho, Some(&root), end, RequestBody::None)
        .await
        .expect_status(404);
    send_request(
        &tancho,
        Some(&root),
        "DELETE /1.0/roles/reader",
        RequestBody::None,
    )
    .await
    .expect_status(200);
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn callers_cannot_grant_permissions_they_do_not_hold() {
    let tancho = TestServer::start().await;
    let (root, eva, bob) = (
        tancho.login_admin().await,
        tancho.create_user("eva").await,
        tancho.create_user("bob").await,
    );
    tancho.create_team(&root, "web").await;
    grant(&tancho, &root, &eva, "global", "", &["role", "team.read"]).await;
    let me = [("email", "eva@example.com"), ("context", "")];
    send_request(
        &tancho,
        Some(&eva),
        "POST /1.0/roles/AllowAll/user",
        RequestBody::Form(&me),
    )
    .await
    .expect_status(403);
    let there = [("email", "eva@example.com"), ("context", "web")];
    let refused = send_request(
        &tancho,
        Some(&eva),
        "POST /1.0/roles/team-member/user",
        RequestBody::Form(&there),
    )
    .await
    .expect_status(403);
    assert!(refused.body.contains("(team web)"), "{refused:?}");
    // Nor by extending a role, …
    let new = [("name", "mine"), ("context", "global")];
    send_request(&tancho, Some(&eva), "POST /1.0/roles", RequestBody::Form(&new))
        .await
        .expect_status(201);
    send_request(
        &tancho,
        Some(&eva),
        "POST /1.0/roles/mine/user",
        RequestBody::Form(&me),
    )
    .await
    .expect_status(200);
    for wanted in ["*", "user", "app.read"] {
        let add = [("permission", wanted)];
        send_request(
            &tancho,
            Some(&eva),
            "POST /1.0/roles/mine/permissions",
            RequestBody::Form(&add),
        )
        .await
        .expect_status(403);
    }
    let add = [("permission", "role.read")];
    send_request(
        &tancho,
        Some(&eva),
        "POST /1.0/roles/mine/permissions",
        RequestBody::Form(&add),
    )
    .await
    .expect_status(200);
    // … nor by a default role of new users.
    let default = [("user-create", "AllowAll")];
    send_request(
        &tancho,
        Some(&eva),
        "POST /1.0/role/default",
        RequestBody::Form(&default),
    )
    .await
    .expect_status(403);
    let info = send_request(&tancho, Some(&eva), "GET /users/info", RequestBody::None)
        .await
        .expect_status(200)
        .json();
    let held = info["Permissions"].as_array().unwrap();
    assert!(
        held.iter()
            .all(|p| ["role", "team.read", "role.read"].contains(&p["Name"].as_str().unwrap()))
    );
    // Callers may grant the permissions they hold.
    let bob_too = [("email", "bob@example.com"), ("context", "")];
    send_request(
        &tancho,
        Some(&eva),
        "POST /1.0/roles/mine/user",
        RequestBody::Form(&bob_too),
    )
    .await
    .expect_status(200);
    send_request(&tancho, Some(&bob), "GET /1.0/roles", RequestBody::None)
        .await
        .expect_status(200);
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn last_administrator_cannot_be_removed() {
    let tancho = TestServer::start().await;
    let (root, ana) = (tancho.login_admin().await, tancho.create_user("ana").await);
    let end = "DELETE /1.0/roles/AllowAll/user/root@example.com?context=";
    send_request(&tancho, Some(&root), end, RequestBody::None)
        .await
        .expect_status(403);
    send_request(
        &tancho,
        Some(&root),
        "DELETE /1.0/roles/AllowAll",
        RequestBody::None,
    )
    .await
    .expect_status(403);
    send_request(
        &tancho,
        Some(&root),
        "DELETE /1.0/roles/AllowAll/permissions/*",
        RequestBody::None,
    )
    .await
    .expect_status(403);
    let rename = [("name", "AllowAll"), ("newName", "Other")];
    send_request(&tancho, Some(&root), "PUT /1.4/roles", RequestBody::Form(&rename))
        .await
        .expect_status(403);
    let to = [("email", "ana@example.com"), ("context", "ignored")];
    send_request(
        &tancho,
        Some(&root),
        "POST /1.0/roles/AllowAll/user",
        RequestBody::Form(&to),
    )
    .await
    .expect_status(200);
    let info = send_request(&tancho, Some(&ana), "GET /users/info", RequestBody::None)
        .await
        .expect_status(200)
        .json();
    assert_eq!(info["Permissions"][0]["ContextValue"], "");
    send_request(&tancho, Some(&ana), end, RequestBody::None)
        .await
        .expect_status(200);
    send_request(&tancho, Some(&root), "GET /1.0/roles", RequestBody::None)
        .await
        .expect_status(403);
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn default_roles_are_assigned_automatically() {
    let tancho = TestServer::start().await;
    let (root, ana) = (tancho.login_admin().await, tancho.create_user("ana").await);
    let new = [("name", "newcomer"), ("context", "global")];
    send_request(&tancho, Some(&root), "POST /1.0/roles", RequestBody::Form(&new))
        .await
        .expect_status(201);
    let read = [("permission", "plan.read")];
    send_request(
        &tancho,
        Some(&root),
        "POST /1.0/roles/newcomer/permissions",
        RequestBody::Form(&read),
    )
    .await
    .expect_status(200);
    let line = "POST /1.0/role/default";
    send_request(
        &tancho,
        Some(&ana),
        line,
        RequestBody::Form(&[("user-create", "newcomer")]),
    )
    .await
    .expect_status(403);
    send_request(
        &tancho,
        Some(&root),
        line,
        RequestBody::Form(&[("team-create", "newcomer")]),
    )
    .await
    .expect_status(400);
    send_request(
        &tancho,
        Some(&root),
        line,
        RequestBody::Form(&[("user-create", "gone")]),
    )
    .await
    .expect_status(404);
    send_request(&tancho, Some(&root), line, RequestBody::None)
        .await
        .expect_status(400);
    let both = [("team-create", "team-member"), ("user-create", "newcomer")];
    send_request(&tancho, Some(&root), line, RequestBody::Form(&both))
        .await
        .expect_status(200);
    let list = send_request(&tancho, Some(&root), "GET /1.0/role/default", RequestBody::None)
        .await
        .expect_status(200)
        .json();
    assert_eq!(list[0]["events"], json!(["user-create"]));
    assert_eq!(list[1]["events"], json!(["team-create"]));
    let bob = tancho.create_user("bob").await;
    let info = send_request(&tancho, Some(&bob), "GET /users/info", RequestBody::None)
        .await
        .expect_status(200)
        .json();
    assert_eq!(info["Roles"][0]["Name"], "newcomer");
    let line = "DELETE /1.0/role/default?user-create=newcomer&team-create=team-member";
    send_request(&tancho, Some(&ana), line, RequestBody::None)
        .await
        .expect_status(403);
    send_request(&tancho, Some(&root), line, RequestBody::None)
        .await
        .expect_status(200);
    let list = send_request(&tancho, Some(&root), "GET /1.0/role/default", RequestBody::None)
        .await
        .expect_status(200)
        .json();
    assert_eq!(list, json!([]));
    // Without a default role, nobody would have permissions on a new team.
    send_request(
        &tancho,
        Some(&bob),
        "POST /teams",
        RequestBody::Bare(json!({ "name": "web" })),
    )
    .await
    .expect_status(412);
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn concurrent_role_updates_keep_each_others_changes() {
    let tancho = TestServer::start().await;
    let root = tancho.login_admin().await;
    let new = [("name", "deployer"), ("context", "team"), ("description", "old")];
    send_request(&tancho, Some(&root), "POST /1.0/roles", RequestBody::Form(&new))
        .await
        .expect_status(201);
    let mut other = tancho.running.core.db.begin().await.unwrap();
    let lock = "select from role where name = 'deployer' for update";
    sqlx::query(lock).execute(&mut *other).await.unwrap();
    let change = [("name", "deployer"), ("description", "new")];
    let updating = send_request(&tancho, Some(&root), "PUT /1.4/roles", RequestBody::Form(&change));
    let meanwhile = async {
        tancho.wait_for_blocked_query("% role %").await;
        let change = "update role set context_kind = 'app' where name = 'deployer'";
        sqlx::query(change).execute(&mut *other).await.unwrap();
        other.commit().await.unwrap();
    };
    let (updated, ()) = tokio::join!(updating, meanwhile);
    updated.expect_status(200);
    let role = send_request(&tancho, Some(&root), "GET /1.0/roles/deployer", RequestBody::None)
        .await
        .expect_status(200)
        .json();
    assert_eq!(
        (&role["context"], &role["Description"]),
        (&json!("app"), &json!("new"))
    );
    tancho.running.drain_and_stop().await;
}
