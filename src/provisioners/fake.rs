//! A provisioner that keeps its units in memory only, for tests of its callers: they script failures and
//! inspect the recorded calls. Clones share their units, so a clone acts as the next Tancho process.
//!
//! A command that begins with `echo WORDS;` writes those words to the unit's log; nothing else of a command
//! is interpreted. Of what is run in a unit, `exit N` and `false` end with a status, `sleep` does not end, an interactive
//! shell sends back what it gets, and anything else is printed.

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use tokio::sync::watch;

use super::{
    ExecProgram, ExecRequest, ExecSession, LogLine, LogPosition, LogStream, ProvisionError, Provisioner,
    UnitId, UnitReport, UnitSpec, UnitState,
};

/// A recorded call of the fake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FakeCall {
    /// `ensure_unit` of this unit.
    Ensure(UnitId),
    /// `remove_unit` of this unit.
    Remove(UnitId),
    /// `exec_in_unit` of this unit.
    Exec(UnitId, Vec<String>),
}

/// The fake provisioner; see the module.
#[derive(Clone)]
pub struct FakeProvisioner {
    inner: Arc<Mutex<FakeState>>,
    changes: watch::Sender<u64>,
}

#[derive(Default)]
struct FakeState {
    units: BTreeMap<UnitId, FakeUnit>,
    calls: Vec<FakeCall>,
    failures: VecDeque<ProvisionError>,
    initial_state: Option<UnitState>,
    last_number: u32,
}

struct FakeUnit {
    spec: UnitSpec,
    report: UnitReport,
    log: Vec<LogLine>,
}

impl Default for FakeProvisioner {
    fn default() -> Self {
        Self::new()
    }
}

impl FakeProvisioner {
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
        if let Some(unit) = self.lock_state().units.get_mut(unit) {
            unit.report.state = state;
            unit.report.reason = reason.map(str::to_owned);
        }
        self.notify_change();
    }

    /// Sets the reported address of a unit, for tests that route to a real listener.
    pub fn set_address(&self, unit: &UnitId, address: SocketAddr) {
        if let Some(unit) = self.lock_state().units.get_mut(unit) {
            unit.report.address = Some(address);
        }
        self.notify_change();
    }

    /// Lets the process of the unit end with this status; another one replaces it.
    pub fn crash_unit(&self, unit: &UnitId, exit: i32) {
        {
            let mut inner = self.lock_state();
            inner.last_number += 1;
            let pid = inner.last_number;
            if let Some(unit) = inner.units.get_mut(unit) {
                unit.report.restarts += 1;
                unit.report.exit = Some(exit);
                unit.report.pid = Some(pid);
            }
        }
        self.notify_change();
    }

    /// Removes the unit, as if another process had done it.
    pub fn drop_unit(&self, unit: &UnitId) {
        self.lock_state().units.remove(unit);
        self.notify_change();
    }

    /// Writes a line into the unit's log.
    pub fn write_log(&self, unit: &UnitId, stream: LogStream, message: &str) {
        if let Some(unit) = self.lock_state().units.get_mut(unit) {
            unit.log.push(LogLine {
                at: SystemTime::now().into(),
                stream,
                message: message.to_owned(),
            });
        }
    }

    /// Returns the calls so far.
    pub fn recorded_calls(&self) -> Vec<FakeCall> {
        self.lock_state().calls.clone()
    }

    /// Returns the spec of a unit.
    pub fn unit_spec(&self, unit: &UnitId) -> Option<UnitSpec> {
        self.lock_state().units.get(unit).map(|unit| unit.spec.clone())
    }

    fn lock_state(&self) -> MutexGuard<'_, FakeState> {
        self.inner.lock().expect("no holder of this lock panics")
    }

    fn notify_change(&self) {
        self.changes.send_modify(|n| *n += 1);
    }

    fn record_call(&self, call: FakeCall) -> Result<MutexGuard<'_, FakeState>, ProvisionError> {
        let mut inner = self.lock_state();
        inner.calls.push(call);
        match inner.failures.pop_front() {
            Some(error) => Err(error),
            None => Ok(inner),
        }
    }
}

fn unit_gone(unit: &UnitId) -> ProvisionError {
    ProvisionError::Gone(format!("There is no unit {unit}."))
}

