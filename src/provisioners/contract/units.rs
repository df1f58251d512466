//! The contract tests that every runner of units passes. A `UnitRunnerFixture` gives access to the runner
//! under test.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;

use super::{
    AppId, AppName, Artifact, EnvName, ExecRequest, LogPosition, ProcessName, ProvisionError, RestartPolicy,
    Secret, UnitApp, UnitId, UnitReport, UnitRunner, UnitSpec, UnitState,
};

/// One runner under test. Its host is `test`, and has the files of every version.
#[async_trait::async_trait]
pub(crate) trait UnitRunnerFixture: Send + Sync {
    /// Opens the runner.
    fn open_runner(&self) -> Arc<dyn UnitRunner>;
    /// Opens another one for the same units, as the next Tancho process does.
    fn open_successor(&self) -> Arc<dyn UnitRunner>;
    /// Kills the process of a unit, not the unit.
    async fn crash_unit(&self, unit: &UnitId);
}

/// A unit with this command, of version 1 of the app with number 7.
pub(crate) fn sample_spec(unit: &str, command: &str) -> UnitSpec {
    UnitSpec {
        unit: UnitId::parse(unit).unwrap(),
        app: UnitApp {
            id: AppId::new(),
            number: 7,
            name: AppName::parse("myapp").unwrap(),
        },
        process: ProcessName::parse("web").unwrap(),
        version: 1,
        artifact: Artifact::Folder {
            holder: "test".into(),
        },
        before: Vec::new(),
        command: command.to_owned(),
        after: Vec::new(),
        env: vec![(EnvName::parse("SOME").unwrap(), Secret::new("value"))],
        memory_bytes: 0,
        cpu_milli: 0,
        grace: Duration::from_secs(5),
        restart: RestartPolicy::Always,
        volumes: Vec::new(),
    }
}

