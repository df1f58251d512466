//! The suite that every provisioner passes. A `House` says how to reach the one under test.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;

use super::{
    AppName, EnvName, ExecRequest, LogPosition, ProcessName, ProvisionError, Provisioner, Secret, UnitId,
    UnitReport, UnitSpec, UnitState,
};

/// One provisioner under test.
#[async_trait::async_trait]
pub(crate) trait House: Send + Sync {
    /// The provisioner.
    fn provisioner(&self) -> Arc<dyn Provisioner>;
    /// Another one over the same units: the next Tancho.
    fn successor(&self) -> Arc<dyn Provisioner>;
    /// Where units find their files.
    fn folder(&self) -> PathBuf;
    /// Kills the process of a unit, not the unit.
    async fn crash(&self, report: &UnitReport);
}

/// A unit that runs until it is told to end.
pub(crate) fn spec(unit: &str, folder: PathBuf, command: &str) -> UnitSpec {
    UnitSpec {
        unit: UnitId::parse(unit).unwrap(),
        app: AppName::parse("myapp").unwrap(),
        process: ProcessName::parse("web").unwrap(),
        version: 1,
        dir: folder,
        before: Vec::new(),
        command: command.to_owned(),
        after: Vec::new(),
        env: vec![(EnvName::parse("SOME").unwrap(), Secret::new("value"))],
        memory_bytes: 0,
        cpu_milli: 0,
        user: None,
        grace: Duration::from_secs(5),
    }
}

/// Waits until a unit's report passes; panics after 15 s with the last one seen.
pub(crate) async fn until(
    provisioner: &dyn Provisioner,
    unit: &UnitId,
    what: &str,
    pass: impl Fn(&UnitReport) -> bool,
) -> UnitReport {
    let deadline = Instant::now() + Duration::from_secs(15);
    loop {
        let report = report(provisioner, unit).await;
        match report {
            Some(report) if pass(&report) => return report,
            last => assert!(Instant::now() < deadline, "never {what}; last seen: {last:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What is reported of one unit.
pub(crate) async fn report(provisioner: &dyn Provisioner, unit: &UnitId) -> Option<UnitReport> {
    let mut reports = provisioner.observe().await.unwrap();
    reports.retain(|report| report.unit == *unit);
    assert!(reports.len() <= 1, "one report a unit: {reports:?}");
    reports.pop()
}

/// The whole suite.
pub(crate) async fn check(house: &dyn House) {
    unknown_units_are_gone(house).await;
    ensuring_twice_starts_one(house).await;
    a_successor_sees_the_same(house).await;
    a_crashed_unit_is_started_again(house).await;
    logs_continue_where_they_ended(house).await;
    a_command_runs_beside_a_unit(house).await;
    changes_are_told(house).await;
}

async fn unknown_units_are_gone(house: &dyn House) {
    let (it, unit) = (house.provisioner(), UnitId::parse("nobody").unwrap());
    it.remove(&unit).await.unwrap();
    let log = it.read_log(&unit, LogPosition::START, 10).await;
    assert!(matches!(log, Err(ProvisionError::Gone(_))), "{log:?}");
    let request = ExecRequest {
        argv: vec!["true".into()],
        window: None,
    };
    assert!(matches!(
        it.exec(&unit, &request).await,
        Err(ProvisionError::Gone(_))
    ));
    assert!(report(&*it, &unit).await.is_none());
}

async fn ensuring_twice_starts_one(house: &dyn House) {
    let it = house.provisioner();
    let spec = spec("contract-twice", house.folder(), "exec sleep 1000");
    it.ensure(&spec).await.unwrap();
    let first = until(&*it, &spec.unit, "started", |r| r.state == UnitState::Started).await;
    assert!(
        first.pid.is_some() && first.address.is_some() && first.started_at.is_some(),
        "{first:?}"
    );
    it.ensure(&spec).await.unwrap();
    assert_eq!(report(&*it, &spec.unit).await, Some(first));
    it.remove(&spec.unit).await.unwrap();
    assert_eq!(report(&*it, &spec.unit).await, None);
    it.remove(&spec.unit).await.unwrap();
}

async fn a_successor_sees_the_same(house: &dyn House) {
    let it = house.provisioner();
    let spec = spec("contract-heir", house.folder(), "exec sleep 1000");
    it.ensure(&spec).await.unwrap();
    let first = until(&*it, &spec.unit, "started", |r| r.state == UnitState::Started).await;
    let heir = house.successor();
    assert_eq!(report(&*heir, &spec.unit).await, Some(first.clone()));
    heir.ensure(&spec).await.unwrap();
    assert_eq!(report(&*heir, &spec.unit).await, Some(first));
    heir.remove(&spec.unit).await.unwrap();
    assert_eq!(report(&*it, &spec.unit).await, None);
}

async fn a_crashed_unit_is_started_again(house: &dyn House) {
    let it = house.provisioner();
    let spec = spec("contract-crash", house.folder(), "exec sleep 1000");
    it.ensure(&spec).await.unwrap();
    let first = until(&*it, &spec.unit, "started", |r| r.state == UnitState::Started).await;
    house.crash(&first).await;
    let again = |r: &UnitReport| r.state == UnitState::Started && r.restarts == 1;
    let second = until(&*it, &spec.unit, "started again", again).await;
    assert_ne!(second.pid, first.pid);
    assert_eq!(second.exit, Some(137));
    it.remove(&spec.unit).await.unwrap();
}

async fn logs_continue_where_they_ended(house: &dyn House) {
    let it = house.provisioner();
    let spec = spec("contract-log", house.folder(), "echo hello; exec sleep 1000");
    it.ensure(&spec).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(15);
    let (lines, next) = loop {
        let (lines, next) = it.read_log(&spec.unit, LogPosition::START, 10).await.unwrap();
        if !lines.is_empty() {
            break (lines, next);
        }
        assert!(Instant::now() < deadline, "no line came");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(lines[0].message, "hello");
    let (more, end) = it.read_log(&spec.unit, next, 10).await.unwrap();
    assert!(more.is_empty(), "{more:?}");
    assert_eq!(end, next);
    it.remove(&spec.unit).await.unwrap();
}

async fn a_command_runs_beside_a_unit(house: &dyn House) {
    let it = house.provisioner();
    let spec = spec("contract-exec", house.folder(), "exec sleep 1000");
    it.ensure(&spec).await.unwrap();
    until(&*it, &spec.unit, "started", |r| r.state == UnitState::Started).await;
    let request = ExecRequest {
        argv: vec!["echo".into(), "good day".into()],
        window: None,
    };
    let mut session = it.exec(&spec.unit, &request).await.unwrap();
    drop(session.input);
    let mut said = String::new();
    session.output.read_to_string(&mut said).await.unwrap();
    assert_eq!(said, "good day\n");
    assert_eq!(session.end.await, Ok(0));
    it.remove(&spec.unit).await.unwrap();
}

async fn changes_are_told(house: &dyn House) {
    let it = house.provisioner();
    let mut changes = it.changes();
    changes.mark_unchanged();
    let spec = spec("contract-told", house.folder(), "exec sleep 1000");
    it.ensure(&spec).await.unwrap();
    let limit = Duration::from_secs(10);
    tokio::time::timeout(limit, changes.changed())
        .await
        .expect("told of a new unit")
        .unwrap();
    until(&*it, &spec.unit, "started", |r| r.state == UnitState::Started).await;
    it.remove(&spec.unit).await.unwrap();
    tokio::time::timeout(limit, changes.changed())
        .await
        .expect("told of its end")
        .unwrap();
}
