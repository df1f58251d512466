//! Each call to each of the four services fails in each way, all of them at once with an instance of its
//! own: the user reads who failed at what and how, and both sides are left with the same, which is all or
//! nothing.

use futures_util::future::join_all;

use super::programs::{Life, NODE, Program, Stage, TODAY, Y2012, Y2014};
use super::*;

/// How a call fails, and what the user reads of it.
const MODES: [(&str, &str); 6] = [
    ("refuse", "the service db said: you must be joking  (code: 403)"),
    ("412", "the service db is not ready yet: still warming up"),
    ("500", "the service db said: no space left (code: 500)"),
    ("hang", "The service db did not answer in time"),
    (
        "garbage",
        "the service db answered something that is no JSON object of variables",
    ),
    ("cut", "The service db broke off"),
];

/// One call that fails in one way.
struct Case<'a> {
    life: Life<'a>,
    call: usize,
    mode: &'static str,
    words: &'static str,
}

impl<'a> Case<'a> {
    async fn new(stage: &'a Stage, round: &str, call: usize, mode: (&'static str, &'static str)) -> Self {
        let instance = format!("{round}-{call}-{}", mode.0);
        Self {
            life: Life::new(stage, &instance, &format!("app-{instance}")).await,
            call,
            mode: mode.0,
            words: mode.1,
        }
    }

    /// Whether the service does its work and only then fails: the worst case where its answer is lost.
    fn is_done(&self) -> bool {
        matches!(self.mode, "hang" | "garbage" | "cut")
    }

    /// Garbage is a success wherever the answer has nothing to tell.
    fn goes_well(&self) -> bool {
        self.mode == "garbage" && self.call != 1
    }

    async fn fails(&self) {
        let (stage, name) = (self.life.stage, &self.life.instance);
        for earlier in 0..self.call {
            // No units, unless it is about them.
            if matches!(earlier, 2 | 3) && self.call != 3 {
                continue;
            }
            let (status, text) = self.life.step(earlier).await;
            assert!(status.is_success(), "before {name}: {status} {text}");
            self.life.told(i64::from(earlier == 2)).await;
        }
        let (verb, end) = stage.program.calls[self.call];
        let before = self.life.calls().await.len();
        let rule = json!({
            "name": name, "mode": self.mode, "method": verb, "path": end.replace("{}", name), "do": self.is_done(),
        });
        stage.flask.fail(rule).await;
        let (status, text) = self.life.step(self.call).await;
        match self.call {
            2 | 3 => self.was_told_in_the_end().await,
            _ => self.reads_well(status, &text),
        }
        stage.flask.fail(json!({ "name": name })).await;
        let calls = self.life.calls().await;
        let heard = |call: &Value| {
            let line = call["call"].as_str().unwrap();
            line.starts_with(verb) && line.ends_with(&end.replace("{}", name))
        };
        assert!(calls[before..].iter().any(heard), "{name}: {calls:?}");
        self.both_have_the_same().await;
        self.is_tidied_up().await;
    }

    /// A failed call for a unit is nobody's request: it is made again until it goes well.
    async fn was_told_in_the_end(&self) {
        if self.goes_well() {
            return self.life.told(i64::from(self.call == 2)).await;
        }
        let again = self.life.of_app("unit_bind", "x.attempts > 1");
        self.life.stage.scene.until(&again, 1).await;
    }

    fn reads_well(&self, status: StatusCode, text: &str) {
        let (name, app) = (&self.life.instance, &self.life.app);
        let when = format!("{name}: {status} {text}");
        if self.goes_well() {
            assert!(status.is_success(), "{when}");
            return;
        }
        assert_eq!(status, if self.mode == "412" { 412 } else { 500 }, "{when}");
        assert!(text.contains(self.words), "{when}");
        let call = match (self.mode, self.call) {
            // No answer, so the call itself is named.
            ("hang" | "cut", 0) => "(POST /resources".to_owned(),
            ("hang" | "cut", call) => {
                format!("({} /resources/{name}", self.life.stage.program.calls[call].0)
            }
            (_, 0) => format!("create the instance {name}"),
            (_, 1) => format!("bind the app {app} to the instance {name}"),
            (_, 4) => format!("unbind the app {app} from the instance {name}"),
            _ => format!("remove the instance {name}"),
        };
        assert!(text.contains(&call), "{when}");
        assert!(!text.contains("canary"), "{when}");
    }

