//! Lists of events: each filter, the order, the pages, and lists of many events.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{request, sql};
use crate::accounts::grant;
use crate::test_server::{TestServer, TestUser};

/// Five events of an app, a team and an instance, one a minute, with the ids 1 to 5.
const EVENTS: &str = "
    insert into event (event_id, target_kind, target_value, kind, owner_kind, owner_name, started_at, ended_at, outcome,
        error, extra_targets)
    values
        (lpad('1', 24, '0'), 'app', 'shop', 'app.create', 'user', 'ana@example.com', '2026-03-10T14:01:00Z', '2026-03-10T14:09:00Z', 'done', '', '{}'),
        (lpad('2', 24, '0'), 'app', 'shop', 'app.update.bind', 'user', 'bob@example.com', '2026-03-10T14:02:00Z', '2026-03-10T14:08:00Z', 'failed', 'no answer', '{service-instance:pg/db}'),
        (lpad('3', 24, '0'), 'team', 'red', 'team.create', 'app', 'shop', '2026-03-10T14:03:00Z', '2026-03-10T14:03:01Z', 'done', '', '{}'),
        (lpad('4', 24, '0'), 'service-instance', 'pg/db', 'service-instance.create', 'user', 'ana@example.com', '2026-03-10T14:04:00Z', '2026-03-10T14:04:01Z', 'done', '', '{}'),
        (lpad('5', 24, '0'), 'app', 'blog', 'app.deploy', 'user', 'ana@example.com', '2026-03-10T14:05:00Z', null, null, '', '{}')";

/// Returns the last digits of the ids of a list.
async fn list(tancho: &TestServer, who: &TestUser, query: &str) -> String {
    let query = format!("{query}&until=2026-03-10T23:00:00Z");
    let list = tancho.read_json(who, &format!("/1.1/events?{query}")).await;
    let ids = list.as_array().unwrap().iter();
    ids.map(|event| event["UniqueID"].as_str().unwrap()[23..].to_owned())
        .collect()
}

