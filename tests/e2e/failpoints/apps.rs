//! Running apps: deploys, rollbacks, changes of the environment, removal.

use futures_util::future::join_all;
use reqwest::{Method, RequestBuilder};

use crate::apps::AppSource;
use crate::failpoints::{BothSides, FailpointApp, FailpointFixture, ReachedPoint, Scenario};
use crate::services::INSTANCES;

/// Returns true if a rollout continues after its step fails: once the new units get the requests.
pub(super) fn continues_after_failure(step: &str, late: bool) -> bool {
    match step {
        "promote" => late,
        step => ["wait-for-routers", "clean-up"].contains(&step),
    }
}

/// Checks that the entry in the list of deploys matches the event.
pub(super) async fn check_deploy_entry(fixture: &FailpointFixture, reached: &ReachedPoint) -> Option<String> {
    let id = reached.event["UniqueID"].as_str().unwrap();
    let deploy = fixture.tancho.read_json(&format!("/1.0/deploys/{id}")).await;
    (deploy["Error"] != reached.event["Error"]).then(|| format!("the deploy entry has {}", deploy["Error"]))
}

pub(super) struct DeployScenario;

impl Scenario for DeployScenario {
    const KIND: &'static str = "app.deploy";

    fn continues_after_failure(&self, step: &str, late: bool) -> bool {
        continues_after_failure(step, late)
    }

    async fn prepare(&self, _fixture: &FailpointFixture, _number: usize) {}

    fn launch(&self, fixture: &FailpointFixture, number: usize) -> RequestBuilder {
        let source = AppSource::tiny(&format!("round{}", fixture.round));
        let processes = "web: /usr/bin/python3 -I -S app.py\nrelease: echo released\n";
        let source = source.with("Procfile", processes);
        fixture
            .tancho
            .deploy_request(&format!("app{number}"), "file", &source.pack())
    }

    async fn check_subject(&mut self, fixture: &mut FailpointFixture, reached: &ReachedPoint) -> Vec<String> {
        let round = fixture.round;
        let app = &mut fixture.apps[reached.number];
        if reached.done {
            app.says = format!("round{round} - -");
            app.versions += 1;
        }
        let wrong = [
            fixture.check_app_text(reached.number).await,
            check_deploy_entry(fixture, reached).await,
        ];
        wrong.into_iter().flatten().collect()
    }

    async fn clean_up(&mut self, fixture: &mut FailpointFixture) {
        fixture.assert_tidy().await;
    }
}

/// Rolls back between the first version and another one, which has an additional variable.
pub(super) struct RollbackScenario {
    others: Vec<String>,
}

const FIRST: &str = "first - -";
const OTHER: &str = "other hello -";

impl RollbackScenario {
    pub(super) async fn new(fixture: &mut FailpointFixture) -> Self {
        let shared = &*fixture;
        let others = join_all(shared.apps.iter().map(async |app| {
            let form = [
                ("Envs.0.Name", "GREETING"),
                ("Envs.0.Value", "hello"),
                ("NoRestart", "true"),
            ];
            let path = format!("/1.0/apps/{}/env", app.name);
            shared.tancho.change(Method::POST, &path, &form).await;
            shared
                .tancho
                .deploy(&app.name, &AppSource::tiny("other").pack())
                .await;
            let deploys = shared
                .tancho
                .read_json(&format!("/1.0/deploys?app={}", app.name))
                .await;
            deploys[0]["Image"].as_str().unwrap().to_owned()
        }))
        .await;
        for app in &mut fixture.apps {
            OTHER.clone_into(&mut app.says);
            app.versions += 1;
        }
        Self { others }
    }
}

impl Scenario for RollbackScenario {
    const KIND: &'static str = "app.rollback";

    fn continues_after_failure(&self, step: &str, late: bool) -> bool {
        continues_after_failure(step, late)
    }

    async fn prepare(&self, _fixture: &FailpointFixture, _number: usize) {}

    fn launch(&self, fixture: &FailpointFixture, number: usize) -> RequestBuilder {
        let image = match fixture.apps[number].says.as_str() {
            FIRST => self.others[number].as_str(),
            _ => "v1",
        };
        let path = format!("/1.0/apps/app{number}/deploy/rollback");
        let form = [("image", image), ("origin", "rollback")];
        fixture.tancho.request_as_admin(Method::POST, &path).form(&form)
    }

