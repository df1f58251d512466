//! Invalid responses of services: too long, of the wrong type, with control characters, with a secret of
//! Tancho, rejected changes; and the part of them that reaches users.

use super::*;

const NEW: &str = r#"{"name":"my-db","service_name":"mysql"}"#;

async fn start_with_instance(flask: &ServiceProcess) -> ServiceFixture {
    let fixture = ServiceFixture::new().await;
    fixture.app("shop", "red").await;
    fixture.service("mysql", flask).await;
    fixture.request_ok("POST", "/services/instances", NEW).await;
    fixture
}

fn rule(verb: &str, path: &str, status: u16, body: impl Into<String>) -> Value {
    json!({ "mode": "answer", "method": verb, "path": path, "status": status, "body": body.into() })
}

#[tokio::test]
async fn malformed_service_plans_return_an_error_and_long_lists_are_truncated() {
    let flask = ServiceProcess::start("today.py");
    let fixture = start_with_instance(&flask).await;
    let plans = |path: &'static str| fixture.send_request("ana", "GET", path, "");
    let deep = format!("{}1{}", "[".repeat(50_000), "]".repeat(50_000));
    for wrong in ["<html>", r#"{"plans": []}"#, "7", deep.as_str()] {
        flask.fail(rule("GET", "/plans", 200, wrong)).await;
        for path in ["/services/mysql/plans", "/1.0/services/mysql/plans"] {
            let (status, text) = plans(path).await;
            assert_eq!(status, 500, "{text}");
            assert_eq!(
                text,
                "The service mysql responded with something other than a list of plans.\n"
            );
        }
    }
    let mut many = vec![json!({ "name": "small" }); 10_000];
    many[0] =
        json!({ "name": format!("p\u{1b}[2J{}", "x".repeat(500)), "description": "pw-canary \u{202e}" });
    flask
        .fail(rule("GET", "/plans", 200, json!(many).to_string()))
        .await;
    let (status, text) = plans("/1.0/services/mysql/plans").await;
    let list = parsed(&text);
    assert_eq!((status.as_u16(), list.as_array().unwrap().len()), (200, 1000));
    let (name, description) = (
        list[0]["Name"].as_str().unwrap(),
        list[0]["Description"].as_str().unwrap(),
    );
    assert!(name.len() <= 255 && name.starts_with("p\u{fffd}[2J"), "{name}");
    assert_eq!(description, "*** \u{fffd}");
    for none in ["", "null", "[]"] {
        flask.fail(rule("GET", "/plans", 200, none)).await;
        assert_eq!(
            parsed(&plans("/1.0/services/mysql/plans").await.1),
            json!([]),
            "{none}"
        );
    }
    fixture.end().await;
}

#[tokio::test]
async fn service_errors_are_shown_without_traces_secrets_or_control_characters() {
    let flask = ServiceProcess::start("today.py");
    let fixture = start_with_instance(&flask).await;
    let login = "bXlzcWw6cHctY2FuYXJ5";
    let text = format!(
        "no\u{1b}]0;title\u{7} Basic {login} pw-canary\nTraceback (most recent call last):\n  File \"/srv/x.py\", line 3"
    );
    for (verb, path, status) in [
        ("POST", "/bind-app", 500),
        ("GET", "/status", 200),
        ("GET", "/my-db", 200),
    ] {
        let body = match path {
            "/my-db" => json!([{ "label": "a\u{1b}", "value": text }]).to_string(),
            _ => text.clone(),
        };
        flask.fail(rule(verb, path, status, body)).await;
        let (verb, path) = match path {
            "/bind-app" => ("PUT", "/services/instances/my-db/shop"),
            "/status" => ("GET", "/services/instances/my-db/status"),
            _ => ("GET", "/services/instances/my-db"),
        };
        let (_, shown) = fixture.send_request("ana", verb, path, "").await;
        assert!(
            shown.contains("no\u{fffd}]0;title\u{fffd} Basic *** ***"),
            "{shown}"
        );
        assert!(
            !shown.contains("canary") && !shown.contains(login) && !shown.contains('\u{1b}'),
            "{shown}"
        );
        assert!(path.ends_with("my-db") || !shown.contains("x.py"), "{shown}");
    }
    fixture.wait_until_settled().await;
    fixture.end().await;
}

