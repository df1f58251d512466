use serde_json::json;

use super::{Body, ask, grant};
use crate::house::House;

#[tokio::test]
async fn permissions_begin_with_the_root_and_follow_their_parents() {
    let house = House::start().await;
    ask(&house, None, "GET /1.0/permissions", Body::None)
        .await
        .is(401);
    let ana = house.person("ana").await;
    let list = ask(&house, Some(&ana), "GET /1.0/permissions", Body::None)
        .await
        .is(200)
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
    house.running.stop().await;
}

#[tokio::test]
async fn roles_are_made_changed_and_removed() {
    let house = House::start().await;
    let (root, ana) = (house.admin().await, house.person("ana").await);
    let new = [
        ("name", "deployer"),
        ("context", "team"),
        ("description", "may deploy"),
    ];
    ask(&house, Some(&root), "POST /1.0/roles", Body::Form(&new))
        .await
        .is(201);
    ask(&house, Some(&root), "POST /1.0/roles", Body::Form(&new))
        .await
        .is(409);
    ask(&house, Some(&ana), "POST /1.0/roles", Body::Form(&new))
        .await
        .is(403);
    ask(&house, None, "POST /1.0/roles", Body::Form(&new))
        .await
        .is(401);
    let bad = [("name", "x"), ("context", "galaxy")];
    let refused = ask(&house, Some(&root), "POST /1.0/roles", Body::Form(&bad))
        .await
        .is(400);
    assert_eq!(refused.body, "invalid context type \"galaxy\"\n");
    ask(
        &house,
        Some(&root),
        "POST /1.0/roles",
        Body::Form(&[("name", "1"), ("context", "team")]),
    )
    .await
    .is(400);

    let add = "POST /1.0/roles/deployer/permissions";
    let two = [("permission", "app.deploy"), ("permission", "app.update.env.set")];
    ask(&house, Some(&root), add, Body::Form(&two)).await.is(200);
    let refused = ask(&house, Some(&root), add, Body::Form(&[("permission", "app.fly")]))
        .await
        .is(400);
    assert!(refused.body.contains("app.fly"));
    ask(&house, Some(&root), add, Body::Form(&[("permission", "*")]))
        .await
        .is(400);
    ask(
        &house,
        Some(&root),
        add,
        Body::Form(&[("permission", "user.create")]),
    )
    .await
    .is(400);
    ask(&house, Some(&root), add, Body::None).await.is(400);
    ask(&house, Some(&ana), add, Body::Form(&two)).await.is(403);
    ask(
        &house,
        Some(&root),
        "POST /1.0/roles/gone/permissions",
        Body::Form(&two),
    )
    .await
    .is(404);
    let role = ask(&house, Some(&root), "GET /1.0/roles/deployer", Body::None)
        .await
        .is(200)
        .json();
    assert_eq!(
        role,
        json!({ "name": "deployer", "context": "team", "Description": "may deploy",
                "scheme_names": ["app.deploy", "app.update.env.set"], "dynamic_scheme_names": [] })
    );
    ask(&house, Some(&ana), "GET /1.0/roles/deployer", Body::None)
        .await
        .is(403);
    ask(&house, Some(&root), "GET /1.0/roles/gone", Body::None)
        .await
        .is(404);
    ask(&house, Some(&ana), "GET /1.0/roles", Body::None)
        .await
        .is(403);
    let list = ask(&house, Some(&root), "GET /1.0/roles", Body::None)
        .await
        .is(200)
        .json();
    assert_eq!(list[0]["name"], "AllowAll");
    assert_eq!(list[0]["scheme_names"], json!(["*"]));

    let change = [
        ("name", "deployer"),
        ("newName", "releaser"),
        ("description", ""),
        ("contextType", "app"),
    ];
    ask(&house, Some(&ana), "PUT /1.4/roles", Body::Form(&change))
        .await
        .is(403);
    ask(&house, Some(&root), "PUT /1.4/roles", Body::Form(&change))
        .await
        .is(200);
    ask(&house, Some(&root), "PUT /1.4/roles", Body::Form(&change))
        .await
        .is(404);
    let taken = [("name", "releaser"), ("newName", "team-member")];
    ask(&house, Some(&root), "PUT /1.4/roles", Body::Form(&taken))
        .await
        .is(409);
    let unfit = [("name", "releaser"), ("contextType", "user")];
    ask(&house, Some(&root), "PUT /1.4/roles", Body::Form(&unfit))
        .await
        .is(400);
    let role = ask(&house, Some(&root), "GET /1.0/roles/releaser", Body::None)
        .await
        .is(200)
        .json();
    assert_eq!(
        (&role["context"], &role["Description"]),
        (&json!("app"), &json!("may deploy"))
    );
    let line = "DELETE /1.0/roles/releaser/permissions/app.deploy";
    ask(&house, Some(&ana), line, Body::None).await.is(403);
    ask(&house, Some(&root), line, Body::None).await.is(200);
    ask(
        &house,
        Some(&root),
        "DELETE /1.0/roles/gone/permissions/app",
        Body::None,
    )
    .await
    .is(404);
    ask(
        &house,
        Some(&root),
        "DELETE /1.0/roles/releaser/permissions/app.fly",
        Body::None,
    )
    .await
    .is(400);

    ask(&house, Some(&ana), "DELETE /1.0/roles/releaser", Body::None)
        .await
        .is(403);
    ask(&house, Some(&root), "DELETE /1.0/roles/releaser", Body::None)
        .await
        .is(200);
    ask(&house, Some(&root), "DELETE /1.0/roles/releaser", Body::None)
        .await
        .is(404);
    house.running.stop().await;
}

