//! The collector of usage: on each host, it measures the units of processes that are scaled by their CPU usage.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;

use crate::autoscale::store;
use crate::core::Core;
use crate::db::notices::NoticeChannel;
use crate::kernel::error::Error;
use crate::provisioners::UnitId;
use crate::sagas::{ReconcileReport, Reconciler};

/// Between two measurements.
const PERIOD: Duration = Duration::from_secs(10);
/// Time limit for a provisioner to measure its units.
const TIMEOUT: Duration = Duration::from_secs(10);

/// See the module.
pub struct UsageCollector {
    core: Core,
    /// When how much time each unit had used.
    last: Mutex<HashMap<UnitId, (Instant, Duration)>>,
}

impl UsageCollector {
    /// Creates the collector of this host.
    pub fn new(core: &Core) -> Self {
        Self {
            core: core.clone(),
            last: Mutex::default(),
        }
    }

    async fn measure(&self, units: Vec<(String, String)>) -> HashMap<UnitId, (Instant, Duration)> {
        let mut by_provisioner: HashMap<String, Vec<UnitId>> = HashMap::new();
        for (provisioner, unit) in units {
            if let Ok(unit) = UnitId::parse(&unit) {
                by_provisioner.entry(provisioner).or_default().push(unit);
            }
        }
        let mut measured = HashMap::new();
        for (provisioner, units) in by_provisioner {
            let Some(runner) = self.core.provisioners.find_unit_runner(&provisioner) else {
                continue;
            };
            match tokio::time::timeout(TIMEOUT, runner.measure_cpu(&units)).await {
                Ok(Ok(used)) => {
                    let now = Instant::now();
                    measured.extend(used.into_iter().map(|(unit, time)| (unit, (now, time))));
                }
                Ok(Err(error)) => tracing::warn!(provisioner, %error, "cannot measure units"),
                Err(_) => tracing::warn!(provisioner, "measuring units timed out"),
            }
        }
        measured
    }
}

/// Returns the usage between two measurements, in thousandths of a processor. A unit whose time went backwards was started
/// again.
fn compute_milli(before: (Instant, Duration), after: (Instant, Duration)) -> Option<i32> {
    let used = after.1.checked_sub(before.1)?;
    let passed = after.0.checked_duration_since(before.0)?;
    if passed.is_zero() {
        return None;
    }
    let milli = used.as_secs_f64() * 1000.0 / passed.as_secs_f64();
    Some(milli.round() as i32)
}

#[async_trait]
impl Reconciler for UsageCollector {
    fn name(&self) -> &'static str {
        "unit-usage"
    }

    fn channels(&self) -> &'static [NoticeChannel] {
        &[]
    }

    fn period(&self) -> Duration {
        PERIOD
    }

    async fn run_round(&self) -> Result<ReconcileReport, Error> {
        let units = store::list_measured_units(&self.core.db, &self.core.host).await?;
        if units.is_empty() {
            return Ok(ReconcileReport::default());
        }
        let measured = self.measure(units).await;
        let before = std::mem::replace(
            &mut *self.last.lock().unwrap_or_else(PoisonError::into_inner),
            measured.clone(),
        );
        let usage = measured.into_iter().filter_map(|(unit, after)| {
            let milli = compute_milli(*before.get(&unit)?, after)?;
            Some((unit.to_string(), milli))
        });
        store::upsert_usage(&self.core.db, &usage.collect::<Vec<_>>()).await?;
        Ok(ReconcileReport::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_the_time_used_of_the_time_passed() {
        let start = Instant::now();
        let at = |passed: u64, used: u64| (start + Duration::from_secs(passed), Duration::from_millis(used));
        assert_eq!(compute_milli(at(0, 1000), at(10, 6000)), Some(500));
        assert_eq!(compute_milli(at(0, 1000), at(10, 1000)), Some(0));
        assert_eq!(compute_milli(at(0, 1000), at(10, 500)), None, "started again");
        assert_eq!(compute_milli(at(5, 1000), at(5, 1000)), None);
    }
}
