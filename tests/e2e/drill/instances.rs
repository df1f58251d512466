//! Instances that nothing is bound to: made, changed.

use reqwest::{Method, RequestBuilder};
use serde_json::json;

use crate::drill::{Both, Drill, Scenario, Struck};
use crate::services::INSTANCES;

#[derive(Default)]
pub(super) struct Create {
    both: Both,
}

impl Scenario for Create {
    const KIND: &'static str = "service-instance.create";

    async fn prepare(&self, _drill: &Drill, _number: usize) {}

    fn launch(&self, drill: &Drill, number: usize) -> RequestBuilder {
        let name = drill.instance(number);
        let form = [("name", name.as_str()), ("owner", "crew")];
        drill.house.by(Method::POST, INSTANCES).form(&form)
    }

    async fn look(&mut self, drill: &mut Drill) {
        self.both = Both::look(drill).await;
    }

    async fn check(&mut self, drill: &mut Drill, struck: &Struck) -> Vec<String> {
        let name = drill.instance(struck.number);
        let there = self.both.has(&name);
        let made = drill.times(Self::KIND, struck, "call");
        let destroyed = drill.times_undone(Self::KIND, struck, "call");
        let wrong = [
            (there != struck.done).then(|| format!("there: {there}")),
            drill.called(&format!("POST /resources {name}"), &made),
            drill.called(&format!("DELETE /resources/{name}"), &destroyed),
        ];
        wrong.into_iter().flatten().collect()
    }

    async fn clean(&mut self, drill: &mut Drill) {
        self.both.remove(drill).await;
    }
}

#[derive(Default)]
pub(super) struct Update {
    both: Both,
}

impl Scenario for Update {
    const KIND: &'static str = "service-instance.update";

    async fn prepare(&self, drill: &Drill, number: usize) {
        drill.create_instance(number).await;
    }

    fn launch(&self, drill: &Drill, number: usize) -> RequestBuilder {
        let path = format!("{INSTANCES}/{}", drill.instance(number));
        let form = [("description", "new"), ("tags", "red"), ("teamowner", "other")];
        drill.house.by(Method::PUT, &path).form(&form)
    }

    async fn look(&mut self, drill: &mut Drill) {
        self.both = Both::look(drill).await;
    }

    async fn check(&mut self, drill: &mut Drill, struck: &Struck) -> Vec<String> {
        let name = drill.instance(struck.number);
        let info = drill.house.read(&format!("{INSTANCES}/{name}")).await;
        let fields = ["Description", "Tags", "TeamOwner", "Teams"];
        let ours = json!(fields.map(|field| &info[field]));
        let right = match struck.done {
            true => json!(["new", ["red"], "other", ["crew", "other"]]),
            false => json!(["old", [], "crew", ["crew"]]),
        };
        let theirs = &drill.state["instances"][&name];
        let there = drill.times(Self::KIND, struck, "call");
        let back = drill.times_undone(Self::KIND, struck, "call");
        let times = there.start() + back.start()..=there.end() + back.end();
        let wrong = [
            (ours != right).then(|| format!("{ours} instead of {right}")),
            (*theirs != right[0]).then(|| format!("the service has {theirs}")),
            drill.called(&format!("PUT /resources/{name}"), &times),
        ];
        wrong.into_iter().flatten().collect()
    }

    async fn clean(&mut self, drill: &mut Drill) {
        self.both.remove(drill).await;
    }
}
