use futures_util::future::join_all;
use serde_json::json;
use tancho::config::Registration;
use tancho::kernel::secret::Secret;

use super::{Body, ask, grant};
use crate::house::{House, PASSWORD};

#[tokio::test]
async fn users_are_made_in_both_editions_and_both_forms() {
    let house = House::start().await;
    let bare = json!({ "email": "a@example.com", "password": PASSWORD, "Limit": 99 });
    let made = ask(&house, None, "POST /users", Body::Bare(bare.clone()))
        .await
        .is(200);
    assert_eq!(made.body, "");
    let form = [("email", "b@example.com"), ("password", PASSWORD)];
    ask(&house, None, "POST /users", Body::Form(&form)).await.is(200);
    let form = [("email", "c@example.com"), ("password", PASSWORD)];
    ask(&house, None, "POST /1.0/users", Body::Form(&form))
        .await
        .is(201);
    for line in ["POST /users", "POST /1.0/users"] {
        let again = ask(&house, None, line, Body::Bare(bare.clone())).await.is(409);
        assert_eq!(again.body, "this email is already registered\n");
    }
    let ana = house.login("a@example.com").await;
    let quota = ask(
        &house,
        Some(&ana),
        "GET /1.0/users/a@example.com/quota",
        Body::None,
    )
    .await
    .is(200);
    assert_eq!(
        quota.json(),
        json!({ "limit": -1, "inuse": 0 }),
        "nobody sets their own limit"
    );
    house.running.stop().await;
}

#[tokio::test]
async fn wrong_users_are_400() {
    let house = House::start().await;
    for line in ["POST /users", "POST /1.0/users"] {
        for (email, password) in [
            ("", PASSWORD),
            ("ana", PASSWORD),
            ("admin@localhost", PASSWORD),
            ("ana@Example.com", PASSWORD),
            ("a na@example.com", PASSWORD),
            ("ana@example.com", ""),
            ("ana@example.com", "five5"),
            ("ana@example.com", &"x".repeat(51)),
        ] {
            let body = json!({ "email": email, "password": password });
            ask(&house, None, line, Body::Bare(body)).await.is(400);
            let form = [("email", email), ("password", password)];
            ask(&house, None, line, Body::Form(&form)).await.is(400);
        }
        for text in ["{", "{\"email\": 3, \"password\": 4}", "null", "", "[]"] {
            ask(&house, None, line, Body::Text(text)).await.is(400);
        }
    }
    for password in ["x".repeat(50), "sixsix".into()] {
        let email = format!("u{}@example.com", password.len());
        let body = json!({ "email": email, "password": password });
        ask(&house, None, "POST /users", Body::Bare(body)).await.is(200);
    }
    house.running.stop().await;
}

#[tokio::test]
async fn of_twenty_who_take_an_address_at_once_one_gets_it() {
    let house = House::start().await;
    let form = [("email", "ana@example.com"), ("password", PASSWORD)];
    let answers = join_all((0..20).map(|_| ask(&house, None, "POST /1.0/users", Body::Form(&form)))).await;
    let count = |status| answers.iter().filter(|a| a.status == status).count();
    assert_eq!((count(201), count(409)), (1, 19), "{answers:?}");
    house.running.stop().await;
}

#[tokio::test]
async fn closed_registration_leaves_it_to_administrators() {
    let house = House::with(|s| s.auth.registration = Registration::Closed).await;
    let root = house.admin().await;
    let form = [("email", "ana@example.com"), ("password", PASSWORD)];
    for line in ["POST /users", "POST /1.0/users"] {
        ask(&house, None, line, Body::Form(&form)).await.is(401);
    }
    ask(&house, Some(&root), "POST /1.0/users", Body::Form(&form))
        .await
        .is(201);
    let ana = house.login("ana@example.com").await;
    let form = [("email", "bob@example.com"), ("password", PASSWORD)];
    ask(&house, Some(&ana), "POST /1.0/users", Body::Form(&form))
        .await
        .is(403);
    grant(&house, &root, &ana, "global", "", &["user.create"]).await;
    ask(&house, Some(&ana), "POST /users", Body::Form(&form))
        .await
        .is(200);
    house.running.stop().await;
}

