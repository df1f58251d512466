//! Which variables of a service an app gets: none that programs interpret, none that the app has from another
//! source, none that do not fit; and a bind that is refused therefore is unbound at the service.

use tancho::kernel::encryption::{AssociatedData, SealedColumn};
use tancho::kernel::ids::BindId;

use super::programs::{InstanceLife, NODE, ProgramFixture, ServiceProgram, TODAY, Y2012, Y2014};
use super::*;

/// Sets the response of the service to the next binds of an instance, which it carries out.
async fn set_bind_variables(flask: &ServiceProcess, instance: &str, path: &str, variables: Value) {
    let rule = json!({
        "name": instance, "method": "POST", "path": path, "do": true, "mode": "answer", "body": variables.to_string(),
    });
    flask.fail(rule).await;
}

async fn check_reserved_names(program: ServiceProgram) {
    let setup = ProgramFixture::new(program).await;
    let life = InstanceLife::new(&setup, "my-db", "shop").await;
    let fixture = &setup.fixture;
    assert_eq!(life.make_call(0).await.0, 200);
    let path = setup.program.calls[1].1.replace("{}", "my-db");
    for name in [
        "LD_PRELOAD",
        "PATH",
        "BASH_ENV",
        "PYTHONPATH",
        "NODE_OPTIONS",
        "npm_config_registry",
        "https_proxy",
        "GIT_SSH_COMMAND",
        "PORT",
        "HOME",
        "TSURU_APP_TOKEN",
    ] {
        set_bind_variables(
            &setup.flask,
            "my-db",
            &path,
            json!({ "DB_HOST": "h", name: "/tmp/canary" }),
        )
        .await;
        let (status, text) = life.make_call(1).await;
        assert_eq!(status, 500, "{name}: {text}");
        let sentence = format!("the service db returned the variable {name}, which ");
        assert!(text.contains(&sentence) && !text.contains("canary"), "{text}");
        assert_eq!(
            fixture.count("bind").await + fixture.count("bind_env").await,
            0,
            "{name}"
        );
        let held = setup.flask.get("/__state").await["binds"]["my-db"].clone();
        assert!(
            held.is_null() || held == json!([]),
            "{name} is bound at the service: {held}"
        );
    }
    set_bind_variables(
        &setup.flask,
        "my-db",
        &path,
        json!({ "DB-HOST": "h", "AWS_ACCESS_KEY_ID": "k" }),
    )
    .await;
    let (status, text) = life.make_call(1).await;
    assert_eq!(status, 200, "{text}");
    assert_eq!(parsed(&text), json!({ "DB-HOST": "h", "AWS_ACCESS_KEY_ID": "k" }));
    setup.flask.fail(json!({ "name": "my-db" })).await;
    for call in [4, 5] {
        assert_eq!(life.make_call(call).await.0, 200);
    }
    setup.assert_nothing_left().await;
    setup.fixture.end().await;
}

#[tokio::test]
async fn bind_to_a_service_of_2012_returning_reserved_names_is_undone() {
    check_reserved_names(Y2012).await;
}

#[tokio::test]
async fn bind_to_a_service_of_2014_returning_reserved_names_is_undone() {
    check_reserved_names(Y2014).await;
}

#[tokio::test]
async fn bind_to_a_node_service_of_2014_returning_reserved_names_is_undone() {
    check_reserved_names(NODE).await;
}

#[tokio::test]
async fn bind_to_a_current_service_returning_reserved_names_is_undone() {
    check_reserved_names(TODAY).await;
}

/// Starts a fixture with the app shop and two services, each with instances.
async fn two_services(flask: &ServiceProcess) -> (ServiceFixture, Uuid) {
    let fixture = ServiceFixture::new().await;
    let app = fixture.app("shop", "red").await;
    for (service, instance) in [("mysql", "one"), ("mysql", "two"), ("other", "third")] {
        if fixture.count(&format!("service where name = '{service}'")).await == 0 {
            fixture.service(service, flask).await;
        }
        let new = json!({ "name": instance, "service_name": service });
        fixture
            .request_ok("POST", "/services/instances", new.to_string())
            .await;
    }
    (fixture, app)
}