#[async_trait::async_trait]
impl Provisioner for FakeProvisioner {
    fn name(&self) -> &'static str {
        "fake"
    }

    async fn ensure_unit(&self, spec: &UnitSpec) -> Result<(), ProvisionError> {
        {
            let mut inner = self.record_call(FakeCall::Ensure(spec.unit.clone()))?;
            let runs = |unit: &FakeUnit| unit.report.state != UnitState::Stopped;
            if inner.units.get(&spec.unit).is_some_and(runs) {
                return Ok(());
            }
            inner.last_number += 1;
            let next = inner.last_number;
            let port = 20_000 + u16::try_from(next % 40_000).unwrap_or_default();
            let report = UnitReport {
                unit: spec.unit.clone(),
                state: inner.initial_state.unwrap_or(UnitState::Started),
                address: Some((Ipv4Addr::LOCALHOST, port).into()),
                pid: Some(next),
                restarts: 0,
                reason: None,
                exit: None,
                started_at: Some(SystemTime::now().into()),
            };
            let unit = FakeUnit {
                spec: spec.clone(),
                report,
                log: Vec::new(),
            };
            inner.units.insert(spec.unit.clone(), unit);
        }
        let text = spec
            .command
            .strip_prefix("echo ")
            .and_then(|rest| rest.split_once(';'));
        if let Some((text, _)) = text {
            self.write_log(&spec.unit, LogStream::Stdout, text);
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

    async fn observe_units(&self) -> Result<Vec<UnitReport>, ProvisionError> {
        Ok(self
            .lock_state()
            .units
            .values()
            .map(|unit| unit.report.clone())
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
        let log = &inner.units.get(unit).ok_or_else(|| unit_gone(unit))?.log;
        let from = usize::try_from(from.0).unwrap_or(usize::MAX);
        let lines: Vec<LogLine> = log.iter().skip(from).take(max_lines).cloned().collect();
        let next = from.min(log.len()) + lines.len();
        Ok((lines, LogPosition(next as u64)))
    }

    /// Returns the arguments of the command as its output, and status 0.
    async fn exec_in_unit(
        &self,
        unit: &UnitId,
        request: &ExecRequest,
    ) -> Result<ExecSession, ProvisionError> {
        let words = match &request.program {
            ExecProgram::Argv(argv) => argv.clone(),
            ExecProgram::ShellLine(line) => vec![line.clone()],
            ExecProgram::InteractiveShell => Vec::new(),
        };
        let inner = self.record_call(FakeCall::Exec(unit.clone(), words))?;
        if !inner.units.contains_key(unit) {
            return Err(unit_gone(unit));
        }
        Ok(match &request.program {
            ExecProgram::Argv(argv) => print_text(&argv.get(1..).unwrap_or_default().join(" "), 0),
            ExecProgram::ShellLine(line) if line == "sleep" => echo_input(),
            ExecProgram::ShellLine(line) => {
                let status = line.strip_prefix("exit ").and_then(|n| n.parse().ok());
                print_text(line, status.unwrap_or(i32::from(line == "false")))
            }
            ExecProgram::InteractiveShell => echo_input(),
        })
    }
}

/// A command that prints a line and ends.
fn print_text(text: &str, status: i32) -> ExecSession {
    ExecSession {
        input: Box::pin(tokio::io::sink()),
        output: Box::pin(std::io::Cursor::new(format!("{text}\n").into_bytes())),
        errors: Box::pin(tokio::io::empty()),
        resize: None,
        end: Box::pin(std::future::ready(Ok(status))),
    }
}

/// A command that sends back what it gets, and never ends.
fn echo_input() -> ExecSession {
    let (output, input) = tokio::io::simplex(4096);
    ExecSession {
        input: Box::pin(input),
        output: Box::pin(output),
        errors: Box::pin(tokio::io::empty()),
        resize: None,
        end: Box::pin(std::future::pending()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::contract;
    use super::*;

    struct FakeFixture(FakeProvisioner);

    #[async_trait::async_trait]
    impl contract::ProvisionerFixture for FakeFixture {
        fn open_provisioner(&self) -> Arc<dyn Provisioner> {
            Arc::new(self.0.clone())
        }

        fn open_successor(&self) -> Arc<dyn Provisioner> {
            Arc::new(self.0.clone())
        }

        fn files_dir(&self) -> std::path::PathBuf {
            "/".into()
        }

        async fn crash_unit(&self, report: &UnitReport) {
            self.0.crash_unit(&report.unit, 137);
        }
    }

    #[tokio::test]
    async fn fake_provisioner_passes_the_contract() {
        contract::check_contract(&FakeFixture(FakeProvisioner::new())).await;
    }

    #[tokio::test]
    async fn fake_provisioner_fails_as_scripted() {
        let fake = FakeProvisioner::new();
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
