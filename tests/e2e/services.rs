//! SIGKILL of Tancho during calls to a service.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use reqwest::Method;
use serde_json::{Value, json};

use crate::apps::AppSource;
use crate::test_instance::{TestInstance, seconds, wait_for};

/// The running slow service. It stops with the test.
pub(crate) struct SlowService {
    child: Child,
    pub(crate) url: String,
    http: reqwest::Client,
}

impl Drop for SlowService {
    fn drop(&mut self) {
        // It may have exited already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl SlowService {
    pub(crate) fn start() -> Self {
        Self::with(&[])
    }

    /// Starts one that stores its data in a file, and always has the same port.
    pub(crate) fn start_with_file(file: &Path, port: u16) -> Self {
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
        let http = reqwest::Client::builder()
            .pool_max_idle_per_host(0)
            .build()
            .unwrap();
        Self { child, url, http }
    }

    /// Registers it as the service `store` of an instance of Tancho.
    pub(crate) async fn register(&self, tancho: &TestInstance) {
        let manifest = [
            ("id", "store"),
            ("username", "store"),
            ("password", "canary-store"),
            ("team", "crew"),
            ("endpoint", &self.url),
        ];
        let request = tancho
            .request_as_admin(Method::POST, "/1.0/services")
            .form(&manifest);
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 201, "{}", answer.text().await.unwrap());
    }

    /// Resets the list of calls.
    pub(crate) async fn forget_calls(&self) {
        let request = self.http.post(format!("{}/__forget", self.url));
        request.send().await.unwrap();
    }