#[tokio::test]
async fn update_rejected_by_the_service_fails_and_one_answered_404_is_stored() {
    let flask = ServiceProcess::start("today.py");
    let fixture = start_with_instance(&flask).await;
    let path = "/1.0/services/mysql/instances/my-db";
    let description = async || parsed(&fixture.request_ok("GET", path, "").await)["Description"].clone();
    for status in [405, 400, 501] {
        flask.fail(rule("PUT", "/my-db", status, "not with me")).await;
        let (got, text) = fixture
            .send_request("ana", "PUT", path, r#"{"description": "new"}"#)
            .await;
        assert_eq!(got, 500, "{status}: {text}");
        assert!(text.contains("not with me"), "{text}");
        assert_eq!(description().await, "", "{status}");
    }
    flask.fail(rule("PUT", "/my-db", 404, "")).await;
    let (got, text) = fixture
        .send_request("ana", "PUT", path, r#"{"description": "new"}"#)
        .await;
    assert_eq!(got, 200, "{text}");
    assert_eq!(description().await, "new");
    fixture.wait_until_settled().await;
    fixture.end().await;
}

#[tokio::test]
async fn service_creation_by_form_requires_a_password() {
    let flask = ServiceProcess::start("today.py");
    let fixture = ServiceFixture::new().await;
    let with = |password: &'static str| {
        vec![
            ("id", "mysql"),
            ("username", "u"),
            ("password", password),
            ("team", "red"),
            ("endpoint", "x.test"),
        ]
    };
    for path in ["/1.0/services", "/services"] {
        let (status, text) = fixture.send_form("ana", "POST", path, &with("")).await;
        assert_eq!(
            (status.as_u16(), text.contains("Service password is required.")),
            (400, true),
            "{text}"
        );
    }
    assert_eq!(fixture.count("service").await, 0);
    assert_eq!(
        fixture
            .send_form("ana", "POST", "/1.0/services", &with("pw"))
            .await
            .0,
        201
    );
    let (status, _) = fixture
        .send_form("ana", "PUT", "/1.0/services/mysql", &with(""))
        .await;
    assert_eq!(status, 400);
    // The example in the classic reference has no password.
    let manifest = format!("id: old\nendpoint:\n  production: {}\n", flask.url);
    assert_eq!(
        fixture.send_request("ana", "POST", "/services", manifest).await.0,
        200
    );
    fixture.end().await;
}

#[tokio::test]
async fn instances_can_be_listed_by_bound_app() {
    let flask = ServiceProcess::start("today.py");
    let fixture = start_with_instance(&flask).await;
    fixture.app("blog", "red").await;
    fixture
        .request_ok("POST", "/services/instances", NEW.replace("my-db", "other"))
        .await;
    fixture
        .request_ok("PUT", "/services/instances/my-db/shop", "")
        .await;
    for (app, expected) in [
        ("shop", json!(["my-db"])),
        ("blog", json!([])),
        ("unknown", json!([])),
    ] {
        for edition in ["", "/1.0"] {
            let list = fixture
                .request_ok("GET", &format!("{edition}/services/instances?app={app}"), "")
                .await;
            assert_eq!(parsed(&list)[0]["instances"], expected, "{edition} {app}");
        }
    }
    let all = parsed(&fixture.request_ok("GET", "/services/instances", "").await);
    assert_eq!(all[0]["instances"], json!(["my-db", "other"]));
    fixture.end().await;
}

#[tokio::test]
async fn default_team_owner_is_chosen_alike_for_apps_services_and_instances() {
    let flask = ServiceProcess::start("today.py");
    let fixture = start_with_instance(&flask).await;
    for team in ["blue", "green"] {
        fixture.team(team).await;
    }
    fixture
        .user("root", &[("AllowAll", ""), ("team-member", "blue")])
        .await;
    fixture
        .user("tom", &[("team-member", "blue"), ("team-member", "green")])
        .await;
    fixture.user("zoe", &[]).await;
    let attempt = async |who: &str, what: &str, name: &str, team: &str| {
        let (path, mut form) = match what {
            "app" => (
                "/1.0/apps",
                vec![("name", name), ("platform", "python"), ("teamOwner", team)],
            ),
            "service" => (
                "/1.0/services",
                vec![
                    ("id", name),
                    ("password", "pw"),
                    ("endpoint", "x.test"),
                    ("team", team),
                ],
            ),
            _ => (
                "/1.0/services/mysql/instances",
                vec![("name", name), ("owner", team)],
            ),
        };
        form.retain(|(_, value)| !value.is_empty());
        fixture.send_form(who, "POST", path, &form).await
    };
    for what in ["app", "service", "instance"] {
        for (who, team, status, words) in [
            ("root", "", 201, ""),
            ("tom", "", 400, "You must provide a team to execute this action."),
            ("tom", "none-such", 400, "Team none-such does not exist."),
            ("tom", "red", 403, "You don't have permission"),
            ("tom", "green", 201, ""),
            // Some routes refuse callers without any permission.
            ("zoe", "", if what == "app" { 400 } else { 403 }, "You "),
        ] {
            let name = format!("{what}-{who}-{team}x");
            let (got, text) = attempt(who, what, &name, team).await;
            assert_eq!(got, status, "{name}: {text}");
            assert!(text.contains(words), "{name}: {text}");
        }
    }
    for (table, column) in [
        ("app", "team_owner"),
        ("service_instance", "team_owner"),
        ("service_owner", "team"),
    ] {
        for team in ["blue", "green"] {
            assert_eq!(
                fixture.count(&format!("{table} where {column} = '{team}'")).await,
                1,
                "{table} {team}"
            );
        }
    }
    fixture.wait_until_settled().await;
    fixture.end().await;
}

#[tokio::test]
async fn instance_info_is_empty_only_if_the_service_has_none() {
    let flask = ServiceProcess::start("today.py");
    let fixture = start_with_instance(&flask).await;
    let info = async |status: u16, body: &str| {
        flask.fail(rule("GET", "/resources/my-db", status, body)).await;
        let text = fixture.request_ok("GET", "/services/instances/my-db", "").await;
        parsed(&text)["Info"].clone()
    };
    assert_eq!(
        info(200, r#"[{"label":"a","value":"b"}]"#).await,
        json!({ "a": "b" })
    );
    for missing in [404, 405] {
        assert_eq!(info(missing, "no such route").await, json!({}), "{missing}");
    }
    for unknown in [500, 503, 401, 202] {
        assert_eq!(info(unknown, "oops").await, json!(null), "{unknown}");
    }
    fixture.end().await;
}

#[tokio::test]
async fn pool_of_a_new_instance_is_any_well_formed_name_or_none() {
    let flask = ServiceProcess::start("today.py");
    let fixture = ServiceFixture::new().await;
    fixture.service("mysql", &flask).await;
    let make = async |name: &str, pool: &str| {
        let form = [("name", name), ("owner", "red"), ("pool", pool)];
        let path = "/1.0/services/mysql/instances";
        fixture.send_form("ana", "POST", path, &form).await
    };
    let long = "p".repeat(100_000);
    for bad in ["../x", "UP", &long] {
        let (status, text) = make("refused", bad).await;
        assert!(
            status == 400 && text.to_lowercase().contains("pool") && text.len() < 1000,
            "{bad}: {status} {text}"
        );
    }
    assert_eq!(fixture.count("service_instance").await, 0);
    // The pool is for the service to interpret: it may be one of its own.
    for (name, good) in [("in-none", ""), ("in-local", "local"), ("in-private", "private")] {
        let (status, text) = make(name, good).await;
        assert_eq!(status, 201, "{good}: {text}");
    }
    fixture.end().await;
}
