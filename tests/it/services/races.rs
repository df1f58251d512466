//! A hundred concurrent operations, three times, against a model that counts: what was confirmed as created
//! less what was confirmed as removed exists, here and at the service, once each and within the quota.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Mutex;

use futures_util::future::join_all;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::*;

const MOST_APPS: i32 = 10;

/// What the servers of this process have logged as errors: responses do not show internal errors.
static FAILURES: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct FailureWriter;

impl Write for FailureWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        FAILURES.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn log_failures_only() {
    let mut settings = tancho::config::Settings::defaults().log;
    settings.filter = "error".into();
    let log = tancho::telemetry::logs::build_subscriber(&settings, false, || FailureWriter).unwrap();
    tracing::subscriber::set_global_default(log).unwrap();
}

/// A resource that is created or removed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum RaceSubject {
    App(u8),
    Team,
    Instance(u8),
    Bind(u8, u8),
}

#[derive(Clone, Debug)]
struct RaceOperation {
    thing: RaceSubject,
    create: bool,
    /// Whether an app or an instance belongs to the team that is created and removed meanwhile.
    other_team: bool,
}

fn any_operations() -> impl Strategy<Value = Vec<RaceOperation>> {
    let thing = prop_oneof![
        6 => (0..30u8).prop_map(RaceSubject::App),
        2 => Just(RaceSubject::Team),
        2 => (0..4u8).prop_map(RaceSubject::Instance),
        3 => (0..4u8, 0..2u8).prop_map(|(instance, app)| RaceSubject::Bind(instance, app)),
    ];
    let operation = (thing, prop::bool::weighted(0.7), any::<bool>());
    prop::collection::vec(
        operation.prop_map(|(thing, made, blue)| RaceOperation {
            thing,
            create: made,
            other_team: blue,
        }),
        100,
    )
}

async fn send_operation(fixture: &ServiceFixture, operation: &RaceOperation) -> (StatusCode, String) {
    let team = if operation.other_team { "blue" } else { "red" };
    let (make, place, body) = match operation.thing {
        RaceSubject::App(n) => (
            ("POST", "/apps".to_owned()),
            format!("/apps/app-{n}"),
            json!({ "name": format!("app-{n}"), "platform": "go", "teamOwner": team }),
        ),
        RaceSubject::Team => (
            ("POST", "/teams".to_owned()),
            "/teams/blue".to_owned(),
            json!({ "name": "blue" }),
        ),
        RaceSubject::Instance(n) => (
            ("POST", "/services/instances".to_owned()),
            format!("/services/instances/db-{n}"),
            json!({ "name": format!("db-{n}"), "service_name": "mysql", "owner": team }),
        ),
        RaceSubject::Bind(instance, app) => {
            let path = format!("/services/instances/db-{instance}/fixed-{app}");
            (("PUT", path.clone()), path, Value::Null)
        }
    };
    match operation.create {
        true => {
            fixture
                .send_request("ana", make.0, &make.1, body.to_string())
                .await
        }
        false => fixture.send_request("ana", "DELETE", &place, "").await,
    }
}

async fn names(fixture: &ServiceFixture, sql: &str) -> Vec<String> {
    let query = sqlx::query_scalar(sqlx::AssertSqlSafe(sql.to_owned()));
    query.fetch_all(fixture.db()).await.unwrap()
}

/// Returns what exists, by the database.
async fn existing_names(fixture: &ServiceFixture) -> Vec<String> {
    names(
        fixture,
        "select name from app where name like 'app-%'
         union all select 'team ' || name from team where name = 'blue'
         union all select name from service_instance
         union all select i.name || ' ' || a.name
             from bind join service_instance i using (instance_id) join app a using (app_id)
         order by 1",
    )
    .await
}

