//! SIGKILL of Tancho in the middle of calls to a service.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use reqwest::Method;
use serde_json::{Value, json};

use crate::apps::Source;
use crate::house::{House, seconds, until};

/// The slow service at work. It ends with the test.
pub(crate) struct Slow {
    child: Child,
    pub(crate) url: String,
    http: reqwest::Client,
}

impl Drop for Slow {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Slow {
    pub(crate) fn start() -> Self {
        Self::with(&[])
    }

    /// One that keeps what it holds in a file, and has always the same port.
    pub(crate) fn kept(file: &Path, port: u16) -> Self {
        Self::with(&[file.to_str().unwrap(), &port.to_string()])
    }

    fn with(arguments: &[&str]) -> Self {
        let has_flask = |python: &&&str| {
            let mut command = Command::new(python);
            command.args(["-c", "import flask"]).stderr(Stdio::null());
            command.status().is_ok_and(|status| status.success())
        };
        let pythons = ["python3", "/usr/bin/python3", "/usr/local/bin/python3"];
        let python = pythons
            .iter()
            .find(has_flask)
            .expect("a python3 that can import flask");
        let mut child = Command::new(python)
            .arg("-B")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/slow_service.py"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut port = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut port)
            .unwrap();
        let url = format!("http://127.0.0.1:{}", port.trim());
        let http = reqwest::Client::new();
        Self { child, url, http }
    }

    /// Makes it the service `store` of a house.
    pub(crate) async fn register(&self, house: &House) {
        let manifest = [
            ("id", "store"),
            ("username", "store"),
            ("password", "canary-store"),
            ("team", "crew"),
            ("endpoint", &self.url),
        ];
        let request = house.by(Method::POST, "/1.0/services").form(&manifest);
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 201, "{}", answer.text().await.unwrap());
    }

    /// Counts calls from here on.
    pub(crate) async fn forget_calls(&self) {
        let request = self.http.post(format!("{}/__forget", self.url));
        request.send().await.unwrap();
    }

    pub(crate) async fn slow(&self, before: f64, after: f64) {
        let request = self.http.post(format!("{}/__slow", self.url));
        request
            .json(&json!({ "before": before, "after": after }))
            .send()
            .await
            .unwrap();
    }

    pub(crate) async fn state(&self) -> Value {
        let answer = self.http.get(format!("{}/__state", self.url)).send().await;
        answer.unwrap().json().await.unwrap()
    }

    /// Keys of what it holds: `instances` or `binds`.
    pub(crate) async fn holds(&self, what: &str) -> Vec<String> {
        self.state().await[what]
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect()
    }

    /// It sleeps so long before it removes something.
    async fn slow_to_remove(&self, seconds: f64) {
        let request = self.http.post(format!("{}/__slow", self.url));
        let how = json!({ "removing": seconds });
        request.json(&how).send().await.unwrap();
    }

    /// What sleeps before its work wakes up and does it.
    pub(crate) async fn wake(&self) {
        let request = self.http.post(format!("{}/__wake", self.url));
        request.send().await.unwrap();
    }

    pub(crate) async fn has(&self, when: &str, call: &str) {
        until(&format!("{call} has {when}"), seconds(10), async || {
            let state = self.state().await;
            state[when]
                .as_array()
                .unwrap()
                .iter()
                .any(|c| c == call)
                .then_some(())
        })
        .await;
    }
}

/// Sends a request that Tancho will not live to answer.
pub(crate) fn doomed(house: &House, method: Method, path: &str, form: &[(&str, &str)]) {
    let request = house.by(method, path).form(form);
    tokio::spawn(async move {
        let _ = request.send().await;
    });
}

/// The newest event of a kind, once it has ended.
pub(crate) async fn ended(house: &House, kind: &str) -> Value {
    until(&format!("the end of {kind}"), seconds(15), async || {
        let events = house.read(&format!("/1.1/events?kindname={kind}")).await;
        let event = events[0].clone();
        (event["Running"] == false).then_some(event)
    })
    .await
}