#[tokio::test]
async fn a_role_counts_from_its_assignment_to_its_end() {
    let house = House::start().await;
    let (root, ana, bob) = (
        house.admin().await,
        house.person("ana").await,
        house.person("bob").await,
    );
    house.team(&ana, "web").await;
    let new = [("name", "reader"), ("context", "team")];
    ask(&house, Some(&root), "POST /1.0/roles", Body::Form(&new))
        .await
        .is(201);
    let assign = "POST /1.0/roles/reader/user";
    let to = |email: &'static str, context: &'static str| [("email", email), ("context", context)];
    ask(&house, Some(&bob), "GET /1.4/teams/web", Body::None)
        .await
        .is(404);
    for (email, context, status) in [
        ("bob@example.com", "", 400),
        ("bob@example.com", "nothing", 400),
        ("nobody@example.com", "web", 404),
        ("bob", "web", 400),
        ("bob@example.com", "web", 200),
        ("bob@example.com", "web", 200),
    ] {
        ask(&house, Some(&root), assign, Body::Form(&to(email, context)))
            .await
            .is(status);
    }
    ask(
        &house,
        Some(&ana),
        assign,
        Body::Form(&to("bob@example.com", "web")),
    )
    .await
    .is(403);
    ask(
        &house,
        Some(&root),
        "POST /1.0/roles/gone/user",
        Body::Form(&to("bob@example.com", "web")),
    )
    .await
    .is(404);
    ask(&house, Some(&bob), "GET /1.4/teams/web", Body::None)
        .await
        .is(404);
    let read = [("permission", "team.read")];
    ask(
        &house,
        Some(&root),
        "POST /1.0/roles/reader/permissions",
        Body::Form(&read),
    )
    .await
    .is(200);
    ask(&house, Some(&bob), "GET /1.4/teams/web", Body::None)
        .await
        .is(200);
    ask(&house, Some(&bob), "DELETE /1.0/teams/web", Body::None)
        .await
        .is(403);
    let refused = ask(&house, Some(&root), "DELETE /1.0/roles/reader", Body::None)
        .await
        .is(412);
    assert!(refused.body.contains("users assigned"), "{refused:?}");
    let kind = [("name", "reader"), ("contextType", "global")];
    ask(&house, Some(&root), "PUT /1.4/roles", Body::Form(&kind))
        .await
        .is(412);

    let end = "DELETE /1.0/roles/reader/user/bob@example.com?context=web";
    ask(&house, Some(&ana), end, Body::None).await.is(403);
    ask(&house, Some(&root), end, Body::None).await.is(200);
    ask(&house, Some(&bob), "GET /1.4/teams/web", Body::None)
        .await
        .is(404);
    ask(&house, Some(&root), end, Body::None).await.is(404);
    ask(&house, Some(&root), "DELETE /1.0/roles/reader", Body::None)
        .await
        .is(200);
    house.running.stop().await;
}

#[tokio::test]
async fn nobody_gives_away_what_they_do_not_hold() {
    let house = House::start().await;
    let (root, eva, bob) = (
        house.admin().await,
        house.person("eva").await,
        house.person("bob").await,
    );
    house.team(&root, "web").await;
    grant(&house, &root, &eva, "global", "", &["role", "team.read"]).await;
    let me = [("email", "eva@example.com"), ("context", "")];
    ask(
        &house,
        Some(&eva),
        "POST /1.0/roles/AllowAll/user",
        Body::Form(&me),
    )
    .await
    .is(403);
    let there = [("email", "eva@example.com"), ("context", "web")];
    let refused = ask(
        &house,
        Some(&eva),
        "POST /1.0/roles/team-member/user",
        Body::Form(&there),
    )
    .await
    .is(403);
    assert!(refused.body.contains("(team web)"), "{refused:?}");
    // Nor by a role that they widen, …
    let new = [("name", "mine"), ("context", "global")];
    ask(&house, Some(&eva), "POST /1.0/roles", Body::Form(&new))
        .await
        .is(201);
    ask(&house, Some(&eva), "POST /1.0/roles/mine/user", Body::Form(&me))
        .await
        .is(200);
    for wanted in ["*", "user", "app.read"] {
        let add = [("permission", wanted)];
        ask(
            &house,
            Some(&eva),
            "POST /1.0/roles/mine/permissions",
            Body::Form(&add),
        )
        .await
        .is(403);
    }
    let add = [("permission", "role.read")];
    ask(
        &house,
        Some(&eva),
        "POST /1.0/roles/mine/permissions",
        Body::Form(&add),
    )
    .await
    .is(200);
    // … nor by what new users get.
    let default = [("user-create", "AllowAll")];
    ask(&house, Some(&eva), "POST /1.0/role/default", Body::Form(&default))
        .await
        .is(403);
    let info = ask(&house, Some(&eva), "GET /users/info", Body::None)
        .await
        .is(200)
        .json();
    let held = info["Permissions"].as_array().unwrap();
    assert!(
        held.iter()
            .all(|p| ["role", "team.read", "role.read"].contains(&p["Name"].as_str().unwrap()))
    );
    // What they hold they may give.
    let bob_too = [("email", "bob@example.com"), ("context", "")];
    ask(
        &house,
        Some(&eva),
        "POST /1.0/roles/mine/user",
        Body::Form(&bob_too),
    )
    .await
    .is(200);
    ask(&house, Some(&bob), "GET /1.0/roles", Body::None)
        .await
        .is(200);
    house.running.stop().await;
}

