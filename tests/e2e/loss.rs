//! Nothing is lost: every request is answered well while everything about an app is changed.

use std::fmt::Write;
use std::time::Instant;

use reqwest::Method;

use crate::apps::Source;
use crate::house::{House, seconds};
use crate::load::Load;

/// How many changes; 200 are what is promised, 30 what there is time for each time.
fn operations() -> usize {
    let set = tancho::config::environment().find_map(|(k, v)| (k == "TANCHO_E2E_OPERATIONS").then_some(v));
    set.map_or(30, |n| n.parse().expect("TANCHO_E2E_OPERATIONS is a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_lost_while_an_app_is_changed_in_every_way() {
    let house = House::start().await;
    house.create_app("shop").await;
    house.deploy("shop", &Source::web("v1").pack()).await;
    let load = Load::start(house.running().router.clone(), Some("shop.localhost"), 100);
    let mut story = String::new();
    let (mut version, mut units) = (1, 1);
    let began = Instant::now();
    for number in 0..operations() {
        let at = began.elapsed();
        let what = match number % 6 {
            0 => {
                version += 1;
                house
                    .deploy("shop", &Source::web(&format!("v{version}")).pack())
                    .await;
                "deploy"
            }
            1 => {
                units += 1;
                let form = [("units", "1"), ("process", "web")];
                house.change(Method::PUT, "/1.0/apps/shop/units", &form).await;
                "one unit more"
            }
            2 => {
                house.change(Method::POST, "/1.0/apps/shop/restart", &[]).await;
                "restart"
            }
            3 => {
                house.set_env("shop", "GREETING", &format!("hello{number}")).await;
                "set a variable"
            }
            4 => {
                units -= 1;
                let form = [("units", "1"), ("process", "web")];
                house.change(Method::DELETE, "/1.0/apps/shop/units", &form).await;
                "one unit less"
            }
            _ => {
                // Both ways of the same length, so that each gets its turn.
                let image = format!(
                    "v{}",
                    if number % 12 == 5 {
                        1.max(version - 1)
                    } else {
                        version
                    }
                );
                let form = [("image", image.as_str()), ("keep-env", "true")];
                house
                    .change(Method::POST, "/1.0/apps/shop/deploy/rollback", &form)
                    .await;
                "rollback"
            }
        };
        let took = began.elapsed() - at;
        writeln!(
            story,
            "{number} {what}: {:.2} s, took {:.2} s",
            at.as_secs_f64(),
            took.as_secs_f64()
        )
        .unwrap();
    }
    let took = began.elapsed();
    let tally = load.end().await;
    // Shown when it fails, or with --nocapture.
    println!(
        "{} operations in {:.1} s; {} requests, {} failed, p50 {:?}, p99 {:?}, slowest {:?}\n{story}",
        operations(),
        took.as_secs_f64(),
        tally.sent,
        tally.failed.len(),
        tally.percentile(50),
        tally.percentile(99),
        tally.percentile(100),
    );
    tally.assert_clean(u32::try_from(took.as_secs() * 90).unwrap());
    assert_eq!(
        units,
        1 + usize::from(operations() % 6 > 1 && operations() % 6 < 5)
    );
    crate::house::until("as many units as asked for", seconds(30), async || {
        (house.pids().len() == units).then_some(())
    })
    .await;
}
