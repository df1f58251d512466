//! Hanging work of one user delays no other user, with real builds, units and hashes: for each shared
//! resource, about twice as much work as it has capacity. `script/chaos` measures for longer.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

use crate::apps::AppSource;
use crate::test_instance::{EMAIL, PASSWORD, TestInstance, multipart, seconds, wait_for};

/// Delays below this are not counted: the machine has other work.
const FLOOR: Duration = Duration::from_secs(4);

/// Returns how long to measure beyond the first time: `script/chaos` sets it higher.
fn extra_measure_time() -> Duration {
    let set =
        tancho::config::tancho_environment().find_map(|(k, v)| (k == "TANCHO_FAIRNESS_SECONDS").then_some(v));
    seconds(set.map_or(0, |n| n.parse().expect("TANCHO_FAIRNESS_SECONDS is a number")))
}

/// Creates a second user, the attacker, who may do everything.
async fn create_attacker(tancho: &TestInstance) -> String {
    let made = tancho
        .request_as_admin(Method::POST, "/1.0/users")
        .json(&json!({ "email": "mallory@example.com", "password": PASSWORD }))
        .send()
        .await
        .unwrap();
    assert_eq!(made.status(), 201);
    tancho
        .change(
            Method::POST,
            "/1.0/roles/AllowAll/user",
            &[("email", "mallory@example.com")],
        )
        .await;
    let url = format!("{}/1.0/users/mallory@example.com/tokens", tancho.running().api);
    let login = tancho.http.post(url).json(&json!({ "password": PASSWORD }));
    let login: Value = login.send().await.unwrap().json().await.unwrap();
    login["token"].as_str().unwrap().to_owned()
}

/// Begins a deploy without waiting for its response.
fn begin_deploy(tancho: &TestInstance, token: &str, app: &str, archive: &[u8]) -> JoinHandle<()> {
    let (kind, body) = multipart("file", archive);
    let request = tancho
        .http
        .post(format!("{}/1.0/apps/{app}/deploy", tancho.running().api))
        .bearer_auth(token)
        .header("content-type", kind)
        .body(body);
    tokio::spawn(async move {
        if let Ok(answer) = request.send().await {
            let _ = answer.text().await;
        }
    })
}

/// Returns the running events; an empty list has no body.
async fn running_events(tancho: &TestInstance) -> Vec<Value> {
    let request = tancho.request_as_admin(Method::GET, "/1.1/events?running=true&limit=100");
    let answer = request.send().await.unwrap();
    match answer.status().as_u16() {
        204 => Vec::new(),
        _ => answer.error_for_status().unwrap().json().await.unwrap(),
    }
}

async fn wait_until_begun(tancho: &TestInstance, count: usize) {
    wait_for("all deploys are running", seconds(60), async || {
        (running_events(tancho).await.len() >= count).then_some(())
    })
    .await;
}

/// A sleeping build hook holds a build slot; twenty of one user's leave one to others, and no worker is held.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hanging_builds_do_not_delay_other_users() {
    let tancho = TestInstance::start().await;
    tancho.create_app("shop").await;
    let deploy = async |text: &str| {
        let began = Instant::now();
        tancho.deploy("shop", &AppSource::tiny(text).pack()).await;
        began.elapsed()
    };
    deploy("first").await;
    let idle = deploy("second").await;
    let token = create_attacker(&tancho).await;
    let hanging = AppSource::tiny("x").hooks(&["sleep 600"]).pack();
    let mut deploys = Vec::new();
    for n in 0..20 {
        tancho.create_app(&format!("m{n}")).await;
        deploys.push(begin_deploy(&tancho, &token, &format!("m{n}"), &hanging));
    }
    wait_until_begun(&tancho, 20).await;
    let until = Instant::now() + extra_measure_time();
    for round in 0.. {
        let began = Instant::now();
        tancho.set_env("shop", "COLOUR", &round.to_string()).await;
        let changed = began.elapsed();
        let busy = deploy(&format!("busy {round}")).await;
        for (what, took) in [("a deploy", busy), ("a change of variables", changed)] {
            assert!(
                took < (idle * 2).max(FLOOR),
                "{what} took {took:?}, a deploy {idle:?} before"
            );
        }
        if Instant::now() >= until {
            break;
        }
    }
    // Waiting deploys are notified, and can be cancelled.
    let mut told = 0;
    for event in running_events(&tancho).await {
        let event = event["UniqueID"].as_str().unwrap();
        let log = tancho.read_json(&format!("/1.1/events/{event}")).await;
        told += usize::from(log.to_string().contains("waiting for a slot to build: "));
    }
    assert!(told >= 19, "{told} were notified that they wait");
    for deploy in deploys {
        deploy.abort();
    }
}

