//! SIGKILL of Tancho and of its Postgres, at bad moments.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::Method;

use crate::apps::Source;
use crate::house::{House, names, seconds, until};
use crate::load::Load;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_tancho_stops_no_app_and_the_next_one_adopts_them() {
    let mut house = House::start().await;
    house.create_app("shop").await;
    house.deploy("shop", &Source::web("one").pack()).await;
    let form = [("units", "1"), ("process", "web")];
    house.change(Method::PUT, "/1.0/apps/shop/units", &form).await;
    let (units, pids) = (house.units("shop").await, house.pids());
    assert_eq!((units.len(), pids.len()), (2, 2), "{units:?} {pids:?}");
    let router = house.try_start(&["router", "--router", "127.0.0.1:0"]).unwrap();
    let routed = Load::start(router.router.clone(), Some("shop.localhost"), 50);
    let address = format!("http://{}/", units[0]["Address"]["Host"].as_str().unwrap());
    let direct = Load::start(address, None, 50);
    let more = async |n: u32| {
        let (r, d) = (routed.sent() + n, direct.sent() + n);
        until("more requests", seconds(30), async || {
            (routed.sent() > r && direct.sent() > d).then_some(())
        })
        .await;
    };
    for _ in 0..2 {
        more(50).await;
        house.kill();
        more(100).await;
        house.serve();
        let took = house.running().took;
        assert!(took < seconds(2), "ready only after {took:?}");
        assert_eq!(house.pids(), pids);
        let ids = |units: &[serde_json::Value]| units.iter().map(|u| u["ID"].clone()).collect::<Vec<_>>();
        assert_eq!(ids(&house.units("shop").await), ids(&units));
        assert_eq!(house.visit("shop", "/").await, (200, "one -".to_owned()));
    }
    more(50).await;
    routed.end().await.assert_clean(300);
    direct.end().await.assert_clean(300);
    assert_eq!(house.pids(), pids);
}

/// Kills Tancho once `moment` is over, and looks how the deploy ends.
async fn killed_in_a_deploy(
    house: &mut House,
    source: &Source,
    said: &str,
    moment: impl AsyncFn(&House),
) -> (serde_json::Value, String) {
    let mut answer = house.begin_deploy("shop", &source.pack()).await;
    let event = answer.headers()["x-tsuru-eventid"].to_str().unwrap().to_owned();
    let mut text = String::new();
    while !text.contains(said) {
        let chunk = answer.chunk().await.unwrap();
        text.push_str(std::str::from_utf8(&chunk.unwrap_or_else(|| panic!("ended: {text}"))).unwrap());
    }
    moment(house).await;
    house.kill();
    house.serve();
    let ended = house.ended(&event, seconds(15)).await;
    (ended, event)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deploy_whose_tancho_is_killed_ends_done_or_undone() {
    let mut house = House::start().await;
    house.create_app("shop").await;
    house.deploy("shop", &Source::web("v1").pack()).await;
    let mut versions = vec!["1"];
    let router = async |house: &House| {
        let router = house.running().router.clone();
        until("version 4 answers", seconds(20), async || {
            let (status, text) = crate::house::visit(&house.http, &router, "shop", "/").await;
            (status == 200 && text.starts_with("v4")).then_some(())
        })
        .await;
    };
    let nothing = async |_: &House| {};
    type Moment<'a> = (&'a str, Source, &'a str);
    let cases: [Moment<'_>; 3] = [
        (
            "2",
            Source::web("v2").hooks(&["echo in the build; sleep 2"]),
            "in the build",
        ),
        ("3", Source::slow_to_start("v3", "2"), "units ready: web 0 of 1"),
        ("4", Source::web("v4"), "Starting version"),
    ];
    let mut right = "v1".to_owned();
    for (version, source, said) in cases {
        let (event, id) = match version {
            "4" => killed_in_a_deploy(&mut house, &source, said, router).await,
            _ => killed_in_a_deploy(&mut house, &source, said, nothing).await,
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
            house.visit("shop", "/").await,
            (200, format!("{right} -")),
            "{event}"
        );
        house.assert_tidy("shop", &versions).await;
        until("one unit", seconds(20), async || {
            (house.pids().len() == 1).then_some(())
        })
        .await;
        let deploy = house.read(&format!("/1.0/deploys/{id}")).await;
        assert_eq!(deploy["Error"], event["Error"], "{deploy}");
    }
    // After the switch there is no way back.
    assert_eq!(right, "v4");
    house.deploy("shop", &Source::web("v5").pack()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_router_outlives_the_death_of_postgres_and_the_api_comes_back() {
    let house = House::start().await;
    house.create_app("shop").await;
    house.deploy("shop", &Source::web("one").pack()).await;
    let pids = house.pids();
    let load = Load::start(house.running().router.clone(), Some("shop.localhost"), 50);
    let folder = house.data.join("postgres");
    for round in 0..2 {
        let before = load.sent();
        let file = std::fs::read_to_string(folder.join("postmaster.pid")).unwrap();
        let pid: i32 = file.lines().next().unwrap().parse().unwrap();
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        let (mut refused, mut good) = (0, 0);
        until("the API is back", seconds(10), async || {
            let answer = house.by(Method::GET, "/1.0/apps/shop").send().await.unwrap();
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
        assert!(refused > 0, "round {round}: nobody noticed");
        house.set_env("shop", "ROUND", &round.to_string()).await;
        assert!(load.sent() > before);
    }
    load.end().await.assert_clean(100);
    assert_ne!(house.pids(), pids, "a new variable starts a new unit");
    assert_eq!(house.visit("shop", "/env/ROUND").await.1, "1");
    assert_eq!(names(&house.data.join("uploads")), Vec::<String>::new());
}
