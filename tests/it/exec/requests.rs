//! Who may run what: refusals, bad input, and the choice of units. The units are fake.

use tancho::provisioners::fake::FakeCall;

use super::*;

#[tokio::test]
async fn command_runs_in_all_units_or_in_one() {
    let fixture = ExecFixture::with_units().await;
    let (output, failure) = fixture.run(&[("command", "date")]).await;
    assert_eq!((output.as_str(), failure), ("date\ndate\n", None));
    let (output, _) = fixture
        .run(&[("command", "date"), ("once", "true"), ("isolated", "")])
        .await;
    assert_eq!(output, "date\n");
    let (output, failure) = fixture.run(&[("command", "exit 7")]).await;
    assert_eq!(
        output, "exit 7\n",
        "it ends with the first unit in which it fails"
    );
    let failure = failure.unwrap();
    assert!(
        failure.starts_with("unit shop-web-") && failure.ends_with(": exit status 7"),
        "{failure}"
    );
    let (_, failure) = fixture.run(&[("command", "exit 7"), ("once", "true")]).await;
    assert_eq!(failure.as_deref(), Some("exit status 7"));
    let event = fixture.ended_event("app.run").await;
    assert_eq!(event["Error"], "exit status 7");
    fixture.tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn isolated_command_runs_in_a_unit_of_its_own_that_is_removed() {
    let fixture = ExecFixture::with_units().await;
    let before = fixture.tancho.read_json(&fixture.ana, "/1.0/apps/shop").await;
    let (output, failure) = fixture.run(&[("command", "date"), ("isolated", "true")]).await;
    assert_eq!((output.as_str(), failure), ("date\n", None));
    let calls = fixture.tancho.fake.recorded_calls();
    let made = calls.iter().find_map(|call| match call {
        FakeCall::Exec(unit, line) if line == &["date"] => Some(unit.clone()),
        _ => None,
    });
    let made = made.unwrap();
    assert!(made.as_str().starts_with("shop-run-"), "{made}");
    assert!(calls.contains(&FakeCall::Remove(made)), "{calls:?}");
    let after = fixture.tancho.read_json(&fixture.ana, "/1.0/apps/shop").await;
    assert_eq!(before["units"], after["units"]);
    assert_eq!(fixture.count_sessions().await, 0);
    fixture.tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn run_is_refused_without_right_app_unit_or_command() {
    let fixture = ExecFixture::new().await;
    for (user, app, form, status, words) in [
        (&fixture.bob, "shop", "command=date", 403, "permission"),
        (
            &fixture.ana,
            "nobody",
            "command=date",
            404,
            "App nobody not found.",
        ),
        (
            &fixture.ana,
            "shop",
            "command=",
            400,
            "You must provide the command to run.",
        ),
        (
            &fixture.ana,
            "shop",
            "once=true",
            400,
            "You must provide the command to run.",
        ),
        (
            &fixture.ana,
            "shop",
            "command=a&command=b",
            400,
            "command must be given once",
        ),
        (&fixture.ana, "shop", "command=a%00b", 400, "NUL byte"),
        (
            &fixture.ana,
            "shop",
            "command=date&once=maybe",
            400,
            "once must be true or false.",
        ),
        (
            &fixture.ana,
            "shop",
            "command=date&isolated=maybe",
            400,
            "isolated must be true or false.",
        ),
        (
            &fixture.ana,
            "shop",
            "command=date",
            409,
            "App shop must be available to run non-isolated commands",
        ),
        (
            &fixture.ana,
            "shop",
            "command=date&isolated=true",
            409,
            "App shop has no version that can run",
        ),
    ] {
        let path = format!("/1.0/apps/{app}/run");
        let answer = fixture.form(user, Method::POST, &path, form).await;
        let (got, text) = (answer.status().as_u16(), answer.text().await.unwrap());
        assert!(got == status && text.contains(words), "{form}: {got} {text}");
    }
    let long = format!("command={}", "x".repeat(70_000));
    let answer = fixture
        .form(&fixture.ana, Method::POST, "/1.0/apps/shop/run", &long)
        .await;
    assert_eq!(answer.status(), 400);
    assert!(fixture.events("app.run").await.is_empty(), "nothing was done");
    assert_eq!(fixture.count_sessions().await, 0);
    fixture.tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn shell_refusals_are_sent_over_the_websocket() {
    let fixture = ExecFixture::with_units().await;
    for (token, app, query, words) in [
        ("0123456789", "shop", "", "Error: Your session has expired"),
        (
            fixture.bob.token.as_str(),
            "shop",
            "",
            "Error: You don't have permission to do this action.",
        ),
        (
            fixture.ana.token.as_str(),
            "nobody",
            "",
            "Error: App nobody not found.",
        ),
        (fixture.ana.token.as_str(), "NO!", "", "not found."),
        (
            fixture.ana.token.as_str(),
            "shop",
            "unit=shop-web-1",
            "Error: Unit shop-web-1 not found in app shop.",
        ),
        (
            fixture.ana.token.as_str(),
            "shop",
            "width=wide",
            "Error: width must be a whole number.",
        ),
        (
            fixture.ana.token.as_str(),
            "shop",
            "isolated=maybe",
            "Error: isolated must be true or false.",
        ),
    ] {
        let client = fixture
            .connect(token, app, query, "ws://localhost")
            .await
            .unwrap();
        let (text, code) = client.read_to_close().await;
        assert!(text.contains(words) && text.ends_with('\n'), "{query}: {text:?}");
        assert_eq!(code, 1000);
    }
    fixture.send(Method::POST, "/1.0/apps/shop/stop", "").await;
    let (text, _) = fixture.open_shell(&fixture.ana, "").await.read_to_close().await;
    assert!(text.contains("no unit of it runs"), "{text:?}");
    let answer = fixture
        .form(&fixture.ana, Method::GET, "/1.0/apps/shop/shell", "")
        .await;
    assert_eq!(answer.status(), 400, "no WebSocket was requested");
    assert!(fixture.events("app.run.shell").await.is_empty());
    fixture.tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn shell_is_opened_by_the_client_and_by_own_pages_only() {
    let fixture = ExecFixture::with_units().await;
    let own = fixture.tancho.url.clone();
    for (origin, enters) in [
        ("ws://localhost", true),
        (own.as_str(), true),
        ("http://evil.example", false),
        ("ws://evil.example", false),
        ("http://localhost", false),
        ("null", false),
    ] {
        match fixture.connect(&fixture.ana.token, "shop", "", origin).await {
            Ok(mut client) => {
                assert!(enters, "{origin}");
                client.type_text("hello").await;
                client.read_until("hello").await;
            }
            Err(WsError::Http(answer)) => assert!(!enters && answer.status() == 403, "{origin}: {answer:?}"),
            Err(error) => panic!("{origin}: {error}"),
        }
    }
    fixture.tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn shell_enters_the_chosen_unit() {
    let fixture = ExecFixture::with_units().await;
    let app = fixture.tancho.read_json(&fixture.ana, "/1.0/apps/shop").await;
    let units = app["units"].as_array().unwrap();
    let worker = units.iter().find(|unit| unit["ProcessName"] == "worker").unwrap();
    let worker = worker["ID"].as_str().unwrap();
    for (query, process) in [
        (format!("unit={worker}&container_id={worker}"), "worker"),
        (format!("container_id={worker}"), "worker"),
        (String::new(), "web"),
        (format!("isolated=true&unit={worker}"), "run"),
    ] {
        let mut client = fixture.open_shell(&fixture.ana, &query).await;
        client.type_text("é€").await;
        client.read_until("é€").await;
        let calls = fixture.tancho.fake.recorded_calls();
        let entered = calls.iter().rev().find_map(|call| match call {
            FakeCall::Exec(unit, _) => Some(unit.to_string()),
            _ => None,
        });
        assert!(
            entered.unwrap().starts_with(&format!("shop-{process}-")),
            "{query}"
        );
    }
    fixture.wait_until_no_session().await;
    fixture.tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn secrets_in_a_command_are_masked_in_its_event() {
    let fixture = ExecFixture::with_units().await;
    let env = "Envs.0.Name=API_KEY&Envs.0.Value=k-12345&Private=true&NoRestart=true";
    fixture.send(Method::POST, "/1.0/apps/shop/env", env).await;
    let command = "curl -H 'X: k-12345' postgres://u:hunter2@db/x";
    let (output, _) = fixture.run(&[("command", command), ("once", "true")]).await;
    assert_eq!(output, format!("{command}\n"));
    let event = fixture.ended_event("app.run").await;
    let id = event["UniqueID"].as_str().unwrap();
    let whole = fixture
        .tancho
        .read_json(&fixture.root, &format!("/1.1/events/{id}"))
        .await
        .to_string();
    assert!(
        whole.contains("curl -H 'X: ***' postgres://u:***@db/x"),
        "{whole}"
    );
    assert!(
        !whole.contains("k-12345") && !whole.contains("hunter2"),
        "{whole}"
    );
    fixture.tancho.running.drain_and_stop().await;
}
