//! Instances and running apps: bound, unbound, and removed while they are bound.

use std::collections::BTreeSet;

use reqwest::{Method, RequestBuilder};

use crate::failpoints::{BothSides, FailpointFixture, ReachedPoint, Scenario};
use crate::services::INSTANCES;
use crate::test_instance::{seconds, wait_for};

fn path(fixture: &FailpointFixture, number: usize) -> String {
    format!("{INSTANCES}/{}/app{number}", fixture.instance(number))
}

/// Returns the value of a bind's variable in this round.
fn variable(fixture: &FailpointFixture, number: usize) -> String {
    format!("store://{}", fixture.instance(number))
}

async fn bind(fixture: &FailpointFixture, number: usize) {
    fixture.create_instance(number).await;
    fixture
        .tancho
        .change(Method::PUT, &path(fixture, number), &[])
        .await;
}

/// Checks a subject after a round, apart from the calls.
async fn check_bind(
    fixture: &mut FailpointFixture,
    both: &BothSides,
    number: usize,
    bound: bool,
) -> Vec<String> {
    let (name, app) = (fixture.instance(number), format!("app{number}"));
    let env = fixture
        .tancho
        .read_json(&format!("/1.0/apps/{app}/env"))
        .await
        .to_string();
    let is_bound = (both.is_bound(&name), env.contains(&variable(fixture, number)));
    let wrong = (is_bound != (bound, bound)).then(|| format!("bound: {is_bound:?} instead of {bound}"));
    [wrong, fixture.check_app_text(number).await]
        .into_iter()
        .flatten()
        .collect()
}

/// Asserts that both sides agree, and that the service knows exactly the addresses of the units of bound
/// apps.
async fn assert_units_agree(fixture: &FailpointFixture) -> BothSides {
    let both = BothSides::read(fixture).await;
    let mut last = String::new();
    wait_for("the service knows the units", seconds(40), async || {
        let mut right = BTreeSet::new();
        for bind in &both.binds {
            let app = bind.split([' ', '.']).nth(1).unwrap();
            for unit in fixture.tancho.units(app).await {
                let address = unit["Address"]["Host"].as_str().unwrap_or("-");
                // Sent once for all units that share the address.
                let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
                right.insert(format!("{bind} {host}"));
            }
        }
        let state = fixture.slow.state().await;
        let known: BTreeSet<String> = state["units"].as_object().unwrap().keys().cloned().collect();
        let said = format!("units of bound apps: {right:?}, known to the service: {known:?}");
        if right != known && said != last {
            println!("{said}");
            last = said;
        }
        (right == known).then_some(())
    })
    .await;
    both
}

async fn clean(fixture: &FailpointFixture, both: &BothSides) {
    fixture.assert_tidy().await;
    both.remove(fixture).await;
}

#[derive(Default)]
pub(super) struct BindScenario {
    both: BothSides,
}

impl Scenario for BindScenario {
    const KIND: &'static str = "app.bind";

    fn continues_after_failure(&self, step: &str, late: bool) -> bool {
        step == "wait-for-routers" || (step == "promote" && late)
    }

    async fn prepare(&self, fixture: &FailpointFixture, number: usize) {
        fixture.create_instance(number).await;
    }

    fn launch(&self, fixture: &FailpointFixture, number: usize) -> RequestBuilder {
        fixture
            .tancho
            .request_as_admin(Method::PUT, &path(fixture, number))
    }

    async fn inspect_round(&mut self, fixture: &mut FailpointFixture) {
        self.both = assert_units_agree(fixture).await;
    }

    async fn check_subject(&mut self, fixture: &mut FailpointFixture, reached: &ReachedPoint) -> Vec<String> {
        let number = reached.number;
        if reached.done {
            fixture.apps[number].says = format!("first - {}", variable(fixture, number));
        }
        let call = format!("/resources/{}/bind-app", fixture.instance(number));
        let made = fixture.expected_calls(Self::KIND, reached, "call-service");
        let back = fixture.expected_undo_calls(Self::KIND, reached, "call-service");
        let mut wrong = check_bind(fixture, &self.both, number, reached.done).await;
        wrong.extend(fixture.check_call_count(&format!("POST {call}"), &made));
        wrong.extend(fixture.check_call_count(&format!("DELETE {call}"), &back));
        wrong
    }

