//! Fail points: every step of every saga runs twice, fails, and is killed before, during and after, and so
//! are the undos. Many sagas pause at their points at once, and one SIGKILL ends them all; then Tancho starts
//! on the same data, and each saga must end within 15 s, done or undone, with a consistent state: the
//! responses, the event, the service, the units. Kinds and steps are those that the program lists: a kind
//! without a scenario here fails the test, and a new step of a kind is covered automatically.

mod apps;
mod binds;
mod certificates;
mod docker;
mod failpoint;
mod forge;
mod instances;
mod mail;
mod units;
mod webhooks;

use std::collections::BTreeMap;
use std::fs;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Instant;

use futures_util::future::join_all;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::apps::AppSource;
use crate::docker::DockerEngine;
use crate::services::{INSTANCES, SlowService, assert_both_sides_agree};
use crate::test_instance::{TestInstance, list_names, seconds, wait_for};
use failpoint::{FAULTS, FailPointCase, KILLS, ReachedPoint};

/// All kinds that have a scenario.
const COVERED_KINDS: [&str; 14] = [
    apps::DeployScenario::KIND,
    apps::RemoveAppScenario::KIND,
    apps::RollbackScenario::KIND,
    apps::RolloutScenario::KIND,
    binds::BindScenario::KIND,
    binds::DeleteInstanceScenario::KIND,
    binds::UnbindScenario::KIND,
    certificates::OrderCertificateScenario::KIND,
    forge::ForgeDeployScenario::KIND,
    instances::CreateInstanceScenario::KIND,
    instances::UpdateInstanceScenario::KIND,
    mail::SendMailScenario::KIND,
    units::ScaleScenario::KIND,
    webhooks::DeliverWebhookScenario::KIND,
];

/// Points of one round: fewer than a queue has workers.
const AT_ONCE: usize = 12;

/// The scenario of one kind of saga. Each point of a round has a subject of its own, identified by its
/// number.
trait Scenario {
    const KIND: &'static str;

    /// Returns the number of points of one round.
    fn points_per_round(&self) -> usize {
        AT_ONCE
    }

    /// Returns true if the API needs the same address after a restart.
    fn keeps_address(&self) -> bool {
        false
    }

    /// Returns true if the saga continues after a failure of this step; `late`: after the step is done.
    fn continues_after_failure(&self, _step: &str, _late: bool) -> bool {
        false
    }

    /// Returns true if a saga that pauses inside this step blocks others.
    fn blocks_others(&self, _step: &str) -> bool {
        false
    }

    /// Creates what the saga needs.
    async fn prepare(&self, fixture: &FailpointFixture, number: usize);

    /// Returns the request that starts the saga.
    fn launch(&self, fixture: &FailpointFixture, number: usize) -> RequestBuilder;

    /// Checks what all points of a round have in common, before `check_subject`.
    async fn inspect_round(&mut self, _fixture: &mut FailpointFixture) {}

    /// Returns what is wrong with a subject.
    async fn check_subject(&mut self, fixture: &mut FailpointFixture, reached: &ReachedPoint) -> Vec<String>;

    /// Prepares the next round.
    async fn clean_up(&mut self, _fixture: &mut FailpointFixture) {}
}

/// An app of the scenarios.
#[derive(Clone, Debug)]
struct FailpointApp {
    name: String,
    /// The text that it should serve.
    says: String,
    /// The number of units it should have.
    units: usize,
    /// The number of versions that should be on disk.
    versions: usize,
}

/// One instance of Tancho with one service, and the errors so far.
struct FailpointFixture {
    tancho: TestInstance,
    slow: SlowService,
    folder: PathBuf,
    kinds: BTreeMap<String, Vec<String>>,
    round: usize,
    apps: Vec<FailpointApp>,
    /// The data of the service, and the calls it received, after a round.
    state: Value,
    wrong: Vec<String>,
}

impl FailpointFixture {
    async fn start() -> Self {
        Self::start_on(TestInstance::new_empty()).await
    }

