//! Each call to each of the four services fails in each way, concurrently with an instance of its own each:
//! the error names the service, the call and the failure, and both sides end with the same state, which is
//! all or nothing.

use futures_util::future::join_all;

use super::programs::{InstanceLife, NODE, ProgramFixture, ServiceProgram, TODAY, Y2012, Y2014};
use super::*;

/// How a call fails, and the error that the user gets.
const MODES: [(&str, &str); 6] = [
    (
        "refuse",
        "the service db responded: you must be joking\u{fffd} (code: 403)",
    ),
    ("412", "the service db is not ready yet: still warming up"),
    ("500", "the service db responded: no space left (code: 500)"),
    ("hang", "The service db did not respond in time"),
    (
        "garbage",
        "the service db responded with something other than a JSON object of variables",
    ),
    ("cut", "The service db closed the connection"),
];

/// One call that fails in one way.
struct FaultCase<'a> {
    life: InstanceLife<'a>,
    call: usize,
    mode: &'static str,
    words: &'static str,
}

impl<'a> FaultCase<'a> {
    async fn new(
        setup: &'a ProgramFixture,
        round: &str,
        call: usize,
        mode: (&'static str, &'static str),
    ) -> Self {
        let instance = format!("{round}-{call}-{}", mode.0);
        Self {
            life: InstanceLife::new(setup, &instance, &format!("app-{instance}")).await,
            call,
            mode: mode.0,
            words: mode.1,
        }
    }

    /// Returns true if the service does its work and then fails: the worst case if its response is lost.
    fn is_carried_out(&self) -> bool {
        matches!(self.mode, "hang" | "garbage" | "cut")
    }

    /// Returns true if an invalid response counts as success, because nothing in it is needed.
    fn is_success(&self) -> bool {
        self.mode == "garbage" && self.call != 1
    }

    async fn run_failing_call(&self) {
        let (setup, name) = (self.life.setup, &self.life.instance);
        for earlier in 0..self.call {
            // No units, unless the call is about them.
            if matches!(earlier, 2 | 3) && self.call != 3 {
                continue;
            }
            let (status, text) = self.life.make_call(earlier).await;
            assert!(status.is_success(), "before {name}: {status} {text}");
            self.life.wait_for_told_units(i64::from(earlier == 2)).await;
        }
        let (verb, end) = setup.program.calls[self.call];
        let before = self.life.calls().await.len();
        let rule = json!({
            "name": name, "mode": self.mode, "method": verb, "path": end.replace("{}", name), "do": self.is_carried_out(),
        });
        setup.flask.fail(rule).await;
        let (status, text) = self.life.make_call(self.call).await;
        match self.call {
            2 | 3 => self.wait_for_unit_call().await,
            _ => self.assert_readable(status, &text),
        }
        setup.flask.fail(json!({ "name": name })).await;
        let calls = self.life.calls().await;
        let heard = |call: &Value| {
            let line = call["call"].as_str().unwrap();
            line.starts_with(verb) && line.ends_with(&end.replace("{}", name))
        };
        assert!(calls[before..].iter().any(heard), "{name}: {calls:?}");
        self.assert_both_sides_agree().await;
        self.assert_removable().await;
    }

    /// Waits for the retries of a failed call for a unit, which belongs to no request.
    async fn wait_for_unit_call(&self) {
        if self.is_success() {
            return self.life.wait_for_told_units(i64::from(self.call == 2)).await;
        }
        let again = self.life.filter_by_app("unit_bind", "x.attempts > 1");
        self.life.setup.fixture.wait_for_rows(&again, 1).await;
    }

    fn assert_readable(&self, status: StatusCode, text: &str) {
        let (name, app) = (&self.life.instance, &self.life.app);
        let when = format!("{name}: {status} {text}");
        if self.is_success() {
            assert!(status.is_success(), "{when}");
            return;
        }
        assert_eq!(status, if self.mode == "412" { 412 } else { 500 }, "{when}");
        assert!(text.contains(self.words), "{when}");
        let call = match (self.mode, self.call) {
            // No response, so the error names the call itself.
            ("hang" | "cut", 0) => "(POST /resources".to_owned(),
            ("hang" | "cut", call) => {
                format!("({} /resources/{name}", self.life.setup.program.calls[call].0)
            }
            (_, 0) => format!("create the instance {name}"),
            (_, 1) => format!("bind the app {app} to the instance {name}"),
            (_, 4) => format!("unbind the app {app} from the instance {name}"),
            _ => format!("remove the instance {name}"),
        };
        assert!(text.contains(&call), "{when}");
        assert!(!text.contains("canary"), "{when}");
    }