async fn value_of(fixture: &ServiceFixture, name: &str) -> Value {
    let all = parsed(&fixture.request_ok("GET", "/apps/shop/env", "").await);
    let found = all.as_array().unwrap().iter().find(|var| var["name"] == name);
    found.map_or(Value::Null, |var| var["value"].clone())
}

#[tokio::test]
async fn bind_returning_a_name_the_user_has_set_is_undone() {
    let flask = ServiceProcess::start("today.py");
    let (fixture, _) = two_services(&flask).await;
    let set = |body: &'static str| fixture.send_request("ana", "POST", "/apps/shop/env", body);
    assert_eq!(set(r#"{"DB_HOST": "mine"}"#).await.0, 200);
    let bind = "/services/instances/one/shop";
    let (status, text) = fixture.send_request("ana", "PUT", bind, "").await;
    assert_eq!(status, 409, "{text}");
    assert!(
        text.contains("The service mysql returned the variable DB_HOST, which is set on the app"),
        "{text}"
    );
    assert_eq!(value_of(&fixture, "DB_HOST").await, "mine");
    assert_eq!(fixture.count("bind").await, 0);
    assert_eq!(flask.get("/__state").await["binds"]["one"], json!([]));
    fixture
        .request_ok("DELETE", "/apps/shop/env", r#"["DB_HOST"]"#)
        .await;
    fixture.request_ok("PUT", bind, "").await;
    assert_eq!(value_of(&fixture, "DB_HOST").await, "db.test");
    let (status, text) = set(r#"{"DB_HOST": "mine"}"#).await;
    assert_eq!(status, 409, "{text}");
    assert!(text.contains("mysql/one"), "{text}");
    fixture.request_ok("DELETE", bind, "").await;
    assert_eq!(set(r#"{"DB_HOST": "mine"}"#).await.0, 200);
    fixture.wait_until_settled().await;
    fixture.end().await;
}

#[tokio::test]
async fn variable_names_may_repeat_between_instances_of_one_service_only() {
    let flask = ServiceProcess::start("today.py");
    let (fixture, _) = two_services(&flask).await;
    fixture
        .request_ok("PUT", "/services/instances/one/shop", "")
        .await;
    let (status, text) = fixture
        .send_request("ana", "PUT", "/services/instances/third/shop", "")
        .await;
    assert_eq!(status, 409, "{text}");
    assert!(text.contains("from the service instance mysql/one"), "{text}");
    assert_eq!(flask.get("/__state").await["binds"]["third"], json!([]));
    assert_eq!(value_of(&fixture, "DB_PASSWORD").await, "canary-one");
    let bind = "/1.13/services/mysql/instances/two/apps/shop";
    let text = fixture.request_ok("PUT", bind, "").await;
    assert!(
        text.contains(
            "DB_PASSWORD has the value of the service instance mysql/two; the value of mysql/one is in TSURU_SERVICES"
        ),
        "{text}"
    );
    assert!(!text.contains("canary"), "{text}");
    assert_eq!(value_of(&fixture, "DB_PASSWORD").await, "canary-two");
    let all = value_of(&fixture, "TSURU_SERVICES").await;
    assert!(all.as_str().unwrap().contains("canary-one"), "{all}");
    fixture.request_ok("DELETE", bind, "").await;
    assert_eq!(value_of(&fixture, "DB_PASSWORD").await, "canary-one");
    fixture.wait_until_settled().await;
    fixture.end().await;
}

#[tokio::test]
async fn reserved_variables_of_existing_binds_are_omitted_or_reported_at_restart() {
    let flask = ServiceProcess::start("today.py");
    let (fixture, app) = two_services(&flask).await;
    fixture
        .request_ok("PUT", "/services/instances/one/shop", "")
        .await;
    let bind: Uuid = sqlx::query_scalar("select bind_id from bind")
        .fetch_one(fixture.db())
        .await
        .unwrap();
    let keys = &fixture.tancho.running.core.keys;
    let place = AssociatedData::new(SealedColumn::BIND_ENV, &[&BindId(bind), &"LD_PRELOAD"]);
    sqlx::query("insert into bind_env (bind_id, name, value) values ($1, 'LD_PRELOAD', $2)")
        .bind(bind)
        .bind(keys.encrypt(&place, &Secret::new("/dev/shm/canary.so")))
        .execute(fixture.db())
        .await
        .unwrap();
    let place = AssociatedData::new(
        SealedColumn::ENV_VAR,
        &[&tancho::kernel::ids::AppId(app), &"DB_HOST"],
    );
    sqlx::query("insert into env_var (app_id, name, value, is_public) values ($1, 'DB_HOST', $2, true)")
        .bind(app)
        .bind(keys.encrypt(&place, &Secret::new("mine")))
        .execute(fixture.db())
        .await
        .unwrap();
    assert_eq!(value_of(&fixture, "LD_PRELOAD").await, Value::Null);
    let all = value_of(&fixture, "TSURU_SERVICES").await;
    assert!(!all.as_str().unwrap().contains("canary.so"), "{all}");
    assert_eq!(value_of(&fixture, "DB_HOST").await, "db.test", "as it was");
    let text = fixture.request_ok("POST", "/apps/shop/restart", "").await;
    for line in [
        "LD_PRELOAD of the service instance mysql/one is left out: the dynamic loader",
        "DB_HOST has the value of the service instance mysql/one; the value set on the app applies again",
    ] {
        assert!(text.contains(line), "{text}");
    }
    fixture
        .request_ok("DELETE", "/services/instances/one/shop", "")
        .await;
    assert_eq!(value_of(&fixture, "DB_HOST").await, "mine");
    fixture.wait_until_settled().await;
    fixture.end().await;
}

#[tokio::test]
async fn bind_returning_too_large_an_environment_is_undone() {
    let flask = ServiceProcess::start("today.py");
    let (fixture, _) = two_services(&flask).await;
    let bind = |instance: &str| format!("/services/instances/{instance}/shop");
    set_bind_variables(
        &flask,
        "one",
        "/bind-app",
        json!({ "SMALL": "x", "HUGE": "x".repeat(140_000) }),
    )
    .await;
    let (status, text) = fixture.send_request("ana", "PUT", &bind("one"), "").await;
    assert_eq!(status, 400, "{text}");
    assert!(text.contains("HUGE") || text.contains("TSURU_SERVICES"), "{text}");
    assert!(text.len() < 1000, "{}", text.len());
    assert_eq!(fixture.count("bind").await + fixture.count("bind_env").await, 0);
    assert_eq!(flask.get("/__state").await["binds"]["one"], json!([]));
    // Each fits, but one variable repeats them all.
    for instance in ["one", "two"] {
        set_bind_variables(
            &flask,
            instance,
            "/bind-app",
            json!({ instance.to_uppercase(): "x".repeat(70_000) }),
        )
        .await;
    }
    fixture.request_ok("PUT", &bind("one"), "").await;
    let (status, text) = fixture.send_request("ana", "PUT", &bind("two"), "").await;
    assert_eq!(status, 400, "{text}");
    assert!(text.contains("The variable TSURU_SERVICES has 137 KiB"), "{text}");
    assert_eq!(value_of(&fixture, "TWO").await, Value::Null);
    assert_eq!(flask.get("/__state").await["binds"]["two"], json!([]));
    assert_eq!(
        fixture
            .send_request("ana", "POST", "/apps/shop/restart", "")
            .await
            .0,
        200
    );
    fixture.wait_until_settled().await;
    fixture.end().await;
}