    /// Starts on an instance that was configured, and not started yet.
    async fn start_on(mut tancho: TestInstance) -> Self {
        let folder = tancho.root.join("failpoints");
        for name in ["wait", "struck", "held"] {
            fs::create_dir_all(folder.join(name)).unwrap();
        }
        tancho.set("FAILPOINTS_DIR", folder.to_str().unwrap());
        // A paused saga keeps its connection.
        tancho.set("TANCHO_DATABASE_MAX_CONNECTIONS", "40");
        tancho.set("TANCHO_BUILDS_CONCURRENCY", "16");
        tancho.set("TANCHO_SERVICES_CONCURRENCY_PER_SERVICE", "32");
        tancho.set("TANCHO_APPS_DRAIN_SECONDS", "1");
        // The same addresses of apps after each start.
        tancho.set("TANCHO_ROUTER_PUBLIC_PORT", "80");
        tancho.serve();
        tancho.login().await;
        tancho.team().await;
        let other = tancho
            .request_as_admin(Method::POST, "/1.0/teams")
            .json(&json!({ "name": "other" }));
        assert_eq!(other.send().await.unwrap().status(), 201);
        let slow = SlowService::start();
        slow.register(&tancho).await;
        let text = fs::read_to_string(folder.join("kinds")).unwrap();
        let kinds = text.lines().map(|line| {
            let mut words = line.split(' ').map(str::to_owned);
            (words.next().unwrap(), words.collect())
        });
        let kinds: BTreeMap<String, Vec<String>> = kinds.collect();
        let found: Vec<&str> = kinds.keys().map(String::as_str).collect();
        let mut covered = COVERED_KINDS;
        covered.sort_unstable();
        assert_eq!(found, covered, "each kind of saga has a scenario");
        Self {
            tancho,
            slow,
            folder,
            kinds,
            round: 0,
            apps: Vec::new(),
            state: Value::Null,
            wrong: Vec::new(),
        }
    }

    /// Creates a running app for each number of a round.
    async fn create_apps(&mut self) {
        let made = join_all((0..AT_ONCE).map(async |number| self.create_app(number).await)).await;
        self.apps = made;
    }

    async fn create_app(&self, number: usize) -> FailpointApp {
        let name = format!("app{number}");
        self.tancho.create_app(&name).await;
        self.tancho.deploy(&name, &AppSource::tiny("first").pack()).await;
        FailpointApp {
            name,
            says: "first - -".to_owned(),
            units: 1,
            versions: 1,
        }
    }

    /// Returns the name of the instance with a number in this round.
    fn instance(&self, number: usize) -> String {
        format!("i{}x{number}", self.round)
    }

    async fn create_instance(&self, number: usize) {
        let name = self.instance(number);
        let form = [("name", name.as_str()), ("owner", "crew"), ("description", "old")];
        self.tancho.change(Method::POST, INSTANCES, &form).await;
    }

    /// Runs all points of a kind, in rounds.
    async fn run_scenario<S: Scenario>(&mut self, mut scenario: S) {
        let began = Instant::now();
        let steps = self.kinds[S::KIND].clone();
        let mut count = 0;
        for (whats, kill) in [(&FAULTS[..], false), (&KILLS[..], true)] {
            let points: Vec<FailPointCase> = steps
                .iter()
                .flat_map(|step| whats.iter().map(|what| FailPointCase::new(step, what)))
                // A saga that continues is not undone.
                .filter(|point| !point.is_undo() || !scenario.continues_after_failure(&point.step, true))
                .collect();
            count += points.len();
            let (narrow, wide): (Vec<FailPointCase>, Vec<FailPointCase>) = points
                .into_iter()
                .partition(|point| kill && scenario.blocks_others(&point.step));
            for points in wide.chunks(scenario.points_per_round()).chain(narrow.chunks(1)) {
                self.run_round(&mut scenario, points, kill).await;
            }
        }
        println!("{}: {count} points in {:.1?}", S::KIND, began.elapsed());
    }