/// Returns what should exist, by the responses.
fn expected_names(counts: &BTreeMap<RaceSubject, i32>) -> Vec<String> {
    let mut all = Vec::new();
    for (thing, count) in counts {
        assert!(
            (0..=1).contains(count),
            "{thing:?} was created {count} times more than removed"
        );
        if *count == 1 {
            all.push(match thing {
                RaceSubject::App(n) => format!("app-{n}"),
                RaceSubject::Team => "team blue".to_owned(),
                RaceSubject::Instance(n) => format!("db-{n}"),
                RaceSubject::Bind(instance, app) => format!("db-{instance} fixed-{app}"),
            });
        }
    }
    all.sort();
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundred_concurrent_operations_match_the_model() {
    log_failures_only();
    let flask = ServiceProcess::start("today.py");
    let fixture = ServiceFixture::with(|settings| {
        settings.quota.apps_per_user = MOST_APPS;
        // A hundred requests queue for a connection, longer than usual on a busy machine.
        settings.database.max_connections = 10;
        settings.database.acquire_timeout = Duration::from_secs(60);
    })
    .await;
    for app in ["fixed-0", "fixed-1"] {
        let new = json!({ "name": app, "platform": "go", "teamOwner": "red" });
        fixture.request_ok("POST", "/apps", new.to_string()).await;
    }
    fixture.service("mysql", &flask).await;
    let mut runner = TestRunner::deterministic();
    let mut counts: BTreeMap<RaceSubject, i32> = BTreeMap::new();
    for round in 0..3 {
        let operations = any_operations().new_tree(&mut runner).unwrap().current();
        let answers = join_all(
            operations
                .iter()
                .map(|operation| send_operation(&fixture, operation)),
        )
        .await;
        let mut well = 0;
        for (operation, (status, text)) in operations.iter().zip(&answers) {
            let refused = status.is_client_error() || status.as_u16() == 503;
            assert!(
                status.is_success() || refused,
                "{operation:?}: {status} {text}\n{}",
                String::from_utf8_lossy(&FAILURES.lock().unwrap())
            );
            if status.is_success() {
                well += 1;
                *counts.entry(operation.thing.clone()).or_default() += if operation.create { 1 } else { -1 };
            }
        }
        assert!(
            well >= 5,
            "round {round}: only {well} of a hundred succeeded: {answers:?}"
        );
        fixture.wait_until_settled().await;
        let there = existing_names(&fixture).await;
        assert_eq!(
            there,
            expected_names(&counts),
            "round {round}: {operations:?} {answers:?}"
        );
        // The service has the same.
        let state = flask.get("/__state").await;
        let instances: Vec<&String> = state["instances"].as_object().unwrap().keys().collect();
        let ours: Vec<&String> = there
            .iter()
            .filter(|n| n.starts_with("db-") && !n.contains(' '))
            .collect();
        assert_eq!(instances, ours, "round {round}");
        for (instance, hosts) in state["binds"].as_object().unwrap() {
            let hosts = hosts.as_array().unwrap().len();
            let bound = there
                .iter()
                .filter(|n| n.starts_with(&format!("{instance} ")))
                .count();
            assert_eq!(hosts, bound, "round {round}: {instance}");
        }
        // Nothing belongs to a removed team, and the quota holds.
        let lost = "app_team t where not exists (select from team where name = t.team)";
        assert_eq!(fixture.count(lost).await, 0);
        let apps = fixture.count("app").await;
        assert!(apps <= i64::from(MOST_APPS), "round {round}: {apps} apps");
        let quota = parsed(&fixture.request_ok("GET", "/quota/ana@example.com", "").await);
        let expected = (&json!(MOST_APPS), &json!(apps));
        assert_eq!((&quota["Limit"], &quota["InUse"]), expected, "round {round}");
    }
    fixture.end().await;
}

/// Removes a team while an instance is created that it owns, or has access to.
async fn check_team_removal_race(owner: &str) {
    let flask = ServiceProcess::start("today.py");
    let fixture = ServiceFixture::new().await;
    fixture.service("mysql", &flask).await;
    fixture.team("blue").await;
    fixture
        .user("bo", &[("team-member", "red"), ("team-member", "blue")])
        .await;
    let mut going = fixture.db().begin().await.unwrap();
    sqlx::query("delete from team where name = 'blue'")
        .execute(&mut *going)
        .await
        .unwrap();
    let new = json!({ "name": "my-db", "service_name": "mysql", "owner": owner });
    let making = fixture.send_request("bo", "POST", "/services/instances", new.to_string());
    let waits = "pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'
                 and query like 'insert into service_instance%'";
    let gone = async {
        fixture.wait_for_rows(waits, 1).await;
        going.commit().await.unwrap();
    };
    let ((status, text), ()) = tokio::join!(making, gone);
    assert!(
        status == 409 && text.contains("removed or renamed"),
        "{status} {text}"
    );
    assert_eq!(fixture.count("service_instance").await, 0);
    fixture.end().await;
}

#[tokio::test]
async fn instance_creation_during_removal_of_its_team_is_refused() {
    check_team_removal_race("blue").await;
    check_team_removal_race("red").await;
}

#[tokio::test]
async fn service_keeps_its_owners_when_the_new_team_is_renamed_concurrently() {
    let flask = ServiceProcess::start("today.py");
    let fixture = ServiceFixture::new().await;
    fixture.service("mysql", &flask).await;
    fixture.team("blue").await;
    fixture
        .user("bo", &[("team-member", "red"), ("team-member", "blue")])
        .await;
    let manifest = format!(
        "id: mysql\npassword: other\nteam: blue\nendpoint:\n  production: {}\n",
        flask.url
    );
    let mut other = fixture.db().begin().await.unwrap();
    let lock = "select from service where name = 'mysql' for update";
    sqlx::query(lock).execute(&mut *other).await.unwrap();
    let updating = fixture.send_request("bo", "PUT", "/services", manifest.as_str());
    let renaming = async {
        fixture.tancho.wait_for_blocked_query("update service %").await;
        let rename = "update team set name = 'green' where name = 'blue'";
        sqlx::query(rename).execute(&mut *other).await.unwrap();
        other.commit().await.unwrap();
    };
    let ((status, text), ()) = tokio::join!(updating, renaming);
    assert!(
        status == 409 && text.contains("removed or renamed"),
        "{status} {text}"
    );
    assert_eq!(names(&fixture, "select team from service_owner").await, ["red"]);
    let manifest = manifest.replace("blue", "green");
    let (status, text) = fixture.send_request("bo", "PUT", "/services", manifest).await;
    assert!(status.is_success(), "{status} {text}");
    assert_eq!(names(&fixture, "select team from service_owner").await, ["green"]);
    fixture.end().await;
}
