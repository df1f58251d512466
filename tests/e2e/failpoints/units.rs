//! Scaling up, down, to zero, and up again.

use futures_util::future::join_all;
use reqwest::{Method, RequestBuilder};

use crate::failpoints::{FailpointFixture, ReachedPoint, Scenario};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ScaleCase {
    Add,
    Remove,
    Stop,
    Start,
}

pub(super) const VERBS: [ScaleCase; 4] = [
    ScaleCase::Add,
    ScaleCase::Remove,
    ScaleCase::Stop,
    ScaleCase::Start,
];

pub(super) struct ScaleScenario(pub(super) ScaleCase);

impl ScaleScenario {
    /// Returns the number of units before and after.
    fn units(&self) -> (usize, usize) {
        match self.0 {
            ScaleCase::Add => (1, 2),
            ScaleCase::Remove => (2, 1),
            ScaleCase::Stop => (1, 0),
            ScaleCase::Start => (0, 1),
        }
    }
}

fn request(fixture: &FailpointFixture, number: usize, units: usize, wanted: usize) -> RequestBuilder {
    let app = format!("/1.0/apps/app{number}");
    let form = [("units", "1"), ("process", "web")];
    let by = |method, path: &str| fixture.tancho.request_as_admin(method, &format!("{app}{path}"));
    match (units, wanted) {
        (1, 2) => by(Method::PUT, "/units").form(&form),
        (2, 1) => by(Method::DELETE, "/units").query(&form),
        (_, 0) => by(Method::POST, "/stop"),
        _ => by(Method::POST, "/start"),
    }
}

async fn scale(fixture: &FailpointFixture, number: usize, wanted: usize) {
    let units = fixture.apps[number].units;
    if units != wanted {
        let answer = request(fixture, number, units, wanted).send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert!(
            status.is_success() && !text.contains("\"Error\""),
            "{status} {text}"
        );
    }
}

impl Scenario for ScaleScenario {
    const KIND: &'static str = "app.scale";

    fn continues_after_failure(&self, step: &str, _late: bool) -> bool {
        step == "wait-for-routers"
    }

    async fn prepare(&self, fixture: &FailpointFixture, number: usize) {
        scale(fixture, number, self.units().0).await;
    }

    fn launch(&self, fixture: &FailpointFixture, number: usize) -> RequestBuilder {
        let (before, after) = self.units();
        request(fixture, number, before, after)
    }

    async fn check_subject(&mut self, fixture: &mut FailpointFixture, reached: &ReachedPoint) -> Vec<String> {
        let (before, after) = self.units();
        // Only added units are removed again: any other change is completed, if later.
        fixture.apps[reached.number].units = match reached.done || self.0 != ScaleCase::Add {
            true => after,
            false => before,
        };
        match reached.done {
            true => fixture.check_app_text(reached.number).await.into_iter().collect(),
            false => Vec::new(),
        }
    }

    async fn clean_up(&mut self, fixture: &mut FailpointFixture) {
        fixture.assert_tidy().await;
        join_all((0..fixture.apps.len()).map(|number| scale(fixture, number, 1))).await;
        fixture.apps.iter_mut().for_each(|app| app.units = 1);
    }
}