    /// Runs some points, each for a saga of its own, until all have ended and are checked.
    async fn run_round<S: Scenario>(&mut self, scenario: &mut S, points: &[FailPointCase], kill: bool) {
        self.round += 1;
        let began = Instant::now();
        self.slow.forget_calls().await;
        join_all((0..points.len()).map(|number| scenario.prepare(self, number))).await;
        let prepared = began.elapsed();
        for point in points {
            fs::write(self.folder.join("wait").join(point.file_name(S::KIND)), "").unwrap();
        }
        for number in 0..points.len() {
            let request = scenario.launch(self, number);
            tokio::spawn(async move {
                // Tancho may be killed before it responds.
                let _ = request.send().await;
            });
        }
        self.wait_for_points(points, if kill { "held" } else { "struck" })
            .await;
        let reached = began.elapsed();
        if kill {
            let api = self.tancho.running().api.clone();
            self.tancho.kill();
            match scenario.keeps_address() {
                true => self.tancho.serve_at(&api),
                false => self.tancho.serve(),
            }
        }
        let back = began.elapsed();
        self.wait_until_idle().await;
        let ended = began.elapsed();
        self.check_results(scenario, points).await;
        scenario.clean_up(self).await;
        for name in ["wait", "struck", "held"] {
            let folder = self.folder.join(name);
            fs::remove_dir_all(&folder).unwrap();
            fs::create_dir(&folder).unwrap();
        }
        println!(
            "{} {}: {} points, prepared {prepared:.1?}, reached {reached:.1?}, back {back:.1?}, ended {ended:.1?}, \
             over {:.1?}",
            S::KIND,
            self.round,
            points.len(),
            began.elapsed()
        );
    }

    async fn wait_for_points(&self, points: &[FailPointCase], place: &str) {
        let mut last = 0;
        wait_for(
            &format!("all of {points:#?} are {place}"),
            seconds(60),
            async || {
                let found = list_names(&self.folder.join(place));
                if found.len() != last {
                    println!("{place}: {found:?}");
                    last = found.len();
                }
                (last >= points.len()).then_some(())
            },
        )
        .await;
    }

    /// Waits until no event runs and no saga is open, stuck or without an owner.
    async fn wait_until_idle(&self) {
        let mut last = String::new();
        wait_for("everything has ended", seconds(15), async || {
            let (running, sagas) = ("/1.1/events?running=true", "/healers/leases");
            let running = self
                .tancho
                .request_as_admin(Method::GET, running)
                .send()
                .await
                .unwrap();
            let running: Value = running.json().await.unwrap_or(json!([]));
            let sagas = self
                .tancho
                .request_as_admin(Method::GET, sagas)
                .send()
                .await
                .unwrap();
            let sagas = sagas.text().await.unwrap();
            let said = format!("{} events run, {sagas}", running.as_array().map_or(0, Vec::len));
            if said != last {
                println!("{}", said.trim_end());
                last.clone_from(&said);
            }
            (said == "0 events run, leases: nothing to do\n").then_some(())
        })
        .await;
    }

    async fn check_results<S: Scenario>(&mut self, scenario: &mut S, points: &[FailPointCase]) {
        let mut all = Vec::new();
        for file in list_names(&self.folder.join("struck")) {
            let event = fs::read_to_string(self.folder.join("struck").join(&file)).unwrap();
            let event = match event.as_str() {
                "" => Value::Null,
                id => self.tancho.read_json(&format!("/1.1/events/{id}")).await,
            };
            all.push(ReachedPoint::read(&file, event, scenario));
        }
        assert_eq!(all.len(), points.len());
        self.state = self.slow.state().await;
        scenario.inspect_round(self).await;
        for reached in &all {
            let mut wrong = scenario.check_subject(self, reached).await;
            wrong.extend(reached.check_outcome());
            let about = format!(
                "{} of {}",
                reached.point.file_name(S::KIND),
                reached.event["Target"]["Value"]
            );
            for wrong in wrong {
                println!("{about}: {wrong}");
                self.wrong.push(format!("{about}: {wrong}"));
            }
        }
    }

