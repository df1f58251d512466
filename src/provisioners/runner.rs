//! One face for both kinds of runner, for those who do not plan: commands, logs, health, shutdown.

use std::sync::Arc;
use std::time::Duration;

use super::{
    ExecRequest, ExecSession, ImageStore, LogLine, LogPosition, ProvisionError, UnitId, UnitRunner, UnitSpec,
    UnitState, WorkloadId, WorkloadOwner, WorkloadRunner,
};
use crate::kernel::error::Error;
use crate::kernel::ids::{AppId, JobId};
use crate::kernel::names::ProcessName;

/// A unit, and the workload that it is one of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitRef {
    pub workload: WorkloadId,
    pub unit: UnitId,
}

impl UnitRef {
    /// Names a unit of an app. Errors: `Invalid` for a process that no app can have.
    pub fn for_app(app: AppId, process: &str, release: i64, unit: UnitId) -> Result<Self, Error> {
        let workload = WorkloadId {
            owner: WorkloadOwner::App(app),
            process: ProcessName::parse(process)?,
            release,
        };
        Ok(Self { workload, unit })
    }

    /// Names the unit of a run of a job. Errors: as `for_app`.
    pub fn for_job(job: JobId, version: i32, unit: UnitId) -> Result<Self, Error> {
        let workload = WorkloadId {
            owner: WorkloadOwner::Job(job),
            process: ProcessName::parse("job")?,
            release: version.into(),
        };
        Ok(Self { workload, unit })
    }
}

/// What runs the units of a pool.
#[derive(Clone)]
pub enum Runner {
    /// Tancho starts and stops each unit.
    Units(Arc<dyn UnitRunner>),
    /// A cluster does, as the workloads say.
    Workloads(Arc<dyn WorkloadRunner>),
}

impl Runner {
    /// Runs a command in a running unit; see `UnitRunner::exec_in_unit`.
    pub async fn exec_in_unit(
        &self,
        target: &UnitRef,
        request: &ExecRequest,
    ) -> Result<ExecSession, ProvisionError> {
        match self {
            Self::Units(runner) => runner.exec_in_unit(&target.unit, request).await,
            Self::Workloads(runner) => {
                let UnitRef { workload, unit } = target;
                runner.exec_in_workload(workload, unit, request).await
            }
        }
    }

    /// Reads the log of a unit; see `UnitRunner::read_log`.
    pub async fn read_log(
        &self,
        target: &UnitRef,
        from: LogPosition,
        max_lines: usize,
    ) -> Result<(Vec<LogLine>, LogPosition), ProvisionError> {
        match self {
            Self::Units(runner) => runner.read_log(&target.unit, from, max_lines).await,
            Self::Workloads(runner) => {
                let UnitRef { workload, unit } = target;
                runner.read_log(workload, unit, from, max_lines).await
            }
        }
    }

    /// Starts a unit that belongs to no workload, for one command, and waits until its own command runs. Errors:
    /// `Permanent` where a cluster places the units.
    pub async fn start_single_unit(&self, spec: &UnitSpec) -> Result<(), ProvisionError> {
        let Self::Units(runner) = self else {
            return Err(ProvisionError::Permanent(
                "This pool has no units of their own for commands: run it in a unit of the app.".into(),
            ));
        };
        let mut changes = runner.subscribe_changes();
        runner.ensure_unit(spec).await?;
        while !is_started(&**runner, &spec.unit).await? {
            let ended = |_| ProvisionError::Transient("The provisioner has stopped.".into());
            changes.changed().await.map_err(ended)?;
        }
        Ok(())
    }

    /// Removes a unit that `start_single_unit` has started, or tried to.
    pub async fn remove_single_unit(&self, unit: &UnitId) -> Result<(), ProvisionError> {
        match self {
            Self::Units(runner) => runner.remove_unit(unit).await,
            Self::Workloads(_) => Ok(()),
        }
    }

    /// Returns what keeps the images of versions; see `UnitRunner::image_store`.
    pub fn image_store(&self) -> Option<&dyn ImageStore> {
        match self {
            Self::Units(runner) => runner.image_store(),
            Self::Workloads(_) => None,
        }
    }

    /// Checks that the runner can say what runs.
    pub async fn check_health(&self) -> Result<(), ProvisionError> {
        match self {
            Self::Units(runner) => runner.observe_units().await.map(drop),
            Self::Workloads(runner) => runner.observe_workloads().await.map(drop),
        }
    }

    /// Stops the units that run on this host; what runs in a cluster stays. See `UnitRunner::stop_all_units`.
    pub async fn stop_all_units(&self, grace: Duration) -> Result<(), ProvisionError> {
        match self {
            Self::Units(runner) => runner.stop_all_units(grace).await,
            Self::Workloads(_) => Ok(()),
        }
    }
}

