//! Watches the engine: whether it answers, and what it tells of this host's containers.

use std::collections::HashMap;
use std::time::Duration;

use bollard::models::EventMessage;
use bollard::query_parameters::EventsOptionsBuilder;
use futures_util::StreamExt;
use tokio_util::sync::CancellationToken;

use super::engine::EngineError;
use super::{DockerRunner, HOST_LABEL, lock};

/// Between two attempts to reach an engine that does not answer.
const RETRY: Duration = Duration::from_secs(1);
/// Between two questions whether the engine still answers.
const PING: Duration = Duration::from_secs(10);
/// How long it may take to say so.
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// What matters. Commands and health checks tell of much else.
const ACTIONS: [&str; 10] = [
    "create",
    "start",
    "die",
    "stop",
    "kill",
    "oom",
    "pause",
    "unpause",
    "destroy",
    "health_status",
];

/// Watches until `stop`.
pub(super) async fn watch_engine(runner: DockerRunner, stop: CancellationToken) {
    loop {
        let watched = tokio::select! {
            watched = watch_once(&runner) => watched,
            () = stop.cancelled() => return,
        };
        if let Err(EngineError::NoAnswer(why)) = watched {
            runner.engine.mark_down(&why);
        }
        // Nobody has told what happens meanwhile.
        lock(&runner.shared.seen).clear();
        runner.notify_change();
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Watches as long as the engine answers.
async fn watch_once(runner: &DockerRunner) -> Result<(), EngineError> {
    let docker = runner.engine.connect().await?;
    runner.engine.ask(PING_TIMEOUT, docker.ping()).await?;
    let filters = HashMap::from([
        ("type", vec!["container".to_owned()]),
        ("label", vec![format!("{HOST_LABEL}={}", runner.config.host)]),
        ("event", ACTIONS.map(str::to_owned).to_vec()),
    ]);
    let options = EventsOptionsBuilder::new().filters(&filters).build();
    let mut events = std::pin::pin!(docker.events(Some(options)));
    runner.engine.mark_up();
    lock(&runner.shared.seen).clear();
    runner.notify_change();
    runner.shared.ended.notify_one();
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(event) => note_event(runner, &event?),
                None => return Ok(()),
            },
            () = tokio::time::sleep(PING) => drop(runner.engine.ask(PING_TIMEOUT, docker.ping()).await?),
        }
    }
}

fn note_event(runner: &DockerRunner, event: &EventMessage) {
    if let Some(id) = event.actor.as_ref().and_then(|actor| actor.id.as_ref()) {
        lock(&runner.shared.seen).remove(id);
    }
    if event.action.as_deref() == Some("die") {
        runner.shared.ended.notify_one();
    }
    runner.notify_change();
}
