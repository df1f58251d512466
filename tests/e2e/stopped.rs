//! A replica that is stopped for longer than its leases live, as by a machine that is paused, and then goes on.

use nix::sys::signal::Signal;
use reqwest::Method;

use crate::cluster::Cluster;
use crate::fleet::Replica;
use crate::house::{House, seconds, until};
use crate::services::{INSTANCES, Slow, assert_agreed, doomed, ended};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_stopped_replica_has_had_made_late_is_taken_away() {
    let folder = House::empty();
    let cluster = Cluster::start(std::path::PathBuf::from(format!("{}-pg", folder.root.display())));
    let key = format!("1:{}", "5e".repeat(32));
    let mut both = [(); 2].map(|()| Replica::new(&cluster.url("postgres"), &key));
    for one in &mut both {
        one.house.set("TANCHO_SERVICES_TIMEOUT_SECONDS", "3");
    }
    let [stopped, other] = &mut both;
    stopped.serve();
    stopped.house.login().await;
    stopped.house.team().await;
    let slow = Slow::start();
    slow.register(&stopped.house).await;
    stopped.house.create_app("shop").await;
    let form = |name| [("name", name), ("owner", "crew")];
    stopped.house.change(Method::POST, INSTANCES, &form("db")).await;

    // Its sagas are with the service when its machine is paused, and another one takes them up.
    let bind = format!("{INSTANCES}/db/shop");
    slow.slow(600.0, 0.0).await;
    let begun = async |call: &str| {
        until(call, seconds(10), async || {
            let state = slow.state().await;
            state["calls"].get(call).map(drop)
        })
        .await;
    };
    doomed(&stopped.house, Method::PUT, &bind, &[]);
    doomed(&stopped.house, Method::POST, INSTANCES, &form("late"));
    for call in ["POST /resources/db/bind-app", "POST /resources late"] {
        begun(call).await;
    }
    stopped.house.running().signal(Signal::SIGSTOP);
    slow.slow(0.0, 0.0).await;
    other.serve();
    other.house.token.clone_from(&stopped.house.token);
    for kind in ["app.update.bind", "service-instance.create"] {
        let event = ended(&other.house, kind).await;
        assert_eq!(event["Error"], "", "{event}");
    }
    for path in [bind, format!("{INSTANCES}/late")] {
        other.house.change(Method::DELETE, &path, &[]).await;
    }
    until(
        "all is taken away, and nothing is hunted any more",
        seconds(60),
        async || {
            let hunted = other.house.read("/1.0/orphans").await;
            let binds = slow.holds("binds").await;
            let instances = slow.holds("instances").await;
            (hunted.as_array().unwrap().is_empty() && binds.is_empty() && instances == ["db"]).then_some(())
        },
    )
    .await;

    // Only now the service does what it was told by the one that is stopped.
    slow.wake().await;
    until("the service does both", seconds(10), async || {
        let (binds, instances) = (slow.holds("binds").await, slow.holds("instances").await);
        (binds.len() == 1 && instances.len() == 2).then_some(())
    })
    .await;
    stopped.house.running().signal(Signal::SIGCONT);
    let instances = assert_agreed(&other.house, &slow, "instances").await;
    assert_eq!(instances, ["db"]);
    let binds = assert_agreed(&other.house, &slow, "binds").await;
    assert!(binds.is_empty(), "{binds:?}");
}
