//! A provisioner that only remembers. For tests of what stands above: they script what goes wrong
//! and read what was asked. Clones share their units, so a clone plays the part of the next Tancho.
//!
//! A command that begins with `echo WORDS;` puts those words into the unit's log; nothing else of a
//! command is understood.

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use tokio::sync::watch;

use super::{
    ExecRequest, LogLine, LogPosition, LogStream, ProvisionError, Provisioner, Session, UnitId, UnitReport,
    UnitSpec, UnitState,
};

/// What was asked of the fake, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// `ensure` of this unit.
    Ensure(UnitId),
    /// `remove` of this unit.
    Remove(UnitId),
    /// `exec` beside this unit.
    Exec(UnitId, Vec<String>),
}

/// See the module.
#[derive(Clone)]
pub struct Fake {
    inner: Arc<Mutex<Inner>>,
    changes: watch::Sender<u64>,
}

#[derive(Default)]
struct Inner {
    units: BTreeMap<UnitId, FakeUnit>,
    asked: Vec<Asked>,
    failures: VecDeque<ProvisionError>,
    first_state: Option<UnitState>,
    next: u32,
}

struct FakeUnit {
    spec: UnitSpec,
    report: UnitReport,
    log: Vec<LogLine>,
}

impl Default for Fake {
    fn default() -> Self {
        Self::new()
    }
}

impl Fake {
    /// One without units, where all goes well.
    pub fn new() -> Self {
        Self {
            inner: Arc::default(),
            changes: watch::Sender::new(0),
        }
    }

    /// The next `ensure`, `remove` or `exec` fails so; called again, the one after it.
    pub fn fail_next(&self, error: ProvisionError) {
        self.lock().failures.push_back(error);
    }

    /// Units ensured from now on begin in this state instead of `started`.
    pub fn begin_in(&self, state: UnitState) {
        self.lock().first_state = Some(state);
    }

    /// Puts a unit into a state, with a reason.
    pub fn set_state(&self, unit: &UnitId, state: UnitState, reason: Option<&str>) {
        if let Some(unit) = self.lock().units.get_mut(unit) {
            unit.report.state = state;
            unit.report.reason = reason.map(str::to_owned);
        }
        self.nudge();
    }

    /// Where a unit says that it listens, for tests that route to a real listener.
    pub fn set_address(&self, unit: &UnitId, address: SocketAddr) {
        if let Some(unit) = self.lock().units.get_mut(unit) {
            unit.report.address = Some(address);
        }
        self.nudge();
    }

    /// The process of the unit ends with this status and another takes its place.
    pub fn crash(&self, unit: &UnitId, exit: i32) {
        {
            let mut inner = self.lock();
            inner.next += 1;
            let pid = inner.next;
            if let Some(unit) = inner.units.get_mut(unit) {
                unit.report.restarts += 1;
                unit.report.exit = Some(exit);
                unit.report.pid = Some(pid);
            }
        }
        self.nudge();
    }

    /// The unit vanishes, as if somebody else had removed it.
    pub fn lose(&self, unit: &UnitId) {
        self.lock().units.remove(unit);
        self.nudge();
    }

    /// Writes a line into the unit's log.
    pub fn write_log(&self, unit: &UnitId, stream: LogStream, message: &str) {
        if let Some(unit) = self.lock().units.get_mut(unit) {
            unit.log.push(LogLine {
                at: SystemTime::now().into(),
                stream,
                message: message.to_owned(),
            });
        }
    }

    /// What was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.lock().asked.clone()
    }

    /// The spec with which a unit was ensured.
    pub fn spec(&self, unit: &UnitId) -> Option<UnitSpec> {
        self.lock().units.get(unit).map(|unit| unit.spec.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no holder of this lock panics")
    }

    fn nudge(&self) {
        self.changes.send_modify(|n| *n += 1);
    }

    fn begin(&self, asked: Asked) -> Result<MutexGuard<'_, Inner>, ProvisionError> {
        let mut inner = self.lock();
        inner.asked.push(asked);
        match inner.failures.pop_front() {
            Some(error) => Err(error),
            None => Ok(inner),
        }
    }
}