/// Starts Tancho with an app of an honest user, and a service that works.
async fn start_with_honest_user(env: &[(&str, &str)]) -> TestInstance {
    let tancho = TestInstance::with(env).await;
    for (app, platform) in [("site", "static"), ("plain", "static")] {
        tancho
            .create(json!({ "name": app, "platform": platform, "teamOwner": "crew" }))
            .await;
    }
    register(&tancho, "good", ok_service().await).await;
    let named = [("name", "db"), ("service_name", "good"), ("owner", "crew")];
    tancho.change(Method::POST, "/services/instances", &named).await;
    tancho
}

async fn register(tancho: &TestInstance, name: &str, at: SocketAddr) {
    let endpoint = format!("http://{at}");
    let manifest = [
        ("id", name),
        ("username", name),
        ("password", "canary"),
        ("team", "crew"),
        ("endpoint", endpoint.as_str()),
    ];
    let request = tancho
        .request_as_admin(Method::POST, "/1.0/services")
        .form(&manifest);
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), 201, "{}", answer.text().await.unwrap());
}

/// Starts a service that accepts every call.
async fn ok_service() -> SocketAddr {
    let created = (axum::http::StatusCode::CREATED, r#"{"DATABASE":"db"}"#);
    let service = axum::Router::new().fallback(axum::routing::any(async move || created));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, service).await });
    address
}

/// Starts a listener that accepts connections and never responds.
async fn hanging_service() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            kept.push(stream);
        }
    });
    address
}

/// Measures how long each operation of an honest user takes.
async fn measure(tancho: &TestInstance) -> Vec<(&'static str, Duration)> {
    let text = uuid::Uuid::new_v4().to_string();
    let mut took = Vec::new();
    let mut began = Instant::now();
    let mut lap = |what| {
        took.push((what, began.elapsed()));
        began = Instant::now();
    };
    let archive = AppSource::default().with("index.html", &text).pack();
    tancho.deploy("site", &archive).await;
    lap("a static deploy");
    tancho.set_env("site", "COLOUR", &text).await;
    lap("a change of variables");
    let bind = "/services/instances/db/plain";
    tancho.change(Method::PUT, bind, &[]).await;
    tancho.change(Method::DELETE, bind, &[]).await;
    lap("a bind");
    let url = format!("{}/1.0/users/{EMAIL}/tokens", tancho.running().api);
    let login = tancho.http.post(url).json(&json!({ "password": PASSWORD }));
    assert_eq!(login.send().await.unwrap().status(), 200);
    lap("a login");
    took
}

/// Returns the best of two, once everything is warm.
async fn measure_idle(tancho: &TestInstance) -> Vec<(&'static str, Duration)> {
    measure(tancho).await;
    let (one, other) = (measure(tancho).await, measure(tancho).await);
    let best = |((what, a), (_, b)): (_, (_, Duration))| (what, Duration::min(a, b));
    one.into_iter().zip(other).map(best).collect()
}