#[tokio::test]
async fn an_address_open_to_the_world_closes_registration() {
    let house = House::with(|s| s.api.listen = "0.0.0.0:8080".parse().unwrap()).await;
    let form = [("email", "ana@example.com"), ("password", PASSWORD)];
    ask(&house, None, "POST /users", Body::Form(&form)).await.is(401);
    house.running.stop().await;
}

#[tokio::test]
async fn info_and_list_tell_what_people_hold() {
    let house = House::start().await;
    let (root, ana) = (house.admin().await, house.person("ana").await);
    house.team(&ana, "web").await;
    let info = ask(&house, Some(&root), "GET /1.0/users/info", Body::None)
        .await
        .is(200)
        .json();
    let everything = json!({ "Name": "", "ContextType": "global", "ContextValue": "", "Group": "" });
    assert_eq!(info["Permissions"], json!([everything]));
    assert_eq!(info["Roles"][0]["Name"], "AllowAll");
    assert_eq!(info["Groups"], json!([]));
    let info = ask(&house, Some(&ana), "GET /users/info", Body::None)
        .await
        .is(200)
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
        let list = ask(&house, Some(&root), &line, Body::None).await.is(200).json();
        assert_eq!(list.as_array().unwrap().len(), found, "{query}");
    }
    ask(&house, Some(&ana), "GET /1.0/users", Body::None)
        .await
        .is(403);
    grant(&house, &root, &ana, "user", "ana@example.com", &["user.read"]).await;
    let list = ask(&house, Some(&ana), "GET /1.0/users", Body::None)
        .await
        .is(200)
        .json();
    assert_eq!(list.as_array().unwrap().len(), 1, "they read themselves only");
    house.running.stop().await;
}

#[tokio::test]
async fn who_is_removed_is_gone_with_all_their_tokens() {
    let house = House::start().await;
    let (root, ana, bob) = (
        house.admin().await,
        house.person("ana").await,
        house.person("bob").await,
    );
    let key = ask(&house, Some(&ana), "GET /1.0/users/api-key", Body::None)
        .await
        .is(200)
        .json();
    ask(
        &house,
        Some(&ana),
        "DELETE /1.0/users?user=bob@example.com",
        Body::None,
    )
    .await
    .is(403);
    ask(
        &house,
        Some(&root),
        "DELETE /1.0/users?user=nobody@example.com",
        Body::None,
    )
    .await
    .is(404);
    ask(
        &house,
        Some(&ana),
        "DELETE /1.0/users?user=nobody@example.com",
        Body::None,
    )
    .await
    .is(403);
    ask(&house, None, "DELETE /users", Body::None).await.is(401);
    ask(
        &house,
        Some(&root),
        "DELETE /1.0/users?user=bob%40example.com",
        Body::None,
    )
    .await
    .is(200);
    ask(&house, Some(&bob), "GET /users/info", Body::None)
        .await
        .is(401);
    ask(&house, Some(&ana), "GET /users/info", Body::None)
        .await
        .is(200);
    ask(&house, Some(&ana), "DELETE /users", Body::None).await.is(200);
    ask(&house, Some(&ana), "GET /users/info", Body::None)
        .await
        .is(401);
    let by_key = crate::house::Person {
        email: ana.email.clone(),
        token: key.as_str().unwrap().to_owned(),
    };
    ask(&house, Some(&by_key), "GET /users/info", Body::None)
        .await
        .is(401);
    let again = house.person("ana").await;
    let info = ask(&house, Some(&again), "GET /users/info", Body::None)
        .await
        .is(200)
        .json();
    assert_eq!(info["Roles"], json!([]));
    ask(&house, Some(&root), "DELETE /users", Body::None)
        .await
        .is(403);
    house.running.stop().await;
}

