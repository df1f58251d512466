//! The drill: every step of a saga runs twice, fails, and is killed before, inside and after, and so are the
//! undos. Many sagas stand still at their points at once, and one SIGKILL ends them all; then Tancho starts on the
//! same data, and each must end, done or undone, with the service of the same mind. Kinds and steps are those
//! that the program tells: one that is neither drilled nor named with a reason fails the test.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::Value;

use crate::house::{House, names, seconds, until};
use crate::services::{INSTANCES, Slow, assert_agreed, doomed, known};

/// Kinds that are drilled here.
const DRILLED: [&str; 1] = ["service-instance.create"];

/// Kinds that are not, and why.
const NOT_YET: [(&str, &str); 10] = [
    (
        "service-instance.update",
        "a failure after the row is written leaves the new row: nothing keeps the old values",
    ),
    (
        "service-instance.delete",
        "has a scenario, but was not looked through yet",
    ),
    ("app.bind", "has a scenario, but was not looked through yet"),
    ("app.unbind", "has a scenario, but was not looked through yet"),
    (
        "app.deploy",
        "killed at three moments by crash.rs, not yet at each step",
    ),
    ("app.rollback", "no scenario yet"),
    ("app.rollout", "no scenario yet"),
    ("app.scale", "no scenario yet"),
    ("app.remove", "no scenario yet"),
    ("mail.send", "no scenario yet"),
];

/// What can happen to a step while Tancho goes on.
const FAULTS: [&str; 4] = ["twice", "fail", "late-fail", "undo-twice"];
/// Where it can be killed.
const KILLS: [&str; 6] = [
    "before",
    "inside-2",
    "inside-8",
    "after",
    "undo-before",
    "undo-after",
];
/// Points of one round: fewer than a lane has workers.
const AT_ONCE: usize = 12;

struct Drill {
    house: House,
    slow: Slow,
    folder: PathBuf,
    round: usize,
}

/// A point that a saga has taken: what it did, and the event.
struct Struck {
    point: String,
    event: Value,
}

impl Struck {
    fn what(&self) -> &str {
        self.point.rsplit('@').next().unwrap()
    }

    fn done(&self) -> bool {
        self.event["Error"] == ""
    }

    /// The number of the instance and of the app that it was about.
    fn number(&self, round: usize) -> usize {
        let target = self.event["Target"]["Value"].as_str().unwrap();
        let prefixes = [format!("store/i{round}x"), "app".to_owned()];
        let number = prefixes
            .iter()
            .find_map(|prefix| target.strip_prefix(prefix.as_str()));
        number.unwrap_or_else(|| panic!("{target}")).parse().unwrap()
    }
}

impl Drill {
    async fn start() -> Self {
        let mut house = House::empty();
        let folder = house.root.join("drill");
        for name in ["wait", "struck", "held"] {
            fs::create_dir_all(folder.join(name)).unwrap();
        }
        house.set("DRILL_POINTS", folder.to_str().unwrap());
        // Steps that stand still keep theirs.
        house.set("TANCHO_DATABASE_MAX_CONNECTIONS", "30");
        house.set("TANCHO_ROUTER_PUBLIC_PORT", "80");
        house.serve();
        house.login().await;
        house.team().await;
        let slow = Slow::start();
        slow.register(&house).await;
        for number in 0..AT_ONCE {
            house.create_app(&format!("app{number}")).await;
        }
        Self {
            house,
            slow,
            folder,
            round: 0,
        }
    }

    /// The steps of each kind, as the program tells.
    fn kinds(&self) -> BTreeMap<String, Vec<String>> {
        let text = fs::read_to_string(self.folder.join("kinds")).unwrap();
        text.lines()
            .map(|line| {
                let mut words = line.split(' ').map(str::to_owned);
                (words.next().unwrap(), words.collect())
            })
            .collect()
    }

    fn instance(&self, number: usize) -> String {
        format!("i{}x{number}", self.round)
    }

    async fn prepare(&self, kind: &str, number: usize) {
        let (name, app) = (self.instance(number), format!("app{number}"));
        if kind != "service-instance.create" {
            let form = [("name", name.as_str()), ("owner", "crew")];
            self.house.change(Method::POST, INSTANCES, &form).await;
        }
        if ["app.unbind", "service-instance.delete"].contains(&kind) {
            self.house
                .change(Method::PUT, &format!("{INSTANCES}/{name}/{app}"), &[])
                .await;
        }
    }

    fn launch(&self, kind: &str, number: usize) {
        let name = self.instance(number);
        let place = format!("{INSTANCES}/{name}");
        let bind = format!("{place}/app{number}");
        let (method, path, form): (_, _, &[(&str, &str)]) = match kind {
            "service-instance.create" => (
                Method::POST,
                INSTANCES,
                &[("name", name.as_str()), ("owner", "crew")],
            ),
            "service-instance.update" => (Method::PUT, &place, &[("description", "new")]),
            "service-instance.delete" => (Method::DELETE, &place, &[("unbindall", "true")]),
            "app.bind" => (Method::PUT, &bind, &[]),
            _ => (Method::DELETE, &bind, &[]),
        };
        doomed(&self.house, method, path, form);
    }

