//! The fake of a runner of workloads: a cluster in memory.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::watch;

use super::{FakeCall, FakeUnit, command_words, run_command, unit_gone};
use crate::kernel::artifact::Artifact;
use crate::provisioners::{
    ExecRequest, ExecSession, LogLine, LogPosition, LogStream, Placement, ProvisionError, UnitId, UnitState,
    Workload, WorkloadId, WorkloadReport, WorkloadRunner,
};

/// A runner of workloads in memory; see the module above.
#[derive(Clone)]
pub struct FakeWorkloadRunner {
    inner: Arc<Mutex<FakeCluster>>,
    changes: watch::Sender<u64>,
}

#[derive(Default)]
struct FakeCluster {
    workloads: Vec<(Workload, Vec<FakeUnit>)>,
    calls: Vec<FakeCall>,
    failures: VecDeque<ProvisionError>,
    last_number: u32,
}

impl FakeCluster {
    /// Makes the number of units what the workload says. The oldest stay.
    fn scale_units(&mut self, workload: &Workload, units: &mut Vec<FakeUnit>) {
        let wanted = usize::try_from(workload.replicas).unwrap_or(usize::MAX);
        units.truncate(wanted);
        while units.len() < wanted {
            self.last_number += 1;
            let id = UnitId::parse(&format!("replica-{}", self.last_number)).expect("it is a valid id");
            let mut unit = FakeUnit::start(id, UnitState::Started, self.last_number, &workload.command);
            unit.report.address = unit.report.address.filter(|_| workload.is_web);
            units.push(unit);
        }
    }

    fn find_unit(&self, workload: &WorkloadId, unit: &UnitId) -> Result<&FakeUnit, ProvisionError> {
        let found = self.workloads.iter().find(|(known, _)| known.id == *workload);
        let units = found.map(|(_, units)| units.as_slice()).unwrap_or_default();
        let found = units.iter().find(|found| found.report.unit == *unit);
        found.ok_or_else(|| unit_gone(unit))
    }
}

impl Default for FakeWorkloadRunner {
    fn default() -> Self {
        Self::new()
    }
}

impl FakeWorkloadRunner {
    /// Creates one without workloads, where all calls succeed.
    pub fn new() -> Self {
        Self {
            inner: Arc::default(),
            changes: watch::Sender::new(0),
        }
    }

    /// Makes the next `apply_workload`, `delete_workload` or `exec_in_workload` fail; called again, the one
    /// after it.
    pub fn fail_next(&self, error: ProvisionError) {
        self.lock_state().failures.push_back(error);
    }

    /// Lets the process of a unit end with this status; another one replaces it.
    pub fn crash_unit(&self, unit: &UnitId, exit: i32) {
        self.change_unit(unit, |unit| unit.crash(exit));
    }

    /// Writes a line into a unit's log.
    pub fn write_log(&self, unit: &UnitId, stream: LogStream, message: &str) {
        self.change_unit(unit, |unit| unit.write_line(stream, message));
    }

    /// Returns the calls so far.
    pub fn recorded_calls(&self) -> Vec<FakeCall> {
        self.lock_state().calls.clone()
    }

    fn lock_state(&self) -> MutexGuard<'_, FakeCluster> {
        self.inner.lock().expect("no holder of this lock panics")
    }

    fn notify_change(&self) {
        self.changes.send_modify(|n| *n += 1);
    }

    fn change_unit(&self, unit: &UnitId, change: impl FnOnce(&mut FakeUnit)) {
        let mut inner = self.lock_state();
        let mut units = inner.workloads.iter_mut().flat_map(|(_, units)| units);
        if let Some(unit) = units.find(|found| found.report.unit == *unit) {
            change(unit);
        }
        drop(inner);
        self.notify_change();
    }

    fn record_call(&self, call: FakeCall) -> Result<MutexGuard<'_, FakeCluster>, ProvisionError> {
        let mut inner = self.lock_state();
        inner.calls.push(call);
        match inner.failures.pop_front() {
            Some(error) => Err(error),
            None => Ok(inner),
        }
    }
}

fn refuse_workload(why: &str) -> Result<(), ProvisionError> {
    Err(ProvisionError::Permanent(why.to_owned()))
}