/// Measures beside the hanging work, for as long as configured.
async fn assert_undelayed(tancho: &TestInstance, idle: &[(&'static str, Duration)]) {
    let until = Instant::now() + extra_measure_time();
    loop {
        for ((what, idle), (_, busy)) in idle.iter().zip(measure(tancho).await) {
            eprintln!("{what}: {busy:?}, {idle:?} before");
            assert!(
                busy < (*idle * 2).max(FLOOR),
                "{what} took {busy:?}, {idle:?} before"
            );
        }
        if Instant::now() >= until {
            return;
        }
    }
}

/// Builds a request of another user than the administrator.
fn request_by(tancho: &TestInstance, token: &str, method: Method, path: &str) -> RequestBuilder {
    let url = format!("{}{path}", tancho.running().api);
    tancho.http.request(method, url).bearer_auth(token)
}

/// The pause between two requests of one sender: the tests measure shared limits, not the processor.
const PACE: Duration = Duration::from_millis(250);

/// Sends requests one after the other, whatever their result, until the set is dropped.
fn repeat(load: &mut JoinSet<()>, make: impl Fn(u32) -> RequestBuilder + Send + 'static) {
    load.spawn(async move {
        let mut pace = tokio::time::interval(PACE);
        for n in 0.. {
            pace.tick().await;
            if let Ok(mut answer) = make(n).send().await {
                while let Ok(Some(_)) = answer.chunk().await {}
            }
        }
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instance_creations_at_a_hanging_service_do_not_delay_other_users() {
    let tancho = start_with_honest_user(&[("TANCHO_SERVICES_TIMEOUT_SECONDS", "3600")]).await;
    let idle = measure_idle(&tancho).await;
    let token = create_attacker(&tancho).await;
    let joined = tancho
        .request_as_admin(Method::PUT, "/teams/crew/mallory@example.com")
        .send()
        .await;
    assert_eq!(joined.unwrap().status(), 200);
    register(&tancho, "bad", hanging_service().await).await;
    let mut load = JoinSet::new();
    for n in 0..40 {
        let body = json!({ "name": format!("i{n}"), "service_name": "bad", "owner": "crew" });
        let request = request_by(&tancho, &token, Method::POST, "/services/instances").json(&body);
        load.spawn(async move { drop(request.send().await) });
    }
    wait_until_begun(&tancho, 40).await;
    assert_undelayed(&tancho, &idle).await;
}

/// More rollouts than workers wait for health checks that never pass.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn units_that_never_become_ready_do_not_delay_other_users() {
    let tancho = start_with_honest_user(&[]).await;
    let idle = measure_idle(&tancho).await;
    let token = create_attacker(&tancho).await;
    let check = "healthcheck:\n  path: /\n  match: never\n  deploy_timeout_seconds: 3600\n";
    let archive = AppSource::tiny("x").with("tsuru.yaml", check).pack();
    let mut deploys = Vec::new();
    for n in 0..20 {
        tancho.create_app(&format!("m{n}")).await;
        deploys.push(begin_deploy(&tancho, &token, &format!("m{n}"), &archive));
    }
    wait_until_begun(&tancho, 20).await;
    wait_for("all units run", seconds(300), async || {
        (tancho.pids().len() >= 20).then_some(())
    })
    .await;
    assert_undelayed(&tancho, &idle).await;
    let running = running_events(&tancho).await.len();
    assert!(running >= 20, "only {running} deploys still wait");
    for deploy in deploys {
        deploy.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registrations_do_not_delay_other_users() {
    let tancho = start_with_honest_user(&[
        ("TANCHO_AUTH_HASH_MEMORY_KIB", "19456"),
        ("TANCHO_AUTH_LOGIN_ATTEMPTS_PER_ADDRESS", "1000000"),
    ])
    .await;
    let idle = measure_idle(&tancho).await;
    let mut load = JoinSet::new();
    for task in 0..16 {
        let (http, url) = (tancho.http.clone(), format!("{}/1.0/users", tancho.running().api));
        repeat(&mut load, move |n| {
            let email = format!("stranger{task}-{n}@example.com");
            http.post(&url)
                .json(&json!({ "email": email, "password": PASSWORD }))
        });
    }
    assert_undelayed(&tancho, &idle).await;
}