    pub(crate) async fn set_delays(&self, before: f64, after: f64) {
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

    /// Returns the keys of its data: `instances` or `binds`.
    pub(crate) async fn holds(&self, what: &str) -> Vec<String> {
        self.state().await[what]
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect()
    }

    /// Sets how long it sleeps before it removes something.
    async fn slow_to_remove(&self, seconds: f64) {
        let request = self.http.post(format!("{}/__slow", self.url));
        let how = json!({ "removing": seconds });
        request.json(&how).send().await.unwrap();
    }

    /// Wakes the calls that sleep before their work, which they then do.
    pub(crate) async fn wake_sleeping_calls(&self) {
        let request = self.http.post(format!("{}/__wake", self.url));
        request.send().await.unwrap();
    }

    pub(crate) async fn wait_for_call(&self, when: &str, call: &str) {
        wait_for(&format!("{call} has {when}"), seconds(10), async || {
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

/// Sends a request that Tancho is killed before answering.
pub(crate) fn send_without_response(
    tancho: &TestInstance,
    method: Method,
    path: &str,
    form: &[(&str, &str)],
) {
    let request = tancho.request_as_admin(method, path).form(form);
    tokio::spawn(async move {
        let _ = request.send().await;
    });
}

/// Waits until the newest event of a kind has ended, and returns it.
pub(crate) async fn wait_for_event_end(tancho: &TestInstance, kind: &str) -> Value {
    wait_for(&format!("the end of {kind}"), seconds(15), async || {
        let events = tancho.read_json(&format!("/1.1/events?kindname={kind}")).await;
        let event = events[0].clone();
        (event["Running"] == false).then_some(event)
    })
    .await
}

pub(crate) const INSTANCES: &str = "/1.0/services/store/instances";

/// Returns what Tancho has: instances or binds, as the service names them.
pub(crate) async fn list_known(tancho: &TestInstance, what: &str) -> Vec<String> {
    let services = tancho.read_json("/1.0/services/instances").await;
    let mut found = Vec::new();
    for service in services.as_array().unwrap() {
        for name in service["instances"].as_array().unwrap() {
            let name = name.as_str().unwrap();
            if what == "instances" {
                found.push(name.to_owned());
                continue;
            }
            let info = tancho.read_json(&format!("{INSTANCES}/{name}")).await;
            for app in info["Apps"].as_array().unwrap() {
                found.push(format!("{name} {}.localhost", app.as_str().unwrap()));
            }
        }
    }
    found.sort();
    found
}

/// Asserts that both sides have the same, once no orphan is open.
pub(crate) async fn assert_both_sides_agree(
    tancho: &TestInstance,
    slow: &SlowService,
    what: &str,
) -> Vec<String> {
    let mut last = String::new();
    wait_for(&format!("both have the same {what}"), seconds(15), async || {
        let (ours, theirs) = (list_known(tancho, what).await, slow.holds(what).await);
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
async fn create_and_bind_interrupted_by_a_kill_are_completed_or_undone() {
    // The app keeps its address after each start, though the router's port changes.
    let mut tancho = TestInstance::with(&[
        ("TANCHO_ROUTER_PUBLIC_PORT", "80"),
        ("TANCHO_SERVICES_TIMEOUT_SECONDS", "5"),
    ])
    .await;
    let slow = SlowService::start();
    slow.register(&tancho).await;
    tancho.create_app("shop").await;
    tancho.deploy("shop", &AppSource::web("v1").pack()).await;
    // Killed before the service has carried out the call, and after.
    for (name, before, after, when) in [("early", 1.5, 0.0, "begun"), ("late", 0.0, 3.0, "ended")] {
        slow.set_delays(before, after).await;
        send_without_response(
            &tancho,
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
        wait_for("the call", seconds(10), async || {
            (count().await == usize::from(name == "late") + 1).then_some(())
        })
        .await;
        tancho.kill();
        slow.set_delays(0.0, 0.0).await;
        tancho.serve();
        let event = wait_for_event_end(&tancho, "service-instance.create").await;
        println!("{name}: {}", event["Error"]);
        let have = assert_both_sides_agree(&tancho, &slow, "instances").await;
        assert_eq!(
            event["Error"] == "",
            have.iter().any(|have| have == name),
            "{event} {have:?}"
        );
        if !have.iter().any(|have| have == name) {
            let form = [("name", name), ("owner", "crew")];
            tancho.change(Method::POST, INSTANCES, &form).await;
        }
    }
    assert_eq!(
        assert_both_sides_agree(&tancho, &slow, "instances").await,
        ["early", "late"]
    );
    for (name, before, after, when) in [("early", 1.5, 0.0, "begun"), ("late", 0.0, 3.0, "ended")] {
        slow.set_delays(before, after).await;
        send_without_response(&tancho, Method::PUT, &format!("{INSTANCES}/{name}/shop"), &[]);
        slow.wait_for_call(when, &format!("POST /resources/{name}/bind-app"))
            .await;
        tancho.kill();
        slow.set_delays(0.0, 0.0).await;
        tancho.serve();
        let event = wait_for_event_end(&tancho, "app.update.bind").await;
        println!("{name}: {}", event["Error"]);
        let have = assert_both_sides_agree(&tancho, &slow, "binds").await;
        let bound = have.iter().any(|have| have.starts_with(name));
        assert_eq!(event["Error"] == "", bound, "{event} {have:?}");
        let shown = match bound {
            true => format!("store://{name}"),
            false => "-".to_owned(),
        };
        assert_eq!(tancho.get_app("shop", "/env/STORE_URL").await, (200, shown));
        if bound {
            tancho
                .change(Method::DELETE, &format!("{INSTANCES}/{name}/shop"), &[])
                .await;
            assert_eq!(
                tancho.get_app("shop", "/env/STORE_URL").await,
                (200, "-".to_owned())
            );
        }
        assert_eq!(
            assert_both_sides_agree(&tancho, &slow, "binds").await,
            Vec::<String>::new()
        );
    }
    for name in ["early", "late"] {
        tancho
            .change(Method::DELETE, &format!("{INSTANCES}/{name}"), &[])
            .await;
    }
    assert_eq!(
        assert_both_sides_agree(&tancho, &slow, "instances").await,
        Vec::<String>::new()
    ); // What was carried out after the call was abandoned has been deleted, too.
    assert_eq!(
        assert_both_sides_agree(&tancho, &slow, "binds").await,
        Vec::<String>::new()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_results_of_calls_by_a_killed_server_are_deleted() {
    let mut tancho = TestInstance::with(&[
        ("TANCHO_ROUTER_PUBLIC_PORT", "80"),
        ("TANCHO_SERVICES_TIMEOUT_SECONDS", "10"),
    ])
    .await;
    let slow = SlowService::start();
    slow.register(&tancho).await;
    tancho.create_app("shop").await;
    let (named, late) = (
        [("name", "db"), ("owner", "crew")],
        [("name", "late"), ("owner", "crew")],
    );
    tancho.change(Method::POST, INSTANCES, &named).await;
    // Both calls sleep at the service when Tancho is killed, and keep sleeping while Tancho repeats them.
    slow.set_delays(600.0, 0.0).await;
    let bind = format!("{INSTANCES}/db/shop");
    send_without_response(&tancho, Method::PUT, &bind, &[]);
    slow.wait_for_call("begun", "POST /resources/db/bind-app").await;
    send_without_response(&tancho, Method::POST, INSTANCES, &late);
    wait_for("the creation has begun", seconds(10), async || {
        let state = slow.state().await;
        state["calls"].get("POST /resources late").map(drop)
    })
    .await;
    tancho.kill();
    slow.set_delays(0.0, 0.0).await;
    tancho.serve();
    for kind in ["app.update.bind", "service-instance.create"] {
        let event = wait_for_event_end(&tancho, kind).await;
        assert_eq!(event["Error"], "", "{event}");
    }
    tancho.change(Method::DELETE, &bind, &[]).await;
    tancho
        .change(Method::DELETE, &format!("{INSTANCES}/late"), &[])
        .await;
    assert_eq!(slow.holds("binds").await, Vec::<String>::new());
    assert_eq!(slow.holds("instances").await, ["db"]);
    slow.wake_sleeping_calls().await;
    wait_for("the service carries out both", seconds(5), async || {
        let (binds, instances) = (slow.holds("binds").await, slow.holds("instances").await);
        (binds.len() == 1 && instances.len() == 2).then_some(())
    })
    .await;
    assert_eq!(assert_both_sides_agree(&tancho, &slow, "instances").await, ["db"]);
    assert_eq!(
        assert_both_sides_agree(&tancho, &slow, "binds").await,
        Vec::<String>::new()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orphans_of_a_killed_server_are_deleted_after_restart() {
    let mut tancho = TestInstance::with(&[("TANCHO_SERVICES_TIMEOUT_SECONDS", "20")]).await;
    let slow = SlowService::start();
    slow.register(&tancho).await;
    let named = [("name", "db"), ("owner", "crew")];
    tancho.change(Method::POST, INSTANCES, &named).await;
    slow.slow_to_remove(600.0).await;
    let removal = tancho.request_as_admin(Method::DELETE, &format!("{INSTANCES}/db"));
    let answer = removal.query(&[("ignoreerrors", "true")]).send().await.unwrap();
    let text = answer.text().await.unwrap();
    assert!(text.contains("did not respond in time"), "{text}");
    wait_for("the orphan is recorded", seconds(10), async || {
        let state = slow.state().await;
        (state["calls"]["DELETE /resources/db"] == 2).then_some(())
    })
    .await;
    tancho.kill();
    slow.slow_to_remove(0.0).await;
    tancho.serve();
    // The call of the killed server may be carried out for 20 s.
    wait_for("the service is called again", seconds(8), async || {
        slow.holds("instances").await.is_empty().then_some(())
    })
    .await;
    let open = tancho.read_json("/1.0/orphans").await;
    assert_eq!(open[0]["instance"], "db", "its name is still blocked: {open}");
}