#[async_trait::async_trait]
impl WorkloadRunner for FakeWorkloadRunner {
    async fn apply_workload(&self, workload: &Workload) -> Result<(), ProvisionError> {
        if let Placement::Host(host) = &workload.placement {
            return refuse_workload(&format!("A cluster does not run units on the host {host}."));
        }
        if let Artifact::Folder { .. } = &workload.artifact {
            return refuse_workload("A cluster runs images, and the version is a folder: build an image.");
        }
        {
            let mut inner = self.record_call(FakeCall::Apply(workload.id.clone()))?;
            let at = inner
                .workloads
                .iter()
                .position(|(known, _)| known.id == workload.id);
            let mut units = match at.map(|at| inner.workloads.remove(at)) {
                // Only the number of units may differ: the others stay.
                Some((known, units)) if is_same_template(&known, workload) => units,
                _ => Vec::new(),
            };
            inner.scale_units(workload, &mut units);
            inner.workloads.push((workload.clone(), units));
        }
        self.notify_change();
        Ok(())
    }

    async fn delete_workload(&self, workload: &WorkloadId) -> Result<(), ProvisionError> {
        self.record_call(FakeCall::Delete(workload.clone()))?
            .workloads
            .retain(|(known, _)| known.id != *workload);
        self.notify_change();
        Ok(())
    }

    async fn observe_workloads(&self) -> Result<Vec<WorkloadReport>, ProvisionError> {
        let inner = self.lock_state();
        let report = |(workload, units): &(Workload, Vec<FakeUnit>)| WorkloadReport {
            id: workload.id.clone(),
            placement: workload.placement.clone(),
            units: units.iter().map(|unit| unit.report.clone()).collect(),
        };
        Ok(inner.workloads.iter().map(report).collect())
    }

    fn subscribe_changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    async fn read_log(
        &self,
        workload: &WorkloadId,
        unit: &UnitId,
        from: LogPosition,
        max_lines: usize,
    ) -> Result<(Vec<LogLine>, LogPosition), ProvisionError> {
        let inner = self.lock_state();
        Ok(inner.find_unit(workload, unit)?.read_lines(from, max_lines))
    }

    async fn exec_in_workload(
        &self,
        workload: &WorkloadId,
        unit: &UnitId,
        request: &ExecRequest,
    ) -> Result<ExecSession, ProvisionError> {
        let inner = self.record_call(FakeCall::Exec(unit.clone(), command_words(request)))?;
        inner.find_unit(workload, unit)?;
        Ok(run_command(request))
    }
}

/// Returns true if two workloads differ at most in the number of their units.
fn is_same_template(one: &Workload, other: &Workload) -> bool {
    let scaled = Workload {
        replicas: other.replicas,
        ..one.clone()
    };
    scaled == *other
}

#[cfg(test)]
mod tests {
    use super::super::super::contract::workloads::{WorkloadRunnerFixture, check_contract, sample_workload};
    use super::*;

    struct FakeFixture(FakeWorkloadRunner);

    #[async_trait::async_trait]
    impl WorkloadRunnerFixture for FakeFixture {
        fn open_runner(&self) -> Arc<dyn WorkloadRunner> {
            Arc::new(self.0.clone())
        }

        fn open_successor(&self) -> Arc<dyn WorkloadRunner> {
            Arc::new(self.0.clone())
        }

        async fn crash_unit(&self, _workload: &WorkloadId, unit: &UnitId) {
            self.0.crash_unit(unit, 137);
        }
    }

    #[tokio::test]
    async fn fake_workload_runner_passes_the_contract() {
        check_contract(&FakeFixture(FakeWorkloadRunner::new())).await;
    }

    #[tokio::test]
    async fn fake_workload_runner_fails_as_scripted() {
        let fake = FakeWorkloadRunner::new();
        fake.fail_next(ProvisionError::Transient("later".into()));
        let workload = sample_workload("x", 1);
        assert!(fake.apply_workload(&workload).await.is_err());
        assert!(fake.observe_workloads().await.unwrap().is_empty());
        assert!(fake.apply_workload(&workload).await.is_ok());
        let call = FakeCall::Apply(workload.id);
        assert_eq!(fake.recorded_calls(), [call.clone(), call]);
    }
}
