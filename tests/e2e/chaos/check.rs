//! Compares the state of the system with what the responses to users confirmed.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use sqlx::{Connection, PgConnection};

use super::ChaosFixture;
use super::model::ModelApp;
use super::user::ChaosUser;
use crate::test_instance::{TestInstance, get_through_router, seconds, wait_for};

/// The time that healers, the orphan reaper and reconcilers may take once everything works again.
const PATIENCE: u64 = 60;

/// Asserts that no event or saga runs forever, none is stuck, and nothing has panicked.
pub(super) async fn assert_nothing_stuck(fixture: &ChaosFixture) {
    let mut db = PgConnection::connect(&fixture.cluster.url("postgres"))
        .await
        .unwrap();
    let mut last = Vec::new();
    wait_for("the end of all sagas", seconds(PATIENCE), async || {
        let open = "select kind || ' ' || state || ' at step ' || step || ': ' || error from saga
                    where state not in ('done', 'undone')
                    union all select 'event ' || kind || ' ' || target_value from event where ended_at is null";
        let open: Vec<String> = sqlx::query_scalar(open).fetch_all(&mut db).await.unwrap();
        if open != last {
            println!("open: {open:#?}");
            last.clone_from(&open);
        }
        open.is_empty().then_some(())
    })
    .await;
    for one in &fixture.replicas {
        let log = one.tancho.log();
        let panics: Vec<&str> = log.lines().filter(|line| line.contains("panicked")).collect();
        assert!(panics.is_empty(), "{panics:#?}");
    }
}

/// Asserts that the API, the apps and the service agree with a user's model.
pub(super) async fn assert_matches_model(fixture: &ChaosFixture, user: &ChaosUser) {
    let apps = user.read("/1.0/apps").await;
    let names = |list: &Value| -> BTreeSet<String> {
        let rows = list.as_array().cloned().unwrap_or_default();
        rows.iter()
            .map(|row| row["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let told: BTreeSet<String> = user.world.apps.keys().cloned().collect();
    assert_eq!(names(&apps), told, "the apps of {}", user.team);
    for (name, app) in &user.world.apps {
        let found = variables(user, name).await;
        let set: BTreeMap<String, String> = found.into_iter().filter(|(k, _)| k.starts_with('V')).collect();
        assert_eq!(set, app.variables, "the variables of {name}");
        for router in fixture.replicas.iter().map(|one| &one.tancho.running().router) {
            assert_app_matches_model(&fixture.base, router, name, app).await;
        }
        wait_for(
            &format!("{name} has {} units", app.units),
            seconds(PATIENCE),
            async || {
                let info = user.read(&format!("/1.0/apps/{name}")).await;
                let units = info["units"].as_array().map_or(0, Vec::len);
                (units == app.units).then_some(())
            },
        )
        .await;
    }
}

async fn variables(user: &ChaosUser, app: &str) -> BTreeMap<String, String> {
    let list = user.read(&format!("/1.0/apps/{app}/env")).await;
    let rows = list.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    rows.iter()
        .map(|row| (text(&row["name"]), text(&row["value"])))
        .collect()
}

/// Asserts that an app behind a router returns its text, its variables and, if bound, that of the service.
async fn assert_app_matches_model(folder: &TestInstance, router: &str, name: &str, app: &ModelApp) {
    let Some(text) = &app.text else { return };
    let mut want: Vec<(String, String)> = vec![("/".to_owned(), format!("{text} -"))];
    for number in 0..3 {
        let variable = format!("V{number}");
        let value = app
            .variables
            .get(&variable)
            .cloned()
            .unwrap_or_else(|| "-".to_owned());
        want.push((format!("/env/{variable}"), value));
    }
    for (path, want) in want {
        let mut last = String::new();
        wait_for(
            &format!("{name}{path} says {want}"),
            seconds(PATIENCE),
            async || {
                let (status, said) = get_through_router(&folder.http, router, name, &path).await;
                let line = format!("{name}{path}: {status} {said}");
                if line != last {
                    println!("{line}");
                    last = line;
                }
                (status == 200 && said == want).then_some(())
            },
        )
        .await;
    }
    let (_, bound) = get_through_router(&folder.http, router, name, "/env/STORE_URL").await;
    match bound.strip_prefix("store://") {
        Some(instance) => assert!(app.binds.contains(instance), "{name} uses {instance}: {app:?}"),
        None => assert!(app.binds.is_empty(), "{name} has no variables: {app:?}"),
    }
}

/// Prints the calls to the service about resources that only one side has, in case they stay so.
fn print_service_calls(fixture: &ChaosFixture, told: &BTreeSet<String>, held: Vec<String>) {
    let held: BTreeSet<String> = held.into_iter().collect();
    let log = std::fs::read_to_string(fixture.base.root.join("service.json.log")).unwrap_or_default();
    for odd in held.symmetric_difference(told) {
        let instance = odd.split(' ').next().unwrap_or_default();
        println!("{} {odd} exists on one side only:", super::clock());
        log.lines()
            .filter(|line| line.contains(instance))
            .for_each(|line| println!("    {line}"));
    }
}

/// Asserts that the service has what users have, and that as many processes run as there are units.
pub(super) async fn assert_no_duplicates(fixture: &ChaosFixture, users: &[ChaosUser]) {
    let slow = fixture.slow.as_ref().unwrap();
    let mut instances = BTreeSet::new();
    let mut binds = BTreeSet::new();
    let mut units = 0;
    for user in users {
        instances.extend(user.world.instances.iter().cloned());
        for (name, app) in &user.world.apps {
            units += app.units;
            binds.extend(
                app.binds
                    .iter()
                    .map(|instance| format!("{instance} {name}.localhost")),
            );
        }
    }
    for (what, told) in [("instances", instances), ("binds", binds)] {
        print_service_calls(fixture, &told, slow.holds(what).await);
        let mut last = BTreeSet::new();
        wait_for(
            &format!("the service has these {what}: {told:?}"),
            seconds(PATIENCE),
            async || {
                let held: BTreeSet<String> = slow.holds(what).await.into_iter().collect();
                if held != last {
                    println!("the service has {what} {held:?}");
                    last.clone_from(&held);
                }
                (held == told).then_some(())
            },
        )
        .await;
    }
    let mut last = usize::MAX;
    wait_for(&format!("{units} processes run"), seconds(PATIENCE), async || {
        let count: usize = fixture.replicas.iter().map(|one| one.tancho.pids().len()).sum();
        if count != last {
            println!("{count} processes run");
            last = count;
        }
        (count == units).then_some(())
    })
    .await;
}
