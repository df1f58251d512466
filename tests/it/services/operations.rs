//! The operations of services: manifests, the permissions that they declare, and what these allow.

use reqwest::Method;
use serde_json::{Value, json};

use super::proxy::ProxyFixture;
use crate::accounts::{RequestBody, grant, send_request};
use crate::test_server::TestUser;

fn manifest(operations: &[(&str, &str, &str)]) -> Value {
    let operation = |(method, path, action): &(&str, &str, &str)| json!({ "method": method, "path": path, "action": action });
    json!({ "enabled": true, "strict_actions": true, "legacy_compat": false,
            "operations": operations.iter().map(operation).collect::<Vec<_>>() })
}

const RULES: [(&str, &str, &str); 2] = [
    ("GET", "/rules/{id}", "rules.view"),
    ("POST", "/rules/{id}/sync", "rules.sync"),
];

impl ProxyFixture {
    /// With a manifest of the operations `RULES`.
    async fn with_rules() -> Self {
        let fixture = Self::start().await;
        assert_eq!(fixture.put_manifest(&fixture.ana, &manifest(&RULES)).await.0, 200);
        fixture
    }

    async fn create_role(&self, name: &str, context: &str) {
        let form = format!("name={name}&context={context}");
        self.form(&self.root, "POST /1.0/roles", &form).await;
    }

    async fn put_manifest(&self, who: &TestUser, manifest: &Value) -> (u16, String) {
        let path = "/1.31/services/db/manifest";
        self.tancho
            .send_json(who, Method::PUT, path, Some(manifest.clone()))
            .await
    }

    /// Returns the names of all permissions below `service-action`.
    async fn action_permissions(&self) -> Vec<String> {
        let list = self.tancho.read_json(&self.bob, "/1.0/permissions").await;
        let names = list
            .as_array()
            .unwrap()
            .iter()
            .map(|p| p["Name"].as_str().unwrap().to_owned());
        names.filter(|name| name.starts_with("service-action")).collect()
    }

    async fn role(&self, line: &str, status: u16) -> String {
        let answer = send_request(&self.tancho, Some(&self.root), line, RequestBody::None).await;
        answer.expect_status(status).body
    }

    async fn add_to_role(&self, role: &str, permission: &str, status: u16) -> String {
        let line = format!("POST /1.0/roles/{role}/permissions");
        let fields = [("permission", permission)];
        let answer = send_request(&self.tancho, Some(&self.root), &line, RequestBody::Form(&fields)).await;
        answer.expect_status(status).body
    }
}

