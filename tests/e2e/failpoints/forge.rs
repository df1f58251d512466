//! Deploys from a forge, which is the repository of another app.

use std::fs;

use reqwest::{Method, RequestBuilder};
use serde_json::json;

use crate::apps::AppSource;
use crate::failpoints::{FailpointFixture, ReachedPoint, Scenario};
use crate::forge::{ForgeRemote, push, signature};

const SECRET: &str = "a secret of the failpoint tests";

/// The number of versions of an app that are kept; older ones are removed.
const KEPT: usize = 10;

/// `app0` follows the repository of `app1`.
pub(super) struct ForgeDeployScenario;

impl Scenario for ForgeDeployScenario {
    const KIND: &'static str = "forge.deploy";

    fn points_per_round(&self) -> usize {
        // No event identifies its subject.
        1
    }

    fn keeps_address(&self) -> bool {
        // The forge is this instance of Tancho.
        true
    }

    async fn prepare(&self, fixture: &FailpointFixture, _number: usize) {
        // One commit each time, so that there is always a new one.
        let folder = fixture.tancho.root.join("origin");
        if folder.exists() {
            fs::remove_dir_all(&folder).unwrap();
        }
        let origin = ForgeRemote::new(&fixture.tancho, "app1");
        let commit = origin.push(&AppSource::tiny(&format!("round{}", fixture.round)), "Another");
        fs::write(folder.join("tip"), commit).unwrap();
        let api = &fixture.tancho.running().api;
        let config = json!({
            "url": format!("{api}/git/app1.git"), "branch": "live", "secret": SECRET,
            "user": "token", "password": fixture.tancho.token,
        });
        let set = fixture
            .tancho
            .request_as_admin(Method::PUT, "/1.0/forges/app0")
            .json(&config);
        assert_eq!(set.send().await.unwrap().status(), 200);
    }

    fn launch(&self, fixture: &FailpointFixture, _number: usize) -> RequestBuilder {
        let commit = fs::read_to_string(fixture.tancho.root.join("origin/tip")).unwrap();
        let body = push("live", &commit);
        let request = fixture.tancho.request_as_admin(Method::POST, "/1.0/forges/app0");
        request
            .header("x-gitea-event", "push")
            .header("x-gitea-delivery", format!("round-{}", fixture.round))
            .header("x-gitea-signature", signature(SECRET, &body))
            .body(body)
    }

    async fn check_subject(&mut self, fixture: &mut FailpointFixture, reached: &ReachedPoint) -> Vec<String> {
        // A deploy that has begun continues independently.
        let steps = &fixture.kinds[Self::KIND];
        let has_begun = reached.done || reached.point.step_was_done(steps, "deploy");
        if has_begun {
            fixture.apps[0].says = format!("round{} - -", fixture.round);
            fixture.apps[0].versions = KEPT.min(fixture.apps[0].versions + 1);
        }
        let mut wrong: Vec<String> = fixture.check_app_text(0).await.into_iter().collect();
        let forge = fixture.tancho.read_json("/1.0/forges/app0").await;
        if reached.done != forge["error"].as_str().unwrap().is_empty() {
            wrong.push(format!("done: {}, but {forge}", reached.done));
        }
        let told = event_errors(fixture).await;
        let right = |error: &String| error.is_empty() == has_begun;
        if told.len() != 1 || !told.iter().all(right) {
            wrong.push(format!("begun: {has_begun}, but the events have {told:?}"));
        }
        wrong
    }

    async fn clean_up(&mut self, fixture: &mut FailpointFixture) {
        fixture.assert_tidy().await;
    }
}

/// Returns the errors of all events of this round's commit; it must be one, whatever was repeated.
async fn event_errors(fixture: &FailpointFixture) -> Vec<String> {
    let commit = fs::read_to_string(fixture.tancho.root.join("origin/tip")).unwrap();
    let path = "/1.1/events?target.type=app&target.value=app0&kindname=app.deploy&limit=4";
    let mut errors = Vec::new();
    for event in fixture.tancho.read_json(path).await.as_array().unwrap() {
        let path = format!("/1.1/events/{}", event["UniqueID"].as_str().unwrap());
        let event = fixture.tancho.read_json(&path).await;
        if event["CustomData"]["Start"]["commit"] == commit {
            errors.push(event["Error"].as_str().unwrap().to_owned());
        }
    }
    errors
}