#[tokio::test]
async fn the_last_member_of_a_team_stays() {
    let house = House::start().await;
    let (ana, bob) = (house.person("ana").await, house.person("bob").await);
    house.team(&ana, "web").await;
    super::put_app(&house, "shop", "web", "ana@example.com").await;
    let refused = ask(&house, Some(&ana), "DELETE /users", Body::None).await.is(403);
    assert!(refused.body.contains("\"web\""), "{refused:?}");
    ask(&house, Some(&ana), "PUT /teams/web/bob@example.com", Body::None)
        .await
        .is(200);
    let answers = join_all([
        ask(&house, Some(&ana), "DELETE /users", Body::None),
        ask(&house, Some(&bob), "DELETE /1.0/users", Body::None),
    ])
    .await;
    let mut statuses = answers.iter().map(|a| a.status).collect::<Vec<_>>();
    statuses.sort();
    assert_eq!(
        statuses,
        [200, 403],
        "of the two last members one stays: {answers:?}"
    );
    house.running.stop().await;
}

#[tokio::test]
async fn api_keys_are_shown_again_and_made_anew() {
    let house = House::start().await;
    let (root, ana) = (house.admin().await, house.person("ana").await);
    let show = async |who| {
        ask(&house, Some(who), "GET /1.0/users/api-key", Body::None)
            .await
            .is(200)
            .json()
    };
    let first = show(&ana).await;
    assert_eq!(first, show(&ana).await);
    let key = |value: &serde_json::Value| crate::house::Person {
        email: ana.email.clone(),
        token: value.as_str().unwrap().to_owned(),
    };
    ask(&house, Some(&key(&first)), "GET /users/info", Body::None)
        .await
        .is(200);
    ask(&house, Some(&key(&first)), "DELETE /users/tokens", Body::None)
        .await
        .is(200);
    ask(&house, Some(&key(&first)), "GET /users/info", Body::None)
        .await
        .is(200);
    let second = ask(&house, Some(&ana), "POST /1.0/users/api-key", Body::None)
        .await
        .is(200)
        .json();
    assert_ne!(first, second);
    ask(&house, Some(&key(&first)), "GET /users/info", Body::None)
        .await
        .is(401);
    ask(&house, Some(&key(&second)), "GET /users/info", Body::None)
        .await
        .is(200);

    let line = "GET /1.0/users/api-key?user=ana%40example.com";
    assert_eq!(
        ask(&house, Some(&root), line, Body::None).await.is(200).json(),
        second
    );
    let line = "GET /1.0/users/api-key?user=root@example.com";
    ask(&house, Some(&ana), line, Body::None).await.is(403);
    grant(&house, &root, &ana, "global", "", &["apikey"]).await;
    for line in [line, "POST /1.0/users/api-key?user=root@example.com"] {
        let refused = ask(&house, Some(&ana), line, Body::None).await.is(403);
        assert!(refused.body.contains("you do not"), "{refused:?}");
    }
    let line = "GET /1.0/users/api-key?user=nobody@example.com";
    ask(&house, Some(&root), line, Body::None).await.is(404);
    house.running.stop().await;
}

#[tokio::test]
async fn of_replicas_that_start_together_one_makes_the_administrator() {
    let house = House::start().await;
    let core = &house.running.core;
    let made = join_all((0..4).map(|_| tancho::users::ensure_admin(core))).await;
    let mut made = made.into_iter().filter_map(Result::unwrap);
    let credentials = made.next().expect("one made the administrator");
    assert!(made.next().is_none());
    assert_eq!(credentials.email.as_str(), "admin@example.com");
    let password = credentials.password.expect("a password was made up");
    let form = [("password", password.expose())];
    let answer = ask(
        &house,
        None,
        "POST /users/admin@example.com/tokens",
        Body::Form(&form),
    )
    .await
    .is(200);
    assert_eq!(answer.json()["is_admin"], true);
    assert!(tancho::users::ensure_admin(core).await.unwrap().is_none());
    house.running.stop().await;
}

