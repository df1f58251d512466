//! A hundred people's wishes at once, thrice, against a model that only counts: what was said to be made less
//! what was said to be removed is there, here and at the service, once each and within the quota.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Mutex;

use futures_util::future::join_all;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::*;

const MOST_APPS: i32 = 10;

/// What the servers of this process have logged as errors: no answer tells of what is our own fault.
static FAILURES: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Failures;

impl Write for Failures {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        FAILURES.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn keep_failures() {
    let mut settings = tancho::config::Settings::defaults().log;
    settings.filter = "error".into();
    let log = tancho::telemetry::logs::subscriber(&settings, false, || Failures).unwrap();
    tracing::subscriber::set_global_default(log).unwrap();
}

/// Something that is made or removed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Thing {
    App(u8),
    Team,
    Instance(u8),
    Bind(u8, u8),
}

#[derive(Clone, Debug)]
struct Wish {
    thing: Thing,
    made: bool,
    /// Whether an app or an instance goes to the team that comes and goes.
    blue: bool,
}

fn wishes() -> impl Strategy<Value = Vec<Wish>> {
    let thing = prop_oneof![
        6 => (0..30u8).prop_map(Thing::App),
        2 => Just(Thing::Team),
        2 => (0..4u8).prop_map(Thing::Instance),
        3 => (0..4u8, 0..2u8).prop_map(|(instance, app)| Thing::Bind(instance, app)),
    ];
    let wish = (thing, prop::bool::weighted(0.7), any::<bool>());
    prop::collection::vec(
        wish.prop_map(|(thing, made, blue)| Wish { thing, made, blue }),
        100,
    )
}

async fn ask(scene: &Scene, wish: &Wish) -> (StatusCode, String) {
    let team = if wish.blue { "blue" } else { "red" };
    let (make, place, body) = match wish.thing {
        Thing::App(n) => (
            ("POST", "/apps".to_owned()),
            format!("/apps/app-{n}"),
            json!({ "name": format!("app-{n}"), "platform": "go", "teamOwner": team }),
        ),
        Thing::Team => (
            ("POST", "/teams".to_owned()),
            "/teams/blue".to_owned(),
            json!({ "name": "blue" }),
        ),
        Thing::Instance(n) => (
            ("POST", "/services/instances".to_owned()),
            format!("/services/instances/db-{n}"),
            json!({ "name": format!("db-{n}"), "service_name": "mysql", "owner": team }),
        ),
        Thing::Bind(instance, app) => {
            let path = format!("/services/instances/db-{instance}/fixed-{app}");
            (("PUT", path.clone()), path, Value::Null)
        }
    };
    match wish.made {
        true => scene.ask("ana", make.0, &make.1, body.to_string()).await,
        false => scene.ask("ana", "DELETE", &place, "").await,
    }
}

async fn names(scene: &Scene, sql: &str) -> Vec<String> {
    let query = sqlx::query_scalar(sqlx::AssertSqlSafe(sql.to_owned()));
    query.fetch_all(scene.db()).await.unwrap()
}

/// What there is, by the database.
async fn there(scene: &Scene) -> Vec<String> {
    names(
        scene,
        "select name from app where name like 'app-%'
         union all select 'team ' || name from team where name = 'blue'
         union all select name from service_instance
         union all select i.name || ' ' || a.name
             from bind join service_instance i using (instance_id) join app a using (app_id)
         order by 1",
    )
    .await
}

/// What there should be, by what was answered.
fn counted(counts: &BTreeMap<Thing, i32>) -> Vec<String> {
    let mut all = Vec::new();
    for (thing, count) in counts {
        assert!(
            (0..=1).contains(count),
            "{thing:?} was made {count} times more than removed"
        );
        if *count == 1 {
            all.push(match thing {
                Thing::App(n) => format!("app-{n}"),
                Thing::Team => "team blue".to_owned(),
                Thing::Instance(n) => format!("db-{n}"),
                Thing::Bind(instance, app) => format!("db-{instance} fixed-{app}"),
            });
        }
    }
    all.sort();
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_wishes_at_once_end_as_a_model_counts_them() {
    keep_failures();
    let flask = Flask::start("today.py");
    let scene = Scene::with(|settings| {
        settings.quota.apps_per_user = MOST_APPS;
        // A hundred at once have to queue for a connection, longer than usual on a busy machine.
        settings.database.max_connections = 10;
        settings.database.acquire_timeout = Duration::from_secs(60);
    })
    .await;
    for app in ["fixed-0", "fixed-1"] {
        let new = json!({ "name": app, "platform": "go", "teamOwner": "red" });
        scene.ok("POST", "/apps", new.to_string()).await;
    }
    scene.service("mysql", &flask).await;
    let mut runner = TestRunner::deterministic();
    let mut counts: BTreeMap<Thing, i32> = BTreeMap::new();
    for round in 0..3 {
        let wishes = wishes().new_tree(&mut runner).unwrap().current();
        let answers = join_all(wishes.iter().map(|wish| ask(&scene, wish))).await;
        let mut well = 0;
        for (wish, (status, text)) in wishes.iter().zip(&answers) {
            let refused = status.is_client_error() || status.as_u16() == 503;
            assert!(
                status.is_success() || refused,
                "{wish:?}: {status} {text}\n{}",
                String::from_utf8_lossy(&FAILURES.lock().unwrap())
            );
            if status.is_success() {
                well += 1;
                *counts.entry(wish.thing.clone()).or_default() += if wish.made { 1 } else { -1 };
            }
        }
        assert!(
            well >= 5,
            "round {round}: only {well} of a hundred went well: {answers:?}"
        );
        scene.settled().await;
        let there = there(&scene).await;
        assert_eq!(there, counted(&counts), "round {round}: {wishes:?} {answers:?}");
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
        // Nothing belongs to a team that is gone, and the quota holds.
        let lost = "app_team t where not exists (select from team where name = t.team)";
        assert_eq!(scene.count(lost).await, 0);
        let apps = scene.count("app").await;
        assert!(apps <= i64::from(MOST_APPS), "round {round}: {apps} apps");
        let quota = parsed(&scene.ok("GET", "/quota/ana@example.com", "").await);
        let expected = (&json!(MOST_APPS), &json!(apps));
        assert_eq!((&quota["Limit"], &quota["InUse"]), expected, "round {round}");
    }
    scene.end().await;
}

/// A team goes while an instance is made that it owns, or has access to.
async fn its_team_goes(owner: &str) {
    let flask = Flask::start("today.py");
    let scene = Scene::new().await;
    scene.service("mysql", &flask).await;
    scene.team("blue").await;
    scene
        .user("bo", &[("team-member", "red"), ("team-member", "blue")])
        .await;
    let mut going = scene.db().begin().await.unwrap();
    sqlx::query("delete from team where name = 'blue'")
        .execute(&mut *going)
        .await
        .unwrap();
    let new = json!({ "name": "my-db", "service_name": "mysql", "owner": owner });
    let making = scene.ask("bo", "POST", "/services/instances", new.to_string());
    let waits = "pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'
                 and query like 'insert into service_instance%'";
    let gone = async {
        scene.until(waits, 1).await;
        going.commit().await.unwrap();
    };
    let ((status, text), ()) = tokio::join!(making, gone);
    assert!(
        status == 409 && text.contains("removed or renamed"),
        "{status} {text}"
    );
    assert_eq!(scene.count("service_instance").await, 0);
    scene.end().await;
}

#[tokio::test]
async fn an_instance_whose_team_goes_meanwhile_is_refused_in_words() {
    its_team_goes("blue").await;
    its_team_goes("red").await;
}