/// Waits until a unit's report matches; panics after 15 s with the last report.
pub(crate) async fn wait_for_report(
    runner: &dyn UnitRunner,
    unit: &UnitId,
    what: &str,
    pass: impl Fn(&UnitReport) -> bool,
) -> UnitReport {
    let deadline = Instant::now() + Duration::from_secs(15);
    loop {
        let report = find_report(runner, unit).await;
        match report {
            Some(report) if pass(&report) => return report,
            last => assert!(
                Instant::now() < deadline,
                "timeout: {what}; last report: {last:?}"
            ),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Returns the report of one unit.
pub(crate) async fn find_report(runner: &dyn UnitRunner, unit: &UnitId) -> Option<UnitReport> {
    let mut reports = runner.observe_units().await.unwrap();
    reports.retain(|report| report.unit == *unit);
    assert!(reports.len() <= 1, "one report a unit: {reports:?}");
    reports.pop()
}

/// Runs all contract tests.
pub(crate) async fn check_contract(fixture: &dyn UnitRunnerFixture) {
    unknown_units_are_gone(fixture).await;
    ensuring_twice_starts_one_unit(fixture).await;
    successor_reports_the_same_units(fixture).await;
    a_crashed_unit_is_started_again(fixture).await;
    logs_continue_where_they_ended(fixture).await;
    exec_runs_a_command_in_a_unit(fixture).await;
    changes_are_notified(fixture).await;
    stopped_units_are_reported_and_start_again(fixture).await;
    unit_without_restarts_runs_once(fixture).await;
}

async fn unknown_units_are_gone(fixture: &dyn UnitRunnerFixture) {
    let (it, unit) = (fixture.open_runner(), UnitId::parse("nobody").unwrap());
    it.remove_unit(&unit).await.unwrap();
    let log = it.read_log(&unit, LogPosition::START, 10).await;
    assert!(matches!(log, Err(ProvisionError::Gone(_))), "{log:?}");
    let request = ExecRequest::for_argv(vec!["true".into()]);
    assert!(matches!(
        it.exec_in_unit(&unit, &request).await,
        Err(ProvisionError::Gone(_))
    ));
    assert!(find_report(&*it, &unit).await.is_none());
}

async fn ensuring_twice_starts_one_unit(fixture: &dyn UnitRunnerFixture) {
    let it = fixture.open_runner();
    let spec = sample_spec("contract-twice", "exec sleep 1000");
    it.ensure_unit(&spec).await.unwrap();
    let first = wait_for_report(&*it, &spec.unit, "started", |r| r.state == UnitState::Started).await;
    assert!(first.address.is_some() && first.started_at.is_some(), "{first:?}");
    it.ensure_unit(&spec).await.unwrap();
    assert_eq!(find_report(&*it, &spec.unit).await, Some(first));
    it.remove_unit(&spec.unit).await.unwrap();
    assert_eq!(find_report(&*it, &spec.unit).await, None);
    it.remove_unit(&spec.unit).await.unwrap();
}

async fn successor_reports_the_same_units(fixture: &dyn UnitRunnerFixture) {
    let it = fixture.open_runner();
    let spec = sample_spec("contract-successor", "exec sleep 1000");
    it.ensure_unit(&spec).await.unwrap();
    let first = wait_for_report(&*it, &spec.unit, "started", |r| r.state == UnitState::Started).await;
    let successor = fixture.open_successor();
    assert_eq!(find_report(&*successor, &spec.unit).await, Some(first.clone()));
    successor.ensure_unit(&spec).await.unwrap();
    assert_eq!(find_report(&*successor, &spec.unit).await, Some(first));
    successor.remove_unit(&spec.unit).await.unwrap();
    assert_eq!(find_report(&*it, &spec.unit).await, None);
}

async fn a_crashed_unit_is_started_again(fixture: &dyn UnitRunnerFixture) {
    let it = fixture.open_runner();
    let spec = sample_spec("contract-crash", "exec sleep 1000");
    it.ensure_unit(&spec).await.unwrap();
    let first = wait_for_report(&*it, &spec.unit, "started", |r| r.state == UnitState::Started).await;
    fixture.crash_unit(&first.unit).await;
    let again = |r: &UnitReport| r.state == UnitState::Started && r.restarts == 1;
    let second = wait_for_report(&*it, &spec.unit, "started again", again).await;
    assert_ne!(second.started_at, first.started_at);
    assert_eq!(second.exit, Some(137));
    it.remove_unit(&spec.unit).await.unwrap();
}

async fn logs_continue_where_they_ended(fixture: &dyn UnitRunnerFixture) {
    let it = fixture.open_runner();
    let spec = sample_spec("contract-log", "echo hello; exec sleep 1000");
    it.ensure_unit(&spec).await.unwrap();
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
    it.remove_unit(&spec.unit).await.unwrap();
}

async fn exec_runs_a_command_in_a_unit(fixture: &dyn UnitRunnerFixture) {
    let it = fixture.open_runner();
    let spec = sample_spec("contract-exec", "exec sleep 1000");
    it.ensure_unit(&spec).await.unwrap();
    wait_for_report(&*it, &spec.unit, "started", |r| r.state == UnitState::Started).await;
    let request = ExecRequest::for_argv(vec!["echo".into(), "good day".into()]);
    let mut session = it.exec_in_unit(&spec.unit, &request).await.unwrap();
    drop(session.input);
    let mut output = String::new();
    session.output.read_to_string(&mut output).await.unwrap();
    assert_eq!(output, "good day\n");
    assert_eq!(session.end.await, Ok(0));
    it.remove_unit(&spec.unit).await.unwrap();
}

async fn changes_are_notified(fixture: &dyn UnitRunnerFixture) {
    let it = fixture.open_runner();
    let mut changes = it.subscribe_changes();
    changes.mark_unchanged();
    let spec = sample_spec("contract-notify", "exec sleep 1000");
    it.ensure_unit(&spec).await.unwrap();
    let limit = Duration::from_secs(10);
    tokio::time::timeout(limit, changes.changed())
        .await
        .expect("a change is notified for the new unit")
        .unwrap();
    wait_for_report(&*it, &spec.unit, "started", |r| r.state == UnitState::Started).await;
    it.remove_unit(&spec.unit).await.unwrap();
    tokio::time::timeout(limit, changes.changed())
        .await
        .expect("a change is notified for its removal")
        .unwrap();
}

async fn stopped_units_are_reported_and_start_again(fixture: &dyn UnitRunnerFixture) {
    let it = fixture.open_runner();
    let specs = ["contract-stop-1", "contract-stop-2"].map(|unit| sample_spec(unit, "exec sleep 1000"));
    for spec in &specs {
        it.ensure_unit(spec).await.unwrap();
    }
    for spec in &specs {
        wait_for_report(&*it, &spec.unit, "started", |r| r.state == UnitState::Started).await;
    }
    it.stop_all_units(Duration::from_secs(1)).await.unwrap();
    for spec in &specs {
        let report = find_report(&*it, &spec.unit).await.unwrap();
        assert_eq!(report.state, UnitState::Stopped);
        it.ensure_unit(spec).await.unwrap();
        wait_for_report(&*it, &spec.unit, "started again", |r| {
            r.state == UnitState::Started
        })
        .await;
        it.remove_unit(&spec.unit).await.unwrap();
    }
}

async fn unit_without_restarts_runs_once(fixture: &dyn UnitRunnerFixture) {
    let it = fixture.open_runner();
    for (unit, command, status) in [
        ("contract-once-0", "echo done; exit 0", 0),
        ("contract-once-7", "echo done; exit 7", 7),
    ] {
        let mut spec = sample_spec(unit, command);
        spec.restart = RestartPolicy::Never;
        it.ensure_unit(&spec).await.unwrap();
        let ended = wait_for_report(&*it, &spec.unit, "ended", |r| r.state == UnitState::Stopped).await;
        assert_eq!((ended.exit, ended.restarts), (Some(status), 0), "{ended:?}");
        // Neither this process nor the next one starts it again.
        it.ensure_unit(&spec).await.unwrap();
        fixture.open_successor().ensure_unit(&spec).await.unwrap();
        assert_eq!(find_report(&*it, &spec.unit).await, Some(ended));
        let (lines, _) = it.read_log(&spec.unit, LogPosition::START, 10).await.unwrap();
        assert_eq!(lines.first().map(|line| line.message.as_str()), Some("done"));
        it.remove_unit(&spec.unit).await.unwrap();
        assert_eq!(find_report(&*it, &spec.unit).await, None);
    }
}