    async fn clean_up(&mut self, fixture: &mut FailpointFixture) {
        clean(fixture, &self.both).await;
    }
}

#[derive(Default)]
pub(super) struct UnbindScenario {
    both: BothSides,
}

impl Scenario for UnbindScenario {
    const KIND: &'static str = "app.unbind";

    fn continues_after_failure(&self, step: &str, late: bool) -> bool {
        step == "wait-for-routers" || (step == "promote" && late)
    }

    async fn prepare(&self, fixture: &FailpointFixture, number: usize) {
        bind(fixture, number).await;
    }

    fn launch(&self, fixture: &FailpointFixture, number: usize) -> RequestBuilder {
        fixture
            .tancho
            .request_as_admin(Method::DELETE, &path(fixture, number))
    }

    async fn inspect_round(&mut self, fixture: &mut FailpointFixture) {
        self.both = assert_units_agree(fixture).await;
    }

    async fn check_subject(&mut self, fixture: &mut FailpointFixture, reached: &ReachedPoint) -> Vec<String> {
        let number = reached.number;
        fixture.apps[number].says = match reached.done {
            true => "first - -".to_owned(),
            // Its units keep it, whether it is still bound or not.
            false => format!("first - {}", variable(fixture, number)),
        };
        // Once the service has confirmed, it is unbound in any case.
        let bound = !reached.done
            && !reached
                .point
                .step_was_done(&fixture.kinds[Self::KIND], "call-service");
        let made = fixture.expected_calls(Self::KIND, reached, "call-service");
        let call = format!("DELETE /resources/{}/bind-app", fixture.instance(number));
        let mut wrong = check_bind(fixture, &self.both, number, bound).await;
        wrong.extend(fixture.check_call_count(&call, &made));
        wrong
    }

    async fn clean_up(&mut self, fixture: &mut FailpointFixture) {
        clean(fixture, &self.both).await;
    }
}

#[derive(Default)]
pub(super) struct DeleteInstanceScenario {
    both: BothSides,
}

impl Scenario for DeleteInstanceScenario {
    const KIND: &'static str = "service-instance.delete";

    fn continues_after_failure(&self, step: &str, late: bool) -> bool {
        step == "delete-instance" || (step == "call-service" && late)
    }

    async fn prepare(&self, fixture: &FailpointFixture, number: usize) {
        bind(fixture, number).await;
    }

    fn launch(&self, fixture: &FailpointFixture, number: usize) -> RequestBuilder {
        let path = format!("{INSTANCES}/{}", fixture.instance(number));
        fixture
            .tancho
            .request_as_admin(Method::DELETE, &path)
            .query(&[("unbindall", "true")])
    }

    async fn inspect_round(&mut self, fixture: &mut FailpointFixture) {
        self.both = assert_units_agree(fixture).await;
    }

    async fn check_subject(&mut self, fixture: &mut FailpointFixture, reached: &ReachedPoint) -> Vec<String> {
        let (number, steps) = (reached.number, &fixture.kinds[Self::KIND]);
        let name = fixture.instance(number);
        let bound = !reached.done && !reached.point.step_was_done(steps, "unbind-apps");
        let says = match reached.done || reached.point.step_was_done(steps, "promote") {
            true => "first - -".to_owned(),
            false => format!("first - {}", variable(fixture, number)),
        };
        fixture.apps[number].says = says;
        let there = self.both.has(&name);
        let unbound = fixture.expected_calls(Self::KIND, reached, "unbind-apps");
        let destroyed = fixture.expected_calls(Self::KIND, reached, "call-service");
        let mut wrong = check_bind(fixture, &self.both, number, bound).await;
        wrong.extend((there == reached.done).then(|| format!("there: {there}")));
        wrong.extend(fixture.check_call_count(&format!("DELETE /resources/{name}/bind-app"), &unbound));
        wrong.extend(fixture.check_call_count(&format!("DELETE /resources/{name}"), &destroyed));
        wrong
    }

    async fn clean_up(&mut self, fixture: &mut FailpointFixture) {
        clean(fixture, &self.both).await;
    }
}
