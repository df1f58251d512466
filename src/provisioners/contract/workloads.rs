//! The contract tests that every runner of workloads passes. A `WorkloadRunnerFixture` gives access to the
//! runner under test.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;

use super::{
    AppId, Artifact, EnvName, ExecRequest, LogPosition, Placement, ProcessName, ProvisionError, Secret,
    UnitId, UnitState, VolumeMount, Workload, WorkloadId, WorkloadOwner, WorkloadProbe, WorkloadReport,
    WorkloadRunner,
};

/// One runner under test.
#[async_trait::async_trait]
pub(crate) trait WorkloadRunnerFixture: Send + Sync {
    /// Opens the runner.
    fn open_runner(&self) -> Arc<dyn WorkloadRunner>;
    /// Opens another one for the same clusters, as another Tancho process does.
    fn open_successor(&self) -> Arc<dyn WorkloadRunner>;
    /// Kills the process of a unit, not the unit.
    async fn crash_unit(&self, workload: &WorkloadId, unit: &UnitId);
}

/// A web workload of an app of its own, whose process has this name. Each unit says hello and waits.
pub(crate) fn sample_workload(process: &str, replicas: u32) -> Workload {
    let image = format!(
        "registry.example.com/apps/{process}:v1@sha256:{}",
        "0a".repeat(32)
    );
    Workload {
        id: WorkloadId {
            owner: WorkloadOwner::App(AppId::new()),
            process: ProcessName::parse(process).unwrap(),
            release: 1,
        },
        placement: Placement::Cluster("test".into()),
        artifact: Artifact::Image(image.parse().unwrap()),
        command: "echo hello; exec sleep 1000".to_owned(),
        env: vec![(EnvName::parse("SOME").unwrap(), Secret::new("value"))],
        replicas,
        memory_bytes: 64 << 20,
        cpu_milli: 100,
        volumes: vec![VolumeMount {
            volume: "data".into(),
            path: "/data".into(),
            is_read_only: true,
        }],
        ports: vec![8888],
        probe: Some(WorkloadProbe::Command(vec!["true".into()])),
        is_web: true,
    }
}

/// Returns the report of one workload.
async fn find_report(runner: &dyn WorkloadRunner, workload: &WorkloadId) -> Option<WorkloadReport> {
    let mut reports = runner.observe_workloads().await.unwrap();
    reports.retain(|report| report.id == *workload);
    assert!(reports.len() <= 1, "one report a workload: {reports:?}");
    reports.pop()
}

