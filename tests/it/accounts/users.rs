use futures_util::future::join_all;
use serde_json::json;
use tancho::config::RegistrationPolicy;
use tancho::kernel::secret::Secret;

use super::{RequestBody, grant, send_request};
use crate::test_server::{PASSWORD, TestServer};

#[tokio::test]
async fn users_can_be_created_in_both_editions_and_body_formats() {
    let tancho = TestServer::start().await;
    let bare = json!({ "email": "a@example.com", "password": PASSWORD, "Limit": 99 });
    let made = send_request(&tancho, None, "POST /users", RequestBody::Bare(bare.clone()))
        .await
        .expect_status(200);
    assert_eq!(made.body, "");
    let form = [("email", "b@example.com"), ("password", PASSWORD)];
    send_request(&tancho, None, "POST /users", RequestBody::Form(&form))
        .await
        .expect_status(200);
    let form = [("email", "c@example.com"), ("password", PASSWORD)];
    send_request(&tancho, None, "POST /1.0/users", RequestBody::Form(&form))
        .await
        .expect_status(201);
    for line in ["POST /users", "POST /1.0/users"] {
        let again = send_request(&tancho, None, line, RequestBody::Bare(bare.clone()))
            .await
            .expect_status(409);
        assert_eq!(again.body, "this email is already registered\n");
    }
    let ana = tancho.login("a@example.com").await;
    let quota = send_request(
        &tancho,
        Some(&ana),
        "GET /1.0/users/a@example.com/quota",
        RequestBody::None,
    )
    .await
    .expect_status(200);
    assert_eq!(
        quota.json(),
        json!({ "limit": -1, "inuse": 0 }),
        "users cannot set their own limit"
    );
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn invalid_user_creation_returns_400() {
    let tancho = TestServer::start().await;
    for line in ["POST /users", "POST /1.0/users"] {
        for (email, password) in [
            ("", PASSWORD),
            ("ana", PASSWORD),
            ("admin@localhost", PASSWORD),
            ("ana@ex_ample.com", PASSWORD),
            ("a na@example.com", PASSWORD),
            ("ana@example.com", ""),
            ("ana@example.com", "five5"),
            ("ana@example.com", &"x".repeat(51)),
        ] {
            let body = json!({ "email": email, "password": password });
            send_request(&tancho, None, line, RequestBody::Bare(body))
                .await
                .expect_status(400);
            let form = [("email", email), ("password", password)];
            send_request(&tancho, None, line, RequestBody::Form(&form))
                .await
                .expect_status(400);
        }
        for text in ["{", "{\"email\": 3, \"password\": 4}", "null", "", "[]"] {
            send_request(&tancho, None, line, RequestBody::Text(text))
                .await
                .expect_status(400);
        }
    }
    for password in ["x".repeat(50), "sixsix".into()] {
        let email = format!("u{}@example.com", password.len());
        let body = json!({ "email": email, "password": password });
        send_request(&tancho, None, "POST /users", RequestBody::Bare(body))
            .await
            .expect_status(200);
    }
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn concurrent_registrations_of_an_address_create_one_user() {
    let tancho = TestServer::start().await;
    let form = [("email", "ana@example.com"), ("password", PASSWORD)];
    let answers =
        join_all((0..20).map(|_| send_request(&tancho, None, "POST /1.0/users", RequestBody::Form(&form))))
            .await;
    let count = |status| answers.iter().filter(|a| a.status == status).count();
    assert_eq!((count(201), count(409)), (1, 19), "{answers:?}");
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn closed_registration_lets_only_administrators_create_users() {
    let tancho = TestServer::start_with(|s| s.auth.registration = RegistrationPolicy::Closed).await;
    let root = tancho.login_admin().await;
    let form = [("email", "ana@example.com"), ("password", PASSWORD)];
    for line in ["POST /users", "POST /1.0/users"] {
        send_request(&tancho, None, line, RequestBody::Form(&form))
            .await
            .expect_status(401);
    }
    send_request(&tancho, Some(&root), "POST /1.0/users", RequestBody::Form(&form))
        .await
        .expect_status(201);
    let ana = tancho.login("ana@example.com").await;
    let form = [("email", "bob@example.com"), ("password", PASSWORD)];
    send_request(&tancho, Some(&ana), "POST /1.0/users", RequestBody::Form(&form))
        .await
        .expect_status(403);
    grant(&tancho, &root, &ana, "global", "", &["user.create"]).await;
    send_request(&tancho, Some(&ana), "POST /users", RequestBody::Form(&form))
        .await
        .expect_status(200);
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn registration_is_closed_by_default_on_public_addresses() {
    let tancho = TestServer::start_with(|s| s.api.listen = "0.0.0.0:8080".parse().unwrap()).await;
    let form = [("email", "ana@example.com"), ("password", PASSWORD)];
    send_request(&tancho, None, "POST /users", RequestBody::Form(&form))
        .await
        .expect_status(401);
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn user_info_and_list_show_roles_and_permissions() {
    let tancho = TestServer::start().await;
    let (root, ana) = (tancho.login_admin().await, tancho.create_user("ana").await);
    tancho.create_team(&ana, "web").await;
    let info = send_request(&tancho, Some(&root), "GET /1.0/users/info", RequestBody::None)
        .await
        .expect_status(200)
        .json();
    let everything = json!({ "Name": "", "ContextType": "global", "ContextValue": "", "Group": "" });
    assert_eq!(info["Permissions"], json!([everything]));
    assert_eq!(info["Roles"][0]["Name"], "AllowAll");
    assert_eq!(info["Groups"], json!([]));
    let info = send_request(&tancho, Some(&ana), "GET /users/info", RequestBody::None)
        .await
        .expect_status(200)
        .json();
    assert_eq!(info["Email"], "ana@example.com");
    let role = json!({ "Name": "team-member", "ContextType": "team", "ContextValue": "web", "Group": "" });
    assert_eq!(info["Roles"], json!([role]));
    assert!(
        info["Permissions"]
            .as_array()
            .unwrap()
            .iter()
            .any(|p| p["Name"] == "team")
    );

    for (query, found) in [
        ("", 2),
        ("?userEmail=&role=&context=", 2),
        ("?userEmail=ana%40example.com", 1),
        ("?userEmail=nobody@example.com", 0),
        ("?role=team-member", 1),
        ("?role=team-member&context=web", 1),
        ("?role=team-member&context=other", 0),
        ("?context=web", 1),
    ] {
        let line = format!("GET /1.0/users{query}");
        let list = send_request(&tancho, Some(&root), &line, RequestBody::None)
            .await
            .expect_status(200)
            .json();
        assert_eq!(list.as_array().unwrap().len(), found, "{query}");
    }
    let count = async || {
        let list = send_request(&tancho, Some(&ana), "GET /1.0/users", RequestBody::None)
            .await
            .expect_status(200)
            .json();
        list.as_array().unwrap().len()
    };
    assert_eq!(count().await, 1, "they see only themselves");
    grant(&tancho, &root, &ana, "user", "root@example.com", &["user.read"]).await;
    assert_eq!(count().await, 2);
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn tokens_of_a_removed_user_are_rejected() {
    let tancho = TestServer::start().await;
    let (root, ana, bob) = (
        tancho.login_admin().await,
        tancho.create_user("ana").await,
        tancho.create_user("bob").await,
    );
    let key = send_request(&tancho, Some(&ana), "GET /1.0/users/api-key", RequestBody::None)
        .await
        .expect_status(200)
        .json();
    send_request(
        &tancho,
        Some(&ana),
        "DELETE /1.0/users?user=bob@example.com",
        RequestBody::None,
    )
    .await
    .expect_status(403);
    send_request(
        &tancho,
        Some(&root),
        "DELETE /1.0/users?user=nobody@example.com",
        RequestBody::None,
    )
    .await
    .expect_status(404);
    send_request(
        &tancho,
        Some(&ana),
        "DELETE /1.0/users?user=nobody@example.com",
        RequestBody::None,
    )
    .await
    .expect_status(403);
    send_request(&tancho, None, "DELETE /users", RequestBody::None)
        .await
        .expect_status(401);
    send_request(
        &tancho,
        Some(&root),
        "DELETE /1.0/users?user=bob%40example.com",
        RequestBody::None,
    )
    .await
    .expect_status(200);
    send_request(&tancho, Some(&bob), "GET /users/info", RequestBody::None)
        .await
        .expect_status(401);
    send_request(&tancho, Some(&ana), "GET /users/info", RequestBody::None)
        .await
        .expect_status(200);
    send_request(&tancho, Some(&ana), "DELETE /users", RequestBody::None)
        .await
        .expect_status(200);
    send_request(&tancho, Some(&ana), "GET /users/info", RequestBody::None)
        .await
        .expect_status(401);
    let by_key = crate::test_server::TestUser {
        email: ana.email.clone(),
        token: key.as_str().unwrap().to_owned(),
    };
    send_request(&tancho, Some(&by_key), "GET /users/info", RequestBody::None)
        .await
        .expect_status(401);
    let again = tancho.create_user("ana").await;
    let info = send_request(&tancho, Some(&again), "GET /users/info", RequestBody::None)
        .await
        .expect_status(200)
        .json();
    assert_eq!(info["Roles"], json!([]));
    send_request(&tancho, Some(&root), "DELETE /users", RequestBody::None)
        .await
        .expect_status(403);
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn last_member_of_a_team_cannot_be_removed() {
    let tancho = TestServer::start().await;
    let (ana, bob) = (tancho.create_user("ana").await, tancho.create_user("bob").await);
    tancho.create_team(&ana, "web").await;
    crate::accounts::insert_app(&tancho, "shop", "web", "ana@example.com").await;
    let refused = send_request(&tancho, Some(&ana), "DELETE /users", RequestBody::None)
        .await
        .expect_status(403);
    assert!(refused.body.contains("\"web\""), "{refused:?}");
    send_request(
        &tancho,
        Some(&ana),
        "PUT /teams/web/bob@example.com",
        RequestBody::None,
    )
    .await
    .expect_status(200);
    let answers = join_all([
        send_request(&tancho, Some(&ana), "DELETE /users", RequestBody::None),
        send_request(&tancho, Some(&bob), "DELETE /1.0/users", RequestBody::None),
    ])
    .await;
    let mut statuses = answers.iter().map(|a| a.status).collect::<Vec<_>>();
    statuses.sort();
    assert_eq!(
        statuses,
        [200, 403],
        "one of the last two members stays: {answers:?}"
    );
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn api_key_can_be_shown_and_regenerated() {
    let tancho = TestServer::start().await;
    let (root, ana) = (tancho.login_admin().await, tancho.create_user("ana").await);
    let show = async |who| {
        send_request(&tancho, Some(who), "GET /1.0/users/api-key", RequestBody::None)
            .await
            .expect_status(200)
            .json()
    };
    let first = show(&ana).await;
    assert_eq!(first, show(&ana).await);
    let key = |value: &serde_json::Value| crate::test_server::TestUser {
        email: ana.email.clone(),
        token: value.as_str().unwrap().to_owned(),
    };
    send_request(&tancho, Some(&key(&first)), "GET /users/info", RequestBody::None)
        .await
        .expect_status(200);
    send_request(
        &tancho,
        Some(&key(&first)),
        "DELETE /users/tokens",
        RequestBody::None,
    )
    .await
    .expect_status(200);
    send_request(&tancho, Some(&key(&first)), "GET /users/info", RequestBody::None)
        .await
        .expect_status(200);
    let second = send_request(&tancho, Some(&ana), "POST /1.0/users/api-key", RequestBody::None)
        .await
        .expect_status(200)
        .json();
    assert_ne!(first, second);
    send_request(&tancho, Some(&key(&first)), "GET /users/info", RequestBody::None)
        .await
        .expect_status(401);
    send_request(&tancho, Some(&key(&second)), "GET /users/info", RequestBody::None)
        .await
        .expect_status(200);

    let line = "GET /1.0/users/api-key?user=ana%40example.com";
    assert_eq!(
        send_request(&tancho, Some(&root), line, RequestBody::None)
            .await
            .expect_status(200)
            .json(),
        second
    );
    let line = "GET /1.0/users/api-key?user=root@example.com";
    send_request(&tancho, Some(&ana), line, RequestBody::None)
        .await
        .expect_status(403);
    grant(&tancho, &root, &ana, "global", "", &["apikey"]).await;
    for line in [line, "POST /1.0/users/api-key?user=root@example.com"] {
        let refused = send_request(&tancho, Some(&ana), line, RequestBody::None)
            .await
            .expect_status(403);
        assert!(refused.body.contains("you do not"), "{refused:?}");
    }
    let line = "GET /1.0/users/api-key?user=nobody@example.com";
    send_request(&tancho, Some(&root), line, RequestBody::None)
        .await
        .expect_status(404);
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn concurrently_started_replicas_create_one_administrator() {
    let tancho = TestServer::start().await;
    let core = &tancho.running.core;
    let made = join_all((0..4).map(|_| tancho::users::ensure_admin(core))).await;
    let mut made = made.into_iter().filter_map(Result::unwrap);
    let credentials = made.next().expect("one replica created the administrator");
    assert!(made.next().is_none());
    assert_eq!(credentials.email.as_str(), "admin@example.com");
    let password = credentials.password.expect("a password was generated");
    let form = [("password", password.expose_secret())];
    let answer = send_request(
        &tancho,
        None,
        "POST /users/admin@example.com/tokens",
        RequestBody::Form(&form),
    )
    .await
    .expect_status(200);
    assert_eq!(answer.json()["is_admin"], true);
    assert!(tancho::users::ensure_admin(core).await.unwrap().is_none());
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn administrator_from_settings_keeps_their_password() {
    let tancho = TestServer::start_with(|s| s.admin.password = Secret::new(PASSWORD)).await;
    let core = &tancho.running.core;
    let made = tancho::users::ensure_admin(core).await.unwrap().expect("made");
    assert!(made.password.is_none(), "the operator's password is not printed");
    tancho.login("admin@example.com").await;
    tancho.running.drain_and_stop().await;

    let tancho = TestServer::start_with(|s| s.admin.email = "ana@example.com".parse().unwrap()).await;
    let ana = tancho.create_user("ana").await;
    assert!(
        tancho::users::ensure_admin(&tancho.running.core)
            .await
            .unwrap()
            .is_none()
    );
    let info = send_request(&tancho, Some(&ana), "GET /users/info", RequestBody::None)
        .await
        .expect_status(200)
        .json();
    assert_eq!(
        info["Roles"][0]["Name"], "AllowAll",
        "the existing user becomes administrator"
    );
    tancho.running.drain_and_stop().await;

    let file = std::env::temp_dir().join(format!("tancho-admin-{}", std::process::id()));
    std::fs::write(&file, format!("{PASSWORD}\n")).unwrap();
    let tancho = TestServer::start_with(|s| s.admin.password_file = file.clone()).await;
    tancho::users::ensure_admin(&tancho.running.core)
        .await
        .unwrap()
        .expect("made");
    tancho.login("admin@example.com").await;
    std::fs::remove_file(&file).unwrap();
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn healthcheck_and_info_report_the_state_and_version() {
    let tancho = TestServer::start().await;
    for path in [
        "/healthcheck",
        "/healthcheck/",
        "/1.0/healthcheck",
        "/healthcheck?check=all",
    ] {
        let answer = send_request(&tancho, None, &format!("GET {path}"), RequestBody::None)
            .await
            .expect_status(200);
        assert_eq!(answer.body, "WORKING");
    }
    send_request(&tancho, None, "GET /1.0/info", RequestBody::None)
        .await
        .expect_status(401);
    let ana = tancho.create_user("ana").await;
    let info = send_request(&tancho, Some(&ana), "GET /1.0/info", RequestBody::None)
        .await
        .expect_status(200)
        .json();
    assert_eq!(info["version"], env!("CARGO_PKG_VERSION"));
    assert!(info.as_object().unwrap().values().all(|v| v.is_string()));
    tancho.running.core.db.close().await;
    send_request(&tancho, None, "GET /healthcheck", RequestBody::None)
        .await
        .expect_status(200);
    let answer = send_request(&tancho, None, "GET /healthcheck/?check=all", RequestBody::None)
        .await
        .expect_status(503);
    assert!(answer.body.starts_with("database: "), "{answer:?}");
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn every_change_records_a_finished_event() {
    let tancho = TestServer::start().await;
    let (root, ana) = (tancho.login_admin().await, tancho.create_user("ana").await);
    tancho.create_user("bob").await;
    tancho.create_team(&ana, "web").await;
    send_request(
        &tancho,
        Some(&ana),
        "PUT /teams/web/bob@example.com",
        RequestBody::None,
    )
    .await
    .expect_status(200);
    send_request(
        &tancho,
        Some(&root),
        "PUT /1.0/users/ana@example.com/quota",
        RequestBody::Form(&[("limit", "3")]),
    )
    .await
    .expect_status(200);
    grant(&tancho, &root, &ana, "global", "", &["plan.read"]).await;
    send_request(
        &tancho,
        Some(&root),
        "DELETE /1.0/users?user=bob@example.com",
        RequestBody::None,
    )
    .await
    .expect_status(200);
    // A refused request records none.
    send_request(
        &tancho,
        Some(&ana),
        "POST /teams",
        RequestBody::Bare(json!({ "name": "web" })),
    )
    .await
    .expect_status(409);
    let db = &tancho.running.core.db;
    let rows: Vec<(String, String, String)> =
        sqlx::query_as("select kind, target_value, owner_name from event order by started_at offset 1")
            .fetch_all(db)
            .await
            .unwrap();
    let kinds: Vec<&str> = rows.iter().map(|(kind, ..)| kind.as_str()).collect();
    assert_eq!(
        kinds,
        [
            "user.create",
            "user.create",
            "team.create",
            "team.update",
            "user.update.quota",
            "role.create",
            "role.update.permission.add",
            "role.update.assign",
            "user.delete",
        ]
    );
    assert_eq!(
        (rows[2].1.as_str(), rows[2].2.as_str()),
        ("web", "ana@example.com")
    );
    let open: i64 = sqlx::query_scalar("select count(*) from event where ended_at is null")
        .fetch_one(db)
        .await
        .unwrap();
    let locks: i64 = sqlx::query_scalar("select count(*) from event_lock")
        .fetch_one(db)
        .await
        .unwrap();
    assert_eq!((open, locks), (0, 0));
    tancho.running.drain_and_stop().await;
}