    /// Returns what has to exist once nothing runs: an instance, a bind, a notified unit.
    fn expected_leftovers(&self) -> (bool, bool, bool) {
        match (self.call, self.mode) {
            (0, "garbage") | (1, _) => (true, false, false),
            (2, _) => (true, true, true),
            (3, _) => (true, true, false),
            // Rejected: the state is as before. An unknown result is resolved, and so is a failed removal.
            (4, "refuse" | "412" | "500") => (true, true, false),
            (4, _) | (5, "refuse" | "412") => (true, false, false),
            _ => (false, false, false),
        }
    }

    async fn assert_both_sides_agree(&self) {
        let (setup, name) = (self.life.setup, &self.life.instance);
        let fixture = &setup.fixture;
        let (instance, bound, unit) = self.expected_leftovers();
        let count = i64::from;
        let hunted = format!("orphan where ended_at is null and instance = '{name}'");
        fixture.wait_for_rows(&hunted, 0).await;
        for state in ["binding", "unbinding"] {
            fixture.wait_for_rows(&self.life.binds(state), 0).await;
        }
        // The rollout after an unbind belongs to the same event.
        let locks = format!(
            "event_lock where target_value in ('{}', 'db/{name}')",
            self.life.app
        );
        fixture.wait_for_rows(&locks, 0).await;
        let row = format!("service_instance where name = '{name}'");
        fixture.wait_for_rows(&row, count(instance)).await;
        let ready = format!("{row} and state = 'ready'");
        assert_eq!(fixture.count(&ready).await, count(instance), "{name}");
        assert_eq!(
            fixture.count(&self.life.binds("bound")).await,
            count(bound),
            "{name}"
        );
        let variables = fixture.count(&self.life.filter_by_app("bind_env", "true")).await;
        assert_eq!(variables > 0, bound, "{name}: {variables} variables");
        self.life.wait_for_told_units(count(unit)).await;

        let state = setup.flask.get("/__state").await;
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
        let told = hosts.iter().any(|host| host == "10.0.0.1");
        assert_eq!(told, unit, "{name}: {state}");
    }

    /// Asserts that the remaining instance can be removed as usual.
    async fn assert_removable(&self) {
        let (instance, bound, _) = self.expected_leftovers();
        self.life.remove_units().await;
        self.life.wait_for_told_units(0).await;
        for (call, wanted) in [(4, bound), (5, instance)] {
            let (status, text) = self.life.make_call(call).await;
            let expected = status.is_success() == wanted && (wanted || status.is_client_error());
            assert!(
                expected,
                "after {}: step {call}: {status} {text}",
                self.life.instance
            );
        }
    }
}

/// Makes calls fail, all concurrently.
async fn fail_at_once(setup: &ProgramFixture, round: &str, calls: std::ops::Range<usize>) {
    let told = |call: &usize| !setup.program.calls[*call].0.is_empty();
    let cases = calls
        .filter(told)
        .flat_map(|call| MODES.map(|mode| FaultCase::new(setup, round, call, mode)));
    let cases = join_all(cases).await;
    join_all(cases.iter().map(FaultCase::run_failing_call)).await;
    setup.assert_nothing_left().await;
}

async fn check_all_faults(program: ServiceProgram) {
    let setup = ProgramFixture::new(program).await;
    // The dialect of the service is not known yet.
    fail_at_once(&setup, "first", 0..2).await;
    assert_eq!(setup.fixture.count("service where dialect is null").await, 1);
    let life = InstanceLife::new(&setup, "my-db", "shop").await;
    for call in [0, 1, 4, 5] {
        let (status, text) = life.make_call(call).await;
        assert_eq!(status, 200, "{text}");
    }
    fail_at_once(&setup, "then", 0..6).await;
    setup.fixture.end().await;
}

#[tokio::test]
async fn failing_calls_to_a_service_of_2012_leave_both_sides_consistent() {
    check_all_faults(Y2012).await;
}

#[tokio::test]
async fn failing_calls_to_a_service_of_2014_leave_both_sides_consistent() {
    check_all_faults(Y2014).await;
}

#[tokio::test]
async fn failing_calls_to_a_node_service_of_2014_leave_both_sides_consistent() {
    check_all_faults(NODE).await;
}

#[tokio::test]
async fn failing_calls_to_a_current_service_leave_both_sides_consistent() {
    check_all_faults(TODAY).await;
}