async fn is_started(runner: &dyn UnitRunner, unit: &UnitId) -> Result<bool, ProvisionError> {
    let reports = runner.observe_units().await?;
    let Some(report) = reports.into_iter().find(|report| report.unit == *unit) else {
        return Ok(false);
    };
    match report.state {
        UnitState::Started => Ok(true),
        UnitState::Created | UnitState::Starting => Ok(false),
        UnitState::Error | UnitState::Stopped => Err(ProvisionError::Transient(format!(
            "The unit for the command cannot be started: {}.",
            report.reason.unwrap_or_else(|| "it has stopped".into())
        ))),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::super::contract::units::sample_spec;
    use super::super::contract::workloads::sample_workload;
    use super::super::fake::{FakeCall, FakeUnitRunner, FakeWorkloadRunner};
    use super::super::{LogStream, Workload};
    use super::*;

    /// A runner of each kind, with one unit that runs.
    async fn runners_with_a_unit() -> [(Runner, UnitRef); 2] {
        let (units, workloads) = (FakeUnitRunner::new(), FakeWorkloadRunner::new());
        let workload = sample_workload("facade", 1);
        let spec = sample_spec("facade", "exec sleep 1000");
        units.ensure_unit(&spec).await.unwrap();
        workloads.apply_workload(&workload).await.unwrap();
        let found = workloads.observe_workloads().await.unwrap();
        let replica = found[0].units[0].unit.clone();
        units.write_log(&spec.unit, LogStream::Stdout, "hello");
        workloads.write_log(&replica, LogStream::Stdout, "hello");
        let of = |unit| UnitRef {
            workload: workload.id.clone(),
            unit,
        };
        [
            (Runner::Units(Arc::new(units)), of(spec.unit)),
            (Runner::Workloads(Arc::new(workloads)), of(replica)),
        ]
    }

    #[tokio::test]
    async fn commands_run_and_logs_are_read_alike_in_both_kinds() {
        for (runner, target) in runners_with_a_unit().await {
            let request = ExecRequest::for_argv(vec!["echo".into(), "good day".into()]);
            let mut session = runner.exec_in_unit(&target, &request).await.unwrap();
            let mut output = String::new();
            session.output.read_to_string(&mut output).await.unwrap();
            assert_eq!((output.as_str(), session.end.await), ("good day\n", Ok(0)));
            let (lines, _) = runner.read_log(&target, LogPosition::START, 10).await.unwrap();
            assert_eq!(lines[0].message, "hello");
            assert_eq!(runner.check_health().await, Ok(()));
            let mut unknown = target;
            unknown.unit = UnitId::parse("nobody").unwrap();
            let log = runner.read_log(&unknown, LogPosition::START, 10).await;
            assert!(matches!(log, Err(ProvisionError::Gone(_))), "{log:?}");
        }
    }

    #[tokio::test]
    async fn single_unit_is_started_and_removed_on_a_host() {
        let fake = FakeUnitRunner::new();
        let runner = Runner::Units(Arc::new(fake.clone()));
        let spec = sample_spec("single", "exec sleep 1000");
        runner.start_single_unit(&spec).await.unwrap();
        assert!(fake.unit_spec(&spec.unit).is_some());
        runner.remove_single_unit(&spec.unit).await.unwrap();
        assert!(fake.unit_spec(&spec.unit).is_none());
        fake.set_initial_state(UnitState::Error);
        let failed = runner.start_single_unit(&spec).await;
        assert!(matches!(failed, Err(ProvisionError::Transient(_))), "{failed:?}");
    }

    #[tokio::test]
    async fn cluster_starts_no_single_unit_and_keeps_its_units_at_shutdown() {
        let fake = FakeWorkloadRunner::new();
        let workload: Workload = sample_workload("stays", 2);
        fake.apply_workload(&workload).await.unwrap();
        let runner = Runner::Workloads(Arc::new(fake.clone()));
        let spec = sample_spec("single", "exec sleep 1000");
        let refused = runner.start_single_unit(&spec).await;
        assert!(
            matches!(refused, Err(ProvisionError::Permanent(_))),
            "{refused:?}"
        );
        assert_eq!(runner.remove_single_unit(&spec.unit).await, Ok(()));
        assert_eq!(runner.stop_all_units(Duration::ZERO).await, Ok(()));
        assert_eq!(fake.recorded_calls(), [FakeCall::Apply(workload.id)]);
        assert_eq!(fake.observe_workloads().await.unwrap()[0].units.len(), 2);
    }
}
