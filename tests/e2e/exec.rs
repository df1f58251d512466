//! Commands in units when Tancho is killed.

use reqwest::Method;

use crate::apps::AppSource;
use crate::test_instance::{TestInstance, find_processes, seconds, wait_for};

/// What the commands of this test have on their command lines.
const MARK: &str = "sleep 1000.25";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_end_with_a_killed_server_and_the_next_one_ends_their_events() {
    let mut tancho = TestInstance::start().await;
    tancho.create_app("shop").await;
    tancho.deploy("shop", &AppSource::web("one").pack()).await;
    let pids = tancho.pids();
    for isolated in ["false", "true"] {
        let command = format!("trap '' HUP TERM; setsid {MARK} & echo started; wait");
        let form = [("command", command.as_str()), ("isolated", isolated)];
        let run = tancho
            .request_as_admin(Method::POST, "/1.0/apps/shop/run")
            .form(&form);
        let mut run = run.send().await.unwrap();
        assert_eq!(run.status(), 200);
        let event = run.headers()["x-tsuru-eventid"].to_str().unwrap().to_owned();
        let mut text = String::new();
        while !text.contains("started") {
            let chunk = run.chunk().await.unwrap().unwrap();
            text.push_str(&String::from_utf8_lossy(&chunk));
        }
        tancho.kill();
        wait_for("the command has ended", seconds(15), async || {
            find_processes(MARK).is_empty().then_some(())
        })
        .await;
        tancho.serve();
        let ended = tancho.wait_for_event_end(&event, seconds(15)).await;
        assert_eq!(ended["Error"], "The server that ran this command has stopped.");
        let form = [("command", "echo again")];
        let output = tancho.change(Method::POST, "/1.0/apps/shop/run", &form).await;
        assert!(output.contains("again"), "{output}");
    }
    // The unit of the isolated command has no row any more.
    wait_for("only the unit of the app is left", seconds(60), async || {
        (tancho.pids() == pids).then_some(())
    })
    .await;
}
