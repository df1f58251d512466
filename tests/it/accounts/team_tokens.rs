//! Team tokens: what they may do, who may change them, and when they end.

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use super::{ApiResponse, RequestBody, grant, send_request};
use crate::test_server::{TestServer, TestUser};

async fn send(tancho: &TestServer, who: &TestUser, line: &str, body: Value) -> ApiResponse {
    send_request(tancho, Some(who), line, RequestBody::Bare(body)).await
}

async fn get(tancho: &TestServer, who: &TestUser, path: &str) -> ApiResponse {
    send_request(tancho, Some(who), &format!("GET {path}"), RequestBody::None).await
}

/// Creates a token and returns it as a caller.
async fn create_token(tancho: &TestServer, by: &TestUser, new: Value) -> TestUser {
    let made = send(tancho, by, "POST /1.6/tokens", new)
        .await
        .expect_status(201)
        .json();
    TestUser {
        email: made["token_id"].as_str().unwrap().to_owned(),
        token: made["token"].as_str().unwrap().to_owned(),
    }
}

/// Assigns a role in a context to a token.
async fn assign(tancho: &TestServer, root: &TestUser, role: &str, token: &TestUser, context: &str) {
    let fields = [("token_id", token.email.as_str()), ("context", context)];
    let line = format!("POST /1.6/roles/{role}/token");
    send_request(tancho, Some(root), &line, RequestBody::Form(&fields))
        .await
        .expect_status(200);
}

async fn sql(tancho: &TestServer, text: &'static str) {
    sqlx::raw_sql(text)
        .execute(&tancho.running.core.db)
        .await
        .unwrap();
}

async fn start() -> (TestServer, TestUser, TestUser) {
    let tancho = TestServer::start().await;
    let (root, ana) = (tancho.login_admin().await, tancho.create_user("ana").await);
    tancho.create_team(&ana, "red").await;
    (tancho, root, ana)
}

