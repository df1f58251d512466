//! Running apps: deployed, rolled back, given another environment, removed.

use futures_util::future::join_all;
use reqwest::{Method, RequestBuilder};

use crate::apps::Source;
use crate::drill::{App, Both, Drill, Scenario, Struck};
use crate::services::INSTANCES;

/// Whether a rollout goes on when its step fails: once the new units get the requests.
fn goes_on(step: &str, late: bool) -> bool {
    match step {
        "switch" => late,
        step => ["settle", "tidy"].contains(&step),
    }
}

/// The entry in the list of deploys tells the same as the event.
async fn told(drill: &Drill, struck: &Struck) -> Option<String> {
    let id = struck.event["UniqueID"].as_str().unwrap();
    let deploy = drill.house.read(&format!("/1.0/deploys/{id}")).await;
    (deploy["Error"] != struck.event["Error"]).then(|| format!("the deploy tells {}", deploy["Error"]))
}

pub(super) struct Deploy;

impl Scenario for Deploy {
    const KIND: &'static str = "app.deploy";

    fn goes_on(&self, step: &str, late: bool) -> bool {
        goes_on(step, late)
    }

    async fn prepare(&self, _drill: &Drill, _number: usize) {}

    fn launch(&self, drill: &Drill, number: usize) -> RequestBuilder {
        let source = Source::tiny(&format!("round{}", drill.round));
        drill.house.parts(&format!("app{number}"), "file", &source.pack())
    }

    async fn check(&mut self, drill: &mut Drill, struck: &Struck) -> Vec<String> {
        let round = drill.round;
        let app = &mut drill.apps[struck.number];
        if struck.done {
            app.says = format!("round{round} - -");
            app.versions += 1;
        }
        let wrong = [drill.says(struck.number).await, told(drill, struck).await];
        wrong.into_iter().flatten().collect()
    }

    async fn clean(&mut self, drill: &mut Drill) {
        drill.assert_tidy().await;
    }
}

/// Between the first version and another one, which has a variable more.
pub(super) struct Rollback {
    others: Vec<String>,
}

const FIRST: &str = "first - -";
const OTHER: &str = "other hello -";

impl Rollback {
    pub(super) async fn new(drill: &mut Drill) -> Self {
        let drill_now = &*drill;
        let others = join_all(drill_now.apps.iter().map(async |app| {
            let form = [
                ("Envs.0.Name", "GREETING"),
                ("Envs.0.Value", "hello"),
                ("NoRestart", "true"),
            ];
            let path = format!("/1.0/apps/{}/env", app.name);
            drill_now.house.change(Method::POST, &path, &form).await;
            drill_now
                .house
                .deploy(&app.name, &Source::tiny("other").pack())
                .await;
            let deploys = drill_now
                .house
                .read(&format!("/1.0/deploys?app={}", app.name))
                .await;
            deploys[0]["Image"].as_str().unwrap().to_owned()
        }))
        .await;
        for app in &mut drill.apps {
            OTHER.clone_into(&mut app.says);
            app.versions += 1;
        }
        Self { others }
    }
}

impl Scenario for Rollback {
    const KIND: &'static str = "app.rollback";

    fn goes_on(&self, step: &str, late: bool) -> bool {
        goes_on(step, late)
    }

    async fn prepare(&self, _drill: &Drill, _number: usize) {}

    fn launch(&self, drill: &Drill, number: usize) -> RequestBuilder {
        let image = match drill.apps[number].says.as_str() {
            FIRST => self.others[number].as_str(),
            _ => "v1",
        };
        let path = format!("/1.0/apps/app{number}/deploy/rollback");
        let form = [("image", image), ("origin", "rollback")];
        drill.house.by(Method::POST, &path).form(&form)
    }

    async fn check(&mut self, drill: &mut Drill, struck: &Struck) -> Vec<String> {
        let app = &mut drill.apps[struck.number];
        if struck.done {
            let says = if app.says == FIRST { OTHER } else { FIRST };
            says.clone_into(&mut app.says);
        }
        let (name, greets) = (app.name.clone(), app.says == OTHER);
        let env = drill
            .house
            .read(&format!("/1.0/apps/{name}/env"))
            .await
            .to_string();
        let wrong = [
            (env.contains("GREETING") != greets).then(|| format!("it has {env}")),
            drill.says(struck.number).await,
            told(drill, struck).await,
        ];
        wrong.into_iter().flatten().collect()
    }

