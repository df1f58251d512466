//! Every request succeeds while every kind of change is made to an app.

use std::fmt::Write;
use std::time::Instant;

use reqwest::Method;

use crate::apps::AppSource;
use crate::load::SteadyLoad;
use crate::test_instance::{TestInstance, seconds};

/// Returns the number of changes; 200 are promised, 30 fit into an ordinary run.
fn operations() -> usize {
    let set =
        tancho::config::tancho_environment().find_map(|(k, v)| (k == "TANCHO_E2E_OPERATIONS").then_some(v));
    set.map_or(30, |n| n.parse().expect("TANCHO_E2E_OPERATIONS is a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_lost_during_app_changes() {
    let tancho = TestInstance::start().await;
    tancho.create_app("shop").await;
    tancho.deploy("shop", &AppSource::web("v1").pack()).await;
    let load = SteadyLoad::start(tancho.running().router.clone(), Some("shop.localhost"), 100);
    let mut story = String::new();
    let (mut version, mut units) = (1, 1);
    let began = Instant::now();
    for number in 0..operations() {
        let at = began.elapsed();
        let what = match number % 6 {
            0 => {
                version += 1;
                tancho
                    .deploy("shop", &AppSource::web(&format!("v{version}")).pack())
                    .await;
                "deploy"
            }
            1 => {
                units += 1;
                let form = [("units", "1"), ("process", "web")];
                tancho.change(Method::PUT, "/1.0/apps/shop/units", &form).await;
                "one unit more"
            }
            2 => {
                tancho.change(Method::POST, "/1.0/apps/shop/restart", &[]).await;
                "restart"
            }
            3 => {
                tancho
                    .set_env("shop", "GREETING", &format!("hello{number}"))
                    .await;
                "set a variable"
            }
            4 => {
                units -= 1;
                let form = [("units", "1"), ("process", "web")];
                tancho.change(Method::DELETE, "/1.0/apps/shop/units", &form).await;
                "one unit less"
            }
            _ => {
                // Both forms have the same length, so that each is used.
                let image = format!(
                    "v{}",
                    if number % 12 == 5 {
                        1.max(version - 1)
                    } else {
                        version
                    }
                );
                let form = [("image", image.as_str()), ("keep-env", "true")];
                tancho
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
    crate::test_instance::wait_for("as many units as asked for", seconds(30), async || {
        (tancho.pids().len() == units).then_some(())
    })
    .await;
}
