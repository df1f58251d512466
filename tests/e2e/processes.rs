//! Apps of several processes: scaled, stopped, started, limited.

use reqwest::Method;
use serde_json::{Value, json};

use crate::apps::AppSource;
use crate::load::SteadyLoad;
use crate::test_instance::{TestInstance, seconds, wait_for};

fn two_processes() -> AppSource {
    let worker = "import os, time\nprint('worker up', os.environ.get('PORT', 'no port'), flush=True)\ntime.sleep(3600)\n";
    AppSource::web("one")
        .with(
            "Procfile",
            "web: /usr/bin/python3 app.py\nworker: /usr/bin/python3 worker.py\n",
        )
        .with("worker.py", worker)
}

async fn count(tancho: &TestInstance, process: &str) -> usize {
    let units = tancho.units("shop").await;
    units.iter().filter(|unit| unit["ProcessName"] == process).count()
}

async fn log(tancho: &TestInstance, query: &str) -> Vec<Value> {
    let lines = tancho.read_json(&format!("/1.0/apps/shop/log?{query}")).await;
    lines.as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn web_and_worker_processes_run_and_only_web_gets_requests() {
    let tancho = TestInstance::start().await;
    tancho.create_app("shop").await;
    tancho.deploy("shop", &two_processes().pack()).await;
    let pids = tancho.pids();
    assert_eq!(pids.len(), 2, "{pids:?}");
    let load = SteadyLoad::start(
        format!("{}/say/hello", tancho.running().router),
        Some("shop.localhost"),
        50,
    );
    for (process, said) in [("web", "hello"), ("worker", "worker up")] {
        wait_for(
            &format!("{said} in the log of {process}"),
            seconds(15),
            async || {
                let lines = log(&tancho, &format!("lines=1000&source={process}")).await;
                let found = lines
                    .iter()
                    .any(|line| line["Message"].as_str().unwrap().starts_with(said));
                assert!(lines.iter().all(|line| line["Source"] == process), "{lines:?}");
                found.then_some(())
            },
        )
        .await;
    }
    load.end().await.assert_clean(1);
    let all = log(&tancho, "lines=1000").await;
    assert!(
        all.iter().any(|l| l["Source"] == "web") && all.iter().any(|l| l["Source"] == "worker"),
        "{all:?}"
    );
    assert_eq!(log(&tancho, "lines=1").await.len(), 1);
    // More, fewer, and no units of one process.
    let three = [("units", "2"), ("process", "worker")];
    tancho.change(Method::PUT, "/1.0/apps/shop/units", &three).await;
    wait_for("three workers", seconds(15), async || {
        (count(&tancho, "worker").await == 3).then_some(())
    })
    .await;
    tancho
        .change(Method::DELETE, "/1.0/apps/shop/units", &three)
        .await;
    wait_for("one worker", seconds(15), async || {
        (count(&tancho, "worker").await == 1).then_some(())
    })
    .await;
    assert_eq!(count(&tancho, "web").await, 1);
    for (form, word) in [
        ([("units", "0"), ("process", "web")], "units"),
        ([("units", "-1"), ("process", "web")], "units"),
        ([("units", "1"), ("process", "nope")], "nope"),
        ([("units", "x"), ("process", "web")], "units"),
    ] {
        let answer = tancho
            .request_as_admin(Method::PUT, "/1.0/apps/shop/units")
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
async fn stopped_app_has_no_units_and_can_be_started_again() {
    let tancho = TestInstance::start().await;
    tancho.create_app("shop").await;
    wait_for("the page of an app without a version", seconds(5), async || {
        let (status, page) = tancho.get_app("shop", "/").await;
        (status == 503 && page.contains("shop")).then_some(())
    })
    .await;
    tancho.deploy("shop", &two_processes().pack()).await;
    assert_eq!(tancho.get_app("shop", "/").await, (200, "one -".to_owned()));
    tancho.change(Method::POST, "/1.0/apps/shop/stop", &[]).await;
    wait_for("no unit", seconds(20), async || {
        (tancho.pids().is_empty() && tancho.units("shop").await.is_empty()).then_some(())
    })
    .await;
    let (status, page) = tancho.get_app("shop", "/").await;
    assert!(
        status == 503 && page.contains("shop") && page.contains("stopped"),
        "{status} {page}"
    );
    // A new version of a stopped app stays stopped.
    tancho
        .deploy("shop", &two_processes().with("app.py", "print(1)").pack())
        .await;
    assert_eq!(tancho.pids(), []);
    tancho.deploy("shop", &AppSource::web("two").pack()).await;
    tancho.change(Method::POST, "/1.0/apps/shop/start", &[]).await;
    assert_eq!(tancho.get_app("shop", "/").await, (200, "two -".to_owned()));
    assert_eq!(tancho.pids().len(), 1);
    // Removal leaves nothing behind.
    tancho.change(Method::DELETE, "/1.0/apps/shop", &[]).await;
    wait_for("no unit", seconds(20), async || {
        tancho.pids().is_empty().then_some(())
    })
    .await;
    tancho.assert_tidy("shop", &[]).await;
    let (status, page) = tancho.get_app("shop", "/").await;
    assert!(
        status == 404 && page.contains("shop.localhost"),
        "{status} {page}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unit_over_its_plan_memory_is_killed_with_a_reason() {
    let tancho = TestInstance::start().await;
    let body = json!({ "name": "shop", "platform": "procfile", "teamOwner": "crew", "plan": "small" });
    tancho.create(body).await;
    tancho.deploy("shop", &AppSource::web("one").pack()).await;
    let before = tancho.pids();
    assert_eq!(
        tancho.get_app("shop", "/eat/100").await,
        (200, (100 << 20).to_string())
    );
    assert_eq!(tancho.pids(), before);
    let (status, page) = tancho.get_app("shop", "/eat/400").await;
    assert!(status == 502 && page.contains("shop"), "{status} {page}");
    let mut last = String::new();
    let reason = wait_for("a reason that names the memory", seconds(15), async || {
        let units = tancho.units("shop").await;
        let reason = units[0]["StatusReason"].as_str().unwrap().to_owned();
        let seen = format!("{} {} {reason:?}", units[0]["Status"], units[0]["Restarts"]);
        if seen != last {
            println!("{seen}");
            last = seen;
        }
        reason.contains("memory").then_some(reason)
    })
    .await;
    println!("{reason}");
    wait_for("it answers again", seconds(20), async || {
        (tancho.get_app("shop", "/").await == (200, "one -".to_owned())).then_some(())
    })
    .await;
    assert_ne!(tancho.pids(), before);
}
