//! The drill: every step of every saga runs twice, fails, and is killed before, inside and after, and so are the
//! undos. Many sagas stand still at their points at once, and one SIGKILL ends them all; then Tancho starts on the
//! same data, and each must end within 15 s, done or undone, with everybody of the same mind: the answers, the
//! event, the service, the units. Kinds and steps are those that the program tells: a kind without a scenario here
//! fails the test, and a new step of a kind is drilled without a word.

mod apps;
mod binds;
mod forge;
mod instances;
mod mail;
mod point;
mod units;

use std::collections::BTreeMap;
use std::fs;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Instant;

use futures_util::future::join_all;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::apps::Source;
use crate::house::{House, names, seconds, until};
use crate::services::{INSTANCES, Slow, assert_agreed};
use point::{FAULTS, KILLS, Point, Struck};

/// All kinds that have a scenario.
const DRILLED: [&str; 12] = [
    apps::Deploy::KIND,
    apps::Remove::KIND,
    apps::Rollback::KIND,
    apps::Rollout::KIND,
    binds::Bind::KIND,
    binds::Delete::KIND,
    binds::Unbind::KIND,
    forge::Deploy::KIND,
    instances::Create::KIND,
    instances::Update::KIND,
    mail::Send::KIND,
    units::Scale::KIND,
];

/// Points of one round: fewer than a lane has workers.
const AT_ONCE: usize = 12;

/// What to do with one kind of saga. Each point of a round has a subject of its own, known by its number.
trait Scenario {
    const KIND: &'static str;

    /// Points of one round.
    fn at_once(&self) -> usize {
        AT_ONCE
    }

    /// Whether the API has to have the same address after a restart.
    fn keeps_address(&self) -> bool {
        false
    }

    /// Whether a failure of a step is made good by going on; `late`: once the step is done.
    fn goes_on(&self, _step: &str, _late: bool) -> bool {
        false
    }

    /// Whether a saga that stands still inside this step is in the way of others.
    fn is_narrow(&self, _step: &str) -> bool {
        false
    }

    /// Makes what the saga needs.
    async fn prepare(&self, drill: &Drill, number: usize);

    /// What starts the saga.
    fn launch(&self, drill: &Drill, number: usize) -> RequestBuilder;

    /// Looks at what all points of a round have in common, before `check`.
    async fn look(&mut self, _drill: &mut Drill) {}

    /// What is not as it should be with a subject.
    async fn check(&mut self, drill: &mut Drill, struck: &Struck) -> Vec<String>;

    /// Makes ready for the next round.
    async fn clean(&mut self, _drill: &mut Drill) {}
}

/// An app of the drill.
#[derive(Clone, Debug)]
struct App {
    name: String,
    /// What it should say.
    says: String,
    /// How many units it should have.
    units: usize,
    /// Versions that should be on disk.
    versions: usize,
}

/// One house with one service, and what was wrong so far.
struct Drill {
    house: House,
    slow: Slow,
    folder: PathBuf,
    kinds: BTreeMap<String, Vec<String>>,
    round: usize,
    apps: Vec<App>,
    /// What the service holds, and what it was asked, after a round.
    state: Value,
    wrong: Vec<String>,
}