#[tokio::test]
async fn list_is_narrowed_by_every_filter_of_the_client() {
    let tancho = TestServer::start().await;
    let root = tancho.login_admin().await;
    sql(&tancho, EVENTS).await;
    for (query, found) in [
        // As the client sends it without flags.
        (
            "allowedtargets=&erroronly=&kindtype=&limit=&ownername=&ownertype=&permissions=&raw=&since=&skip=&sort=&target.type=&target.value=",
            "54321",
        ),
        ("target.type=app", "521"),
        ("target.type=app&target.value=shop", "21"),
        ("target.value=shop", "21"),
        // Targets that an event locks beside its own.
        ("target.type=service-instance", "42"),
        ("target.value=pg/db", "42"),
        ("target.type=service-instance&target.value=pg/db", "42"),
        ("target.type=app&target.value=pg/db", ""),
        ("target.type=boat", ""),
        ("kindtype=permission", "54321"),
        ("kindtype=internal", ""),
        ("kindname=app.create", "1"),
        ("kindname=app.create&kindname=team.create&kindname=", "31"),
        ("KindName=app.create", "1"),
        ("ownertype=app", "3"),
        ("ownername=ana@example.com", "541"),
        ("ownertype=user&ownername=shop", ""),
        ("since=2026-03-10T14:04:00Z", "54"),
        ("since=2026-03-10T15:04:00%2B01:00", "54"),
        ("since=0001-01-01T00:00:00Z", "54321"),
        ("running=true", "5"),
        ("running=false", "4321"),
        ("erroronly=true", "2"),
        ("limit=2", "54"),
        ("limit=2&skip=1", "43"),
        ("limit=-1&skip=-1", "54321"),
        ("limit=1000000", "54321"),
        ("skip=1000000", ""),
        ("sort=starttime", "12345"),
        ("sort=-starttime", "54321"),
        ("sort=endtime", "53421"),
        ("sort=-endtime", "12435"),
        ("sort=kind.name", "15243"),
        ("sort=-target.value", "21345"),
        ("sort=Owner.Name&limit=2", "14"),
        // What narrows on the server of the original only, for itself.
        ("raw=x&allowedtargets=y&permissions=z", "54321"),
    ] {
        assert_eq!(list(&tancho, &root, query).await, found, "{query}");
    }
    let until = tancho
        .read_json(&root, "/1.1/events?until=2026-03-10T14:02:00Z")
        .await;
    assert_eq!(until.as_array().unwrap().len(), 2);
    let bind = &tancho
        .read_json(&root, "/1.1/events?kindname=app.update.bind")
        .await[0];
    let extra = json!([{ "Target": { "Type": "service-instance", "Value": "pg/db" }, "Lock": true }]);
    assert_eq!(bind["ExtraTargets"], extra);
    assert_eq!(bind["Allowed"]["Scheme"], "app.read.events");
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn malformed_filter_is_refused() {
    let tancho = TestServer::start().await;
    let root = tancho.login_admin().await;
    for (query, part) in [
        ("since=yesterday", "since must be a time"),
        ("until=2026-13-01T00:00:00Z", "until must be a time"),
        ("running=maybe", "running must be true or false"),
        ("erroronly=2", "erroronly must be true or false"),
        ("limit=ten", "limit must be a whole number"),
        ("skip=99999999999999999999", "skip must be a whole number"),
        ("sort=start_data", "cannot be sorted"),
        ("target=app", "target must be an object"),
        ("kindname.x=app", "kindname"),
        ("ownername=a%00b", "NUL"),
    ] {
        let answer = request(&tancho, &root, &format!("GET /1.1/events?{query}"))
            .await
            .expect_status(400);
        assert!(answer.body.contains(part), "{query}: {}", answer.body);
    }
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn further_target_of_an_event_is_found_and_shown_to_its_readers_only() {
    let tancho = TestServer::start().await;
    let (root, ana, bob) = (
        tancho.login_admin().await,
        tancho.create_user("ana").await,
        tancho.create_user("bob").await,
    );
    tancho.create_team(&ana, "red").await;
    let renamed = tancho
        .send_json(
            &ana,
            reqwest::Method::PUT,
            "/1.6/teams/red",
            Some(json!({ "newname": "crimson" })),
        )
        .await;
    assert_eq!(renamed.0, 200, "{renamed:?}");
    let query = "/1.1/events?target.type=team&target.value=crimson";
    for (who, count) in [(&root, 1), (&ana, 1), (&bob, 0)] {
        let list = tancho.read_json(who, query).await;
        assert_eq!(list.as_array().unwrap().len(), count, "{list}");
    }
    grant(&tancho, &root, &bob, "team", "crimson", &["team.read.events"]).await;
    let list = tancho.read_json(&bob, query).await;
    assert_eq!(list[0]["ExtraTargets"][0]["Target"]["Value"], "crimson", "{list}");
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn list_of_many_events_is_fast_for_every_reader_and_filter() {
    let tancho = TestServer::start().await;
    let (root, ana, bob) = (
        tancho.login_admin().await,
        tancho.create_user("ana").await,
        tancho.create_user("bob").await,
    );
    tancho.create_team(&ana, "red").await;
    tancho.create_team(&bob, "blue").await;
    sql(
        &tancho,
        "insert into event (event_id, target_kind, target_value, kind, owner_kind, owner_name, contexts, started_at,
            ended_at, outcome, start_data)
         select lpad(to_hex(n), 24, '0'), 'team', 'red', 'team.update', 'user', 'ana@example.com', '{team:red}',
            now() - make_interval(secs => n), now(), 'done', jsonb_build_object('text', repeat('x', 2000))
         from generate_series(1, 10000) n;
         analyze event; analyze event_reader",
    )
    .await;
    for (who, query, count) in [
        (&root, "", 100),
        (&ana, "", 100),
        (&ana, "skip=9000", 100),
        (&ana, "target.type=team&target.value=red&sort=starttime", 100),
        (&root, "sort=owner.name", 100),
        (&root, "kindname=app.deploy", 0),
        // Reads none of the many.
        (&bob, "target.type=team", 1),
    ] {
        let path = format!("/1.1/events?{query}");
        let mut took = Duration::MAX;
        for _ in 0..5 {
            let began = Instant::now();
            let list: Value = tancho.read_json(who, &path).await;
            took = took.min(began.elapsed());
            assert_eq!(list.as_array().unwrap().len(), count, "{path}");
        }
        assert!(
            took < Duration::from_millis(500),
            "{path} of {}: {took:?}",
            who.email
        );
    }
    tancho.running.drain_and_stop().await;
}