#[tokio::test]
async fn strict_manifest_allows_each_operation_to_holders_of_its_action_only() {
    let fixture = ProxyFixture::start().await;
    let (view, sync) = (
        "GET /1.20/services/db/resources/main/rules/1",
        "POST /1.20/services/db/resources/main/rules/1/sync",
    );
    assert_eq!(fixture.action_permissions().await, ["service-action"]);
    let empty = fixture
        .tancho
        .read_json(&fixture.ana, "/1.31/services/db/manifest")
        .await;
    assert_eq!(
        empty,
        json!({ "enabled": false, "strict_actions": false, "legacy_compat": false, "operations": [] })
    );
    let (status, text) = fixture.put_manifest(&fixture.ana, &manifest(&RULES)).await;
    assert_eq!(status, 200, "{text}");
    let stored = fixture
        .tancho
        .read_json(&fixture.ana, "/1.31/services/db/manifest")
        .await;
    assert_eq!(stored, manifest(&RULES));
    assert_eq!(
        fixture.action_permissions().await,
        [
            "service-action",
            "service-action.db",
            "service-action.db.rules",
            "service-action.db.rules.sync",
            "service-action.db.rules.view"
        ]
    );
    // The general permission no longer suffices, nor does what matches no operation.
    for line in [view, sync, "GET /1.20/services/db/resources/main/other"] {
        assert_eq!(fixture.send(&fixture.ana, line).await.0, 403, "{line}");
    }
    // A user with one action on the instance, and nothing else.
    grant(
        &fixture.tancho,
        &fixture.root,
        &fixture.bob,
        "service-instance",
        "db/main",
        &["service-action.db.rules.view"],
    )
    .await;
    assert_eq!(
        fixture.received(&fixture.bob, view).await["path"],
        "/base/resources/main/rules/1"
    );
    let callback = "GET /1.0/services/db/proxy/main?callback=/resources/main/rules/1";
    fixture.received(&fixture.bob, callback).await;
    for line in [
        sync,
        "GET /1.20/services/db/resources/main/other",
        "DELETE /1.20/services/db/resources/main/rules/1",
    ] {
        assert_eq!(fixture.send(&fixture.bob, line).await.0, 404, "{line}");
    }
    // All actions, by what they have in common, on a team; and all permissions.
    grant(
        &fixture.tancho,
        &fixture.root,
        &fixture.ana,
        "team",
        "red",
        &["service-action.db.rules"],
    )
    .await;
    fixture.received(&fixture.ana, sync).await;
    fixture.received(&fixture.root, sync).await;
    let events = fixture.proxy_events().await;
    assert_eq!(
        events[0].1,
        json!({ "method": "POST", "path": "/rules/1/sync", "action": "rules.sync" })
    );
    fixture.tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn lenient_and_legacy_manifests_keep_the_general_permission_where_they_say_so() {
    let fixture = ProxyFixture::start().await;
    let (view, other) = (
        "GET /1.20/services/db/resources/main/rules/1",
        "GET /1.20/services/db/resources/main/other",
    );
    for (strict, legacy, view_status, other_status) in [
        (false, false, 403, 202),
        (true, false, 403, 403),
        (false, true, 202, 202),
        (true, true, 202, 403),
    ] {
        let mut manifest = manifest(&RULES);
        manifest["strict_actions"] = json!(strict);
        manifest["legacy_compat"] = json!(legacy);
        assert_eq!(fixture.put_manifest(&fixture.ana, &manifest).await.0, 200);
        assert_eq!(
            fixture.send(&fixture.ana, view).await.0,
            view_status,
            "{strict} {legacy}"
        );
        assert_eq!(
            fixture.send(&fixture.ana, other).await.0,
            other_status,
            "{strict} {legacy}"
        );
    }
    let mut disabled = manifest(&RULES);
    disabled["enabled"] = json!(false);
    assert_eq!(fixture.put_manifest(&fixture.ana, &disabled).await.0, 200);
    fixture.received(&fixture.ana, view).await;
    assert_eq!(fixture.action_permissions().await, ["service-action"]);
    fixture.tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn service_actions_in_roles_are_kept_until_removed_and_end_with_their_service() {
    let fixture = ProxyFixture::with_rules().await;
    fixture.create_role("viewer", "team").await;
    for (permission, status) in [
        ("service-action.db.rules.view", 200),
        ("service-action.db.rules.view", 200),
        ("service-action.db.rules.fly", 400),
        ("service-action.db.rule", 400),
        ("service-action.db.", 400),
        ("service-action.gone.rules", 400),
        ("service-action.", 400),
    ] {
        let text = fixture.add_to_role("viewer", permission, status).await;
        assert!(
            status == 200 || text.contains("not found"),
            "{permission}: {text}"
        );
    }
    let role = fixture.tancho.read_json(&fixture.root, "/1.0/roles/viewer").await;
    assert_eq!(
        (&role["scheme_names"], &role["dynamic_scheme_names"]),
        (&json!([]), &json!(["service-action.db.rules.view"]))
    );
    fixture.create_role("driver", "app").await;
    let refused = fixture
        .add_to_role("driver", "service-action.db.rules.view", 400)
        .await;
    assert!(refused.contains("not allowed with context of type"), "{refused}");

    // An action that a role holds stays in the manifest.
    let (status, text) = fixture.put_manifest(&fixture.ana, &manifest(&RULES[1..])).await;
    assert!(
        status == 409 && text.contains("The role viewer holds the action \"rules.view\""),
        "{status} {text}"
    );
    fixture
        .role(
            "DELETE /1.0/roles/viewer/permissions/service-action.db.rules.view",
            200,
        )
        .await;
    assert_eq!(
        fixture.put_manifest(&fixture.ana, &manifest(&RULES[1..])).await.0,
        200
    );

    // Nobody grants an action that they do not hold.
    grant(
        &fixture.tancho,
        &fixture.root,
        &fixture.bob,
        "global",
        "",
        &["role.update"],
    )
    .await;
    let fields = [("permission", "service-action.db.rules.sync")];
    let line = "POST /1.0/roles/viewer/permissions";
    send_request(
        &fixture.tancho,
        Some(&fixture.bob),
        line,
        RequestBody::Form(&fields),
    )
    .await
    .expect_status(403);
    fixture.add_to_role("viewer", "service-action.db", 200).await;
    let fields = [("email", "bob@example.com"), ("context", "red")];
    let line = "POST /1.0/roles/viewer/user";
    send_request(
        &fixture.tancho,
        Some(&fixture.bob),
        line,
        RequestBody::Form(&fields),
    )
    .await
    .expect_status(403);

    // They end with the service, and a later one of the same name has none of them.
    fixture.role("DELETE /1.0/services/db/instances/main", 200).await;
    fixture.role("DELETE /1.0/services/db", 200).await;
    let role = fixture.tancho.read_json(&fixture.root, "/1.0/roles/viewer").await;
    assert_eq!(role["dynamic_scheme_names"], json!([]));
    assert_eq!(fixture.action_permissions().await, ["service-action"]);
    fixture.tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn path_that_may_mean_two_services_is_rejected() {
    let fixture = ProxyFixture::start().await;
    let other = "id=db.rules&username=u&password=pw&team=blue&endpoint=http://127.0.0.1:1";
    fixture.form(&fixture.root, "POST /1.0/services", other).await;
    assert_eq!(fixture.put_manifest(&fixture.ana, &manifest(&RULES)).await.0, 200);
    let theirs = manifest(&[("GET", "/view", "view"), ("GET", "/own", "own")]);
    let (status, text) = fixture
        .tancho
        .send_json(
            &fixture.bob,
            Method::PUT,
            "/1.31/services/db.rules/manifest",
            Some(theirs),
        )
        .await;
    assert_eq!(status, 200, "{text}");
    fixture.create_role("viewer", "global").await;
    let refused = fixture
        .add_to_role("viewer", "service-action.db.rules.view", 400)
        .await;
    assert!(refused.contains("may mean an action of the service"), "{refused}");
    for permission in ["service-action.db.rules.own", "service-action.db.rules.sync"] {
        fixture.add_to_role("viewer", permission, 200).await;
    }
    fixture
        .form(
            &fixture.root,
            "POST /1.0/roles/viewer/user",
            "email=bob@example.com",
        )
        .await;
    // The action of the other service gives nothing here.
    for (line, status) in [
        ("GET /1.20/services/db/resources/main/rules/own", 404),
        ("POST /1.20/services/db/resources/main/rules/1/sync", 202),
    ] {
        let (got, text) = fixture.send(&fixture.bob, line).await;
        assert_eq!(got, status, "{line}: {text}");
    }
    fixture.tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn invalid_manifests_are_rejected_and_change_nothing() {
    let fixture = ProxyFixture::with_rules().await;
    let many: Vec<(&str, &str, &str)> = vec![("GET", "/a", "a"); 501];
    let long = format!("/{}", "a".repeat(1001));
    for (wrong, why) in [
        (manifest(&[("GET", "/a", "Not An Action")]), "an action is words"),
        (manifest(&[("FETCH", "/a", "a")]), "its method is one of"),
        (manifest(&[("GET", "/a/{", "a")]), "its path cannot be used"),
        (manifest(&[("GET", &long, "a")]), "its path is too long"),
        (manifest(&[("GET", "", "a")]), "path is missing"),
        (manifest(&[("GET", "/a\0", "a")]), "NUL"),
        (
            manifest(&[("GET", "/a", "a"), ("GET", "/b", "a")]),
            "is in the manifest twice",
        ),
        (
            manifest(&[("GET", "/a", "a"), ("GET", "/a", "b")]),
            "match the same paths",
        ),
        (manifest(&many), "at most 500 operations"),
        (json!({ "enabled": "perhaps" }), "enabled must be true or false"),
        (
            json!({ "operations": "none" }),
            "operations must be a list of objects",
        ),
        (
            json!({ "operations": [1] }),
            "operations must be a list of objects",
        ),
        (json!({ "operations": [{ "action": 7 }] }), "method is missing"),
    ] {
        let (status, text) = fixture.put_manifest(&fixture.ana, &wrong).await;
        assert!(status == 400 && text.contains(why), "{why}: {status} {text}");
    }
    let stored = fixture
        .tancho
        .read_json(&fixture.ana, "/1.31/services/db/manifest")
        .await;
    assert_eq!(stored, manifest(&RULES));
    // Others neither read nor write it.
    let (status, _) = fixture.put_manifest(&fixture.bob, &manifest(&RULES)).await;
    assert_eq!(status, 403);
    let path = "/1.31/services/gone/manifest";
    let (status, _) = fixture
        .tancho
        .send_json(&fixture.root, Method::GET, path, None)
        .await;
    assert_eq!(status, 404);
    fixture.tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn action_removed_while_a_role_gets_it_is_rejected() {
    let fixture = ProxyFixture::with_rules().await;
    fixture.create_role("viewer", "team").await;
    // A new manifest that has not been committed yet.
    let mut tx = fixture.tancho.running.core.db.begin().await.unwrap();
    sqlx::raw_sql(
        "select name from service where name = 'db' for update;
         delete from service_operation where action = 'rules.view'",
    )
    .execute(&mut *tx)
    .await
    .unwrap();
    let adding = fixture.add_to_role("viewer", "service-action.db.rules.view", 400);
    let committing = async {
        fixture.tancho.wait_for_blocked_query("%for share%").await;
        tx.commit().await.unwrap();
    };
    let (text, ()) = tokio::join!(adding, committing);
    assert!(text.contains("not found"), "{text}");
    fixture
        .add_to_role("viewer", "service-action.db.rules.sync", 200)
        .await;
    fixture.tancho.running.drain_and_stop().await;
}
