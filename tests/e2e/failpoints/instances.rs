//! Instances without binds: created, updated.

use reqwest::{Method, RequestBuilder};
use serde_json::json;

use crate::failpoints::{BothSides, FailpointFixture, ReachedPoint, Scenario};
use crate::services::INSTANCES;

#[derive(Default)]
pub(super) struct CreateInstanceScenario {
    both: BothSides,
}

impl Scenario for CreateInstanceScenario {
    const KIND: &'static str = "service-instance.create";

    async fn prepare(&self, _fixture: &FailpointFixture, _number: usize) {}

    fn launch(&self, fixture: &FailpointFixture, number: usize) -> RequestBuilder {
        let name = fixture.instance(number);
        let form = [("name", name.as_str()), ("owner", "crew")];
        fixture
            .tancho
            .request_as_admin(Method::POST, INSTANCES)
            .form(&form)
    }

    async fn inspect_round(&mut self, fixture: &mut FailpointFixture) {
        self.both = BothSides::read(fixture).await;
    }

    async fn check_subject(&mut self, fixture: &mut FailpointFixture, reached: &ReachedPoint) -> Vec<String> {
        let name = fixture.instance(reached.number);
        let there = self.both.has(&name);
        let made = fixture.expected_calls(Self::KIND, reached, "call-service");
        let destroyed = fixture.expected_undo_calls(Self::KIND, reached, "call-service");
        let wrong = [
            (there != reached.done).then(|| format!("there: {there}")),
            fixture.check_call_count(&format!("POST /resources {name}"), &made),
            fixture.check_call_count(&format!("DELETE /resources/{name}"), &destroyed),
        ];
        wrong.into_iter().flatten().collect()
    }

    async fn clean_up(&mut self, fixture: &mut FailpointFixture) {
        self.both.remove(fixture).await;
    }
}

#[derive(Default)]
pub(super) struct UpdateInstanceScenario {
    both: BothSides,
}

impl Scenario for UpdateInstanceScenario {
    const KIND: &'static str = "service-instance.update";

    async fn prepare(&self, fixture: &FailpointFixture, number: usize) {
        fixture.create_instance(number).await;
    }

    fn launch(&self, fixture: &FailpointFixture, number: usize) -> RequestBuilder {
        let path = format!("{INSTANCES}/{}", fixture.instance(number));
        let form = [("description", "new"), ("tags", "red"), ("teamowner", "other")];
        fixture.tancho.request_as_admin(Method::PUT, &path).form(&form)
    }

    async fn inspect_round(&mut self, fixture: &mut FailpointFixture) {
        self.both = BothSides::read(fixture).await;
    }

    async fn check_subject(&mut self, fixture: &mut FailpointFixture, reached: &ReachedPoint) -> Vec<String> {
        let name = fixture.instance(reached.number);
        let info = fixture.tancho.read_json(&format!("{INSTANCES}/{name}")).await;
        let fields = ["Description", "Tags", "TeamOwner", "Teams"];
        let ours = json!(fields.map(|field| &info[field]));
        let right = match reached.done {
            true => json!(["new", ["red"], "other", ["crew", "other"]]),
            false => json!(["old", [], "crew", ["crew"]]),
        };
        let theirs = &fixture.state["instances"][&name];
        let there = fixture.expected_calls(Self::KIND, reached, "call-service");
        let back = fixture.expected_undo_calls(Self::KIND, reached, "call-service");
        let times = there.start() + back.start()..=there.end() + back.end();
        let wrong = [
            (ours != right).then(|| format!("{ours} instead of {right}")),
            (*theirs != right[0]).then(|| format!("the service has {theirs}")),
            fixture.check_call_count(&format!("PUT /resources/{name}"), &times),
        ];
        wrong.into_iter().flatten().collect()
    }

    async fn clean_up(&mut self, fixture: &mut FailpointFixture) {
        self.both.remove(fixture).await;
    }
}