#[tokio::test]
async fn the_administrator_of_the_settings_keeps_their_password() {
    let house = House::with(|s| s.admin.password = Secret::new(PASSWORD)).await;
    let core = &house.running.core;
    let made = tancho::users::ensure_admin(core).await.unwrap().expect("made");
    assert!(made.password.is_none(), "what the operator knows is not printed");
    house.login("admin@example.com").await;
    house.running.stop().await;

    let house = House::with(|s| s.admin.email = "ana@example.com".parse().unwrap()).await;
    let ana = house.person("ana").await;
    assert!(
        tancho::users::ensure_admin(&house.running.core)
            .await
            .unwrap()
            .is_none()
    );
    let info = ask(&house, Some(&ana), "GET /users/info", Body::None)
        .await
        .is(200)
        .json();
    assert_eq!(info["Roles"][0]["Name"], "AllowAll", "who was there becomes it");
    house.running.stop().await;

    let file = std::env::temp_dir().join(format!("tancho-admin-{}", std::process::id()));
    std::fs::write(&file, format!("{PASSWORD}\n")).unwrap();
    let house = House::with(|s| s.admin.password_file = file.clone()).await;
    tancho::users::ensure_admin(&house.running.core)
        .await
        .unwrap()
        .expect("made");
    house.login("admin@example.com").await;
    std::fs::remove_file(&file).unwrap();
    house.running.stop().await;
}

#[tokio::test]
async fn the_server_says_that_it_works_and_what_it_is() {
    let house = House::start().await;
    for path in [
        "/healthcheck",
        "/healthcheck/",
        "/1.0/healthcheck",
        "/healthcheck?check=all",
    ] {
        let answer = ask(&house, None, &format!("GET {path}"), Body::None)
            .await
            .is(200);
        assert_eq!(answer.body, "WORKING");
    }
    ask(&house, None, "GET /1.0/info", Body::None).await.is(401);
    let ana = house.person("ana").await;
    let info = ask(&house, Some(&ana), "GET /1.0/info", Body::None)
        .await
        .is(200)
        .json();
    assert_eq!(info["version"], env!("CARGO_PKG_VERSION"));
    assert!(info.as_object().unwrap().values().all(|v| v.is_string()));
    house.running.core.db.close().await;
    ask(&house, None, "GET /healthcheck", Body::None).await.is(200);
    let answer = ask(&house, None, "GET /healthcheck/?check=all", Body::None)
        .await
        .is(503);
    assert!(answer.body.starts_with("database: "), "{answer:?}");
    house.running.stop().await;
}

#[tokio::test]
async fn every_change_is_an_event_that_has_ended() {
    let house = House::start().await;
    let (root, ana) = (house.admin().await, house.person("ana").await);
    house.person("bob").await;
    house.team(&ana, "web").await;
    ask(&house, Some(&ana), "PUT /teams/web/bob@example.com", Body::None)
        .await
        .is(200);
    ask(
        &house,
        Some(&root),
        "PUT /1.0/users/ana@example.com/quota",
        Body::Form(&[("limit", "3")]),
    )
    .await
    .is(200);
    grant(&house, &root, &ana, "global", "", &["plan.read"]).await;
    ask(
        &house,
        Some(&root),
        "DELETE /1.0/users?user=bob@example.com",
        Body::None,
    )
    .await
    .is(200);
    // What is refused leaves none.
    ask(
        &house,
        Some(&ana),
        "POST /teams",
        Body::Bare(json!({ "name": "web" })),
    )
    .await
    .is(409);
    let db = &house.running.core.db;
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
    house.running.stop().await;
}