#[tokio::test]
async fn there_is_always_an_administrator() {
    let house = House::start().await;
    let (root, ana) = (house.admin().await, house.person("ana").await);
    let end = "DELETE /1.0/roles/AllowAll/user/root@example.com?context=";
    ask(&house, Some(&root), end, Body::None).await.is(403);
    ask(&house, Some(&root), "DELETE /1.0/roles/AllowAll", Body::None)
        .await
        .is(403);
    ask(
        &house,
        Some(&root),
        "DELETE /1.0/roles/AllowAll/permissions/*",
        Body::None,
    )
    .await
    .is(403);
    let rename = [("name", "AllowAll"), ("newName", "Other")];
    ask(&house, Some(&root), "PUT /1.4/roles", Body::Form(&rename))
        .await
        .is(403);
    let to = [("email", "ana@example.com"), ("context", "ignored")];
    ask(
        &house,
        Some(&root),
        "POST /1.0/roles/AllowAll/user",
        Body::Form(&to),
    )
    .await
    .is(200);
    let info = ask(&house, Some(&ana), "GET /users/info", Body::None)
        .await
        .is(200)
        .json();
    assert_eq!(info["Permissions"][0]["ContextValue"], "");
    ask(&house, Some(&ana), end, Body::None).await.is(200);
    ask(&house, Some(&root), "GET /1.0/roles", Body::None)
        .await
        .is(403);
    house.running.stop().await;
}

#[tokio::test]
async fn default_roles_are_given_by_themselves() {
    let house = House::start().await;
    let (root, ana) = (house.admin().await, house.person("ana").await);
    let new = [("name", "newcomer"), ("context", "global")];
    ask(&house, Some(&root), "POST /1.0/roles", Body::Form(&new))
        .await
        .is(201);
    let read = [("permission", "plan.read")];
    ask(
        &house,
        Some(&root),
        "POST /1.0/roles/newcomer/permissions",
        Body::Form(&read),
    )
    .await
    .is(200);
    let line = "POST /1.0/role/default";
    ask(
        &house,
        Some(&ana),
        line,
        Body::Form(&[("user-create", "newcomer")]),
    )
    .await
    .is(403);
    ask(
        &house,
        Some(&root),
        line,
        Body::Form(&[("team-create", "newcomer")]),
    )
    .await
    .is(400);
    ask(&house, Some(&root), line, Body::Form(&[("user-create", "gone")]))
        .await
        .is(404);
    ask(&house, Some(&root), line, Body::None).await.is(400);
    let both = [("team-create", "team-member"), ("user-create", "newcomer")];
    ask(&house, Some(&root), line, Body::Form(&both)).await.is(200);
    let list = ask(&house, Some(&root), "GET /1.0/role/default", Body::None)
        .await
        .is(200)
        .json();
    assert_eq!(list[0]["events"], json!(["user-create"]));
    assert_eq!(list[1]["events"], json!(["team-create"]));
    let bob = house.person("bob").await;
    let info = ask(&house, Some(&bob), "GET /users/info", Body::None)
        .await
        .is(200)
        .json();
    assert_eq!(info["Roles"][0]["Name"], "newcomer");
    let line = "DELETE /1.0/role/default?user-create=newcomer&team-create=team-member";
    ask(&house, Some(&ana), line, Body::None).await.is(403);
    ask(&house, Some(&root), line, Body::None).await.is(200);
    let list = ask(&house, Some(&root), "GET /1.0/role/default", Body::None)
        .await
        .is(200)
        .json();
    assert_eq!(list, json!([]));
    // Without one, a team would be nobody's.
    ask(
        &house,
        Some(&bob),
        "POST /teams",
        Body::Bare(json!({ "name": "web" })),
    )
    .await
    .is(412);
    house.running.stop().await;
}
