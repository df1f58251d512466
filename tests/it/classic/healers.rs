//! Healers: real reconcilers, run manually.

use reqwest::Method;
use serde_json::{Value, json};

use crate::test_server::TestServer;

#[tokio::test]
async fn healers_are_listed_as_single_key_objects_and_run_repeatedly() {
    let tancho = TestServer::start().await;
    let ana = tancho.create_user("ana").await;
    let list = tancho.read_json(&ana, "/healers").await;
    let names: Vec<String> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|item| {
            let item = item.as_object().unwrap();
            let (name, path) = item.iter().next().unwrap();
            assert_eq!((item.len(), path), (1, &json!(format!("/healers/{name}"))));
            name.clone()
        })
        .collect();
    assert_eq!(
        names,
        [
            "units",
            "orphans",
            "unit-binds",
            "leases",
            "exec-sessions",
            "webhooks",
            "certificates",
            "job-planner",
            "job-runner",
            "unit-usage",
            "unit-scaler",
            "retention",
            "archives",
            "repositories",
            "versions",
            "volumes",
            "routes"
        ]
    );
    for name in names.iter().chain(&names) {
        let (status, text) = tancho
            .send_json(&ana, Method::GET, &format!("/healers/{name}"), None)
            .await;
        assert_eq!(status, 200, "{text}");
        assert!(text.starts_with(&format!("{name}: ")), "{text}");
    }
    let (status, text) = tancho
        .send_json(&ana, Method::GET, "/healers/container", None)
        .await;
    assert!(status == 404 && text.contains("unit-binds"), "{text}");
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn lease_healer_reports_sagas_without_owner_and_stuck_sagas() {
    let tancho = TestServer::start().await;
    let ana = tancho.create_user("ana").await;
    let put = "insert into saga (saga_id, kind, queue, step, data, state, wake_at, ended_at)
               values (gen_random_uuid(), 'of another build', 'interactive', 'first', '{}', $1, now() - interval '1 hour',
                       case when $1 = 'stuck' then now() end)";
    for state in ["forward", "stuck"] {
        sqlx::query(put)
            .bind(state)
            .execute(&tancho.running.core.db)
            .await
            .unwrap();
    }
    let (_, text) = tancho.send_json(&ana, Method::GET, "/healers/leases", None).await;
    for part in [
        "1 operations without an owner",
        "1 operations that could not be undone",
    ] {
        assert!(text.contains(part), "{text}");
    }
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn failing_healer_returns_500() {
    let tancho = TestServer::start().await;
    let ana = tancho.create_user("ana").await;
    sqlx::query("alter table saga rename column lease_until to elsewhere")
        .execute(&tancho.running.core.db)
        .await
        .unwrap();
    let (status, text) = tancho.send_json(&ana, Method::GET, "/healers/leases", None).await;
    assert_eq!(status, 500, "{text}");
    assert!(!text.contains("elsewhere") && !text.is_empty(), "{text}");
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn app_token_can_run_healers() {
    let tancho = TestServer::start().await;
    let (root, ana) = (tancho.login_admin().await, tancho.create_user("ana").await);
    tancho.create_team(&ana, "red").await;
    let app = json!({ "name": "agent", "platform": "python" });
    tancho.send_json(&ana, Method::POST, "/apps", Some(app)).await;
    let (status, text) = tancho
        .send_json(&root, Method::POST, "/tokens", Some(json!({ "client": "agent" })))
        .await;
    assert_eq!(status, 200, "{text}");
    let token: Value = serde_json::from_str(&text).unwrap();
    let app = crate::test_server::TestUser {
        email: String::new(),
        token: token["token"].as_str().unwrap().to_owned(),
    };
    let (status, _) = tancho.send_json(&app, Method::GET, "/healers/units", None).await;
    assert_eq!(status, 200);
    tancho.running.drain_and_stop().await;
}
