//! SIGKILL of Tancho and of its Postgres, at critical moments.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::Method;

use crate::apps::AppSource;
use crate::load::SteadyLoad;
use crate::test_instance::{TestInstance, list_names, seconds, wait_for};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn apps_survive_a_killed_server_and_are_adopted_by_the_next() {
    let mut tancho = TestInstance::start().await;
    tancho.create_app("shop").await;
    tancho.deploy("shop", &AppSource::web("one").pack()).await;
    let form = [("units", "1"), ("process", "web")];
    tancho.change(Method::PUT, "/1.0/apps/shop/units", &form).await;
    let (units, pids) = (tancho.units("shop").await, tancho.pids());
    assert_eq!((units.len(), pids.len()), (2, 2), "{units:?} {pids:?}");
    let router = tancho.try_start(&["router", "--router", "127.0.0.1:0"]).unwrap();
    let routed = SteadyLoad::start(router.router.clone(), Some("shop.localhost"), 50);
    let address = format!("http://{}/", units[0]["Address"]["Host"].as_str().unwrap());
    let direct = SteadyLoad::start(address, None, 50);
    let more = async |n: u32| {
        let (r, d) = (routed.sent() + n, direct.sent() + n);
        wait_for("more requests", seconds(30), async || {
            (routed.sent() > r && direct.sent() > d).then_some(())
        })
        .await;
    };
    for _ in 0..2 {
        more(50).await;
        tancho.kill();
        more(100).await;
        tancho.serve();
        assert_eq!(tancho.pids(), pids);
        let ids = |units: &[serde_json::Value]| units.iter().map(|u| u["ID"].clone()).collect::<Vec<_>>();
        assert_eq!(ids(&tancho.units("shop").await), ids(&units));
        assert_eq!(tancho.get_app("shop", "/").await, (200, "one -".to_owned()));
    }
    more(50).await;
    routed.end().await.assert_clean(300);
    direct.end().await.assert_clean(300);
    assert_eq!(tancho.pids(), pids);
}

/// Kills Tancho once `moment` is over, and checks how the deploy ends.
async fn kill_during_deploy(
    tancho: &mut TestInstance,
    source: &AppSource,
    said: &str,
    moment: impl AsyncFn(&TestInstance),
) -> (serde_json::Value, String) {
    let mut answer = tancho.begin_deploy("shop", &source.pack()).await;
    let event = answer.headers()["x-tsuru-eventid"].to_str().unwrap().to_owned();
    let mut text = String::new();
    while !text.contains(said) {
        let chunk = answer.chunk().await.unwrap();
        text.push_str(std::str::from_utf8(&chunk.unwrap_or_else(|| panic!("ended: {text}"))).unwrap());
    }
    moment(tancho).await;
    tancho.kill();
    tancho.serve();
    let ended = tancho.wait_for_event_end(&event, seconds(15)).await;
    (ended, event)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deploy_interrupted_by_a_kill_is_completed_or_undone() {
    let mut tancho = TestInstance::start().await;
    tancho.create_app("shop").await;
    tancho.deploy("shop", &AppSource::web("v1").pack()).await;
    let mut versions = vec!["1"];
    let router = async |tancho: &TestInstance| {
        let router = tancho.running().router.clone();
        wait_for("version 4 answers", seconds(20), async || {
            let (status, text) =
                crate::test_instance::get_through_router(&tancho.http, &router, "shop", "/").await;
            (status == 200 && text.starts_with("v4")).then_some(())
        })
        .await;
    };
    let nothing = async |_: &TestInstance| {};
    type CrashPoint<'a> = (&'a str, AppSource, &'a str);
    let cases: [CrashPoint<'_>; 3] = [
        (
            "2",
            AppSource::web("v2").hooks(&["echo in the build; sleep 2"]),
            "in the build",
        ),
        (
            "3",
            AppSource::slow_to_start("v3", "2"),
            "units ready: web 0 of 1",
        ),
        ("4", AppSource::web("v4"), "Starting version"),
    ];
    let mut right = "v1".to_owned();
    for (version, source, said) in cases {
        let (event, id) = match version {
            "4" => kill_during_deploy(&mut tancho, &source, said, router).await,
            _ => kill_during_deploy(&mut tancho, &source, said, nothing).await,
        };
        let lines = event["StructuredLog"].as_array().unwrap();
        assert!(lines.len() > 1, "{event}");
        match event["Error"].as_str().unwrap() {
            "" => {
                versions.push(version);
                right = format!("v{version}");
            }
            error => assert!(error.len() > 20, "{event}"),
        }
        assert_eq!(
            tancho.get_app("shop", "/").await,
            (200, format!("{right} -")),
            "{event}"
        );
        tancho.assert_tidy("shop", &versions).await;
        wait_for("one unit", seconds(20), async || {
            (tancho.pids().len() == 1).then_some(())
        })
        .await;
        let deploy = tancho.read_json(&format!("/1.0/deploys/{id}")).await;
        assert_eq!(deploy["Error"], event["Error"], "{deploy}");
    }
    // After the switch the deploy is completed.
    assert_eq!(right, "v4");
    tancho.deploy("shop", &AppSource::web("v5").pack()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn router_survives_a_postgres_crash_and_the_api_recovers() {
    let tancho = TestInstance::start().await;
    tancho.create_app("shop").await;
    tancho.deploy("shop", &AppSource::web("one").pack()).await;
    let pids = tancho.pids();
    let load = SteadyLoad::start(tancho.running().router.clone(), Some("shop.localhost"), 50);
    let folder = tancho.data.join("postgres");
    for round in 0..2 {
        let before = load.sent();
        let file = std::fs::read_to_string(folder.join("postmaster.pid")).unwrap();
        let pid: i32 = file.lines().next().unwrap().parse().unwrap();
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        let (mut refused, mut good) = (0, 0);
        wait_for("the API is back", seconds(10), async || {
            let answer = tancho
                .request_as_admin(Method::GET, "/1.0/apps/shop")
                .send()
                .await
                .unwrap();
            match answer.status().as_u16() {
                200 => good += 1,
                503 => {
                    assert!(answer.headers().contains_key("retry-after"));
                    let text = answer.text().await.unwrap();
                    assert!(
                        text.trim_end().lines().count() == 1 && !text.contains("PANIC"),
                        "{text}"
                    );
                    (refused, good) = (refused + 1, 0);
                }
                other => panic!("{other}: {}", answer.text().await.unwrap()),
            }
            (good > 20).then_some(())
        })
        .await;
        assert!(refused > 0, "round {round}: the API reported no error");
        tancho.set_env("shop", "ROUND", &round.to_string()).await;
        assert!(load.sent() > before);
    }
    load.end().await.assert_clean(100);
    assert_ne!(tancho.pids(), pids, "a new variable starts a new unit");
    assert_eq!(tancho.get_app("shop", "/env/ROUND").await.1, "1");
    assert_eq!(list_names(&tancho.data.join("uploads")), Vec::<String>::new());
}
