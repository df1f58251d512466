//! Several replicas on one Postgres behind an nginx that distributes the requests.

use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::Value;

use crate::apps::AppSource;
use crate::cluster::PostgresCluster;
use crate::fleet::{NginxBalancer, TanchoReplica};
use crate::load::SteadyLoad;
use crate::services::SlowService;
use crate::test_instance::{TestInstance, get_through_router, seconds, wait_for};

/// Reads JSON through nginx.
async fn read(tancho: &TestInstance, nginx: &NginxBalancer, path: &str) -> Value {
    let request = tancho
        .http
        .get(format!("{}{path}", nginx.api))
        .bearer_auth(&tancho.token);
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), 200, "{path}");
    answer.json().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_replica_serves_any_request_and_restarts_lose_none() {
    let folder = TestInstance::new_empty();
    let cluster = PostgresCluster::start(std::path::PathBuf::from(format!("{}-pg", folder.root.display())));
    let key = format!("1:{}", "5e".repeat(32));
    let mut all: Vec<TanchoReplica> = (0..3)
        .map(|_| TanchoReplica::new(&cluster.url("postgres"), &key))
        .collect();
    // Concurrently on an empty database: one migrates it, one creates the administrator.
    std::thread::scope(|scope| {
        for replica in &mut all {
            scope.spawn(|| replica.serve());
        }
    });
    let told: usize = all.iter().map(|one| one.tancho.running().before.len()).sum();
    assert_eq!(told, 1);
    let apis: Vec<u16> = all.iter().map(|one| one.api).collect();
    let routers: Vec<u16> = all.iter().map(|one| one.router).collect();
    let nginx = NginxBalancer::start(&folder.root, &apis, &routers, "error timeout");
    wait_for("nginx forwards to the replicas", seconds(30), async || {
        let answer = folder.http.get(format!("{}/healthcheck/?check=all", nginx.api));
        let answer = answer.send().await.ok()?;
        (answer.status() == 200 && answer.text().await.ok()? == "WORKING").then_some(())
    })
    .await;
    all[0].tancho.login().await;
    let token = all[0].tancho.token.clone();
    for one in &mut all {
        one.tancho.token.clone_from(&token);
    }
    all[1].tancho.team().await;
    all[2].tancho.create_app("shop").await;

    // A deploy on the first replica can be followed through whichever nginx picks.
    let source = AppSource::web("v1").hooks(&["echo in the build; sleep 2"]);
    let mut answer = all[0].tancho.begin_deploy("shop", &source.pack()).await;
    let event = answer.headers()["x-tsuru-eventid"].to_str().unwrap().to_owned();
    for one in &all[1..] {
        wait_for("the other replica shows it running", seconds(30), async || {
            let seen = one.tancho.read_json(&format!("/1.1/events/{event}")).await;
            seen["StructuredLog"]
                .to_string()
                .contains("in the build")
                .then_some(())
        })
        .await;
    }
    let mut text = String::new();
    while let Some(chunk) = answer.chunk().await.unwrap() {
        text.push_str(std::str::from_utf8(&chunk).unwrap());
    }
    assert!(text.ends_with("\nOK\n"), "{text}");
    for _ in 0..6 {
        let said = get_through_router(&folder.http, &nginx.router, "shop", "/").await;
        assert_eq!(said, (200, "v1 -".to_owned()));
        let app = read(&all[0].tancho, &nginx, "/1.0/apps/shop").await;
        assert_eq!(app["name"], "shop");
    }

    // Each is restarted under load without a failed request.
    let apps = SteadyLoad::start(nginx.router.clone(), Some("shop.localhost"), 30);
    let calls = SteadyLoad::start(format!("{}/1.0/auth/scheme", nginx.api), None, 30);
    for one in &mut all {
        one.tancho.running().signal(Signal::SIGTERM);
        assert_eq!(one.tancho.program.as_mut().unwrap().wait(seconds(60)), Some(0));
        one.serve();
    }
    for load in [apps, calls] {
        // A fast restart is over before many have been sent.
        let enough = load.sent().max(60) + 20;
        wait_for("more requests", seconds(30), async || {
            (load.sent() > enough).then_some(())
        })
        .await;
        load.end().await.assert_clean(60);
    }

    // The first is killed during its work, and another completes it.
    let slow = SlowService::start();
    let manifest = [
        ("id", "store"),
        ("username", "store"),
        ("password", "canary-store"),
        ("team", "crew"),
        ("endpoint", &slow.url),
    ];
    let request = all[1]
        .tancho
        .request_as_admin(Method::POST, "/1.0/services")
        .form(&manifest);
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), 201, "{}", answer.text().await.unwrap());
    slow.set_delays(30.0, 0.0).await;
    // Only the first can take it.
    for one in &all[1..] {
        one.tancho.running().signal(Signal::SIGSTOP);
    }
    crate::services::send_without_response(
        &all[0].tancho,
        Method::POST,
        "/1.0/services/store/instances",
        &[("name", "orders"), ("owner", "crew")],
    );
    slow.wait_for_call("begun", "POST /resources").await;
    all[0].tancho.kill();
    slow.set_delays(0.0, 0.0).await;
    for one in &all[1..] {
        one.tancho.running().signal(Signal::SIGCONT);
    }
    let event = wait_for("another replica has completed it", seconds(60), async || {
        let events = read(
            &all[1].tancho,
            &nginx,
            "/1.1/events?kindname=service-instance.create",
        )
        .await;
        (events[0]["Running"] == false).then(|| events[0].clone())
    })
    .await;
    println!("it ended with {:?}", event["Error"]);
    // Its units kept running, and any other router routes to them.
    for _ in 0..4 {
        let said = get_through_router(&folder.http, &nginx.router, "shop", "/").await;
        assert_eq!(said, (200, "v1 -".to_owned()));
    }
    all[0].serve();
    drop(slow);
    drop(nginx);
    drop(all);
    drop(cluster);
    drop(folder);
}