/// Waits until a workload's report matches; panics after 60 s with the last report.
async fn wait_for_report(
    runner: &dyn WorkloadRunner,
    workload: &WorkloadId,
    what: &str,
    pass: impl Fn(&WorkloadReport) -> bool,
) -> WorkloadReport {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match find_report(runner, workload).await {
            Some(report) if pass(&report) => return report,
            last => assert!(
                Instant::now() < deadline,
                "timeout: {what}; last report: {last:?}"
            ),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until so many units run, and no others.
async fn wait_for_units(runner: &dyn WorkloadRunner, workload: &WorkloadId, count: usize) -> Vec<UnitId> {
    let run = |report: &WorkloadReport| {
        report.units.len() == count && report.units.iter().all(|unit| unit.state == UnitState::Started)
    };
    let report = wait_for_report(runner, workload, "its units run", run).await;
    report.units.into_iter().map(|unit| unit.unit).collect()
}

/// Runs all contract tests.
pub(crate) async fn check_contract(fixture: &dyn WorkloadRunnerFixture) {
    unknown_workloads_are_gone(fixture).await;
    workloads_that_no_cluster_can_run_are_refused(fixture).await;
    applying_twice_changes_nothing(fixture).await;
    scaling_keeps_the_other_units(fixture).await;
    changed_workload_gets_new_units(fixture).await;
    only_web_units_have_addresses(fixture).await;
    successor_reports_the_same_workloads(fixture).await;
    a_crashed_unit_is_started_again(fixture).await;
    logs_continue_where_they_ended(fixture).await;
    exec_runs_a_command_in_a_unit(fixture).await;
    changes_are_notified(fixture).await;
}

async fn unknown_workloads_are_gone(fixture: &dyn WorkloadRunnerFixture) {
    let (it, unit) = (fixture.open_runner(), UnitId::parse("nobody").unwrap());
    let unknown = sample_workload("unknown", 1).id;
    it.delete_workload(&unknown).await.unwrap();
    let log = it.read_log(&unknown, &unit, LogPosition::START, 10).await;
    assert!(matches!(log, Err(ProvisionError::Gone(_))), "{log:?}");
    let request = ExecRequest::for_argv(vec!["true".into()]);
    assert!(matches!(
        it.exec_in_workload(&unknown, &unit, &request).await,
        Err(ProvisionError::Gone(_))
    ));
    assert_eq!(find_report(&*it, &unknown).await, None);
}

async fn workloads_that_no_cluster_can_run_are_refused(fixture: &dyn WorkloadRunnerFixture) {
    let it = fixture.open_runner();
    let mut on_host = sample_workload("on-host", 1);
    on_host.placement = Placement::Host("test".into());
    let mut folder = sample_workload("folder", 1);
    folder.artifact = Artifact::Folder {
        holder: "test".into(),
    };
    for workload in [on_host, folder] {
        let refused = it.apply_workload(&workload).await;
        assert!(
            matches!(refused, Err(ProvisionError::Permanent(_))),
            "{refused:?}"
        );
        assert_eq!(find_report(&*it, &workload.id).await, None);
    }
}

async fn applying_twice_changes_nothing(fixture: &dyn WorkloadRunnerFixture) {
    let it = fixture.open_runner();
    let workload = sample_workload("twice", 2);
    it.apply_workload(&workload).await.unwrap();
    wait_for_units(&*it, &workload.id, 2).await;
    let first = find_report(&*it, &workload.id).await;
    it.apply_workload(&workload).await.unwrap();
    assert_eq!(find_report(&*it, &workload.id).await, first);
    assert_eq!(first.unwrap().placement, workload.placement);
    it.delete_workload(&workload.id).await.unwrap();
    it.delete_workload(&workload.id).await.unwrap();
    assert_eq!(find_report(&*it, &workload.id).await, None);
}

async fn scaling_keeps_the_other_units(fixture: &dyn WorkloadRunnerFixture) {
    let it = fixture.open_runner();
    let mut workload = sample_workload("scaled", 1);
    it.apply_workload(&workload).await.unwrap();
    let first = wait_for_units(&*it, &workload.id, 1).await;
    workload.replicas = 3;
    it.apply_workload(&workload).await.unwrap();
    let more = wait_for_units(&*it, &workload.id, 3).await;
    assert!(more.contains(&first[0]), "{first:?} {more:?}");
    workload.replicas = 0;
    it.apply_workload(&workload).await.unwrap();
    wait_for_units(&*it, &workload.id, 0).await;
    it.delete_workload(&workload.id).await.unwrap();
}

async fn changed_workload_gets_new_units(fixture: &dyn WorkloadRunnerFixture) {
    let it = fixture.open_runner();
    let mut workload = sample_workload("changed", 2);
    it.apply_workload(&workload).await.unwrap();
    let old = wait_for_units(&*it, &workload.id, 2).await;
    workload
        .env
        .push((EnvName::parse("MORE").unwrap(), Secret::new("value")));
    it.apply_workload(&workload).await.unwrap();
    let replaced = |report: &WorkloadReport| {
        report.units.len() == 2 && report.units.iter().all(|unit| !old.contains(&unit.unit))
    };
    wait_for_report(&*it, &workload.id, "the old units are replaced", replaced).await;
    wait_for_units(&*it, &workload.id, 2).await;
    it.delete_workload(&workload.id).await.unwrap();
}

async fn only_web_units_have_addresses(fixture: &dyn WorkloadRunnerFixture) {
    let it = fixture.open_runner();
    let web = sample_workload("web", 1);
    let mut worker = sample_workload("worker", 1);
    worker.is_web = false;
    for workload in [&web, &worker] {
        it.apply_workload(workload).await.unwrap();
        wait_for_units(&*it, &workload.id, 1).await;
        let report = find_report(&*it, &workload.id).await.unwrap();
        assert_eq!(report.units[0].address.is_some(), workload.is_web, "{report:?}");
        it.delete_workload(&workload.id).await.unwrap();
    }
}

async fn successor_reports_the_same_workloads(fixture: &dyn WorkloadRunnerFixture) {
    let it = fixture.open_runner();
    let workload = sample_workload("successor", 1);
    it.apply_workload(&workload).await.unwrap();
    wait_for_units(&*it, &workload.id, 1).await;
    let first = find_report(&*it, &workload.id).await;
    let successor = fixture.open_successor();
    assert_eq!(find_report(&*successor, &workload.id).await, first);
    successor.delete_workload(&workload.id).await.unwrap();
    assert_eq!(find_report(&*it, &workload.id).await, None);
}

async fn a_crashed_unit_is_started_again(fixture: &dyn WorkloadRunnerFixture) {
    let it = fixture.open_runner();
    let workload = sample_workload("crash", 1);
    it.apply_workload(&workload).await.unwrap();
    let units = wait_for_units(&*it, &workload.id, 1).await;
    fixture.crash_unit(&workload.id, &units[0]).await;
    let again = |report: &WorkloadReport| report.units.iter().any(|unit| unit.restarts == 1);
    let report = wait_for_report(&*it, &workload.id, "started again", again).await;
    assert_eq!(report.units[0].exit, Some(137));
    wait_for_units(&*it, &workload.id, 1).await;
    it.delete_workload(&workload.id).await.unwrap();
}

async fn logs_continue_where_they_ended(fixture: &dyn WorkloadRunnerFixture) {
    let it = fixture.open_runner();
    let workload = sample_workload("log", 1);
    it.apply_workload(&workload).await.unwrap();
    let units = wait_for_units(&*it, &workload.id, 1).await;
    let deadline = Instant::now() + Duration::from_secs(15);
    let (lines, next) = loop {
        let read = it.read_log(&workload.id, &units[0], LogPosition::START, 10).await;
        let (lines, next) = read.unwrap();
        if !lines.is_empty() {
            break (lines, next);
        }
        assert!(Instant::now() < deadline, "no line came");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(lines[0].message, "hello");
    let (more, end) = it.read_log(&workload.id, &units[0], next, 10).await.unwrap();
    assert!(more.is_empty(), "{more:?}");
    assert_eq!(end, next);
    it.delete_workload(&workload.id).await.unwrap();
}

async fn exec_runs_a_command_in_a_unit(fixture: &dyn WorkloadRunnerFixture) {
    let it = fixture.open_runner();
    let workload = sample_workload("exec", 1);
    it.apply_workload(&workload).await.unwrap();
    let units = wait_for_units(&*it, &workload.id, 1).await;
    let request = ExecRequest::for_argv(vec!["echo".into(), "good day".into()]);
    let started = it.exec_in_workload(&workload.id, &units[0], &request).await;
    let mut session = started.unwrap();
    drop(session.input);
    let mut output = String::new();
    session.output.read_to_string(&mut output).await.unwrap();
    assert_eq!((output.as_str(), session.end.await), ("good day\n", Ok(0)));
    it.delete_workload(&workload.id).await.unwrap();
}

async fn changes_are_notified(fixture: &dyn WorkloadRunnerFixture) {
    let it = fixture.open_runner();
    let mut changes = it.subscribe_changes();
    changes.mark_unchanged();
    let workload = sample_workload("notify", 1);
    let limit = Duration::from_secs(10);
    it.apply_workload(&workload).await.unwrap();
    tokio::time::timeout(limit, changes.changed())
        .await
        .expect("a change is notified for the new workload")
        .unwrap();
    wait_for_units(&*it, &workload.id, 1).await;
    changes.mark_unchanged();
    it.delete_workload(&workload.id).await.unwrap();
    tokio::time::timeout(limit, changes.changed())
        .await
        .expect("a change is notified for its removal")
        .unwrap();
}
