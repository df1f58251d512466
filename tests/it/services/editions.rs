//! From manifest to removal, in each edition.

use super::*;

#[tokio::test]
async fn classic_edition_serves_a_service_from_manifest_to_removal() {
    let flask = ServiceProcess::start("today.py");
    let fixture = ServiceFixture::new().await;
    fixture.app("shop", "red").await;
    fixture.service("mysql", &flask).await;
    assert_eq!(
        parsed(&fixture.request_ok("GET", "/services", "").await),
        json!([{"service": "mysql", "instances": []}])
    );
    let body = fixture
        .request_ok(
            "POST",
            "/services/instances",
            r#"{"name":"my-db","service_name":"mysql","plan":"small"}"#,
        )
        .await;
    assert_eq!(body, "");
    let made = flask.last("POST /resources").await;
    assert_eq!(made["form"]["name"], json!(["my-db"]));
    assert_eq!(made["form"]["plan"], json!(["small"]));
    assert_eq!(made["form"]["team"], json!(["red"]));
    assert_eq!(made["form"]["user"], json!(["ana@example.com"]));
    assert_eq!(
        (&made["user"], &made["password"]),
        (&json!("mysql"), &json!("pw-canary"))
    );
    assert_eq!(made["headers"]["x-tsuru-user"], "ana@example.com");
    assert_eq!(made["headers"]["x-tsuru-eventid"], made["form"]["eventid"][0]);

    let list = json!([{"service": "mysql", "instances": ["my-db"]}]);
    assert_eq!(
        parsed(&fixture.request_ok("GET", "/services/instances", "").await),
        list
    );
    assert_eq!(parsed(&fixture.request_ok("GET", "/services", "").await), list);
    let status = fixture
        .request_ok("GET", "/services/instances/my-db/status", "")
        .await;
    assert_eq!(status, "Service instance \"my-db\" is up");

    let variables = json!({"DB_HOST": "db.test", "DB_PORT": "3306", "DB_PASSWORD": "canary-my-db"});
    let bound = parsed(
        &fixture
            .request_ok("PUT", "/services/instances/my-db/shop", "")
            .await,
    );
    assert_eq!(bound, variables);
    let call = flask.last("POST /resources/my-db/bind-app").await;
    assert_eq!(call["form"]["app-host"], json!(["shop.localhost:8888"]));
    assert_eq!(call["form"]["app-name"], json!(["shop"]));
    assert_eq!(fixture.count("bind where state = 'bound'").await, 1);
    assert_eq!(fixture.count("bind_env").await, 3);
    assert_eq!(
        fixture
            .count("bind_env where position('canary' in encode(value, 'escape')) > 0")
            .await,
        0
    );
    assert_eq!(
        fixture
            .count("service where position('canary' in encode(password, 'escape')) > 0")
            .await,
        0
    );
    assert_eq!(fixture.count("service where dialect = 'bind-app'").await, 1);

    let info = parsed(&fixture.request_ok("GET", "/services/instances/my-db", "").await);
    assert_eq!(
        (&info["name"], &info["ServiceName"]),
        (&json!("my-db"), &json!("mysql"))
    );
    assert_eq!(
        (&info["apps"], &info["Teams"]),
        (&json!(["shop"]), &json!(["red"]))
    );
    assert_eq!(info["Info"], json!({"Address": "my-db.test:3306"}));
    let info = parsed(&fixture.request_ok("GET", "/services/mysql", "").await);
    assert_eq!(
        info,
        json!([{"Name": "my-db", "Teams": ["red"], "Apps": ["shop"], "ServiceName": "mysql",
                "Info": {"Address": "my-db.test:3306"}}])
    );

    let (status, text) = fixture
        .send_request("ana", "PUT", "/services/instances/my-db/shop", "")
        .await;
    assert_eq!(status, 409, "{text}");
    let (status, text) = fixture
        .send_request("ana", "DELETE", "/services/instances/my-db", "")
        .await;
    assert_eq!(status, 412, "{text}");
    assert!(text.contains("\"shop\""), "{text}");
    let (status, _) = fixture.send_request("ana", "DELETE", "/services/mysql", "").await;
    assert_eq!(status, 403);

    assert_eq!(
        fixture
            .request_ok("DELETE", "/services/instances/my-db/shop", "")
            .await,
        ""
    );
    let (status, _) = fixture
        .send_request("ana", "DELETE", "/services/instances/my-db/shop", "")
        .await;
    assert_eq!(status, 412);
    assert_eq!(fixture.count("bind_env").await, 0);
    fixture
        .request_ok("DELETE", "/services/instances/my-db", "")
        .await;
    let (status, _) = fixture.send_request("ana", "DELETE", "/services/mysql", "").await;
    assert_eq!(status, 204);
    let state = flask.get("/__state").await;
    assert_eq!(
        (&state["instances"], &state["binds"]["my-db"]),
        (&json!({}), &json!([]))
    );
    let gone = flask.last("DELETE /resources/my-db/bind-app").await;
    assert_eq!(
        gone["form"], gone["query"],
        "the fields of a DELETE are in both places"
    );
    assert_eq!(gone["form"]["app-host"], json!(["shop.localhost:8888"]));
    let mutations: Vec<String> = flask.calls().await;
    let mutations: Vec<&String> = mutations.iter().filter(|c| !c.starts_with("GET")).collect();
    assert_eq!(
        mutations,
        [
            "POST /resources",
            "POST /resources/my-db/bind-app",
            "DELETE /resources/my-db/bind-app",
            "DELETE /resources/my-db"
        ]
    );
    for table in ["service", "service_instance", "bind", "orphan"] {
        assert_eq!(fixture.count(table).await, 0, "{table}");
    }
    let leaks = "event where start_data::text like '%canary%' or error like '%canary%'";
    assert_eq!(fixture.count(leaks).await, 0);
    assert_eq!(fixture.count("saga where data::text like '%canary%'").await, 0);
    fixture.wait_until_settled().await;
    fixture.end().await;
}