pub(crate) const INSTANCES: &str = "/1.0/services/store/instances";

/// What Tancho has: instances, or binds, in the words of the service.
pub(crate) async fn known(house: &House, what: &str) -> Vec<String> {
    let services = house.read("/1.0/services/instances").await;
    let mut found = Vec::new();
    for service in services.as_array().unwrap() {
        for name in service["instances"].as_array().unwrap() {
            let name = name.as_str().unwrap();
            if what == "instances" {
                found.push(name.to_owned());
                continue;
            }
            let info = house.read(&format!("{INSTANCES}/{name}")).await;
            for app in info["Apps"].as_array().unwrap() {
                found.push(format!("{name} {}.localhost", app.as_str().unwrap()));
            }
        }
    }
    found.sort();
    found
}

/// Both sides have the same, once what is hunted is caught.
pub(crate) async fn assert_agreed(house: &House, slow: &Slow, what: &str) -> Vec<String> {
    let mut last = String::new();
    until(&format!("both have the same {what}"), seconds(15), async || {
        let (ours, theirs) = (known(house, what).await, slow.holds(what).await);
        let said = format!("{what}: ours {ours:?}, theirs {theirs:?}");
        if ours != theirs && said != last {
            println!("{said}");
            last = said;
        }
        (ours == theirs).then_some(ours)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_creation_and_a_bind_whose_tancho_is_killed_end_done_or_undone() {
    // The same address of the app after each start, though the router's port is another one.
    let mut house = House::with(&[
        ("TANCHO_ROUTER_PUBLIC_PORT", "80"),
        ("TANCHO_SERVICES_TIMEOUT_SECONDS", "5"),
    ])
    .await;
    let slow = Slow::start();
    slow.register(&house).await;
    house.create_app("shop").await;
    house.deploy("shop", &Source::web("v1").pack()).await;
    // Killed before the service has done it, and after.
    for (name, before, after, when) in [("early", 1.5, 0.0, "begun"), ("late", 0.0, 3.0, "ended")] {
        slow.slow(before, after).await;
        doomed(
            &house,
            Method::POST,
            INSTANCES,
            &[("name", name), ("owner", "crew")],
        );
        let count = async || {
            slow.state().await[when]
                .as_array()
                .unwrap()
                .iter()
                .filter(|c| *c == "POST /resources")
                .count()
        };
        until("the call", seconds(10), async || {
            (count().await == usize::from(name == "late") + 1).then_some(())
        })
        .await;
        house.kill();
        slow.slow(0.0, 0.0).await;
        house.serve();
        let event = ended(&house, "service-instance.create").await;
        println!("{name}: {}", event["Error"]);
        let have = assert_agreed(&house, &slow, "instances").await;
        assert_eq!(
            event["Error"] == "",
            have.iter().any(|have| have == name),
            "{event} {have:?}"
        );
        if !have.iter().any(|have| have == name) {
            let form = [("name", name), ("owner", "crew")];
            house.change(Method::POST, INSTANCES, &form).await;
        }
    }
    assert_eq!(assert_agreed(&house, &slow, "instances").await, ["early", "late"]);
    for (name, before, after, when) in [("early", 1.5, 0.0, "begun"), ("late", 0.0, 3.0, "ended")] {
        slow.slow(before, after).await;
        doomed(&house, Method::PUT, &format!("{INSTANCES}/{name}/shop"), &[]);
        slow.has(when, &format!("POST /resources/{name}/bind-app")).await;
        house.kill();
        slow.slow(0.0, 0.0).await;
        house.serve();
        let event = ended(&house, "app.update.bind").await;
        println!("{name}: {}", event["Error"]);
        let have = assert_agreed(&house, &slow, "binds").await;
        let bound = have.iter().any(|have| have.starts_with(name));
        assert_eq!(event["Error"] == "", bound, "{event} {have:?}");
        let shown = match bound {
            true => format!("store://{name}"),
            false => "-".to_owned(),
        };
        assert_eq!(house.visit("shop", "/env/STORE_URL").await, (200, shown));
        if bound {
            house
                .change(Method::DELETE, &format!("{INSTANCES}/{name}/shop"), &[])
                .await;
            assert_eq!(house.visit("shop", "/env/STORE_URL").await, (200, "-".to_owned()));
        }
        assert_eq!(assert_agreed(&house, &slow, "binds").await, Vec::<String>::new());
    }
    for name in ["early", "late"] {
        house
            .change(Method::DELETE, &format!("{INSTANCES}/{name}"), &[])
            .await;
    }
    assert_eq!(
        assert_agreed(&house, &slow, "instances").await,
        Vec::<String>::new()
    ); // What was carried out when nobody waited for it any more has gone, too.
    assert_eq!(assert_agreed(&house, &slow, "binds").await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_service_does_after_its_caller_was_killed_is_taken_away() {
    let mut house = House::with(&[
        ("TANCHO_ROUTER_PUBLIC_PORT", "80"),
        ("TANCHO_SERVICES_TIMEOUT_SECONDS", "10"),
    ])
    .await;
    let slow = Slow::start();
    slow.register(&house).await;
    house.create_app("shop").await;
    let (named, late) = (
        [("name", "db"), ("owner", "crew")],
        [("name", "late"), ("owner", "crew")],
    );
    house.change(Method::POST, INSTANCES, &named).await;
    // Both calls sleep at the service when Tancho is killed, and sleep on while it does them anew.
    slow.slow(600.0, 0.0).await;
    let bind = format!("{INSTANCES}/db/shop");
    doomed(&house, Method::PUT, &bind, &[]);
    slow.has("begun", "POST /resources/db/bind-app").await;
    doomed(&house, Method::POST, INSTANCES, &late);
    until("the creation has begun", seconds(10), async || {
        let state = slow.state().await;
        state["calls"].get("POST /resources late").map(drop)
    })
    .await;
    house.kill();
    slow.slow(0.0, 0.0).await;
    house.serve();
    for kind in ["app.update.bind", "service-instance.create"] {
        let event = ended(&house, kind).await;
        assert_eq!(event["Error"], "", "{event}");
    }
    house.change(Method::DELETE, &bind, &[]).await;
    house
        .change(Method::DELETE, &format!("{INSTANCES}/late"), &[])
        .await;
    assert_eq!(slow.holds("binds").await, Vec::<String>::new());
    assert_eq!(slow.holds("instances").await, ["db"]);
    slow.wake().await;
    until("the service does both", seconds(5), async || {
        let (binds, instances) = (slow.holds("binds").await, slow.holds("instances").await);
        (binds.len() == 1 && instances.len() == 2).then_some(())
    })
    .await;
    assert_eq!(assert_agreed(&house, &slow, "instances").await, ["db"]);
    assert_eq!(assert_agreed(&house, &slow, "binds").await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_tancho_hunted_is_hunted_on_after_its_start() {
    let mut house = House::with(&[("TANCHO_SERVICES_TIMEOUT_SECONDS", "20")]).await;
    let slow = Slow::start();
    slow.register(&house).await;
    let named = [("name", "db"), ("owner", "crew")];
    house.change(Method::POST, INSTANCES, &named).await;
    slow.slow_to_remove(600.0).await;
    let removal = house.by(Method::DELETE, &format!("{INSTANCES}/db"));
    let answer = removal.query(&[("ignoreerrors", "true")]).send().await.unwrap();
    let text = answer.text().await.unwrap();
    assert!(text.contains("did not answer in time"), "{text}");
    until("the hunt has begun", seconds(10), async || {
        let state = slow.state().await;
        (state["calls"]["DELETE /resources/db"] == 2).then_some(())
    })
    .await;
    house.kill();
    slow.slow_to_remove(0.0).await;
    house.serve();
    // The call of the killed one might be carried out for 20 s.
    until("the service is told again", seconds(8), async || {
        slow.holds("instances").await.is_empty().then_some(())
    })
    .await;
    let open = house.read("/1.0/orphans").await;
    assert_eq!(open[0]["instance"], "db", "its name is not free yet: {open}");
}