    /// Returns how often a call of the step `at` should have been made: once; and once more only if this step
    /// was repeated, or was killed with an unknown result.
    fn expected_calls(&self, kind: &str, reached: &ReachedPoint, at: &str) -> RangeInclusive<u64> {
        match reached
            .point
            .step_index(&self.kinds[kind])
            .cmp(&step_index(&self.kinds[kind], at))
        {
            std::cmp::Ordering::Less if !reached.done => 0..=0,
            std::cmp::Ordering::Less | std::cmp::Ordering::Greater => 1..=1,
            std::cmp::Ordering::Equal => match reached.point.what {
                "fail" if !reached.done => 0..=0,
                "twice" | "inside-2" | "inside-8" | "after" => 1..=2,
                "late-fail" if reached.done => 1..=2,
                _ => 1..=1,
            },
        }
    }

    /// Returns the same for a call that undoes the step `at`.
    fn expected_undo_calls(&self, kind: &str, reached: &ReachedPoint, at: &str) -> RangeInclusive<u64> {
        let steps = &self.kinds[kind];
        let (point, here) = (&reached.point, step_index(steps, at));
        let begun = point.step_index(steps) > here || (point.step == at && point.what != "fail");
        match begun && !reached.done {
            false => 0..=0,
            true if point.step == at && point.is_undo() => 1..=2,
            true => 1..=1,
        }
    }

    /// Returns an error if the service was called another number of times.
    fn check_call_count(&self, call: &str, times: &RangeInclusive<u64>) -> Option<String> {
        let count = self.state["calls"][call].as_u64().unwrap_or(0);
        (!times.contains(&count)).then(|| format!("{call}: {count} times instead of {times:?}"))
    }

    /// Returns an error if an app serves another text than it should.
    async fn check_app_text(&self, number: usize) -> Option<String> {
        let app = &self.apps[number];
        let (status, text) = self.tancho.get_app(&app.name, "/").await;
        let right = match app.units {
            0 => status == 503,
            _ => status == 200 && text == app.says,
        };
        (!right).then(|| format!("{status} {text:?} instead of {:?}", app.says))
    }

    /// Waits until exactly the expected units and versions exist, and nothing is left over.
    async fn assert_tidy(&self) {
        let units: BTreeMap<&str, usize> = self
            .apps
            .iter()
            .filter(|app| app.units > 0)
            .map(|app| (app.name.as_str(), app.units))
            .collect();
        let versions: usize = self.apps.iter().map(|app| app.versions).sum();
        let mut last = String::new();
        wait_for(
            &format!("{units:?} and {versions} versions"),
            seconds(20),
            async || {
                let pids = self.tancho.pids();
                let mut found: BTreeMap<&str, usize> = BTreeMap::new();
                for (unit, _) in &pids {
                    *found.entry(unit.split('-').next().unwrap()).or_default() += 1;
                }
                let folder = self.tancho.data.join("versions");
                let kept = list_names(&folder)
                    .iter()
                    .map(|app| list_names(&folder.join(app)).len())
                    .sum::<usize>();
                let uploads = list_names(&self.tancho.data.join("uploads"));
                let said = format!("{found:?}, {kept} versions, uploads {uploads:?}");
                if said != last {
                    println!("there are {said}");
                    last = said;
                }
                (found == units && kept == versions && uploads.is_empty()).then_some(())
            },
        )
        .await;
    }

    /// Ends the test: there was no failed check and no internal error.
    fn finish(self) {
        assert!(self.wrong.is_empty(), "{:#?}", self.wrong);
        let log = self.tancho.log();
        let bad = |line: &&str| {
            (line.contains(" ERROR ") || line.contains("panicked")) && !line.contains("failed by a failpoint")
        };
        let bad: Vec<&str> = log.lines().filter(bad).collect();
        assert!(bad.is_empty(), "{bad:#?}");
    }
}

fn step_index(steps: &[String], step: &str) -> usize {
    steps.iter().position(|s| s == step).unwrap()
}

/// What both sides have, by the names of instances.
#[derive(Debug, Default)]
struct BothSides {
    instances: Vec<String>,
    binds: Vec<String>,
}

impl BothSides {
    async fn read(fixture: &FailpointFixture) -> Self {
        Self {
            instances: assert_both_sides_agree(&fixture.tancho, &fixture.slow, "instances").await,
            binds: assert_both_sides_agree(&fixture.tancho, &fixture.slow, "binds").await,
        }
    }

