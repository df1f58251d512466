//! Deploys from a forge, which is the repository of another app.

use std::fs;

use reqwest::{Method, RequestBuilder};
use serde_json::json;

use crate::apps::Source;
use crate::drill::{Drill, Scenario, Struck};
use crate::forge::{Origin, push, signature};

const SECRET: &str = "a secret of the drill";

/// As many versions of an app are kept; older ones go.
const KEPT: usize = 10;

/// `app0` follows the repository of `app1`.
pub(super) struct Deploy;

impl Scenario for Deploy {
    const KIND: &'static str = "forge.deploy";

    fn at_once(&self) -> usize {
        // It has no event that tells whose it is.
        1
    }

    fn keeps_address(&self) -> bool {
        // The forge is this very Tancho.
        true
    }

    async fn prepare(&self, drill: &Drill, _number: usize) {
        // One each time, so that there is always something new.
        let folder = drill.house.root.join("origin");
        if folder.exists() {
            fs::remove_dir_all(&folder).unwrap();
        }
        let origin = Origin::new(&drill.house, "app1");
        let commit = origin.push(&Source::tiny(&format!("round{}", drill.round)), "Another");
        fs::write(folder.join("tip"), commit).unwrap();
        let api = &drill.house.running().api;
        let wish = json!({
            "url": format!("{api}/git/app1.git"), "branch": "live", "secret": SECRET,
            "user": "token", "password": drill.house.token,
        });
        let set = drill.house.by(Method::PUT, "/1.0/forges/app0").json(&wish);
        assert_eq!(set.send().await.unwrap().status(), 200);
    }

    fn launch(&self, drill: &Drill, _number: usize) -> RequestBuilder {
        let commit = fs::read_to_string(drill.house.root.join("origin/tip")).unwrap();
        let body = push("live", &commit);
        let request = drill.house.by(Method::POST, "/1.0/forges/app0");
        request
            .header("x-gitea-event", "push")
            .header("x-gitea-delivery", format!("round-{}", drill.round))
            .header("x-gitea-signature", signature(SECRET, &body))
            .body(body)
    }

    async fn check(&mut self, drill: &mut Drill, struck: &Struck) -> Vec<String> {
        // A deploy that has begun goes on by itself.
        let steps = &drill.kinds[Self::KIND];
        let has_begun = struck.done || struck.point.is_past(steps, "deploy");
        if has_begun {
            drill.apps[0].says = format!("round{} - -", drill.round);
            drill.apps[0].versions = KEPT.min(drill.apps[0].versions + 1);
        }
        let mut wrong: Vec<String> = drill.says(0).await.into_iter().collect();
        let forge = drill.house.read("/1.0/forges/app0").await;
        if struck.done != forge["problem"].as_str().unwrap().is_empty() {
            wrong.push(format!("done: {}, but {forge}", struck.done));
        }
        let told = told(drill).await;
        let right = |error: &String| error.is_empty() == has_begun;
        if told.len() != 1 || !told.iter().all(right) {
            wrong.push(format!("begun: {has_begun}, but the events say {told:?}"));
        }
        wrong
    }

    async fn clean(&mut self, drill: &mut Drill) {
        drill.assert_tidy().await;
    }
}

/// The errors of all events of this round's commit, which are one, whatever was repeated.
async fn told(drill: &Drill) -> Vec<String> {
    let commit = fs::read_to_string(drill.house.root.join("origin/tip")).unwrap();
    let path = "/1.1/events?target.type=app&target.value=app0&kindname=app.deploy&limit=4";
    let mut errors = Vec::new();
    for event in drill.house.read(path).await.as_array().unwrap() {
        let path = format!("/1.1/events/{}", event["UniqueID"].as_str().unwrap());
        let event = drill.house.read(&path).await;
        if event["CustomData"]["Start"]["commit"] == commit {
            errors.push(event["Error"].as_str().unwrap().to_owned());
        }
    }
    errors
}
