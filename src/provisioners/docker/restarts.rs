//! Starts ended containers again, with back-off, unless they were stopped on purpose. Only the process that has the
//! data folder does so.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use bollard::models::ContainerInspectResponse;
use futures_util::StreamExt;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::report;
use super::{CHANGE_TIMEOUT, CONCURRENCY, DockerRunner, ProvisionError, UnitId, lock};

/// The pause before the first start after a run that was long enough.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A run of this length is no failure.
const HEALTHY_RUN: chrono::TimeDelta = chrono::TimeDelta::seconds(60);
/// Between two looks without an event.
const PERIOD: Duration = Duration::from_secs(5);

/// A container that waits to be started again.
struct WaitingUnit {
    /// The end of its last run, in the engine's words.
    ended: String,
    failures: u32,
    due: Instant,
}

/// Starts ended containers again until `stop`.
pub(super) async fn restart_ended(runner: DockerRunner, stop: CancellationToken) {
    let mut waiting: HashMap<UnitId, WaitingUnit> = HashMap::new();
    loop {
        let next = waiting.values().map(|unit| unit.due).min();
        let wake = next.unwrap_or_else(|| Instant::now() + PERIOD);
        tokio::select! {
            () = runner.shared.ended.notified() => {}
            () = tokio::time::sleep_until(wake.min(Instant::now() + PERIOD)) => {}
            () = stop.cancelled() => return,
        }
        if let Err(error) = restart_due(&runner, &mut waiting).await {
            tracing::debug!(%error, "cannot look for ended containers");
        }
    }
}

async fn restart_due(
    runner: &DockerRunner,
    waiting: &mut HashMap<UnitId, WaitingUnit>,
) -> Result<(), ProvisionError> {
    let mut found = runner.look_at_all().await?;
    let starting = lock(&runner.shared.starting).clone();
    found.retain(|(unit, container)| {
        report::has_ended(container)
            && !report::runs_once(container)
            && !starting.contains(unit)
            && !runner.notes.read(unit).is_stopped
    });
    let now = Instant::now();
    let ended: HashMap<&UnitId, &ContainerInspectResponse> = found
        .iter()
        .map(|(unit, container)| (unit, &**container))
        .collect();
    // A unit that runs keeps its number of failures until its run was long enough.
    for (unit, container) in &ended {
        note_end(waiting, unit, container, now);
    }
    let due: Vec<_> = found
        .iter()
        .filter(|(unit, _)| waiting.get(unit).is_some_and(|unit| unit.due <= now))
        .collect();
    for (unit, _) in &due {
        if let Some(waits) = waiting.get_mut(unit) {
            waits.failures += 1;
            // Unless it is started and ends again, there is no attempt before this.
            waits.due = now + pause_after(waits.failures);
        }
    }
    futures_util::stream::iter(due)
        .for_each_concurrent(CONCURRENCY, |(unit, container)| async move {
            if let Err(error) = restart_unit(runner, unit, container).await {
                tracing::warn!(%unit, %error, "cannot start a container again");
            }
        })
        .await;
    let is_known: HashSet<UnitId> = runner
        .list_containers()
        .await?
        .iter()
        .filter_map(|container| report::unit_of(container.labels.as_ref()))
        .collect();
    waiting.retain(|unit, _| is_known.contains(unit));
    // A unit that runs waits for nothing, and is looked at again when it ends.
    for (_, waits) in waiting.iter_mut().filter(|(unit, _)| !ended.contains_key(unit)) {
        waits.due = waits.due.max(now + PERIOD);
    }
    Ok(())
}

fn pause_after(failures: u32) -> Duration {
    (FIRST_PAUSE * 2_u32.saturating_pow(failures.min(10))).min(LONGEST_PAUSE)
}

/// Notes a new end of a run, and when the next one may begin.
fn note_end(
    waiting: &mut HashMap<UnitId, WaitingUnit>,
    unit: &UnitId,
    container: &ContainerInspectResponse,
    now: Instant,
) {
    let state = container.state.clone().unwrap_or_default();
    let ended = state.finished_at.clone().unwrap_or_default();
    let known = waiting.get(unit);
    if known.is_some_and(|known| known.ended == ended) {
        return;
    }
    let (from, to) = (
        report::parse_time(state.started_at.as_deref()),
        report::parse_time(state.finished_at.as_deref()),
    );
    let was_long = from.zip(to).is_some_and(|(from, to)| to - from >= HEALTHY_RUN);
    let failures = match known {
        Some(known) if !was_long => known.failures,
        _ => 0,
    };
    let due = now + pause_after(failures);
    let entry = WaitingUnit { ended, failures, due };
    waiting.insert(unit.clone(), entry);
}

async fn restart_unit(
    runner: &DockerRunner,
    unit: &UnitId,
    container: &ContainerInspectResponse,
) -> Result<(), ProvisionError> {
    let state = container.state.clone().unwrap_or_default();
    let mut notes = runner.notes.read(unit);
    if notes.is_stopped {
        return Ok(());
    }
    notes.restarts = notes.restarts.saturating_add(1);
    notes.reason = Some(report::describe_end(container));
    notes.exit = report::exit_status(&state);
    // Before the start: a process that is killed in between counts one start too many, never one too few.
    runner.notes.write(unit, &notes)?;
    let docker = runner.engine.connect().await?;
    let name = runner.container_name(unit);
    let started = runner
        .engine
        .ask(CHANGE_TIMEOUT, docker.start_container(&name, None))
        .await;
    runner.notify_change();
    Ok(started?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(from: &str, to: &str) -> ContainerInspectResponse {
        let state = serde_json::json!({ "Status": "exited", "StartedAt": from, "FinishedAt": to });
        serde_json::from_value(serde_json::json!({ "State": state })).unwrap()
    }

    #[test]
    fn pause_grows_with_each_failure_and_starts_anew_after_a_long_run() {
        let (mut waiting, now) = (HashMap::new(), Instant::now());
        let unit = UnitId::parse("u").unwrap();
        let short = ended("2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z");
        note_end(&mut waiting, &unit, &short, now);
        assert_eq!(waiting[&unit].due, now + FIRST_PAUSE);
        waiting.get_mut(&unit).unwrap().failures = 3;
        note_end(&mut waiting, &unit, &short, now + LONGEST_PAUSE);
        assert_eq!(
            waiting[&unit].due,
            now + FIRST_PAUSE,
            "the same end is noted once"
        );
        let short = ended("2026-01-01T00:00:02Z", "2026-01-01T00:00:03Z");
        note_end(&mut waiting, &unit, &short, now);
        assert_eq!(waiting[&unit].due, now + FIRST_PAUSE * 8);
        let long = ended("2026-01-01T00:00:04Z", "2026-01-01T00:01:05Z");
        note_end(&mut waiting, &unit, &long, now);
        assert_eq!(waiting[&unit].due, now + FIRST_PAUSE);
        assert_eq!(pause_after(u32::MAX), LONGEST_PAUSE);
    }
}
