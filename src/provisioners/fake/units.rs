//! The fake of a runner of units.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::watch;

use super::{FakeCall, FakeUnit, command_words, run_command, unit_gone};
use crate::kernel::ids::VolumeId;
use crate::provisioners::{
    ExecRequest, ExecSession, LogLine, LogPosition, LogStream, ProvisionError, RestartPolicy, UnitId,
    UnitReport, UnitRunner, UnitSpec, UnitState,
};

/// A runner of units in memory; see the module above.
#[derive(Clone)]
pub struct FakeUnitRunner {
    inner: Arc<Mutex<FakeUnits>>,
    changes: watch::Sender<u64>,
}

#[derive(Default)]
struct FakeUnits {
    units: BTreeMap<UnitId, (UnitSpec, FakeUnit)>,
    calls: Vec<FakeCall>,
    failures: VecDeque<ProvisionError>,
    initial_state: Option<UnitState>,
    last_number: u32,
    used_cpu: BTreeMap<UnitId, Duration>,
}

impl Default for FakeUnitRunner {
    fn default() -> Self {
        Self::new()
    }
}

impl FakeUnitRunner {
    /// Creates one without units, where all calls succeed.
    pub fn new() -> Self {
        Self {
            inner: Arc::default(),
            changes: watch::Sender::new(0),
        }
    }

    /// Makes the next `ensure_unit`, `remove_unit` or `exec_in_unit` fail; called again, the one after it.
    pub fn fail_next(&self, error: ProvisionError) {
        self.lock_state().failures.push_back(error);
    }

    /// Units ensured from now on begin in this state instead of `started`.
    pub fn set_initial_state(&self, state: UnitState) {
        self.lock_state().initial_state = Some(state);
    }

    /// Sets the state of a unit, with a reason.
    pub fn set_state(&self, unit: &UnitId, state: UnitState, reason: Option<&str>) {
        self.change_unit(unit, |unit| {
            unit.report.state = state;
            unit.report.reason = reason.map(str::to_owned);
        });
    }

    /// Sets how much time of a processor a unit has used.
    pub fn set_used_cpu(&self, unit: &UnitId, time: Duration) {
        self.lock_state().used_cpu.insert(unit.clone(), time);
    }

    /// Sets the reported address of a unit, for tests that route to a real listener.
    pub fn set_address(&self, unit: &UnitId, address: SocketAddr) {
        self.change_unit(unit, |unit| unit.report.address = Some(address));
    }

    /// Lets the process of the unit end with this status; another one replaces it.
    pub fn crash_unit(&self, unit: &UnitId, exit: i32) {
        self.change_unit(unit, |unit| unit.crash(exit));
    }

    /// Removes the unit, as if another process had done it.
    pub fn drop_unit(&self, unit: &UnitId) {
        self.lock_state().units.remove(unit);
        self.notify_change();
    }

    /// Writes a line into the unit's log.
    pub fn write_log(&self, unit: &UnitId, stream: LogStream, message: &str) {
        if let Some((_, unit)) = self.lock_state().units.get_mut(unit) {
            unit.write_line(stream, message);
        }
    }

    /// Returns the calls so far.
    pub fn recorded_calls(&self) -> Vec<FakeCall> {
        self.lock_state().calls.clone()
    }

    /// Returns the spec of a unit.
    pub fn unit_spec(&self, unit: &UnitId) -> Option<UnitSpec> {
        self.lock_state().units.get(unit).map(|(spec, _)| spec.clone())
    }

    fn lock_state(&self) -> MutexGuard<'_, FakeUnits> {
        self.inner.lock().expect("no holder of this lock panics")
    }

    fn notify_change(&self) {
        self.changes.send_modify(|n| *n += 1);
    }

    fn change_unit(&self, unit: &UnitId, change: impl FnOnce(&mut FakeUnit)) {
        if let Some((_, unit)) = self.lock_state().units.get_mut(unit) {
            change(unit);
        }
        self.notify_change();
    }

    fn record_call(&self, call: FakeCall) -> Result<MutexGuard<'_, FakeUnits>, ProvisionError> {
        let mut inner = self.lock_state();
        inner.calls.push(call);
        match inner.failures.pop_front() {
            Some(error) => Err(error),
            None => Ok(inner),
        }
    }
}

