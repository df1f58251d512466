//! A replica that is stopped for longer than its leases live, as by a paused machine, and then continues.

use nix::sys::signal::Signal;
use reqwest::Method;

use crate::cluster::PostgresCluster;
use crate::fleet::TanchoReplica;
use crate::services::{
    INSTANCES, SlowService, assert_both_sides_agree, send_without_response, wait_for_event_end,
};
use crate::test_instance::{TestInstance, seconds, wait_for};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_results_of_a_paused_replica_are_deleted() {
    let folder = TestInstance::new_empty();
    let cluster = PostgresCluster::start(std::path::PathBuf::from(format!("{}-pg", folder.root.display())));
    let key = format!("1:{}", "5e".repeat(32));
    let mut both = [(); 2].map(|()| TanchoReplica::new(&cluster.url("postgres"), &key));
    for one in &mut both {
        one.tancho.set("TANCHO_SERVICES_TIMEOUT_SECONDS", "3");
    }
    let [stopped, other] = &mut both;
    stopped.serve();
    stopped.tancho.login().await;
    stopped.tancho.team().await;
    let slow = SlowService::start();
    slow.register(&stopped.tancho).await;
    stopped.tancho.create_app("shop").await;
    let form = |name| [("name", name), ("owner", "crew")];
    stopped.tancho.change(Method::POST, INSTANCES, &form("db")).await;

    // Its sagas are calling the service when its machine is paused, and another replica takes them over.
    let bind = format!("{INSTANCES}/db/shop");
    slow.set_delays(600.0, 0.0).await;
    let begun = async |call: &str| {
        wait_for(call, seconds(10), async || {
            let state = slow.state().await;
            state["calls"].get(call).map(drop)
        })
        .await;
    };
    send_without_response(&stopped.tancho, Method::PUT, &bind, &[]);
    send_without_response(&stopped.tancho, Method::POST, INSTANCES, &form("late"));
    for call in ["POST /resources/db/bind-app", "POST /resources late"] {
        begun(call).await;
    }
    stopped.tancho.running().signal(Signal::SIGSTOP);
    slow.set_delays(0.0, 0.0).await;
    other.serve();
    other.tancho.token.clone_from(&stopped.tancho.token);
    for kind in ["app.update.bind", "service-instance.create"] {
        let event = wait_for_event_end(&other.tancho, kind).await;
        assert_eq!(event["Error"], "", "{event}");
    }
    for path in [bind, format!("{INSTANCES}/late")] {
        other.tancho.change(Method::DELETE, &path, &[]).await;
    }
    wait_for(
        "everything is deleted, and no orphan is open",
        seconds(60),
        async || {
            let hunted = other.tancho.read_json("/1.0/orphans").await;
            let binds = slow.holds("binds").await;
            let instances = slow.holds("instances").await;
            (hunted.as_array().unwrap().is_empty() && binds.is_empty() && instances == ["db"]).then_some(())
        },
    )
    .await;

    // Only now the service carries out the calls of the stopped replica.
    slow.wake_sleeping_calls().await;
    wait_for("the service does both", seconds(10), async || {
        let (binds, instances) = (slow.holds("binds").await, slow.holds("instances").await);
        (binds.len() == 1 && instances.len() == 2).then_some(())
    })
    .await;
    stopped.tancho.running().signal(Signal::SIGCONT);
    let instances = assert_both_sides_agree(&other.tancho, &slow, "instances").await;
    assert_eq!(instances, ["db"]);
    let binds = assert_both_sides_agree(&other.tancho, &slow, "binds").await;
    assert!(binds.is_empty(), "{binds:?}");
}