#[tokio::test]
async fn modern_edition_serves_a_service_with_streams_updates_and_teams() {
    let flask = ServiceProcess::start("today.py");
    let fixture = ServiceFixture::new().await;
    fixture.app("shop", "red").await;
    fixture.team("blue").await;
    fixture.user("bob", &[("team-member", "blue")]).await;
    let manifest = [
        ("id", "postgres"),
        ("username", "admin"),
        ("password", "s3cret"),
        ("team", "red"),
        ("endpoint", flask.url.as_str()),
        ("multi-cluster", "false"),
    ];
    let (status, text) = fixture.send_form("ana", "POST", "/1.0/services", &manifest).await;
    assert_eq!((status.as_u16(), text.as_str()), (201, ""));
    let (status, _) = fixture.send_form("ana", "POST", "/1.0/services", &manifest).await;
    assert_eq!(status, 409);
    let (status, _) = fixture
        .send_form("ana", "PUT", "/1.0/services/postgres", &manifest)
        .await;
    assert_eq!(status, 200);
    let (status, text) = fixture
        .send_form(
            "ana",
            "POST",
            "/1.0/services",
            &[("username", "x"), ("id", ""), ("endpoint", "")],
        )
        .await;
    assert_eq!(
        (status.as_u16(), text.as_str()),
        (400, "Service id is required.\n")
    );

    let path = "/1.0/services/postgres/instances";
    let form = "description=orders+%26+more&name=shop-db&owner=red&parameters.max%5C.connections=50&parameters.region=a&plan=small&pool=&tag=front&tag=cost%3D42";
    let send = |body: &'static str| {
        let request = fixture.tancho.request(Method::POST, path).bearer_auth("ana");
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        request.body(body).send()
    };
    let answer = send(form).await.unwrap();
    assert_eq!(answer.status(), 201, "{}", answer.text().await.unwrap());
    assert_eq!(send(form).await.unwrap().status(), 409);
    let made = flask.last("POST /resources").await;
    assert_eq!(made["form"]["tags"], json!(["front", "cost=42"]));
    assert_eq!(made["form"]["parameters.max\\.connections"], json!(["50"]));
    assert_eq!(made["user"], "admin");
    // Programs send JSON, with the names that answers have.
    let body =
        json!({ "name": "json-db", "service_name": "postgres", "plan_name": "small", "team_owner": "red" });
    let request = fixture.tancho.request(Method::POST, path).bearer_auth("ana");
    let answer = request.json(&body).send().await.unwrap();
    assert_eq!(answer.status(), 201, "{}", answer.text().await.unwrap());
    let info = parsed(
        &fixture
            .request_ok("GET", "/1.0/services/postgres/instances/json-db", "")
            .await,
    );
    assert_eq!(
        (&info["PlanName"], &info["TeamOwner"]),
        (&json!("small"), &json!("red"))
    );
    fixture
        .request_ok("DELETE", "/1.0/services/postgres/instances/json-db", "")
        .await;

    let list = parsed(
        &fixture
            .request_ok("GET", "/1.0/services/instances?tag=front", "")
            .await,
    );
    assert_eq!(list[0]["service_instances"][0]["plan_name"], "small");
    assert_eq!(
        list[0]["service_instances"][0]["parameters"]["max.connections"],
        "50"
    );
    let list = parsed(
        &fixture
            .request_ok("GET", "/1.0/services/instances?tag=front&tag=blue", "")
            .await,
    );
    assert_eq!(
        list,
        json!([{"service": "postgres", "instances": [], "plans": [], "service_instances": []}])
    );
    let one = "/1.0/services/postgres/instances/shop-db";
    let info = parsed(&fixture.request_ok("GET", one, "").await);
    assert_eq!(info["CustomInfo"], json!({"Address": "shop-db.test:3306"}));
    assert_eq!(
        (&info["PlanDescription"], &info["TeamOwner"]),
        (&json!("small instance"), &json!("red"))
    );
    let plans = parsed(
        &fixture
            .request_ok("GET", "/1.0/services/postgres/plans?pool=", "")
            .await,
    );
    assert_eq!(
        plans[0],
        json!({"Name": "small", "Description": "small instance"})
    );

    let (status, _) = fixture.send_request("bob", "GET", one, "").await;
    assert_eq!(status, 404, "bob gets 404 for what he may not see");
    let permission = "/1.0/services/postgres/instances/permission/shop-db/blue";
    fixture.request_ok("PUT", permission, "").await;
    assert_eq!(fixture.send_request("ana", "PUT", permission, "").await.0, 409);
    assert_eq!(fixture.send_request("bob", "GET", one, "").await.0, 200);
    fixture.request_ok("DELETE", permission, "").await;
    assert_eq!(fixture.send_request("bob", "GET", one, "").await.0, 404);

    let patch = r#"{"description":"new words","teamowner":"blue","plan":"big","tags":["cold"],"parameters":{"region":"b"}}"#;
    let (status, text) = fixture.send_request("ana", "PUT", one, patch).await;
    assert_eq!(status, 200, "{text}");
    let told = flask.last("PUT /resources/shop-db").await;
    assert_eq!(
        (&told["form"]["tags"], &told["form"]["tag"]),
        (&json!(["cold"]), &json!(["cold"]))
    );
    let info = parsed(&fixture.request_ok("GET", one, "").await);
    assert_eq!(info["Teams"], json!(["blue", "red"]));
    assert_eq!(
        (&info["Description"], &info["PlanName"]),
        (&json!("new words"), &json!("big"))
    );

    let bind = "/1.13/services/postgres/instances/shop-db/apps/shop";
    let (status, text) = fixture
        .send_form("ana", "PUT", bind, &[("noRestart", "false")])
        .await;
    assert_eq!(status, 200, "{text}");
    assert!(
        text.contains("Setting 3 new") && text.contains("- DB_HOST") && text.contains("- TSURU_SERVICES"),
        "{text}"
    );
    assert!(!text.contains("canary") && !text.contains("\"Error\""), "{text}");
    let (_, text) = fixture
        .send_request(
            "ana",
            "DELETE",
            &format!("{one}?unbindall=false&ignoreerrors=false"),
            "",
        )
        .await;
    assert!(text.contains("\"Error\"") && text.contains("shop"), "{text}");
    let (status, text) = fixture
        .send_request(
            "ana",
            "DELETE",
            &format!("{one}?unbindall=true&ignoreerrors=false"),
            "",
        )
        .await;
    assert_eq!(status, 200);
    assert!(
        text.contains("Unbind app") && text.contains("successfully removed"),
        "{text}"
    );
    assert_eq!(
        fixture.count("bind").await + fixture.count("service_instance").await,
        0
    );
    assert_eq!(flask.get("/__state").await["binds"]["shop-db"], json!([]));
    let (status, _) = fixture
        .send_request("ana", "DELETE", "/1.0/services/postgres", "")
        .await;
    assert_eq!(status, 200);
    fixture.wait_until_settled().await;
    fixture.end().await;
}