#[tokio::test]
async fn team_token_has_the_rights_of_its_roles_and_no_others() {
    let (tancho, root, ana) = start().await;
    let new = json!({ "token_id": "ci", "team": "red", "description": "builds", "expires_in": 3600 });
    let made = send(&tancho, &ana, "POST /1.6/tokens", new)
        .await
        .expect_status(201)
        .json();
    assert_eq!(
        (
            &made["token_id"],
            &made["team"],
            &made["description"],
            &made["roles"]
        ),
        (&json!("ci"), &json!("red"), &json!("builds"), &json!([]))
    );
    assert_eq!(made["creator_email"], "ana@example.com");
    assert_eq!(made["last_access"], "0001-01-01T00:00:00Z");
    assert!(made["expires_at"].as_str().unwrap() > made["created_at"].as_str().unwrap());
    let ci = TestUser {
        email: "ci".into(),
        token: made["token"].as_str().unwrap().to_owned(),
    };

    let app = json!({ "name": "shop", "platform": "python", "teamOwner": "red" });
    send(&tancho, &ci, "POST /1.0/apps", app.clone())
        .await
        .expect_status(403);
    assign(&tancho, &root, "team-member", &ci, "red").await;
    send(&tancho, &ci, "POST /1.0/apps", app).await.expect_status(201);
    let shop = get(&tancho, &ana, "/1.0/apps/shop")
        .await
        .expect_status(200)
        .json();
    assert_eq!(
        shop["owner"], "ana@example.com",
        "the app counts as its creator's"
    );
    tancho.create_team(&root, "blue").await;
    get(&tancho, &ci, "/1.4/teams/blue").await.expect_status(404);
    let me = get(&tancho, &ci, "/1.0/users/info")
        .await
        .expect_status(200)
        .json();
    assert_eq!(me["Email"], "ci@tsuru-team-token");
    assert_eq!(
        (&me["Roles"][0]["Name"], &me["Roles"][0]["ContextValue"]),
        (&json!("team-member"), &json!("red"))
    );
    // What only a user can do.
    for (line, body) in [
        ("POST /1.0/teams", json!({ "name": "mine" })),
        ("GET /1.0/users/api-key", Value::Null),
        ("DELETE /1.0/users", Value::Null),
    ] {
        let refused = send(&tancho, &ci, line, body).await.expect_status(403);
        assert!(refused.body.starts_with("Only a user can do this"), "{refused:?}");
    }
    // A logout is none.
    send_request(&tancho, Some(&ci), "DELETE /1.0/users/tokens", RequestBody::None)
        .await
        .expect_status(200);

    let events = get(&tancho, &ci, "/1.1/events?kindname=app.create")
        .await
        .expect_status(200)
        .json();
    assert_eq!(events[0]["Owner"], json!({ "Type": "token", "Name": "ci" }));
    assert_eq!(events[0]["TokenKind"], "team-token");
    let info = get(&tancho, &ana, "/1.7/tokens/ci")
        .await
        .expect_status(200)
        .json();
    assert_eq!(info["token"], "", "the value is shown once");
    assert_eq!(
        info["roles"],
        json!([{ "name": "team-member", "contextvalue": "red" }])
    );
    assert_ne!(info["last_access"], "0001-01-01T00:00:00Z");
    let list = get(&tancho, &ana, "/1.6/tokens").await.expect_status(200).json();
    assert_eq!(list, json!([info]));
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn team_token_is_accepted_as_git_password() {
    let (tancho, root, ana) = start().await;
    let app = json!({ "name": "shop", "platform": "procfile", "teamOwner": "red" });
    send(&tancho, &ana, "POST /1.0/apps", app)
        .await
        .expect_status(201);
    let ci = create_token(&tancho, &ana, json!({ "token_id": "ci", "team": "red" })).await;
    let advertise = async |password: &str| {
        let path = "/git/shop.git/info/refs?service=git-receive-pack";
        let request = tancho.request(Method::GET, path).basic_auth("ci", Some(password));
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(
        advertise(&ci.token).await,
        404,
        "a token without roles sees no app"
    );
    assign(&tancho, &root, "team-member", &ci, "red").await;
    assert_eq!(advertise(&ci.token).await, 200);
    assert_eq!(advertise("no-such-token").await, 401);
    tancho.running.drain_and_stop().await;
}

/// Waits until a server refuses a token, which it does when the notice has arrived.
async fn wait_until_refused(server: &TestServer, token: &TestUser) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while get(server, token, "/1.0/teams").await.status != 401 {
        assert!(
            std::time::Instant::now() < deadline,
            "the token is still accepted"
        );
    }
}

#[tokio::test]
async fn regenerated_deleted_and_expired_team_tokens_end_immediately_on_all_replicas() {
    let (tancho, _, ana) = start().await;
    let other = tancho.start_replica(|_| {}).await;
    let ci = create_token(&tancho, &ana, json!({ "token_id": "ci" })).await;
    for server in [&tancho, &other] {
        get(server, &ci, "/1.0/teams").await.expect_status(200);
    }
    let change = json!({ "regenerate": true, "description": "new" });
    let renewed = send(&tancho, &ana, "PUT /1.6/tokens/ci", change)
        .await
        .expect_status(200)
        .json();
    get(&tancho, &ci, "/1.0/teams").await.expect_status(401);
    wait_until_refused(&other, &ci).await;
    assert_eq!(renewed["description"], "new");
    let ci = TestUser {
        token: renewed["token"].as_str().unwrap().to_owned(),
        ..ci
    };
    for server in [&tancho, &other] {
        get(server, &ci, "/1.0/teams").await.expect_status(200);
    }
    // An expiry in the future, then in the past.
    let dated = send(&tancho, &ana, "PUT /1.6/tokens/ci", json!({ "expires_in": 3600 }))
        .await
        .expect_status(200)
        .json();
    assert_eq!(dated["token"], "", "the value was not regenerated");
    get(&other, &ci, "/1.0/teams").await.expect_status(200);
    sql(
        &tancho,
        "update access_token set expires_at = now() - interval '1 second' where kind = 'team-token'",
    )
    .await;
    tancho.running.core.auth_cache.invalidate_all();
    other.running.core.auth_cache.invalidate_all();
    for server in [&tancho, &other] {
        get(server, &ci, "/1.0/teams").await.expect_status(401);
    }
    // An expired token is still listed, and can be prolonged.
    let list = get(&tancho, &ana, "/1.6/tokens").await.expect_status(200).json();
    assert_eq!(list[0]["token_id"], "ci");
    let endless = send(&tancho, &ana, "PUT /1.6/tokens/ci", json!({ "expires_in": -1 }))
        .await
        .expect_status(200)
        .json();
    assert_eq!(endless["expires_at"], "0001-01-01T00:00:00Z");
    for server in [&tancho, &other] {
        get(server, &ci, "/1.0/teams").await.expect_status(200);
    }
    send(&tancho, &ana, "DELETE /1.6/tokens/ci", Value::Null)
        .await
        .expect_status(200);
    get(&tancho, &ci, "/1.0/teams").await.expect_status(401);
    wait_until_refused(&other, &ci).await;
    for (line, status) in [
        ("DELETE /1.6/tokens/ci", 404),
        ("PUT /1.6/tokens/ci", 404),
        ("GET /1.7/tokens/ci", 404),
    ] {
        send(&tancho, &ana, line, Value::Null).await.expect_status(status);
    }
    other.running.drain_and_stop().await;
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn nobody_gains_permissions_by_changing_a_team_token() {
    let (tancho, root, ana) = start().await;
    let (bob, dora) = (tancho.create_user("bob").await, tancho.create_user("dora").await);
    tancho.create_team(&bob, "blue").await;
    let ci = create_token(&tancho, &ana, json!({ "token_id": "ci", "team": "red" })).await;
    assign(&tancho, &root, "AllowAll", &ci, "").await;
    for change in [
        json!({ "regenerate": true }),
        json!({ "expires_in": 60 }),
        json!({ "expires_in": -1 }),
    ] {
        let refused = send(&tancho, &ana, "PUT /1.6/tokens/ci", change)
            .await
            .expect_status(403);
        assert!(
            refused.body.contains("it holds permissions that you do not"),
            "{refused:?}"
        );
    }
    get(&tancho, &ci, "/1.0/roles").await.expect_status(200);
    // Somebody who may assign roles assigns a token no more than they hold.
    grant(&tancho, &root, &dora, "global", "", &["role.update.assign"]).await;
    let fields = [("token_id", "ci"), ("context", "red")];
    send_request(
        &tancho,
        Some(&dora),
        "POST /1.6/roles/team-member/token",
        RequestBody::Form(&fields),
    )
    .await
    .expect_status(403);
    // Others neither see nor change the tokens of a team.
    for line in [
        "GET /1.7/tokens/ci",
        "PUT /1.6/tokens/ci",
        "DELETE /1.6/tokens/ci",
    ] {
        send(&tancho, &bob, line, json!({ "regenerate": true }))
            .await
            .expect_status(404);
    }
    let none = get(&tancho, &bob, "/1.6/tokens").await.expect_status(200).json();
    assert_eq!(none, json!([]));
    send(
        &tancho,
        &bob,
        "POST /1.6/tokens",
        json!({ "token_id": "mine", "team": "red" }),
    )
    .await
    .expect_status(403);
    // The description is no right, and who holds as much may regenerate.
    send(&tancho, &ana, "PUT /1.6/tokens/ci", json!({ "description": "x" }))
        .await
        .expect_status(200);
    send(
        &tancho,
        &root,
        "PUT /1.6/tokens/ci",
        json!({ "regenerate": true }),
    )
    .await
    .expect_status(200);
    get(&tancho, &ci, "/1.0/roles").await.expect_status(401);
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn team_token_ends_with_its_team_and_outlives_its_creator() {
    let (tancho, root, ana) = start().await;
    let bob = tancho.create_user("bob").await;
    tancho.create_team(&bob, "blue").await;
    let red = create_token(&tancho, &ana, json!({ "token_id": "red-ci", "team": "red" })).await;
    let blue = create_token(&tancho, &bob, json!({ "token_id": "blue-ci", "team": "blue" })).await;
    for (token, team) in [(&red, "red"), (&blue, "blue")] {
        assign(&tancho, &root, "team-member", token, team).await;
        get(&tancho, token, "/1.0/teams").await.expect_status(200);
    }
    send(&tancho, &ana, "DELETE /1.0/teams/red", Value::Null)
        .await
        .expect_status(200);
    get(&tancho, &red, "/1.0/teams").await.expect_status(401);
    send(
        &tancho,
        &root,
        "DELETE /1.0/users?user=bob@example.com",
        Value::Null,
    )
    .await
    .expect_status(200);
    get(&tancho, &blue, "/1.4/teams/blue").await.expect_status(200);
    let refused = send(
        &tancho,
        &blue,
        "POST /1.0/apps",
        json!({ "name": "shop", "platform": "python", "teamOwner": "blue" }),
    )
    .await
    .expect_status(403);
    assert!(refused.body.contains("no longer exists"), "{refused:?}");
    let info = get(&tancho, &root, "/1.7/tokens/blue-ci")
        .await
        .expect_status(200)
        .json();
    assert_eq!(info["creator_email"], "bob@example.com");
    // A new team of the same name has none of the old one's tokens.
    tancho.create_team(&ana, "red").await;
    let none = get(&tancho, &ana, "/1.6/tokens").await.expect_status(200).json();
    assert_eq!(none, json!([]));
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn invalid_team_tokens_are_rejected() {
    let (tancho, root, ana) = start().await;
    for (new, status, why) in [
        (json!({ "token_id": "1ci" }), 400, "is not a valid token id"),
        (json!({ "token_id": "ci@red" }), 400, "is not a valid token id"),
        (
            json!({ "token_id": "a".repeat(81) }),
            400,
            "is not a valid token id",
        ),
        (
            json!({ "token_id": "a".repeat(900_000) }),
            400,
            "is not a valid token id",
        ),
        (json!({ "token_id": "a\0" }), 400, "NUL"),
        (json!({ "token_id": 7 }), 400, "token_id must be a string"),
        (json!({ "team": "grey" }), 400, "Team grey does not exist"),
        (json!({ "team": ["red"] }), 400, "team must be given once"),
        (
            json!({ "description": "d".repeat(2001) }),
            400,
            "at most 2000 characters",
        ),
        (
            json!({ "expires_in": "soon" }),
            400,
            "expires_in must be a whole number",
        ),
        (
            json!({ "expires_in": 1.5 }),
            400,
            "expires_in must be a whole number",
        ),
        (
            json!({ "expires_in": 9_000_000_000_i64 }),
            400,
            "at most 100 years",
        ),
    ] {
        let refused = send(&tancho, &ana, "POST /1.6/tokens", new.clone())
            .await
            .expect_status(status);
        assert!(refused.body.contains(why), "{refused:?}");
    }
    let none = get(&tancho, &root, "/1.6/tokens").await.expect_status(200).json();
    assert_eq!(none, json!([]), "nothing was created");
    let ci = create_token(&tancho, &ana, json!({ "token_id": "ci" })).await;
    for (change, why) in [
        (
            json!({ "regenerate": "perhaps" }),
            "regenerate must be true or false",
        ),
        (json!({ "expires_in": i64::MAX }), "at most 100 years"),
        (
            json!({ "regenerate": true, "description": "d".repeat(2001) }),
            "at most 2000 characters",
        ),
    ] {
        let refused = send(&tancho, &ana, "PUT /1.6/tokens/ci", change)
            .await
            .expect_status(400);
        assert!(refused.body.contains(why), "{refused:?}");
    }
    get(&tancho, &ci, "/1.0/teams").await.expect_status(200);
    for line in [
        "GET /1.7/tokens/no@token",
        "PUT /1.6/tokens/gone",
        "DELETE /1.6/tokens/%20",
    ] {
        send(&tancho, &root, line, Value::Null).await.expect_status(404);
    }
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn concurrent_team_tokens_of_one_id_are_created_once_and_their_number_is_limited() {
    let (tancho, root, ana) = start().await;
    let bob = tancho.create_user("bob").await;
    tancho.create_team(&bob, "blue").await;
    let attempts = (0..6).map(|n| {
        let (who, team) = if n % 2 == 0 { (&ana, "red") } else { (&bob, "blue") };
        let new = json!({ "token_id": "ci", "team": team });
        send(&tancho, who, "POST /1.6/tokens", new)
    });
    let mut statuses: Vec<u16> = join_all(attempts).await.iter().map(|a| a.status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 409, 409, 409, 409, 409]);
    sql(
        &tancho,
        "delete from team_token;
         insert into team_token (team_token_id, name, team_id, created_by)
         select gen_random_uuid(), 'old' || n, team_id, 'ana@example.com'
         from team, generate_series(1, 98) n where name = 'red'",
    )
    .await;
    let attempts = (0..4).map(|_| send(&tancho, &ana, "POST /1.6/tokens", json!({ "team": "red" })));
    let mut statuses: Vec<u16> = join_all(attempts).await.iter().map(|a| a.status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 201, 403, 403]);
    send(&tancho, &root, "POST /1.6/tokens", json!({ "team": "blue" }))
        .await
        .expect_status(201);
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn roles_of_groups_are_listed_on_their_team_until_they_are_dissociated() {
    let (tancho, root, ana) = start().await;
    let assign = "POST /1.9/roles/team-member/group";
    for fields in [
        [("group_name", "developers"), ("context", "red")],
        [("group_name", "cn=Köln/ops"), ("context", "red")],
        [("group_name", "developers"), ("context", "red")],
    ] {
        send_request(&tancho, Some(&root), assign, RequestBody::Form(&fields))
            .await
            .expect_status(200);
    }
    for (group, context, status) in [
        ("", "red", 400),
        (" developers", "red", 400),
        ("a\0", "red", 400),
        ("developers", "grey", 400),
        ("developers", "", 400),
    ] {
        let fields = [("group_name", group), ("context", context)];
        send_request(&tancho, Some(&root), assign, RequestBody::Form(&fields))
            .await
            .expect_status(status);
    }
    let groups = get(&tancho, &ana, "/1.17/teams/red/groups")
        .await
        .expect_status(200)
        .json();
    assert_eq!(
        groups,
        json!([{ "group": "cn=Köln/ops", "roles": ["team-member"] },
               { "group": "developers", "roles": ["team-member"] }])
    );
    let users = get(&tancho, &ana, "/1.17/teams/red/users")
        .await
        .expect_status(200)
        .json();
    assert_eq!(
        users,
        json!([{ "email": "ana@example.com", "roles": ["team-member"] }])
    );
    let bob = tancho.create_user("bob").await;
    get(&tancho, &bob, "/1.17/teams/red/groups")
        .await
        .expect_status(404);
    get(&tancho, &root, "/1.17/teams/grey/users")
        .await
        .expect_status(404);
    for (group, status) in [
        ("developers", 200),
        ("cn=K%C3%B6ln%2Fops", 200),
        ("developers", 404),
        ("strangers", 404),
    ] {
        let line = format!("DELETE /1.9/roles/team-member/group/{group}?context=red");
        send_request(&tancho, Some(&root), &line, RequestBody::None)
            .await
            .expect_status(status);
    }
    let none = get(&tancho, &ana, "/1.17/teams/red/groups")
        .await
        .expect_status(200)
        .json();
    assert_eq!(none, json!([]));
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn roles_of_a_team_token_end_with_their_object_or_by_dissociation() {
    let (tancho, root, ana) = start().await;
    let ci = create_token(&tancho, &ana, json!({ "token_id": "ci", "team": "red" })).await;
    tancho.create_team(&ana, "blue").await;
    for team in ["red", "blue"] {
        assign(&tancho, &root, "team-member", &ci, team).await;
        get(&tancho, &ci, &format!("/1.4/teams/{team}"))
            .await
            .expect_status(200);
    }
    send(&tancho, &ana, "DELETE /1.0/teams/blue", Value::Null)
        .await
        .expect_status(200);
    tancho.create_team(&ana, "blue").await;
    get(&tancho, &ci, "/1.4/teams/blue").await.expect_status(404);
    send(&tancho, &root, "DELETE /1.0/roles/team-member", Value::Null)
        .await
        .expect_status(412);
    for status in [200, 404] {
        let line = "DELETE /1.6/roles/team-member/token/ci?context=red";
        send_request(&tancho, Some(&root), line, RequestBody::None)
            .await
            .expect_status(status);
    }
    get(&tancho, &ci, "/1.4/teams/red").await.expect_status(404);
    for (token, role, status) in [
        ("gone", "team-member", 404),
        ("ci", "no-role", 404),
        ("c i", "team-member", 400),
    ] {
        let fields = [("token_id", token), ("context", "red")];
        let line = format!("POST /1.6/roles/{role}/token");
        send_request(&tancho, Some(&root), &line, RequestBody::Form(&fields))
            .await
            .expect_status(status);
    }
    tancho.running.drain_and_stop().await;
}
