//! Deploys whose version is an image that an engine builds.

use reqwest::RequestBuilder;

use crate::apps::AppSource;
use crate::docker::{DockerEngine, add_pool, create_app};
use crate::failpoints::apps::{check_deploy_entry, continues_after_failure};
use crate::failpoints::{FailpointApp, FailpointFixture, ReachedPoint, Scenario};
use crate::test_instance::{seconds, wait_for};

/// Apps of a round: each has containers.
const APPS: usize = 6;

pub(super) struct BuildImageScenario {
    engine: DockerEngine,
}

fn source(text: &str) -> Vec<u8> {
    let dockerfile = "FROM tancho-test-web:1\nCOPY index.html /www/index.html\nRUN cat /www/index.html\n";
    AppSource::default()
        .with("Dockerfile", dockerfile)
        .with("index.html", text)
        .pack()
}

impl BuildImageScenario {
    /// Creates apps that run from images.
    pub(super) async fn new(fixture: &mut FailpointFixture, engine: DockerEngine) -> Self {
        add_pool(&fixture.tancho).await;
        for number in 0..APPS {
            let name = format!("app{number}");
            create_app(&fixture.tancho, &name).await;
            fixture.tancho.deploy(&name, &source("first")).await;
            fixture.apps.push(FailpointApp {
                name,
                says: "first".to_owned(),
                units: 1,
                versions: 1,
            });
        }
        Self { engine }
    }
}

impl Scenario for BuildImageScenario {
    const KIND: &'static str = "app.deploy";

    fn points_per_round(&self) -> usize {
        APPS
    }

    fn continues_after_failure(&self, step: &str, late: bool) -> bool {
        continues_after_failure(step, late)
    }

    async fn prepare(&self, _fixture: &FailpointFixture, _number: usize) {}

    fn launch(&self, fixture: &FailpointFixture, number: usize) -> RequestBuilder {
        let text = format!("round{}", fixture.round);
        fixture
            .tancho
            .deploy_request(&format!("app{number}"), "file", &source(&text))
    }

    async fn check_subject(&mut self, fixture: &mut FailpointFixture, reached: &ReachedPoint) -> Vec<String> {
        let round = fixture.round;
        let app = &mut fixture.apps[reached.number];
        if reached.done {
            app.says = format!("round{round}");
            // Ten are kept.
            app.versions = (app.versions + 1).min(10);
        }
        let wrong = [
            fixture.check_app_text(reached.number).await,
            check_deploy_entry(fixture, reached).await,
        ];
        wrong.into_iter().flatten().collect()
    }

    /// Waits until each app has one container, the images of its versions, and nothing of its builds.
    async fn clean_up(&mut self, fixture: &mut FailpointFixture) {
        for app in &fixture.apps {
            let what = format!("{} has one container and {} images", app.name, app.versions);
            wait_for(&what, seconds(30), async || {
                let (all, running) = self.engine.containers(&app.name);
                if all.len() != 1 || running.len() != 1 {
                    return None;
                }
                let id = self.engine.app_id(&app.name);
                let (tags, _) = self.engine.kept(&id);
                let left = self.engine.build_leftovers(&id);
                (tags.len() == app.versions && left.is_empty()).then_some(())
            })
            .await;
        }
    }
}