    fn has(&self, instance: &str) -> bool {
        self.instances.iter().any(|name| name == instance)
    }

    fn is_bound(&self, instance: &str) -> bool {
        self.binds
            .iter()
            .any(|bind| bind.split(' ').next() == Some(instance))
    }

    /// Removes all of it, with no faults. Units stay as they are.
    async fn remove(&self, fixture: &FailpointFixture) {
        for bind in &self.binds {
            let (name, host) = bind.split_once(' ').unwrap();
            let path = format!("{INSTANCES}/{name}/{}", host.trim_end_matches(".localhost"));
            let form = [("noRestart", "true")];
            fixture.tancho.change(Method::DELETE, &path, &form).await;
        }
        join_all(self.instances.iter().map(async |name| {
            let path = format!("{INSTANCES}/{name}");
            fixture.tancho.change(Method::DELETE, &path, &[]).await
        }))
        .await;
        let none = BothSides::read(fixture).await;
        assert_eq!((none.instances, none.binds), (Vec::new(), Vec::new()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instance_mail_and_webhook_sagas_survive_repetition_failure_and_kill_at_each_step() {
    let mut fixture = FailpointFixture::start().await;
    fixture
        .run_scenario(instances::CreateInstanceScenario::default())
        .await;
    fixture
        .run_scenario(instances::UpdateInstanceScenario::default())
        .await;
    fixture.run_scenario(mail::SendMailScenario).await;
    fixture.run_scenario(webhooks::DeliverWebhookScenario).await;
    fixture.finish();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bind_sagas_survive_repetition_failure_and_kill_at_each_step() {
    let mut fixture = FailpointFixture::start().await;
    fixture.create_apps().await;
    fixture.run_scenario(binds::BindScenario::default()).await;
    fixture.run_scenario(binds::UnbindScenario::default()).await;
    fixture
        .run_scenario(binds::DeleteInstanceScenario::default())
        .await;
    fixture.finish();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deploy_and_rollback_sagas_survive_repetition_failure_and_kill_at_each_step() {
    let mut fixture = FailpointFixture::start().await;
    fixture.create_apps().await;
    fixture.run_scenario(apps::DeployScenario).await;
    let rollback = apps::RollbackScenario::new(&mut fixture).await;
    fixture.run_scenario(rollback).await;
    fixture.finish();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn builds_of_images_survive_repetition_failure_and_kill_at_each_step() {
    let test = "builds_of_images_survive_repetition_failure_and_kill_at_each_step";
    let Some(engine) = DockerEngine::find(test) else {
        return;
    };
    let mut tancho = TestInstance::new_empty();
    tancho.set("TANCHO_DOCKER_HOST", &engine.0);
    let mut fixture = FailpointFixture::start_on(tancho).await;
    let scenario = docker::BuildImageScenario::new(&mut fixture, engine).await;
    fixture.run_scenario(scenario).await;
    fixture.finish();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forge_deploy_sagas_survive_repetition_failure_and_kill_at_each_step() {
    let mut fixture = FailpointFixture::start().await;
    for number in 0..2 {
        let app = fixture.create_app(number).await;
        fixture.apps.push(app);
    }
    fixture.run_scenario(forge::ForgeDeployScenario).await;
    fixture.finish();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scale_and_app_removal_sagas_survive_repetition_failure_and_kill_at_each_step() {
    let mut fixture = FailpointFixture::start().await;
    fixture.create_apps().await;
    for verb in units::VERBS {
        fixture.run_scenario(units::ScaleScenario(verb)).await;
    }
    fixture.run_scenario(apps::RolloutScenario).await;
    fixture.run_scenario(apps::RemoveAppScenario::default()).await;
    fixture.finish();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificate_orders_survive_repetition_failure_and_kill_at_each_step() {
    let mut tancho = TestInstance::new_empty();
    let Some(scenario) = certificates::OrderCertificateScenario::start(&mut tancho).await else {
        return;
    };
    let mut fixture = FailpointFixture::start_on(tancho).await;
    fixture.tancho.create_app("app0").await;
    fixture.run_scenario(scenario).await;
    fixture.finish();
}
