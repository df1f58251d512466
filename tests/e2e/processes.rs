//! Apps of several processes: scaled, stopped, started, limited.

use reqwest::Method;
use serde_json::{Value, json};

use crate::apps::Source;
use crate::house::{House, seconds, until};
use crate::load::Load;

fn two_processes() -> Source {
    let worker = "import os, time\nprint('worker up', os.environ.get('PORT', 'no port'), flush=True)\ntime.sleep(3600)\n";
    Source::web("one")
        .with(
            "Procfile",
            "web: /usr/bin/python3 app.py\nworker: /usr/bin/python3 worker.py\n",
        )
        .with("worker.py", worker)
}

async fn count(house: &House, process: &str) -> usize {
    let units = house.units("shop").await;
    units.iter().filter(|unit| unit["ProcessName"] == process).count()
}

async fn log(house: &House, query: &str) -> Vec<Value> {
    let lines = house.read(&format!("/1.0/apps/shop/log?{query}")).await;
    lines.as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn web_and_worker_run_side_by_side_and_only_the_web_gets_requests() {
    let house = House::start().await;
    house.create_app("shop").await;
    house.deploy("shop", &two_processes().pack()).await;
    let pids = house.pids();
    assert_eq!(pids.len(), 2, "{pids:?}");
    let load = Load::start(
        format!("{}/say/hello", house.running().router),
        Some("shop.localhost"),
        50,
    );
    for (process, said) in [("web", "hello"), ("worker", "worker up")] {
        until(
            &format!("{said} in the log of {process}"),
            seconds(15),
            async || {
                let lines = log(&house, &format!("lines=1000&source={process}")).await;
                let found = lines
                    .iter()
                    .any(|line| line["Message"].as_str().unwrap().starts_with(said));
                assert!(lines.iter().all(|line| line["Source"] == process), "{lines:?}");
                found.then_some(())
            },
        )
        .await;
    }
    load.end().await.assert_clean(10);
    let all = log(&house, "lines=1000").await;
    assert!(
        all.iter().any(|l| l["Source"] == "web") && all.iter().any(|l| l["Source"] == "worker"),
        "{all:?}"
    );
    assert_eq!(log(&house, "lines=1").await.len(), 1);
    // More, fewer, none of one process.
    let three = [("units", "2"), ("process", "worker")];
    house.change(Method::PUT, "/1.0/apps/shop/units", &three).await;
    until("three workers", seconds(15), async || {
        (count(&house, "worker").await == 3).then_some(())
    })
    .await;
    house.change(Method::DELETE, "/1.0/apps/shop/units", &three).await;
    until("one worker", seconds(15), async || {
        (count(&house, "worker").await == 1).then_some(())
    })
    .await;
    assert_eq!(count(&house, "web").await, 1);
    for (form, word) in [
        ([("units", "0"), ("process", "web")], "units"),
        ([("units", "-1"), ("process", "web")], "units"),
        ([("units", "1"), ("process", "nope")], "nope"),
        ([("units", "x"), ("process", "web")], "units"),
    ] {
        let answer = house
            .by(Method::PUT, "/1.0/apps/shop/units")
            .form(&form)
            .send()
            .await
            .unwrap();
        let (status, text) = (answer.status().as_u16(), answer.text().await.unwrap());
        assert!(
            (400..500).contains(&status) && text.contains(word),
            "{form:?}: {status} {text}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_app_has_no_units_and_says_so_and_starts_again() {
    let house = House::start().await;
    house.create_app("shop").await;
    let (status, page) = house.visit("shop", "/").await;
    assert!(status == 503 && page.contains("shop"), "{status} {page}");
    house.deploy("shop", &two_processes().pack()).await;
    assert_eq!(house.visit("shop", "/").await, (200, "one -".to_owned()));
    house.change(Method::POST, "/1.0/apps/shop/stop", &[]).await;
    until("no unit", seconds(20), async || {
        (house.pids().is_empty() && house.units("shop").await.is_empty()).then_some(())
    })
    .await;
    let (status, page) = house.visit("shop", "/").await;
    assert!(
        status == 503 && page.contains("shop") && page.contains("stopped"),
        "{status} {page}"
    );
    // A new version of a stopped app stays stopped.
    house
        .deploy("shop", &two_processes().with("app.py", "print(1)").pack())
        .await;
    assert_eq!(house.pids(), []);
    house.deploy("shop", &Source::web("two").pack()).await;
    house.change(Method::POST, "/1.0/apps/shop/start", &[]).await;
    assert_eq!(house.visit("shop", "/").await, (200, "two -".to_owned()));
    assert_eq!(house.pids().len(), 1);
    // Removed, it leaves nothing.
    house.change(Method::DELETE, "/1.0/apps/shop", &[]).await;
    until("no unit", seconds(20), async || {
        house.pids().is_empty().then_some(())
    })
    .await;
    house.assert_tidy("shop", &[]).await;
    let (status, page) = house.visit("shop", "/").await;
    assert!(
        status == 404 && page.contains("shop.localhost"),
        "{status} {page}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unit_that_eats_more_than_its_plan_is_killed_and_the_unit_says_why() {
    let house = House::start().await;
    let wish = json!({ "name": "shop", "platform": "procfile", "teamOwner": "crew", "plan": "small" });
    house.create(wish).await;
    house.deploy("shop", &Source::web("one").pack()).await;
    let before = house.pids();
    assert_eq!(
        house.visit("shop", "/eat/100").await,
        (200, (100 << 20).to_string())
    );
    assert_eq!(house.pids(), before);
    let (status, page) = house.visit("shop", "/eat/400").await;
    assert!(status == 502 && page.contains("shop"), "{status} {page}");
    let reason = until("a reason that names the memory", seconds(15), async || {
        let units = house.units("shop").await;
        let reason = units[0]["StatusReason"].as_str().unwrap().to_owned();
        (units[0]["Restarts"].as_u64() > Some(0) && reason.contains("memory")).then_some(reason)
    })
    .await;
    println!("{reason}");
    until("it answers again", seconds(20), async || {
        (house.visit("shop", "/").await == (200, "one -".to_owned())).then_some(())
    })
    .await;
    assert_ne!(house.pids(), before);
}