    async fn check_subject(&mut self, fixture: &mut FailpointFixture, reached: &ReachedPoint) -> Vec<String> {
        let app = &mut fixture.apps[reached.number];
        if reached.done {
            let says = if app.says == FIRST { OTHER } else { FIRST };
            says.clone_into(&mut app.says);
        }
        let (name, greets) = (app.name.clone(), app.says == OTHER);
        let env = fixture
            .tancho
            .read_json(&format!("/1.0/apps/{name}/env"))
            .await
            .to_string();
        let wrong = [
            (env.contains("GREETING") != greets).then(|| format!("it has {env}")),
            fixture.check_app_text(reached.number).await,
            check_deploy_entry(fixture, reached).await,
        ];
        wrong.into_iter().flatten().collect()
    }

    async fn clean_up(&mut self, fixture: &mut FailpointFixture) {
        fixture.assert_tidy().await;
    }
}

pub(super) struct RolloutScenario;

impl Scenario for RolloutScenario {
    const KIND: &'static str = "app.rollout";

    fn continues_after_failure(&self, step: &str, late: bool) -> bool {
        continues_after_failure(step, late)
    }

    async fn prepare(&self, _fixture: &FailpointFixture, _number: usize) {}

    fn launch(&self, fixture: &FailpointFixture, number: usize) -> RequestBuilder {
        let greeting = format!("round{}", fixture.round);
        let form = [("Envs.0.Name", "GREETING"), ("Envs.0.Value", greeting.as_str())];
        let path = format!("/1.0/apps/app{number}/env");
        fixture.tancho.request_as_admin(Method::POST, &path).form(&form)
    }

    async fn check_subject(&mut self, fixture: &mut FailpointFixture, reached: &ReachedPoint) -> Vec<String> {
        let greeting = format!("round{}", fixture.round);
        let app = &mut fixture.apps[reached.number];
        if reached.done {
            app.says = format!("first {greeting} -");
        }
        // The variable is set, even if the units that have it did not start.
        let path = format!("/1.0/apps/{}/env", app.name);
        let env = fixture.tancho.read_json(&path).await.to_string();
        let wrong = [
            (!env.contains(&greeting)).then(|| format!("it has {env}")),
            fixture.check_app_text(reached.number).await,
        ];
        wrong.into_iter().flatten().collect()
    }

    async fn clean_up(&mut self, fixture: &mut FailpointFixture) {
        fixture.assert_tidy().await;
    }
}

/// Apps with a bound instance.
#[derive(Default)]
pub(super) struct RemoveAppScenario {
    both: BothSides,
    gone: Vec<usize>,
}

impl Scenario for RemoveAppScenario {
    const KIND: &'static str = "app.remove";

    fn continues_after_failure(&self, _step: &str, _late: bool) -> bool {
        true
    }

    fn blocks_others(&self, step: &str) -> bool {
        // Quotas, which all share.
        step == "forget"
    }

    async fn prepare(&self, fixture: &FailpointFixture, number: usize) {
        fixture.create_instance(number).await;
        let path = format!("{INSTANCES}/{}/app{number}", fixture.instance(number));
        let form = [("noRestart", "true")];
        fixture.tancho.change(Method::PUT, &path, &form).await;
    }

    fn launch(&self, fixture: &FailpointFixture, number: usize) -> RequestBuilder {
        fixture
            .tancho
            .request_as_admin(Method::DELETE, &format!("/1.0/apps/app{number}"))
    }

    async fn inspect_round(&mut self, fixture: &mut FailpointFixture) {
        self.both = BothSides::read(fixture).await;
    }

    async fn check_subject(&mut self, fixture: &mut FailpointFixture, reached: &ReachedPoint) -> Vec<String> {
        let (number, name) = (reached.number, fixture.instance(reached.number));
        self.gone.push(number);
        let app = &mut fixture.apps[number];
        (app.units, app.versions) = (0, 0);
        let path = format!("/1.0/apps/{}", app.name);
        let status = fixture
            .tancho
            .request_as_admin(Method::GET, &path)
            .send()
            .await
            .unwrap()
            .status();
        let (bound, has) = (self.both.is_bound(&name), self.both.has(&name));
        let unbound = fixture.expected_calls(Self::KIND, reached, "unbind");
        let wrong = [
            (status != 404).then(|| format!("the app answers {status}")),
            (bound || !has).then(|| format!("bound: {bound}, there: {has}")),
            fixture.check_call_count(&format!("DELETE /resources/{name}/bind-app"), &unbound),
        ];
        wrong.into_iter().flatten().collect()
    }

    async fn clean_up(&mut self, fixture: &mut FailpointFixture) {
        fixture.assert_tidy().await;
        self.both.remove(fixture).await;
        let gone = std::mem::take(&mut self.gone);
        let made: Vec<FailpointApp> = join_all(gone.iter().map(|number| fixture.create_app(*number))).await;
        for (number, app) in gone.into_iter().zip(made) {
            fixture.apps[number] = app;
        }
    }
}
