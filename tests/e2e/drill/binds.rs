//! Instances and running apps: bound, unbound, and removed while they are bound.

use std::collections::BTreeSet;

use reqwest::{Method, RequestBuilder};

use crate::drill::{Both, Drill, Scenario, Struck};
use crate::house::{seconds, until};
use crate::services::INSTANCES;

fn path(drill: &Drill, number: usize) -> String {
    format!("{INSTANCES}/{}/app{number}", drill.instance(number))
}

/// What the variable of a bind is in this round.
fn variable(drill: &Drill, number: usize) -> String {
    format!("store://{}", drill.instance(number))
}

async fn bind(drill: &Drill, number: usize) {
    drill.create_instance(number).await;
    drill.house.change(Method::PUT, &path(drill, number), &[]).await;
}

/// What is so of a subject once a round is over, beside the calls.
async fn look_at(drill: &mut Drill, both: &Both, number: usize, bound: bool) -> Vec<String> {
    let (name, app) = (drill.instance(number), format!("app{number}"));
    let env = drill
        .house
        .read(&format!("/1.0/apps/{app}/env"))
        .await
        .to_string();
    let is_bound = (both.is_bound(&name), env.contains(&variable(drill, number)));
    let wrong = (is_bound != (bound, bound)).then(|| format!("bound: {is_bound:?} instead of {bound}"));
    [wrong, drill.says(number).await].into_iter().flatten().collect()
}

/// Both sides, and that the service knows exactly the units of bound apps.
async fn agreed(drill: &Drill) -> Both {
    let both = Both::look(drill).await;
    let mut last = String::new();
    until("the service knows the units", seconds(40), async || {
        let mut right = BTreeSet::new();
        for bind in &both.binds {
            let app = bind.split([' ', '.']).nth(1).unwrap();
            for unit in drill.house.units(app).await {
                right.insert(format!(
                    "{bind} {}",
                    unit["Address"]["Host"].as_str().unwrap_or("-")
                ));
            }
        }
        let state = drill.slow.state().await;
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

async fn clean(drill: &Drill, both: &Both) {
    drill.assert_tidy().await;
    both.remove(drill).await;
}

#[derive(Default)]
pub(super) struct Bind {
    both: Both,
}

impl Scenario for Bind {
    const KIND: &'static str = "app.bind";

    fn goes_on(&self, step: &str, late: bool) -> bool {
        step == "switch" && late
    }

    async fn prepare(&self, drill: &Drill, number: usize) {
        drill.create_instance(number).await;
    }

    fn launch(&self, drill: &Drill, number: usize) -> RequestBuilder {
        drill.house.by(Method::PUT, &path(drill, number))
    }

    async fn look(&mut self, drill: &mut Drill) {
        self.both = agreed(drill).await;
    }

    async fn check(&mut self, drill: &mut Drill, struck: &Struck) -> Vec<String> {
        let number = struck.number;
        if struck.done {
            drill.apps[number].says = format!("first - {}", variable(drill, number));
        }
        let call = format!("/resources/{}/bind-app", drill.instance(number));
        let made = drill.times(Self::KIND, struck, "call");
        let back = drill.times_undone(Self::KIND, struck, "call");
        let mut wrong = look_at(drill, &self.both, number, struck.done).await;
        wrong.extend(drill.called(&format!("POST {call}"), &made));
        wrong.extend(drill.called(&format!("DELETE {call}"), &back));
        wrong
    }

    async fn clean(&mut self, drill: &mut Drill) {
        clean(drill, &self.both).await;
    }
}

#[derive(Default)]
pub(super) struct Unbind {
    both: Both,
}

impl Scenario for Unbind {
    const KIND: &'static str = "app.unbind";

    fn goes_on(&self, step: &str, late: bool) -> bool {
        step == "switch" && late
    }

    async fn prepare(&self, drill: &Drill, number: usize) {
        bind(drill, number).await;
    }

    fn launch(&self, drill: &Drill, number: usize) -> RequestBuilder {
        drill.house.by(Method::DELETE, &path(drill, number))
    }

    async fn look(&mut self, drill: &mut Drill) {
        self.both = agreed(drill).await;
    }

    async fn check(&mut self, drill: &mut Drill, struck: &Struck) -> Vec<String> {
        let number = struck.number;
        drill.apps[number].says = match struck.done {
            true => "first - -".to_owned(),
            // Its units keep it, whether it is bound still or not.
            false => format!("first - {}", variable(drill, number)),
        };
        // Once the service has confirmed, it is unbound, whatever comes.
        let bound = !struck.done && !struck.point.is_past(&drill.kinds[Self::KIND], "call");
        let made = drill.times(Self::KIND, struck, "call");
        let call = format!("DELETE /resources/{}/bind-app", drill.instance(number));
        let mut wrong = look_at(drill, &self.both, number, bound).await;
        wrong.extend(drill.called(&call, &made));
        wrong
    }

    async fn clean(&mut self, drill: &mut Drill) {
        clean(drill, &self.both).await;
    }
}

#[derive(Default)]
pub(super) struct Delete {
    both: Both,
}

impl Scenario for Delete {
    const KIND: &'static str = "service-instance.delete";

    fn goes_on(&self, step: &str, late: bool) -> bool {
        step == "forget" || (step == "call" && late)
    }

    async fn prepare(&self, drill: &Drill, number: usize) {
        bind(drill, number).await;
    }

    fn launch(&self, drill: &Drill, number: usize) -> RequestBuilder {
        let path = format!("{INSTANCES}/{}", drill.instance(number));
        drill
            .house
            .by(Method::DELETE, &path)
            .query(&[("unbindall", "true")])
    }

    async fn look(&mut self, drill: &mut Drill) {
        self.both = agreed(drill).await;
    }

    async fn check(&mut self, drill: &mut Drill, struck: &Struck) -> Vec<String> {
        let (number, steps) = (struck.number, &drill.kinds[Self::KIND]);
        let name = drill.instance(number);
        let bound = !struck.done && !struck.point.is_past(steps, "unbind");
        let says = match struck.done || struck.point.is_past(steps, "switch") {
            true => "first - -".to_owned(),
            false => format!("first - {}", variable(drill, number)),
        };
        drill.apps[number].says = says;
        let there = self.both.has(&name);
        let unbound = drill.times(Self::KIND, struck, "unbind");
        let destroyed = drill.times(Self::KIND, struck, "call");
        let mut wrong = look_at(drill, &self.both, number, bound).await;
        wrong.extend((there == struck.done).then(|| format!("there: {there}")));
        wrong.extend(drill.called(&format!("DELETE /resources/{name}/bind-app"), &unbound));
        wrong.extend(drill.called(&format!("DELETE /resources/{name}"), &destroyed));
        wrong
    }

    async fn clean(&mut self, drill: &mut Drill) {
        clean(drill, &self.both).await;
    }
}
