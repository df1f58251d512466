//! How sessions end, and how many there may be. The units are fake: `sleep` does not end by itself.

use std::collections::BTreeSet;

use serde_json::json;
use tancho::provisioners::UnitId;

use super::*;

const ENDLESS: &[(&str, &str)] = &[("command", "sleep"), ("once", "true")];

/// Reads the rest of a run that was started.
async fn read_rest(answer: Response) -> (String, Option<String>) {
    assert_eq!(answer.status(), 200);
    read_run(&answer.text().await.unwrap())
}

#[tokio::test]
async fn running_command_locks_the_app_and_a_shell_does_not() {
    let fixture = ExecFixture::with_units().await;
    let _shell = fixture.open_shell(&fixture.ana, "").await;
    let run = fixture.start_run(ENDLESS).await;
    let event = run.headers()["x-tsuru-eventid"].to_str().unwrap().to_owned();
    assert_eq!(fixture.events("app.run").await[0]["UniqueID"], event);
    let second = fixture.start_run(ENDLESS).await;
    assert_eq!(second.status(), 500);
    let text = second.text().await.unwrap();
    assert!(
        text.starts_with("event locked: app(shop) running \"app.run\""),
        "{text}"
    );
    fixture.cancel("app.run").await;
    let (_, failure) = read_rest(run).await;
    assert_eq!(failure.as_deref(), Some("canceled by user request"));
    // The lock is free as soon as the stream ends.
    let (output, failure) = fixture.run(&[("command", "date"), ("once", "true")]).await;
    assert_eq!((output.as_str(), failure), ("date\n", None));
    fixture.tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn command_ends_when_its_client_disconnects() {
    let fixture = ExecFixture::with_units().await;
    for form in [ENDLESS, &[("command", "sleep"), ("isolated", "true")]] {
        drop(fixture.start_run(form).await);
        let event = fixture.ended_event("app.run").await;
        assert!(
            event["Error"]
                .as_str()
                .unwrap()
                .contains("client has disconnected"),
            "{event}"
        );
        assert_eq!(fixture.count_sessions().await, 0);
    }
    fixture.tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn shell_ends_when_its_event_is_cancelled_or_its_caller_loses_the_right() {
    let fixture = ExecFixture::with_units().await;
    let client = fixture.open_shell(&fixture.ana, "").await;
    fixture.cancel("app.run.shell").await;
    let (text, code) = client.read_to_close().await;
    assert!(text.contains("Error: canceled by user request"), "{text:?}");
    assert_eq!(code, 1000);
    let event = fixture.ended_event("app.run.shell").await;
    assert_eq!(event["Error"], "canceled by user request");

    for (method, path, form) in [
        (Method::POST, "/1.0/roles", "name=sheller&context=team"),
        (
            Method::POST,
            "/1.0/roles/sheller/permissions",
            "permission=app.run",
        ),
        (
            Method::POST,
            "/1.0/roles/sheller/user",
            "email=bob@example.com&context=web-team",
        ),
    ] {
        let answer = fixture.form(&fixture.root, method, path, form).await;
        assert!(answer.status().is_success(), "{path}");
    }
    let mut client = fixture.open_shell(&fixture.bob, "").await;
    client.type_text("hello").await;
    client.read_until("hello").await;
    let path = "/1.0/roles/sheller/user/bob@example.com?context=web-team";
    let answer = fixture.form(&fixture.root, Method::DELETE, path, "").await;
    assert!(answer.status().is_success());
    let (text, _) = client.read_to_close().await;
    assert!(text.contains("Error: You don't have permission"), "{text:?}");

    let client = fixture.open_shell(&fixture.ana, "").await;
    let answer = fixture
        .form(&fixture.ana, Method::DELETE, "/1.0/users/tokens", "")
        .await;
    assert!(answer.status().is_success());
    let (text, _) = client.read_to_close().await;
    assert!(text.contains("Error: Your session has ended"), "{text:?}");
    fixture.wait_until_no_session().await;
    fixture.tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn sessions_end_when_the_server_stops() {
    let fixture = ExecFixture::with_units().await;
    let client = fixture.open_shell(&fixture.ana, "").await;
    let run = fixture.start_run(ENDLESS).await;
    let db = fixture.tancho.running.core.db.connect_options();
    fixture.tancho.running.drain_and_stop().await;
    let (text, _) = client.read_to_close().await;
    assert!(text.contains("Error: The server is stopping"), "{text:?}");
    let (_, failure) = read_rest(run).await;
    assert!(failure.unwrap().contains("The server is stopping"));
    let db = sqlx::PgPool::connect_with(sqlx::postgres::PgConnectOptions::clone(&db))
        .await
        .unwrap();
    let open =
        "select (select count(*) from exec_session) + (select count(*) from event where ended_at is null)";
    assert_eq!(
        sqlx::query_scalar::<_, i64>(open).fetch_one(&db).await.unwrap(),
        0
    );
}

#[tokio::test]
async fn session_without_a_server_is_ended_by_the_healer() {
    let fixture = ExecFixture::with_units().await;
    let db = &fixture.tancho.running.core.db;
    let orphan = "with e as (
            insert into event (event_id, target_kind, target_value, kind, owner_kind, owner_name, contexts)
            values ('5f3e8a1b9c4d2e0001a7b3d0', 'app', 'shop', 'app.run', 'user', 'ana@example.com', '{team:web-team}')
            returning event_id),
        l as (insert into event_lock select 'app', 'shop', event_id from e)
        insert into exec_session (event_id, app_id, replica_id, host, renewed_at)
        select e.event_id, app_id, gen_random_uuid(), 'gone', now() - interval '61 seconds' from e, app";
    // One that is renewed stays.
    let mut client = fixture.open_shell(&fixture.ana, "").await;
    sqlx::raw_sql(orphan).execute(db).await.unwrap();
    let answer = fixture
        .form(&fixture.root, Method::GET, "/healers/exec-sessions", "")
        .await;
    let text = answer.text().await.unwrap();
    assert!(
        text.contains("ended 1 commands and shells without a server"),
        "{text}"
    );
    let event = fixture.ended_event("app.run").await;
    assert_eq!(event["Error"], "The server that ran this command has stopped.");
    client.type_text("hello").await;
    client.read_until("hello").await;
    let (_, failure) = fixture.run(&[("command", "date")]).await;
    assert_eq!(failure, None, "the app is unlocked");
    fixture.tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn isolated_shell_holds_its_unit_and_its_version() {
    let fixture = ExecFixture::with_units().await;
    let mut client = fixture.open_shell(&fixture.ana, "isolated=true").await;
    client.type_text("hello").await;
    client.read_until("hello").await;
    let versions = "select unit_id is not null and version = 1 from exec_session";
    let db = &fixture.tancho.running.core.db;
    assert!(
        sqlx::query_scalar::<_, bool>(versions)
            .fetch_one(db)
            .await
            .unwrap()
    );
    drop(client);
    fixture.wait_until_no_session().await;
    fixture.tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn isolated_unit_has_the_limits_of_the_web_process() {
    let fixture = ExecFixture::with_units().await;
    let change = json!({ "planoverride": { "memory": 8 << 20, "cpumilli": 500 }, "noRestart": true });
    let (status, text) = fixture
        .tancho
        .send_json(&fixture.ana, Method::PUT, "/1.0/apps/shop", Some(change))
        .await;
    assert_eq!(status, 200, "{text}");
    let mut client = fixture.open_shell(&fixture.ana, "isolated=true").await;
    client.type_text("hello").await;
    client.read_until("hello").await;
    let unit: String = sqlx::query_scalar("select unit_id from exec_session")
        .fetch_one(&fixture.tancho.running.core.db)
        .await
        .unwrap();
    let spec = fixture
        .tancho
        .fake
        .unit_spec(&UnitId::parse(&unit).unwrap())
        .unwrap();
    assert_eq!((spec.memory_bytes, spec.cpu_milli), (8 << 20, 500));
    drop(client);
    fixture.wait_until_no_session().await;
    fixture.tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn caller_with_the_most_shells_is_refused_another_and_leaves_room_for_others() {
    let fixture = ExecFixture::with_units().await;
    let mut open = Vec::new();
    for _ in 0..64 {
        let mut client = fixture.open_shell(&fixture.ana, "").await;
        client.type_text("x").await;
        client.read_until("x").await;
        open.push(client);
    }
    let (text, _) = fixture.open_shell(&fixture.ana, "").await.read_to_close().await;
    assert!(
        text.contains("Error: You have too many commands and shells"),
        "{text:?}"
    );
    let mut other = fixture.open_shell(&fixture.root, "").await;
    other.type_text("x").await;
    other.read_until("x").await;
    let owners: BTreeSet<String> = fixture
        .events("app.run.shell")
        .await
        .iter()
        .map(|event| event["Owner"]["Name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(owners.len(), 2);
    drop(open);
    wait_for("the slots are free", async || {
        (fixture.count_sessions().await == 1).then_some(())
    })
    .await;
    let mut again = fixture.open_shell(&fixture.ana, "").await;
    again.type_text("x").await;
    again.read_until("x").await;
    fixture.tancho.running.drain_and_stop().await;
}