    /// Some points of a kind, each for a saga of its own, until all have ended.
    async fn round(&mut self, kind: &str, points: &[String], kill: bool) {
        self.round += 1;
        println!("round {}: {points:?}", self.round);
        self.slow.forget_calls().await;
        let numbers = 0..points.len();
        join_all(numbers.clone().map(|number| self.prepare(kind, number))).await;
        for point in points {
            fs::write(self.folder.join("wait").join(point), "").unwrap();
        }
        numbers.clone().for_each(|number| self.launch(kind, number));
        let reached = if kill { "held" } else { "struck" };
        let mut last = 0;
        until(&format!("{points:?} {reached}"), seconds(60), async || {
            let found = names(&self.folder.join(reached)).len();
            if found != last {
                println!("{reached}: {found} of {}", points.len());
                last = found;
            }
            (found >= points.len()).then_some(())
        })
        .await;
        if kill {
            self.house.kill();
            self.house.serve();
        }
        let struck = self.struck().await;
        assert_eq!(struck.len(), points.len());
        // Nothing open, nothing stuck, no lock held.
        until("no operation is open", seconds(5), async || {
            let answer = self.house.by(Method::GET, "/healers/leases").send().await;
            let text = answer.unwrap().text().await.unwrap();
            (text == "leases: nothing to do\n").then_some(())
        })
        .await;
        assert_eq!(self.running().await, 0);
        self.check(kind, &struck).await;
        self.clean().await;
    }

    async fn running(&self) -> usize {
        let answer = self
            .house
            .by(Method::GET, "/1.1/events?running=true")
            .send()
            .await
            .unwrap();
        let text = answer.text().await.unwrap();
        serde_json::from_str::<Value>(&text).map_or(0, |events| events.as_array().map_or(0, Vec::len))
    }

    /// The points that were taken, once their events have ended.
    async fn struck(&self) -> Vec<Struck> {
        let files = names(&self.folder.join("struck"));
        join_all(files.iter().map(async |file| {
            let event = fs::read_to_string(self.folder.join("struck").join(file)).unwrap();
            Struck {
                point: file.rsplit_once('@').unwrap().0.to_owned(),
                event: self.house.ended(&event, seconds(15)).await,
            }
        }))
        .await
    }

    async fn check(&self, kind: &str, struck: &[Struck]) {
        let instances = assert_agreed(&self.house, &self.slow, "instances").await;
        let binds = assert_agreed(&self.house, &self.slow, "binds").await;
        let state = self.slow.state().await;
        for struck in struck {
            let said = format!(
                "{}: {} {}",
                struck.point, struck.event["Error"], struck.event["Target"]
            );
            let number = struck.number(self.round);
            let name = self.instance(number);
            let there = instances.contains(&name);
            let bound = binds.iter().any(|bind| bind.starts_with(&format!("{name} ")));
            match struck.what() {
                "fail" | "late-fail" | "undo-twice" | "undo-before" | "undo-after" => {
                    let error = struck.event["Error"].as_str().unwrap();
                    assert!(error.contains("failed by the drill"), "{said}");
                }
                _ => assert!(struck.done(), "{said}"),
            }
            match kind {
                "service-instance.create" => assert_eq!(there, struck.done(), "{said}"),
                "service-instance.update" => {
                    let info = self.house.read(&format!("{INSTANCES}/{name}")).await;
                    assert_eq!(info["Description"] == "new", struck.done(), "{said}: {info}");
                    assert_eq!(info["Description"], state["instances"][&name], "{said}");
                }
                "service-instance.delete" => assert!(!(there && struck.done()), "{said}"),
                "app.bind" => assert_eq!(bound, struck.done(), "{said}"),
                _ => assert!(!(bound && struck.done()), "{said}"),
            }
            // Once, and once more where nobody could know; a change also back again.
            for call in ["POST /resources", "PUT /resources"] {
                for (key, count) in state["calls"].as_object().unwrap() {
                    let mine = key.starts_with(call) && key.split(['/', ' ']).any(|word| word == name);
                    assert!(!mine || count.as_u64() <= Some(3), "{said}: {key} {count}");
                }
            }
        }
    }

    /// Takes everything away again, with nobody in the way.
    async fn clean(&self) {
        for name in ["wait", "struck", "held"] {
            let folder = self.folder.join(name);
            fs::remove_dir_all(&folder).unwrap();
            fs::create_dir(&folder).unwrap();
        }
        let left = known(&self.house, "instances").await;
        join_all(left.iter().map(async |name| {
            let path = format!("{INSTANCES}/{name}");
            self.house
                .change(Method::DELETE, &path, &[("unbindall", "true")])
                .await
        }))
        .await;
        for what in ["instances", "binds"] {
            assert_eq!(
                assert_agreed(&self.house, &self.slow, what).await,
                Vec::<String>::new()
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_drilled_saga_bears_repetition_failure_and_death_at_each_step() {
    let mut drill = Drill::start().await;
    let kinds = drill.kinds();
    let named = DRILLED.into_iter().chain(NOT_YET.iter().map(|(kind, _)| *kind));
    let mut named: Vec<&str> = named.collect();
    named.sort_unstable();
    let found: Vec<&str> = kinds.keys().map(String::as_str).collect();
    assert_eq!(
        found, named,
        "each kind of saga is drilled, or named with a reason"
    );
    for kind in DRILLED {
        for (whats, kill) in [(&FAULTS[..], false), (&KILLS[..], true)] {
            let points: Vec<String> = kinds[kind]
                .iter()
                .flat_map(|step| whats.iter().map(move |what| format!("{kind}@{step}@{what}")))
                .collect();
            for points in points.chunks(AT_ONCE) {
                drill.round(kind, points, kill).await;
            }
        }
    }
}