#[async_trait::async_trait]
impl UnitRunner for FakeUnitRunner {
    async fn ensure_unit(&self, spec: &UnitSpec) -> Result<(), ProvisionError> {
        {
            let mut inner = self.record_call(FakeCall::Ensure(spec.unit.clone()))?;
            let is_left_alone = |(spec, unit): &(UnitSpec, FakeUnit)| {
                unit.report.state != UnitState::Stopped || spec.restart == RestartPolicy::Never
            };
            if inner.units.get(&spec.unit).is_some_and(is_left_alone) {
                return Ok(());
            }
            inner.last_number += 1;
            let state = inner.initial_state.unwrap_or(UnitState::Started);
            let mut unit = FakeUnit::start(spec.unit.clone(), state, inner.last_number, &spec.command);
            if spec.restart == RestartPolicy::Never {
                unit.end_by_command(&spec.command);
            }
            inner.units.insert(spec.unit.clone(), (spec.clone(), unit));
        }
        self.notify_change();
        Ok(())
    }

    async fn remove_unit(&self, unit: &UnitId) -> Result<(), ProvisionError> {
        self.record_call(FakeCall::Remove(unit.clone()))?
            .units
            .remove(unit);
        self.notify_change();
        Ok(())
    }

    async fn stop_all_units(&self, _grace: Duration) -> Result<(), ProvisionError> {
        for (_, unit) in self.lock_state().units.values_mut() {
            unit.report.state = UnitState::Stopped;
        }
        self.notify_change();
        Ok(())
    }

    async fn observe_units(&self) -> Result<Vec<UnitReport>, ProvisionError> {
        let inner = self.lock_state();
        Ok(inner
            .units
            .values()
            .map(|(_, unit)| unit.report.clone())
            .collect())
    }

    fn subscribe_changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    async fn read_log(
        &self,
        unit: &UnitId,
        from: LogPosition,
        max_lines: usize,
    ) -> Result<(Vec<LogLine>, LogPosition), ProvisionError> {
        let inner = self.lock_state();
        let (_, found) = inner.units.get(unit).ok_or_else(|| unit_gone(unit))?;
        Ok(found.read_lines(from, max_lines))
    }

    async fn exec_in_unit(
        &self,
        unit: &UnitId,
        request: &ExecRequest,
    ) -> Result<ExecSession, ProvisionError> {
        let inner = self.record_call(FakeCall::Exec(unit.clone(), command_words(request)))?;
        let runs = |(_, unit): &(UnitSpec, FakeUnit)| unit.report.state != UnitState::Stopped;
        match inner.units.get(unit).is_some_and(runs) {
            true => Ok(run_command(request)),
            false => Err(unit_gone(unit)),
        }
    }

    async fn measure_cpu(&self, units: &[UnitId]) -> Result<Vec<(UnitId, Duration)>, ProvisionError> {
        let inner = self.lock_state();
        let used = |unit: &UnitId| Some((unit.clone(), *inner.used_cpu.get(unit)?));
        Ok(units.iter().filter_map(used).collect())
    }

    async fn remove_volume(&self, _: VolumeId) -> Result<(), ProvisionError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::contract::units::{UnitRunnerFixture, check_contract};
    use super::*;

    struct FakeFixture(FakeUnitRunner);

    #[async_trait::async_trait]
    impl UnitRunnerFixture for FakeFixture {
        fn open_runner(&self) -> Arc<dyn UnitRunner> {
            Arc::new(self.0.clone())
        }

        fn open_successor(&self) -> Arc<dyn UnitRunner> {
            Arc::new(self.0.clone())
        }

        async fn crash_unit(&self, unit: &UnitId) {
            self.0.crash_unit(unit, 137);
        }
    }

    #[tokio::test]
    async fn fake_unit_runner_passes_the_contract() {
        check_contract(&FakeFixture(FakeUnitRunner::new())).await;
    }

    #[tokio::test]
    async fn fake_unit_runner_fails_as_scripted() {
        let fake = FakeUnitRunner::new();
        fake.fail_next(ProvisionError::Transient("later".into()));
        let unit = UnitId::parse("x").unwrap();
        assert!(fake.remove_unit(&unit).await.is_err());
        assert!(fake.remove_unit(&unit).await.is_ok());
        assert_eq!(
            fake.recorded_calls(),
            [FakeCall::Remove(unit.clone()), FakeCall::Remove(unit)]
        );
    }
}