    async fn clean(&mut self, drill: &mut Drill) {
        drill.assert_tidy().await;
    }
}

pub(super) struct Rollout;

impl Scenario for Rollout {
    const KIND: &'static str = "app.rollout";

    fn goes_on(&self, step: &str, late: bool) -> bool {
        goes_on(step, late)
    }

    async fn prepare(&self, _drill: &Drill, _number: usize) {}

    fn launch(&self, drill: &Drill, number: usize) -> RequestBuilder {
        let greeting = format!("round{}", drill.round);
        let form = [("Envs.0.Name", "GREETING"), ("Envs.0.Value", greeting.as_str())];
        let path = format!("/1.0/apps/app{number}/env");
        drill.house.by(Method::POST, &path).form(&form)
    }

    async fn check(&mut self, drill: &mut Drill, struck: &Struck) -> Vec<String> {
        let greeting = format!("round{}", drill.round);
        let app = &mut drill.apps[struck.number];
        if struck.done {
            app.says = format!("first {greeting} -");
        }
        // The variable is set, also when the units that have it did not come up.
        let path = format!("/1.0/apps/{}/env", app.name);
        let env = drill.house.read(&path).await.to_string();
        let wrong = [
            (!env.contains(&greeting)).then(|| format!("it has {env}")),
            drill.says(struck.number).await,
        ];
        wrong.into_iter().flatten().collect()
    }

    async fn clean(&mut self, drill: &mut Drill) {
        drill.assert_tidy().await;
    }
}

/// Apps with a bound instance.
#[derive(Default)]
pub(super) struct Remove {
    both: Both,
    gone: Vec<usize>,
}

impl Scenario for Remove {
    const KIND: &'static str = "app.remove";

    fn goes_on(&self, _step: &str, _late: bool) -> bool {
        true
    }

    fn is_narrow(&self, step: &str) -> bool {
        // The quotas that all share.
        step == "forget"
    }

    async fn prepare(&self, drill: &Drill, number: usize) {
        drill.create_instance(number).await;
        let path = format!("{INSTANCES}/{}/app{number}", drill.instance(number));
        let form = [("noRestart", "true")];
        drill.house.change(Method::PUT, &path, &form).await;
    }

    fn launch(&self, drill: &Drill, number: usize) -> RequestBuilder {
        drill.house.by(Method::DELETE, &format!("/1.0/apps/app{number}"))
    }

    async fn look(&mut self, drill: &mut Drill) {
        self.both = Both::look(drill).await;
    }

    async fn check(&mut self, drill: &mut Drill, struck: &Struck) -> Vec<String> {
        let (number, name) = (struck.number, drill.instance(struck.number));
        self.gone.push(number);
        let app = &mut drill.apps[number];
        (app.units, app.versions) = (0, 0);
        let path = format!("/1.0/apps/{}", app.name);
        let status = drill.house.by(Method::GET, &path).send().await.unwrap().status();
        let (bound, has) = (self.both.is_bound(&name), self.both.has(&name));
        let unbound = drill.times(Self::KIND, struck, "unbind");
        let wrong = [
            (status != 404).then(|| format!("the app answers {status}")),
            (bound || !has).then(|| format!("bound: {bound}, there: {has}")),
            drill.called(&format!("DELETE /resources/{name}/bind-app"), &unbound),
        ];
        wrong.into_iter().flatten().collect()
    }

    async fn clean(&mut self, drill: &mut Drill) {
        drill.assert_tidy().await;
        self.both.remove(drill).await;
        let gone = std::mem::take(&mut self.gone);
        let made: Vec<App> = join_all(gone.iter().map(|number| drill.create_app(*number))).await;
        for (number, app) in gone.into_iter().zip(made) {
            drill.apps[number] = app;
        }
    }
}