fn gone(unit: &UnitId) -> ProvisionError {
    ProvisionError::Gone(format!("There is no unit {unit}."))
}

#[async_trait::async_trait]
impl Provisioner for Fake {
    fn name(&self) -> &'static str {
        "fake"
    }

    async fn ensure(&self, spec: &UnitSpec) -> Result<(), ProvisionError> {
        {
            let mut inner = self.begin(Asked::Ensure(spec.unit.clone()))?;
            let runs = |unit: &FakeUnit| unit.report.state != UnitState::Stopped;
            if inner.units.get(&spec.unit).is_some_and(runs) {
                return Ok(());
            }
            inner.next += 1;
            let next = inner.next;
            let port = 20_000 + u16::try_from(next % 40_000).unwrap_or_default();
            let report = UnitReport {
                unit: spec.unit.clone(),
                state: inner.first_state.unwrap_or(UnitState::Started),
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
        let words = spec
            .command
            .strip_prefix("echo ")
            .and_then(|rest| rest.split_once(';'));
        if let Some((words, _)) = words {
            self.write_log(&spec.unit, LogStream::Stdout, words);
        }
        self.nudge();
        Ok(())
    }

    async fn remove(&self, unit: &UnitId) -> Result<(), ProvisionError> {
        self.begin(Asked::Remove(unit.clone()))?.units.remove(unit);
        self.nudge();
        Ok(())
    }

    async fn observe(&self) -> Result<Vec<UnitReport>, ProvisionError> {
        Ok(self
            .lock()
            .units
            .values()
            .map(|unit| unit.report.clone())
            .collect())
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    async fn read_log(
        &self,
        unit: &UnitId,
        from: LogPosition,
        max_lines: usize,
    ) -> Result<(Vec<LogLine>, LogPosition), ProvisionError> {
        let inner = self.lock();
        let log = &inner.units.get(unit).ok_or_else(|| gone(unit))?.log;
        let from = usize::try_from(from.0).unwrap_or(usize::MAX);
        let lines: Vec<LogLine> = log.iter().skip(from).take(max_lines).cloned().collect();
        let next = from.min(log.len()) + lines.len();
        Ok((lines, LogPosition(next as u64)))
    }

    /// Answers with the words of the command on its output, and status 0.
    async fn exec(&self, unit: &UnitId, request: &ExecRequest) -> Result<Session, ProvisionError> {
        let inner = self.begin(Asked::Exec(unit.clone(), request.argv.clone()))?;
        if !inner.units.contains_key(unit) {
            return Err(gone(unit));
        }
        let words = format!("{}\n", request.argv.get(1..).unwrap_or_default().join(" "));
        Ok(Session {
            input: Box::pin(tokio::io::sink()),
            output: Box::pin(std::io::Cursor::new(words.into_bytes())),
            errors: Box::pin(tokio::io::empty()),
            end: Box::pin(std::future::ready(Ok(0))),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::contract;
    use super::*;

    struct FakeHouse(Fake);

    #[async_trait::async_trait]
    impl contract::House for FakeHouse {
        fn provisioner(&self) -> Arc<dyn Provisioner> {
            Arc::new(self.0.clone())
        }

        fn successor(&self) -> Arc<dyn Provisioner> {
            Arc::new(self.0.clone())
        }

        fn folder(&self) -> std::path::PathBuf {
            "/".into()
        }

        async fn crash(&self, report: &UnitReport) {
            self.0.crash(&report.unit, 137);
        }
    }

    #[tokio::test]
    async fn the_fake_keeps_the_contract() {
        contract::check(&FakeHouse(Fake::new())).await;
    }

    #[tokio::test]
    async fn the_fake_fails_as_scripted() {
        let fake = Fake::new();
        fake.fail_next(ProvisionError::Transient("later".into()));
        let unit = UnitId::parse("x").unwrap();
        assert!(fake.remove(&unit).await.is_err());
        assert!(fake.remove(&unit).await.is_ok());
        assert_eq!(fake.asked(), [Asked::Remove(unit.clone()), Asked::Remove(unit)]);
    }
}