    /// What there has to be once nothing is under way: an instance, a bind, a unit that was told of.
    fn left(&self) -> (bool, bool, bool) {
        match (self.call, self.mode) {
            (0, "garbage") | (1, _) => (true, false, false),
            (2, _) => (true, true, true),
            (3, _) => (true, true, false),
            // It said no: all is as before. An unknown end is made sure of, and so is a failed removal.
            (4, "refuse" | "412" | "500") => (true, true, false),
            (4, _) | (5, "refuse" | "412") => (true, false, false),
            _ => (false, false, false),
        }
    }

    async fn both_have_the_same(&self) {
        let (stage, name) = (self.life.stage, &self.life.instance);
        let scene = &stage.scene;
        let (instance, bound, unit) = self.left();
        let count = i64::from;
        let hunted = format!("orphan where ended_at is null and instance = '{name}'");
        scene.until(&hunted, 0).await;
        for state in ["binding", "unbinding"] {
            scene.until(&self.life.binds(state), 0).await;
        }
        // The end of a bind is followed by a rollout, in the same event.
        let locks = format!(
            "event_lock where target_value in ('{}', 'db/{name}')",
            self.life.app
        );
        scene.until(&locks, 0).await;
        let row = format!("service_instance where name = '{name}'");
        scene.until(&row, count(instance)).await;
        let ready = format!("{row} and state = 'ready'");
        assert_eq!(scene.count(&ready).await, count(instance), "{name}");
        assert_eq!(
            scene.count(&self.life.binds("bound")).await,
            count(bound),
            "{name}"
        );
        let variables = scene.count(&self.life.of_app("bind_env", "true")).await;
        assert_eq!(variables > 0, bound, "{name}: {variables} variables");
        self.life.told(count(unit)).await;

        let state = stage.flask.get("/__state").await;
        let holds = |part: &str| {
            state[part][name]
                .as_array()
                .cloned()
                .unwrap_or_default()
                .into_iter()
                .map(|host| host.as_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            state["instances"].get(name).is_some(),
            instance,
            "{name}: {state}"
        );
        let host = format!("{}.localhost:8888", self.life.app);
        assert_eq!(holds("binds").contains(&host), bound, "{name}: {state}");
        let hosts = [holds("binds"), holds("units")].concat();
        let told = hosts.iter().any(|host| host.ends_with(":4001"));
        assert_eq!(told, unit, "{name}: {state}");
    }

    /// Nothing stands in the way of taking away what is left, as ever.
    async fn is_tidied_up(&self) {
        let (instance, bound, _) = self.left();
        self.life.units_go().await;
        self.life.told(0).await;
        for (call, wanted) in [(4, bound), (5, instance)] {
            let (status, text) = self.life.step(call).await;
            let expected = status.is_success() == wanted && (wanted || status.is_client_error());
            assert!(
                expected,
                "after {}: step {call}: {status} {text}",
                self.life.instance
            );
        }
    }
}

/// Lets calls fail, all at once.
async fn fail_at_once(stage: &Stage, round: &str, calls: std::ops::Range<usize>) {
    let told = |call: &usize| !stage.program.calls[*call].0.is_empty();
    let cases = calls
        .filter(told)
        .flat_map(|call| MODES.map(|mode| Case::new(stage, round, call, mode)));
    let cases = join_all(cases).await;
    join_all(cases.iter().map(Case::fails)).await;
    stage.assert_nothing_left().await;
}

async fn fails_well(program: Program) {
    let stage = Stage::new(program).await;
    // Nobody knows yet how to speak to it.
    fail_at_once(&stage, "first", 0..2).await;
    assert_eq!(stage.scene.count("service where dialect is null").await, 1);
    let life = Life::new(&stage, "my-db", "shop").await;
    for call in [0, 1, 4, 5] {
        let (status, text) = life.step(call).await;
        assert_eq!(status, 200, "{text}");
    }
    fail_at_once(&stage, "then", 0..6).await;
    stage.scene.end().await;
}

#[tokio::test]
async fn whatever_fails_at_a_service_of_2012_leaves_all_or_nothing() {
    fails_well(Y2012).await;
}

#[tokio::test]
async fn whatever_fails_at_a_service_of_2014_leaves_all_or_nothing() {
    fails_well(Y2014).await;
}

#[tokio::test]
async fn whatever_fails_at_a_service_by_the_rules_of_2014_leaves_all_or_nothing() {
    fails_well(NODE).await;
}

#[tokio::test]
async fn whatever_fails_at_a_service_of_today_leaves_all_or_nothing() {
    fails_well(TODAY).await;
}
