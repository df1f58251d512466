//! What containers use of the processors, as the engine counts it.

use std::pin::pin;
use std::time::Duration;

use bollard::query_parameters::StatsOptionsBuilder;
use futures_util::{StreamExt, stream};

use super::engine::EngineError;
use super::{ASK_TIMEOUT, CONCURRENCY, DockerRunner, ProvisionError, UnitId};

/// Returns the time that units have used; those that the engine does not know are left out.
pub(super) async fn measure_cpu(
    runner: &DockerRunner,
    units: &[UnitId],
) -> Result<Vec<(UnitId, Duration)>, ProvisionError> {
    let measured = stream::iter(units.to_vec()).map(|unit| async move {
        let used = read_used(runner, &runner.container_name(&unit)).await;
        used.ok().flatten().map(|used| (unit, used))
    });
    Ok(measured
        .buffer_unordered(CONCURRENCY)
        .filter_map(std::future::ready)
        .collect()
        .await)
}

async fn read_used(runner: &DockerRunner, container: &str) -> Result<Option<Duration>, EngineError> {
    let docker = runner.engine.connect().await?;
    let options = StatsOptionsBuilder::new().stream(false).one_shot(true).build();
    let mut stats = pin!(docker.stats(container, Some(options)));
    let read = async { stats.next().await.transpose() };
    let stats = runner.engine.ask(ASK_TIMEOUT, read).await?;
    let nanoseconds = stats
        .and_then(|stats| stats.cpu_stats)
        .and_then(|cpu| cpu.cpu_usage)
        .and_then(|usage| usage.total_usage);
    Ok(nanoseconds.map(Duration::from_nanos))
}
