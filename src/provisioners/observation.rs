//! What all provisioners of a host report together.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::{ProvisionerRegistry, UnitId, UnitReport, UnitRunner};

/// Time limit for a provisioner to list its units.
const OBSERVE_TIMEOUT: Duration = Duration::from_secs(10);

/// A unit as reported by a provisioner.
pub struct FoundUnit {
    pub runner: Arc<dyn UnitRunner>,
    pub report: UnitReport,
}

/// Units by their ids.
pub type FoundUnits = HashMap<UnitId, FoundUnit>;

/// The units of all provisioners, and the provisioners that did not say what runs, with the reason: of their units
/// nothing is known.
#[derive(Default)]
pub struct UnitObservation {
    pub found: FoundUnits,
    pub silent: HashMap<&'static str, String>,
}

impl ProvisionerRegistry {
    /// Asks all provisioners at once. One that does not answer in time is noted.
    pub async fn observe_units(&self) -> UnitObservation {
        let asked = self.unit_runners().map(|(name, runner)| async move {
            let answer = tokio::time::timeout(OBSERVE_TIMEOUT, runner.observe_units()).await;
            (name, runner, answer)
        });
        let mut observation = UnitObservation::default();
        for (name, runner, answer) in futures_util::future::join_all(asked).await {
            let why = match answer {
                Ok(Ok(reports)) => {
                    let found = reports.into_iter().map(|report| {
                        let runner = Arc::clone(runner);
                        (report.unit.clone(), FoundUnit { runner, report })
                    });
                    observation.found.extend(found);
                    continue;
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => "The provisioner timed out listing its units.".to_owned(),
            };
            observation.silent.insert(name, why);
        }
        observation
    }
}

#[cfg(test)]
mod tests {
    use super::super::contract::units::sample_spec;
    use super::super::fake::FakeUnitRunner;
    use super::super::local::{LocalRunner, LocalRunnerConfig};
    use super::super::{ProvisionerRegistry, Runner};
    use super::*;

    #[tokio::test]
    async fn provisioner_that_cannot_list_its_units_hides_no_other() {
        let root = std::env::temp_dir().join(format!("tancho-observe-{}", uuid::Uuid::new_v4().simple()));
        let config = LocalRunnerConfig::new(&root, "test", |_, _| "/".into(), |_| None);
        let tasks = tokio_util::task::TaskTracker::new();
        let local = LocalRunner::new(config, &tasks, tokio_util::sync::CancellationToken::new()).unwrap();
        let fake = FakeUnitRunner::new();
        fake.ensure_unit(&sample_spec("seen", "true")).await.unwrap();
        let registry = ProvisionerRegistry::from_runners([
            ("local", Runner::Units(Arc::new(local))),
            ("fake", Runner::Units(Arc::new(fake))),
        ]);
        std::fs::remove_dir_all(&root).unwrap();
        let observation = registry.observe_units().await;
        assert_eq!(observation.silent.keys().collect::<Vec<_>>(), [&"local"]);
        let found: Vec<&str> = observation.found.keys().map(UnitId::as_str).collect();
        assert_eq!(found, ["seen"]);
    }
}