impl Drill {
    async fn start() -> Self {
        let mut house = House::empty();
        let folder = house.root.join("drill");
        for name in ["wait", "struck", "held"] {
            fs::create_dir_all(folder.join(name)).unwrap();
        }
        house.set("DRILL_POINTS", folder.to_str().unwrap());
        // What stands still keeps its place.
        house.set("TANCHO_DATABASE_MAX_CONNECTIONS", "40");
        house.set("TANCHO_BUILDS_CONCURRENCY", "16");
        house.set("TANCHO_SERVICES_CONCURRENCY_PER_SERVICE", "32");
        house.set("TANCHO_APPS_DRAIN_SECONDS", "1");
        // The same addresses of apps after each start.
        house.set("TANCHO_ROUTER_PUBLIC_PORT", "80");
        house.serve();
        house.login().await;
        house.team().await;
        let other = house
            .by(Method::POST, "/1.0/teams")
            .json(&json!({ "name": "other" }));
        assert_eq!(other.send().await.unwrap().status(), 201);
        let slow = Slow::start();
        slow.register(&house).await;
        let text = fs::read_to_string(folder.join("kinds")).unwrap();
        let kinds = text.lines().map(|line| {
            let mut words = line.split(' ').map(str::to_owned);
            (words.next().unwrap(), words.collect())
        });
        let kinds: BTreeMap<String, Vec<String>> = kinds.collect();
        let found: Vec<&str> = kinds.keys().map(String::as_str).collect();
        let mut drilled = DRILLED;
        drilled.sort_unstable();
        assert_eq!(found, drilled, "each kind of saga has a scenario");
        Self {
            house,
            slow,
            folder,
            kinds,
            round: 0,
            apps: Vec::new(),
            state: Value::Null,
            wrong: Vec::new(),
        }
    }

    /// Makes a running app for each number of a round.
    async fn create_apps(&mut self) {
        let made = join_all((0..AT_ONCE).map(async |number| self.create_app(number).await)).await;
        self.apps = made;
    }

    async fn create_app(&self, number: usize) -> App {
        let name = format!("app{number}");
        self.house.create_app(&name).await;
        self.house.deploy(&name, &Source::tiny("first").pack()).await;
        App {
            name,
            says: "first - -".to_owned(),
            units: 1,
            versions: 1,
        }
    }

    /// Name of the instance with a number in this round.
    fn instance(&self, number: usize) -> String {
        format!("i{}x{number}", self.round)
    }

    async fn create_instance(&self, number: usize) {
        let name = self.instance(number);
        let form = [("name", name.as_str()), ("owner", "crew"), ("description", "old")];
        self.house.change(Method::POST, INSTANCES, &form).await;
    }

    /// All points of a kind, in rounds.
    async fn run<S: Scenario>(&mut self, mut scenario: S) {
        let began = Instant::now();
        let steps = self.kinds[S::KIND].clone();
        let mut count = 0;
        for (whats, kill) in [(&FAULTS[..], false), (&KILLS[..], true)] {
            let points: Vec<Point> = steps
                .iter()
                .flat_map(|step| whats.iter().map(|what| Point::new(step, what)))
                // What goes on is not undone.
                .filter(|point| !point.is_undo() || !scenario.goes_on(&point.step, true))
                .collect();
            count += points.len();
            let (narrow, wide): (Vec<Point>, Vec<Point>) = points
                .into_iter()
                .partition(|point| kill && scenario.is_narrow(&point.step));
            for points in wide.chunks(scenario.at_once()).chain(narrow.chunks(1)) {
                self.round(&mut scenario, points, kill).await;
            }
        }
        println!("{}: {count} points in {:.1?}", S::KIND, began.elapsed());
    }