#[tokio::test]
async fn services_are_notified_of_added_and_removed_units() {
    let flask = ServiceProcess::start("today.py");
    let fixture = ServiceFixture::new().await;
    let app = fixture.app("shop", "red").await;
    fixture.service("mysql", &flask).await;
    fixture
        .request_ok(
            "POST",
            "/services/instances",
            r#"{"name":"my-db","service_name":"mysql"}"#,
        )
        .await;
    fixture
        .request_ok("PUT", "/services/instances/my-db/shop", "")
        .await;
    for statement in [
        // On another host, so that this host's reconciler leaves them alone.
        "insert into version (app_id, version, host) values ($1, 1, 'elsewhere')",
        "insert into release (app_id, version, env, user_env) values ($1, 1, '', '')",
        "insert into unit (unit_id, app_id, release_id, process, version, host, phase, address)
         select 'u1', $1, release_id, 'web', 1, 'elsewhere', 'serving', '10.0.0.1:4001' from release",
        "insert into unit (unit_id, app_id, release_id, process, version, host, phase, address)
         select 'u2', $1, release_id, 'web', 1, 'elsewhere', 'starting', '10.0.0.2:4002' from release",
    ] {
        sqlx::query(statement)
            .bind(app)
            .execute(fixture.db())
            .await
            .unwrap();
    }
    fixture
        .wait_for_rows("unit_bind where state = 'bound' and unit_host = '10.0.0.1'", 1)
        .await;
    assert_eq!(flask.get("/__state").await["units"]["my-db"], json!(["10.0.0.1"]));
    sqlx::query("delete from unit where unit_id = 'u1' and app_id = $1")
        .bind(app)
        .execute(fixture.db())
        .await
        .unwrap();
    sqlx::query("update unit set phase = 'serving' where app_id = $1")
        .bind(app)
        .execute(fixture.db())
        .await
        .unwrap();
    fixture
        .wait_for_rows("unit_bind where unit_host = '10.0.0.1'", 0)
        .await;
    fixture
        .wait_for_rows("unit_bind where state = 'bound' and unit_host = '10.0.0.2'", 1)
        .await;
    assert_eq!(flask.get("/__state").await["units"]["my-db"], json!(["10.0.0.2"]));
    fixture
        .request_ok("DELETE", "/services/instances/my-db/shop", "")
        .await;
    let state = flask.get("/__state").await;
    assert_eq!(
        (&state["units"]["my-db"], &state["binds"]["my-db"]),
        (&json!([]), &json!([]))
    );
    fixture.end().await;
}
