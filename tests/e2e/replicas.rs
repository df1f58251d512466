//! Several replicas over one Postgres behind an nginx that shares the requests out.

use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::Value;

use crate::apps::Source;
use crate::cluster::Cluster;
use crate::fleet::{Nginx, Replica};
use crate::house::{House, seconds, until, visit};
use crate::load::Load;
use crate::services::Slow;

/// Reads JSON through nginx.
async fn read(house: &House, nginx: &Nginx, path: &str) -> Value {
    let request = house
        .http
        .get(format!("{}{path}", nginx.api))
        .bearer_auth(&house.token);
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), 200, "{path}");
    answer.json().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_replica_serves_any_call_and_none_is_missed() {
    let folder = House::empty();
    let cluster = Cluster::start(std::path::PathBuf::from(format!("{}-pg", folder.root.display())));
    let key = format!("1:{}", "5e".repeat(32));
    let mut all: Vec<Replica> = (0..3)
        .map(|_| Replica::new(&cluster.url("postgres"), &key))
        .collect();
    // At the same moment, on an empty database: one migrates it, one makes the administrator.
    std::thread::scope(|scope| {
        for replica in &mut all {
            scope.spawn(|| replica.serve());
        }
    });
    let told: usize = all.iter().map(|one| one.house.running().before.len()).sum();
    assert_eq!(told, 1);
    let apis: Vec<u16> = all.iter().map(|one| one.api).collect();
    let routers: Vec<u16> = all.iter().map(|one| one.router).collect();
    let nginx = Nginx::start(&folder.root, &apis, &routers, "error timeout");
    until("nginx answers for the replicas", seconds(30), async || {
        let answer = folder.http.get(format!("{}/healthcheck/?check=all", nginx.api));
        let answer = answer.send().await.ok()?;
        (answer.status() == 200 && answer.text().await.ok()? == "WORKING").then_some(())
    })
    .await;
    all[0].house.login().await;
    let token = all[0].house.token.clone();
    for one in &mut all {
        one.house.token.clone_from(&token);
    }
    all[1].house.team().await;
    all[2].house.create_app("shop").await;

    // A deploy that runs on the first is followed through whichever nginx picks.
    let source = Source::web("v1").hooks(&["echo in the build; sleep 2"]);
    let mut answer = all[0].house.begin_deploy("shop", &source.pack()).await;
    let event = answer.headers()["x-tsuru-eventid"].to_str().unwrap().to_owned();
    for one in &all[1..] {
        until("it is seen to run elsewhere", seconds(30), async || {
            let seen = one.house.read(&format!("/1.1/events/{event}")).await;
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
        let said = visit(&folder.http, &nginx.router, "shop", "/").await;
        assert_eq!(said, (200, "v1 -".to_owned()));
        let app = read(&all[0].house, &nginx, "/1.0/apps/shop").await;
        assert_eq!(app["name"], "shop");
    }

    // Each is restarted under load, and nobody notices.
    let apps = Load::start(nginx.router.clone(), Some("shop.localhost"), 30);
    let calls = Load::start(format!("{}/1.0/auth/scheme", nginx.api), None, 30);
    for one in &mut all {
        one.house.running().signal(Signal::SIGTERM);
        assert_eq!(one.house.program.as_mut().unwrap().wait(seconds(60)), Some(0));
        one.serve();
    }
    for load in [apps, calls] {
        // A quick restart is over before many have been sent.
        let enough = load.sent().max(60) + 20;
        until("more requests", seconds(30), async || {
            (load.sent() > enough).then_some(())
        })
        .await;
        load.end().await.assert_clean(60);
    }

    // The first dies in the middle of what it does, and another does it to its end.
    let slow = Slow::start();
    let manifest = [
        ("id", "store"),
        ("username", "store"),
        ("password", "canary-store"),
        ("team", "crew"),
        ("endpoint", &slow.url),
    ];
    let request = all[1].house.by(Method::POST, "/1.0/services").form(&manifest);
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), 201, "{}", answer.text().await.unwrap());
    slow.slow(30.0, 0.0).await;
    // Only the first can take it.
    for one in &all[1..] {
        one.house.running().signal(Signal::SIGSTOP);
    }
    crate::services::doomed(
        &all[0].house,
        Method::POST,
        "/1.0/services/store/instances",
        &[("name", "orders"), ("owner", "crew")],
    );
    slow.has("begun", "POST /resources").await;
    all[0].house.kill();
    slow.slow(0.0, 0.0).await;
    for one in &all[1..] {
        one.house.running().signal(Signal::SIGCONT);
    }
    let event = until("another has ended it", seconds(60), async || {
        let events = read(
            &all[1].house,
            &nginx,
            "/1.1/events?kindname=service-instance.create",
        )
        .await;
        (events[0]["Running"] == false).then(|| events[0].clone())
    })
    .await;
    println!("it ended with {:?}", event["Error"]);
    // Its units went on all along, and any other router knows them.
    for _ in 0..4 {
        let said = visit(&folder.http, &nginx.router, "shop", "/").await;
        assert_eq!(said, (200, "v1 -".to_owned()));
    }
    all[0].serve();
    drop(slow);
    drop(nginx);
    drop(all);
    drop(cluster);
    drop(folder);
}