    /// Some points, each for a saga of its own, until all have ended and were looked at.
    async fn round<S: Scenario>(&mut self, scenario: &mut S, points: &[Point], kill: bool) {
        self.round += 1;
        let began = Instant::now();
        self.slow.forget_calls().await;
        join_all((0..points.len()).map(|number| scenario.prepare(self, number))).await;
        let prepared = began.elapsed();
        for point in points {
            fs::write(self.folder.join("wait").join(point.file(S::KIND)), "").unwrap();
        }
        for number in 0..points.len() {
            let request = scenario.launch(self, number);
            tokio::spawn(async move {
                // Tancho may not live to answer.
                let _ = request.send().await;
            });
        }
        self.reached(points, if kill { "held" } else { "struck" }).await;
        let reached = began.elapsed();
        if kill {
            let api = self.house.running().api.clone();
            self.house.kill();
            match scenario.keeps_address() {
                true => self.house.serve_at(&api),
                false => self.house.serve(),
            }
        }
        let back = began.elapsed();
        self.all_ended().await;
        let ended = began.elapsed();
        self.judge(scenario, points).await;
        scenario.clean(self).await;
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

    async fn reached(&self, points: &[Point], place: &str) {
        let mut last = 0;
        until(
            &format!("all of {points:#?} are {place}"),
            seconds(60),
            async || {
                let found = names(&self.folder.join(place));
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
    async fn all_ended(&self) {
        let mut last = String::new();
        until("everything has ended", seconds(15), async || {
            let (running, sagas) = ("/1.1/events?running=true", "/healers/leases");
            let running = self.house.by(Method::GET, running).send().await.unwrap();
            let running: Value = running.json().await.unwrap_or(json!([]));
            let sagas = self.house.by(Method::GET, sagas).send().await.unwrap();
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

    async fn judge<S: Scenario>(&mut self, scenario: &mut S, points: &[Point]) {
        let mut all = Vec::new();
        for file in names(&self.folder.join("struck")) {
            let event = fs::read_to_string(self.folder.join("struck").join(&file)).unwrap();
            let event = match event.as_str() {
                "" => Value::Null,
                id => self.house.read(&format!("/1.1/events/{id}")).await,
            };
            all.push(Struck::read(&file, event, scenario));
        }
        assert_eq!(all.len(), points.len());
        self.state = self.slow.state().await;
        scenario.look(self).await;
        for struck in &all {
            let mut wrong = scenario.check(self, struck).await;
            wrong.extend(struck.ended_otherwise());
            let about = format!(
                "{} of {}",
                struck.point.file(S::KIND),
                struck.event["Target"]["Value"]
            );
            for wrong in wrong {
                println!("{about}: {wrong}");
                self.wrong.push(format!("{about}: {wrong}"));
            }
        }
    }

    /// How often a call should have been made that is the work of the step `at`: once; and once more only where
    /// this step was repeated, or died when nobody could know.
    fn times(&self, kind: &str, struck: &Struck, at: &str) -> RangeInclusive<u64> {
        match struck
            .point
            .place(&self.kinds[kind])
            .cmp(&place(&self.kinds[kind], at))
        {
            std::cmp::Ordering::Less if !struck.done => 0..=0,
            std::cmp::Ordering::Less | std::cmp::Ordering::Greater => 1..=1,
            std::cmp::Ordering::Equal => match struck.point.what {
                "fail" if !struck.done => 0..=0,
                "twice" | "inside-2" | "inside-8" | "after" => 1..=2,
                "late-fail" if struck.done => 1..=2,
                _ => 1..=1,
            },
        }
    }

    /// The same for a call that takes back what the step `at` has done.
    fn times_undone(&self, kind: &str, struck: &Struck, at: &str) -> RangeInclusive<u64> {
        let steps = &self.kinds[kind];
        let (point, here) = (&struck.point, place(steps, at));
        let begun = point.place(steps) > here || (point.step == at && point.what != "fail");
        match begun && !struck.done {
            false => 0..=0,
            true if point.step == at && point.is_undo() => 1..=2,
            true => 1..=1,
        }
    }

    /// Says so if the service was called in another number.
    fn called(&self, call: &str, times: &RangeInclusive<u64>) -> Option<String> {
        let count = self.state["calls"][call].as_u64().unwrap_or(0);
        (!times.contains(&count)).then(|| format!("{call}: {count} times instead of {times:?}"))
    }

    /// Says so if an app says something else than it should.
    async fn says(&self, number: usize) -> Option<String> {
        let app = &self.apps[number];
        let (status, text) = self.house.visit(&app.name, "/").await;
        let right = match app.units {
            0 => status == 503,
            _ => status == 200 && text == app.says,
        };
        (!right).then(|| format!("{status} {text:?} instead of {:?}", app.says))
    }

    /// Waits until there are exactly the units and the versions that there should be, and nothing lies about.
    async fn assert_tidy(&self) {
        let units: BTreeMap<&str, usize> = self
            .apps
            .iter()
            .filter(|app| app.units > 0)
            .map(|app| (app.name.as_str(), app.units))
            .collect();
        let versions: usize = self.apps.iter().map(|app| app.versions).sum();
        let mut last = String::new();
        until(
            &format!("{units:?} and {versions} versions"),
            seconds(20),
            async || {
                let pids = self.house.pids();
                let mut found: BTreeMap<&str, usize> = BTreeMap::new();
                for (unit, _) in &pids {
                    *found.entry(unit.split('-').next().unwrap()).or_default() += 1;
                }
                let folder = self.house.data.join("versions");
                let kept = names(&folder)
                    .iter()
                    .map(|app| names(&folder.join(app)).len())
                    .sum::<usize>();
                let uploads = names(&self.house.data.join("uploads"));
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

    /// The end: everything held, and there was no bug of ours.
    fn end(self) {
        assert!(self.wrong.is_empty(), "{:#?}", self.wrong);
        let log = self.house.log();
        let bad = |line: &&str| {
            (line.contains(" ERROR ") || line.contains("panicked")) && !line.contains("failed by the drill")
        };
        let bad: Vec<&str> = log.lines().filter(bad).collect();
        assert!(bad.is_empty(), "{bad:#?}");
    }
}

fn place(steps: &[String], step: &str) -> usize {
    steps.iter().position(|s| s == step).unwrap()
}

/// What both sides have, by the names of instances.
#[derive(Debug, Default)]
struct Both {
    instances: Vec<String>,
    binds: Vec<String>,
}

impl Both {
    async fn look(drill: &Drill) -> Self {
        Self {
            instances: assert_agreed(&drill.house, &drill.slow, "instances").await,
            binds: assert_agreed(&drill.house, &drill.slow, "binds").await,
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

    /// Removes all of it, with nobody in the way. Units stay as they are.
    async fn remove(&self, drill: &Drill) {
        for bind in &self.binds {
            let (name, host) = bind.split_once(' ').unwrap();
            let path = format!("{INSTANCES}/{name}/{}", host.trim_end_matches(".localhost"));
            let form = [("noRestart", "true")];
            drill.house.change(Method::DELETE, &path, &form).await;
        }
        join_all(self.instances.iter().map(async |name| {
            let path = format!("{INSTANCES}/{name}");
            drill.house.change(Method::DELETE, &path, &[]).await
        }))
        .await;
        let none = Both::look(drill).await;
        assert_eq!((none.instances, none.binds), (Vec::new(), Vec::new()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_and_mail_bear_repetition_failure_and_death_at_each_step() {
    let mut drill = Drill::start().await;
    drill.run(instances::Create::default()).await;
    drill.run(instances::Update::default()).await;
    drill.run(mail::Send).await;
    drill.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn binds_bear_repetition_failure_and_death_at_each_step() {
    let mut drill = Drill::start().await;
    drill.create_apps().await;
    drill.run(binds::Bind::default()).await;
    drill.run(binds::Unbind::default()).await;
    drill.run(binds::Delete::default()).await;
    drill.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_of_apps_bear_repetition_failure_and_death_at_each_step() {
    let mut drill = Drill::start().await;
    drill.create_apps().await;
    drill.run(apps::Deploy).await;
    let rollback = apps::Rollback::new(&mut drill).await;
    drill.run(rollback).await;
    drill.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deploys_from_forges_bear_repetition_failure_and_death_at_each_step() {
    let mut drill = Drill::start().await;
    for number in 0..2 {
        let app = drill.create_app(number).await;
        drill.apps.push(app);
    }
    drill.run(forge::Deploy).await;
    drill.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn units_and_the_end_of_apps_bear_repetition_failure_and_death_at_each_step() {
    let mut drill = Drill::start().await;
    drill.create_apps().await;
    for verb in units::VERBS {
        drill.run(units::Scale(verb)).await;
    }
    drill.run(apps::Rollout).await;
    drill.run(apps::Remove::default()).await;
    drill.end();
}
