//! The local provisioner with real processes of the built binary.
#![expect(clippy::unwrap_used, reason = "all of this file is tests and their helpers")]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use tancho::kernel::artifact::Artifact;
use tancho::kernel::ids::AppId;
use tancho::kernel::names::{AppName, EnvName, ProcessName};
use tancho::kernel::secret::Secret;
use tancho::provisioners::local::{LocalRunner, LocalRunnerConfig, UnitLimits};
use tancho::provisioners::{
    ExecRequest, LogPosition, LogStream, ProvisionError, RestartPolicy, UnitApp, UnitId, UnitReport,
    UnitRunner, UnitSpec, UnitState,
};
use tancho::sandbox::SandboxPolicy;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

mod builds;
#[path = "../../src/provisioners/contract/units.rs"]
mod contract;
mod isolation;
mod leftovers;
mod sealed_files;
mod shared_memory;
mod sockets;
mod terminals;
mod usage;
mod volumes;

use contract::{find_report, wait_for_report};

/// Returns whether a feature of the kernel or the host that a test needs is available. If not, the test is
/// skipped with a message that the test harness does not capture, so that `script/test` shows it; or it
/// fails, if `TANCHO_TEST_REQUIRES` names the feature.
fn require_feature(part: &str, is_there: bool) -> bool {
    if is_there {
        return true;
    }
    let required = tancho::config::process_variable("TANCHO_TEST_REQUIRES").unwrap_or_default();
    assert!(
        !required.split(',').any(|required| required.trim() == part),
        "{part} is missing here, and TANCHO_TEST_REQUIRES says that it must not be"
    );
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    // Not `eprintln!`, whose output is captured.
    let _ = writeln!(std::io::stderr(), "SKIP {test}: {part} is missing here");
    false
}

/// The folders of the versions of apps: version 1 has the first.
type VersionFolders = Arc<Mutex<Vec<PathBuf>>>;

/// Apps with smaller numbers have no user of their own.
const FIRST_USER: u32 = 20_000;

/// A runner with a temporary root; on drop, also after a panic, all its units are stopped.
struct LocalFixture {
    root: PathBuf,
    folders: VersionFolders,
    local: Arc<LocalRunner>,
}

impl LocalFixture {
    fn new() -> Self {
        let root = std::env::temp_dir().join(format!("tancho-local-{}", uuid::Uuid::new_v4()));
        fs::create_dir(&root).unwrap();
        Command::new("chmod").arg("0755").arg(&root).status().unwrap();
        let folders = VersionFolders::new(Mutex::new(vec![root.clone()]));
        let settings = settings(&root, &folders);
        let local = Arc::new(open_runner(settings));
        Self { root, folders, local }
    }

    /// A fixture on a host where no cgroup can be created.
    fn new_without_cgroups() -> Self {
        Self::with(|settings| settings.cgroup = Some("/nonexistent".into()))
    }

    fn with(change: impl FnOnce(&mut LocalRunnerConfig)) -> Self {
        let mut fixture = Self::new();
        let mut settings = settings(&fixture.root, &fixture.folders);
        change(&mut settings);
        fixture.local = Arc::new(open_runner(settings));
        fixture
    }

    fn state(&self, unit: &UnitId) -> serde_json::Value {
        serde_json::from_slice(&fs::read(self.unit(unit).join("state.json")).unwrap()).unwrap()
    }

    fn unit(&self, unit: &UnitId) -> PathBuf {
        self.root.join("units").join(unit.as_str())
    }

    fn spec(&self, unit: &str, command: &str) -> UnitSpec {
        contract::sample_spec(unit, command)
    }

    /// Lets a unit run in this folder, as this user; `None`: that of the test.
    fn place(&self, spec: &mut UnitSpec, dir: impl Into<PathBuf>, user: Option<u32>) {
        let mut folders = self.folders.lock().unwrap();
        folders.push(dir.into());
        spec.version = folders.len().try_into().unwrap();
        set_user(spec, user);
    }

    /// Opens another runner for the same units, as the next Tancho process does.
    fn open_next(&self) -> LocalRunner {
        open_runner(settings(&self.root, &self.folders))
    }

    async fn start(&self, spec: &UnitSpec) -> UnitReport {
        self.local.ensure_unit(spec).await.unwrap();
        self.started(spec).await
    }

    async fn started(&self, spec: &UnitSpec) -> UnitReport {
        wait_for_report(&*self.local, &spec.unit, "started", |r| {
            r.state == UnitState::Started
        })
        .await
    }

    /// Waits for a log line with this prefix; returns the rest of it.
    async fn wait_for_log_line(&self, spec: &UnitSpec, start: &str) -> String {
        let deadline = Instant::now() + Duration::from_secs(15);
        loop {
            let (lines, _) = self
                .local
                .read_log(&spec.unit, LogPosition::START, 100_000)
                .await
                .unwrap();
            if let Some(rest) = lines.iter().find_map(|line| line.message.strip_prefix(start)) {
                return rest.to_owned();
            }
            assert!(Instant::now() < deadline, "no line {start:?} in {lines:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The pid of the unit's command.
    fn pid(&self, unit: &UnitId) -> String {
        self.state(unit)["child"].to_string()
    }

    /// Sends a signal to the unit's command.
    fn signal_unit(&self, unit: &UnitId, signal: Signal) {
        kill_process(self.pid(unit).parse().unwrap(), signal);
    }

    fn shim(&self, unit: &UnitId) -> i32 {
        i32::try_from(self.state(unit)["shim"]["pid"].as_i64().unwrap()).unwrap()
    }
}

impl Drop for LocalFixture {
    fn drop(&mut self) {
        let settings = settings(&self.root, &self.folders);
        // A runtime of its own: that of the test may be unwinding.
        let end = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let local = {
                let _inside = runtime.enter();
                open_runner(settings)
            };
            runtime.block_on(local.stop_all_units(Duration::from_secs(1)))
        });
        let ended = end.join();
        if !std::thread::panicking() {
            ended.unwrap().unwrap();
        }
        let _ = fs::remove_dir_all(&self.root);
    }
}

fn open_runner(settings: LocalRunnerConfig) -> LocalRunner {
    LocalRunner::new(settings, &TaskTracker::new(), CancellationToken::new()).unwrap()
}

/// A configuration without limits, with the units of a fixture below `root`.
fn unlimited_settings(root: &Path, folders: &VersionFolders) -> LocalRunnerConfig {
    let folders = Arc::clone(folders);
    LocalRunnerConfig::new(
        root.join("units"),
        "test",
        move |_, version| folders.lock().unwrap()[usize::try_from(version).unwrap() - 1].clone(),
        |number| u32::try_from(number).ok().filter(|user| *user >= FIRST_USER),
    )
}

/// The default settings, but units may also write beside their homes, for the tests.
fn settings(root: &Path, folders: &VersionFolders) -> LocalRunnerConfig {
    let mut settings = unlimited_settings(root, folders);
    settings.exe = env!("CARGO_BIN_EXE_tancho").into();
    let defaults = tancho::config::Settings::defaults();
    let confinement = SandboxPolicy::new(&defaults, &settings.root).with_writable([root.to_owned()]);
    settings.limits = UnitLimits::new(&defaults.local, confinement);
    settings
}

/// Lets a unit run as this user; `None`: that of the test.
fn set_user(spec: &mut UnitSpec, user: Option<u32>) {
    spec.app.number = user.map_or(1, |user| user.try_into().unwrap());
}

/// The user as which a unit runs.
fn user_of(spec: &UnitSpec) -> u32 {
    let user = u32::try_from(spec.app.number).unwrap();
    match user >= FIRST_USER {
        true => user,
        false => Uid::effective().as_raw(),
    }
}

#[async_trait::async_trait]
impl contract::UnitRunnerFixture for LocalFixture {
    fn open_runner(&self) -> Arc<dyn UnitRunner> {
        self.local.clone()
    }

    fn open_successor(&self) -> Arc<dyn UnitRunner> {
        Arc::new(self.open_next())
    }

    async fn crash_unit(&self, unit: &UnitId) {
        self.signal_unit(unit, Signal::SIGKILL);
    }
}

fn kill_process(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap();
}

/// Returns true while the process exists and is not a zombie.
fn is_alive(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(')').unwrap().1.trim_start().starts_with('Z'))
}

async fn wait_until_dead(pid: &str) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while is_alive(pid) {
        assert!(Instant::now() < deadline, "process {pid} lives on");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn set_env(spec: &mut UnitSpec, name: &str, value: &str) {
    spec.env.push((EnvName::parse(name).unwrap(), Secret::new(value)));
}

/// Returns every regular file below a folder, with its content.
fn list_files(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(list_files(&path));
        } else {
            let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
            found.push((path, text));
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn local_provisioner_passes_the_contract() {
    contract::check_contract(&LocalFixture::new()).await;
}

#[tokio::test]
async fn many_ensures_at_once_start_one_process() {
    let fixture = LocalFixture::new();
    let spec = fixture.spec("one", "echo began; exec sleep 1000");
    let successor = fixture.open_next();
    let tries = (0..8).map(|n| {
        if n % 2 == 0 {
            fixture.local.ensure_unit(&spec)
        } else {
            successor.ensure_unit(&spec)
        }
    });
    for done in futures_util::future::join_all(tries).await {
        done.unwrap();
    }
    fixture.started(&spec).await;
    fixture.wait_for_log_line(&spec, "began").await;
    let (lines, _) = fixture
        .local
        .read_log(&spec.unit, LogPosition::START, 100)
        .await
        .unwrap();
    assert_eq!(lines.len(), 1, "{lines:?}");
}

#[tokio::test]
async fn crashing_unit_restarts_with_growing_pauses() {
    let fixture = LocalFixture::new();
    let spec = fixture.spec("crasher", "date +%s%N; exit 3");
    fixture.local.ensure_unit(&spec).await.unwrap();
    let failed = |r: &UnitReport| r.state == UnitState::Error;
    let first = wait_for_report(&*fixture.local, &spec.unit, "in error", failed).await;
    assert_eq!(first.reason.as_deref(), Some("exited with status 3"));
    assert_eq!(first.exit, Some(3));
    wait_for_report(&*fixture.local, &spec.unit, "restarted twice", |r| {
        r.restarts >= 2 && failed(r)
    })
    .await;
    let (lines, _) = fixture
        .local
        .read_log(&spec.unit, LogPosition::START, 100)
        .await
        .unwrap();
    let starts: Vec<u64> = lines
        .iter()
        .filter_map(|line| line.message.parse().ok())
        .collect();
    let pauses: Vec<u64> = starts
        .windows(2)
        .map(|two| (two[1] - two[0]) / 1_000_000)
        .collect();
    assert!(pauses[0] >= 500 && pauses[1] >= 1_000, "{pauses:?} ms");
    // Removal does not wait for the pause to end.
    let began = Instant::now();
    fixture.local.remove_unit(&spec.unit).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test]
async fn unit_may_exit_within_its_grace_period() {
    let fixture = LocalFixture::new();
    let out = fixture.root.join("out");
    // The shell exits first; its child, which does the work, has the whole grace period.
    let work = format!(
        "trap 'sleep 0.5; echo tidy > {}; exit 0' TERM; echo ready; while :; do sleep 0.05; done",
        out.display()
    );
    let spec = fixture.spec("polite", &format!("sh -c \"{work}\" & wait"));
    fixture.start(&spec).await;
    fixture.wait_for_log_line(&spec, "ready").await;
    fixture.local.remove_unit(&spec.unit).await.unwrap();
    assert_eq!(fs::read_to_string(out).unwrap(), "tidy\n");
    assert!(!fixture.unit(&spec.unit).exists());
}

#[tokio::test]
async fn unit_is_killed_after_its_grace_period() {
    let fixture = LocalFixture::new();
    let mut spec = fixture.spec(
        "stubborn",
        "trap '' TERM; echo ready; while :; do sleep 0.1; done",
    );
    spec.grace = Duration::from_secs(1);
    fixture.start(&spec).await;
    let pid = fixture.pid(&spec.unit);
    fixture.wait_for_log_line(&spec, "ready").await;
    let began = Instant::now();
    fixture.local.remove_unit(&spec.unit).await.unwrap();
    let took = began.elapsed();
    assert!(took >= spec.grace && took < Duration::from_secs(3), "{took:?}");
    assert!(!is_alive(&pid));
}

#[tokio::test]
async fn stop_all_units_shortens_the_grace_period_and_keeps_logs() {
    let fixture = LocalFixture::new();
    let mut spec = fixture.spec("slow", "trap '' TERM; echo ready; while :; do sleep 0.1; done");
    spec.grace = Duration::from_secs(600);
    fixture.start(&spec).await;
    let pid = fixture.pid(&spec.unit);
    fixture.wait_for_log_line(&spec, "ready").await;
    fixture
        .local
        .stop_all_units(Duration::from_millis(300))
        .await
        .unwrap();
    assert!(!is_alive(&pid));
    let stopped = crate::find_report(&*fixture.local, &spec.unit).await.unwrap();
    assert_eq!(
        (stopped.state, fixture.pid(&spec.unit)),
        (UnitState::Stopped, "null".to_owned())
    );
    assert_eq!(stopped.reason.as_deref(), Some("stopped on request"));
    fixture.wait_for_log_line(&spec, "ready").await;
    fixture.start(&spec).await;
    assert_ne!(fixture.pid(&spec.unit), pid);
}

#[tokio::test]
async fn daemons_of_a_unit_end_with_it() {
    for fixture in [LocalFixture::new(), LocalFixture::new_without_cgroups()] {
        // In a session of its own, and orphaned: no signal to the group reaches it.
        let command = "setsid sh -c 'sleep 1000 & echo daemon $!'; sleep 1000 & echo child $!; wait";
        let spec = fixture.spec("forker", command);
        fixture.start(&spec).await;
        let (daemon, child) = (
            fixture.wait_for_log_line(&spec, "daemon ").await,
            fixture.wait_for_log_line(&spec, "child ").await,
        );
        assert!(is_alive(&daemon) && is_alive(&child));
        fixture.local.remove_unit(&spec.unit).await.unwrap();
        assert!(!is_alive(&daemon) && !is_alive(&child));
    }
}

#[tokio::test]
async fn leftovers_of_a_crashed_command_are_killed_before_the_next_run() {
    let fixture = LocalFixture::new();
    let spec = fixture.spec("leaver", "sleep 1000 & echo left $!; exit 1");
    fixture.local.ensure_unit(&spec).await.unwrap();
    let left = fixture.wait_for_log_line(&spec, "left ").await;
    wait_for_report(&*fixture.local, &spec.unit, "in error", |r| {
        r.state == UnitState::Error
    })
    .await;
    assert!(!is_alive(&left));
}

#[tokio::test]
async fn killed_shim_takes_its_unit_along() {
    for fixture in [LocalFixture::new(), LocalFixture::new_without_cgroups()] {
        let spec = fixture.spec("orphan", "sleep 1000 & echo child $!; wait");
        fixture.start(&spec).await;
        let pid = fixture.pid(&spec.unit);
        let child = fixture.wait_for_log_line(&spec, "child ").await;
        let mut changes = fixture.local.subscribe_changes();
        tokio::time::timeout(Duration::from_secs(10), changes.changed())
            .await
            .unwrap()
            .unwrap();
        kill_process(fixture.shim(&spec.unit), Signal::SIGKILL);
        // Before any observation: the kernel kills the process itself.
        wait_until_dead(&pid).await;
        let told = tokio::time::timeout(Duration::from_secs(10), changes.changed()).await;
        told.expect("told of the death").unwrap();
        let stopped = wait_for_report(&*fixture.local, &spec.unit, "stopped", |r| {
            r.state == UnitState::Stopped
        })
        .await;
        assert_eq!(stopped.reason.as_deref(), Some("its shim was killed"));
        wait_until_dead(&child).await;
        let second = fixture.start(&spec).await;
        assert_ne!(fixture.pid(&spec.unit), pid);
        assert_eq!(second.reason, None);
    }
}

#[tokio::test]
async fn restart_cleans_up_after_a_killed_shim() {
    for fixture in [LocalFixture::new(), LocalFixture::new_without_cgroups()] {
        let spec = fixture.spec("successor", "sleep 1000 & echo child $!; wait");
        fixture.start(&spec).await;
        let child = fixture.wait_for_log_line(&spec, "child ").await;
        let shim = fixture.shim(&spec.unit);
        kill_process(shim, Signal::SIGKILL);
        wait_until_dead(&shim.to_string()).await;
        // Without an observation in between.
        fixture.local.ensure_unit(&spec).await.unwrap();
        wait_until_dead(&child).await;
    }
}

#[tokio::test]
async fn failing_hook_prevents_the_command() {
    let fixture = LocalFixture::new();
    let mut spec = fixture.spec("hooked", "echo command");
    spec.before = vec!["echo one".into(), "exit 4".into(), "echo three".into()];
    fixture.local.ensure_unit(&spec).await.unwrap();
    let report = wait_for_report(&*fixture.local, &spec.unit, "in error", |r| {
        r.state == UnitState::Error
    })
    .await;
    assert_eq!(
        report.reason.as_deref(),
        Some("the hook \"exit 4\" failed: exited with status 4")
    );
    let (lines, _) = fixture
        .local
        .read_log(&spec.unit, LogPosition::START, 100)
        .await
        .unwrap();
    assert!(lines.iter().any(|line| line.message == "one"), "{lines:?}");
    assert!(
        !lines
            .iter()
            .any(|line| ["three", "command"].contains(&line.message.as_str())),
        "{lines:?}"
    );
}

#[tokio::test]
async fn hooks_run_around_the_start_of_the_command() {
    let fixture = LocalFixture::new();
    let mut spec = fixture.spec("hooks", "echo command; exec sleep 1000");
    spec.before = vec!["echo before".into()];
    spec.after = vec!["exit 1".into(), "echo after".into()];
    let report = fixture.start(&spec).await;
    fixture.wait_for_log_line(&spec, "after").await;
    let (lines, _) = fixture
        .local
        .read_log(&spec.unit, LogPosition::START, 100)
        .await
        .unwrap();
    let at = |text: &str| {
        lines
            .iter()
            .position(|line| line.message.starts_with(text))
            .unwrap()
    };
    assert!(
        at("before") < at("command") && at("[tancho] the hook \"exit 1\" failed") < at("after"),
        "{lines:?}"
    );
    assert_eq!(
        crate::find_report(&*fixture.local, &spec.unit).await,
        Some(report)
    );
}

#[tokio::test]
async fn hooks_that_hang_or_cannot_start_are_reported_and_later_ones_run() {
    let site = LocalFixture::with(|settings| settings.limits.hook_seconds = 1);
    let mut spec = site.spec("hooks", "echo command; exec sleep 1000");
    // Longer than an argument may be.
    let long = format!("echo {}", "x".repeat(200_000));
    spec.after = vec!["echo pid $$; exec sleep 1001".into(), long, "echo after".into()];
    let report = site.start(&spec).await;
    let hook = site.wait_for_log_line(&spec, "pid ").await;
    site.wait_for_log_line(
        &spec,
        "[tancho] the hook \"echo pid $$; exec sleep 1001\" took longer than 1 s, and is killed",
    )
    .await;
    site.wait_for_log_line(&spec, "[tancho] the hook \"echo xxx")
        .await;
    site.wait_for_log_line(&spec, "after").await;
    wait_until_dead(&hook).await;
    assert_eq!(crate::find_report(&*site.local, &spec.unit).await, Some(report));
}

#[tokio::test]
async fn folder_without_a_readable_state_is_removed_or_started_anew() {
    let site = LocalFixture::new();
    for name in ["empty", "torn"] {
        let unit = UnitId::parse(name).unwrap();
        fs::create_dir(site.unit(&unit)).unwrap();
        if name == "torn" {
            fs::write(site.unit(&unit).join("state.json"), "").unwrap();
        }
        let report = find_report(&*site.local, &unit).await.unwrap();
        assert_eq!(report.state, UnitState::Stopped, "{report:?}");
        site.local.remove_unit(&unit).await.unwrap();
        assert!(!site.unit(&unit).exists() && find_report(&*site.local, &unit).await.is_none());
    }
    let spec = site.spec("torn", "exec sleep 1000");
    fs::create_dir(site.unit(&spec.unit)).unwrap();
    fs::write(site.unit(&spec.unit).join("state.json"), "").unwrap();
    site.start(&spec).await;
}

#[tokio::test]
async fn unit_environment_is_exact_and_in_no_file_or_command_line() {
    let fixture = LocalFixture::new();
    let canary = format!("canary{}", uuid::Uuid::new_v4().simple());
    let mut spec = fixture.spec("env", "env | sort > \"$HOME/env\"; echo done; exec sleep 1000");
    set_env(&mut spec, "PASSWORD", &canary);
    set_env(&mut spec, "LD_PRELOAD", "");
    set_env(&mut spec, "PORT", "1");
    fs::create_dir_all(fixture.root.join(".tancho/bin")).unwrap();
    let report = fixture.start(&spec).await;
    fixture.wait_for_log_line(&spec, "done").await;
    let written = fixture.unit(&spec.unit).join("home/env");
    let text = fs::read_to_string(&written).unwrap();
    // The unit wrote that file; all others are Tancho's.
    fs::remove_file(written).unwrap();
    let (home, port) = (
        fixture.unit(&spec.unit).join("home"),
        report.address.unwrap().port(),
    );
    let (home, root) = (home.display(), fixture.root.display());
    let mut want = format!(
        "HOME={home}\nLANG=C.UTF-8\nLD_PRELOAD=\nNODE_ENV=production\nPASSWORD={canary}\nPATH={root}/.tancho/bin:/usr/local/bin:/usr/bin:/bin\n\
         PORT={port}\nPWD={root}\nPYTHONUNBUFFERED=1\nSOME=value\nTMPDIR={home}\nport={port}"
    )
    .lines()
    .map(str::to_owned)
    .collect::<Vec<_>>();
    let mut have: Vec<String> = text.lines().map(str::to_owned).collect();
    want.sort();
    have.sort();
    assert_eq!(have, want);
    for (path, text) in list_files(&fixture.root) {
        assert!(!text.contains(&canary), "a secret in {}", path.display());
    }
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        assert!(
            !String::from_utf8_lossy(&line).contains(&canary),
            "a secret in {:?}",
            entry.path()
        );
    }
}

#[tokio::test]
async fn unit_runs_as_its_user_and_reads_only_its_own_files() {
    if !require_feature("root", Uid::effective().is_root()) {
        return;
    }
    let fixture = LocalFixture::new();
    let mut other = fixture.spec(
        "other",
        "umask 000; echo x > \"$HOME/file\"; echo done; exec sleep 1000",
    );
    set_user(&mut other, Some(20_002));
    fixture.start(&other).await;
    fixture.wait_for_log_line(&other, "done").await;
    let (there, own) = (
        fixture.unit(&other.unit),
        fixture.unit(&UnitId::parse("own").unwrap()),
    );
    let tries = [
        there.join("home/file"),
        there.join("state.json"),
        own.join("state.json"),
        own.join("log"),
    ];
    let reads: Vec<String> = tries
        .iter()
        .map(|p| format!("cat {} && echo READ", p.display()))
        .collect();
    let shim = "for fd in /proc/$PPID/fd/0 /proc/$PPID/environ; do cat $fd && echo READ; done";
    let command = format!(
        "echo id $(id -u) $(id -g) $(id -G); grep -E 'NoNewPrivs|SigBlk|CapEff' /proc/self/status; grep -c 'SigIgn:.*0000000$' /proc/self/status; umask; ulimit -c; {}; ls {}; {shim}; \
         echo mine > \"$HOME/f\" && echo home; ls /proc/self/fd | wc -l; echo end; exec sleep 1000",
        reads.join("; "),
        there.parent().unwrap().join("other").display(),
    );
    let mut spec = fixture.spec("own", &command);
    set_user(&mut spec, Some(20_001));
    fixture.start(&spec).await;
    fixture.wait_for_log_line(&spec, "end").await;
    let (lines, _) = fixture
        .local
        .read_log(&spec.unit, LogPosition::START, 100)
        .await
        .unwrap();
    let out: Vec<&str> = lines
        .iter()
        .filter(|l| l.stream == LogStream::Stdout)
        .map(|l| l.message.as_str())
        .collect();
    // `ls` has 0, 1, 2 and the folder that it lists open.
    assert_eq!(
        out,
        [
            "id 20001 20001 20001",
            "SigBlk:\t0000000000000000",
            "CapEff:\t0000000000000000",
            "NoNewPrivs:\t1",
            "1",
            "0077",
            "0",
            "home",
            "4",
            "end"
        ],
        "{lines:#?}"
    );
}

#[tokio::test]
async fn unit_over_its_memory_limit_is_killed_with_a_reason() {
    for (fixture, counts) in [
        (LocalFixture::new(), true),
        (LocalFixture::new_without_cgroups(), false),
    ] {
        let mut spec = fixture.spec("hungry", "head -c 300000000 /dev/zero | tail | wc -c; exit 9");
        spec.memory_bytes = 64 << 20;
        fixture.local.ensure_unit(&spec).await.unwrap();
        let report = wait_for_report(&*fixture.local, &spec.unit, "in error", |r| {
            r.state == UnitState::Error
        })
        .await;
        let cgroup = fixture.state(&spec.unit)["cgroup"].as_str().map(PathBuf::from);
        if cgroup.is_some() {
            assert_eq!(
                report.reason.as_deref(),
                Some("killed: over its memory limit of 64M")
            );
        } else {
            // Reports the skip, unless the host has cgroups.
            require_feature("cgroup", !counts);
            // Each process has its own limit, and exits by itself.
            assert_eq!(report.reason.as_deref(), Some("exited with status 9"));
            fixture.wait_for_log_line(&spec, "tail: ").await;
        }
        fixture.local.remove_unit(&spec.unit).await.unwrap();
        assert!(cgroup.is_none_or(|path| !path.exists()));
    }
}

#[tokio::test]
async fn hundreds_of_lines_per_second_are_logged_in_order() {
    let fixture = LocalFixture::new();
    let spec = fixture.spec("talker", "seq 1 3000; seq 1 100 >&2; echo done; exec sleep 1000");
    fixture.start(&spec).await;
    fixture.wait_for_log_line(&spec, "done").await;
    let (mut at, mut out, mut err) = (LogPosition::START, Vec::new(), 0);
    let deadline = Instant::now() + Duration::from_secs(10);
    while out.len() < 3_001 || err < 100 {
        let (lines, next) = fixture.local.read_log(&spec.unit, at, 700).await.unwrap();
        assert!(Instant::now() < deadline, "only {} and {err}", out.len());
        at = next;
        for line in lines {
            match line.stream {
                LogStream::Stdout => out.push(line.message),
                LogStream::Stderr => err += 1,
            }
        }
    }
    let want: Vec<String> = (1..=3_000)
        .map(|n| n.to_string())
        .chain(["done".into()])
        .collect();
    assert_eq!(out, want);
}

#[tokio::test]
async fn output_flood_neither_blocks_the_unit_nor_fills_the_disk() {
    let fixture = LocalFixture::new();
    let mark = fixture.root.join("mark");
    let command = format!(
        "head -c 60000000 /dev/zero | tr '\\0' 'x' | fold -w 200; echo > {}; exec sleep 1000",
        mark.display()
    );
    let spec = fixture.spec("flood", &command);
    fixture.start(&spec).await;
    let deadline = Instant::now() + Duration::from_secs(60);
    while !mark.exists() {
        assert!(Instant::now() < deadline, "the unit is blocked by its log");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let folder = fixture.unit(&spec.unit);
    let size: u64 = ["log", "log.1"]
        .iter()
        .filter_map(|f| fs::metadata(folder.join(f)).ok())
        .map(|m| m.len())
        .sum();
    assert!(size < 3 << 20, "{size} bytes of log");
    let status = fs::read_to_string(format!("/proc/{}/status", fixture.shim(&spec.unit))).unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    assert!(field("RssAnon:") < 16_000, "{status}");
}

#[tokio::test]
async fn shim_inherits_no_descriptors_and_leads_its_own_session() {
    let fixture = LocalFixture::new();
    // As a careless library leaves a descriptor open across exec.
    let leak = fs::File::open("/dev/null").unwrap();
    nix::fcntl::fcntl(&leak, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
    let spec = fixture.spec("alone", "exec sleep 1000");
    fixture.start(&spec).await;
    let shim = fixture.shim(&spec.unit);
    let open: Vec<String> = fs::read_dir(format!("/proc/{shim}/fd"))
        .unwrap()
        .map(|entry| {
            fs::read_link(entry.unwrap().path())
                .unwrap()
                .display()
                .to_string()
        })
        .collect();
    let ours = |path: &String| {
        path.starts_with("/memfd:tancho-unit") || path.starts_with("pipe:") || path.contains("/units/")
    };
    assert!(open.iter().all(ours), "{open:?}");
    let stat = fs::read_to_string(format!("/proc/{shim}/stat")).unwrap();
    let session = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .nth(3)
        .unwrap();
    assert_eq!(session, shim.to_string());
}

#[tokio::test]
async fn command_in_a_unit_has_its_environment_and_streams() {
    let fixture = LocalFixture::new();
    let mut spec = fixture.spec("exec", "exec sleep 1000");
    set_env(&mut spec, "PASSWORD", "hunter2");
    set_user(&mut spec, Uid::effective().is_root().then_some(20_001));
    fixture.start(&spec).await;
    // Through the next provisioner, which never saw the spec.
    let successor = fixture.open_next();
    let line = "read word; echo $word $PASSWORD $(id -u); pwd >&2; exit 7";
    let request = ExecRequest::for_argv(["/bin/sh", "-c", line].map(str::to_owned).into());
    let mut session = successor.exec_in_unit(&spec.unit, &request).await.unwrap();
    session.input.write_all(b"good\n").await.unwrap();
    let (mut out, mut err) = (String::new(), String::new());
    session.output.read_to_string(&mut out).await.unwrap();
    session.errors.read_to_string(&mut err).await.unwrap();
    let user = user_of(&spec);
    assert_eq!(out, format!("good hunter2 {user}\n"));
    assert_eq!(err, format!("{}\n", fixture.root.display()));
    assert_eq!(session.end.await, Ok(7));
}

#[tokio::test]
async fn dropped_session_kills_its_command() {
    let fixture = LocalFixture::new();
    let spec = fixture.spec("dropped", "exec sleep 1000");
    fixture.start(&spec).await;
    let line = "sleep 1000 & echo $!; wait";
    let request = ExecRequest::for_argv(["/bin/sh", "-c", line].map(str::to_owned).into());
    let mut session = fixture.local.exec_in_unit(&spec.unit, &request).await.unwrap();
    let mut pid = String::new();
    while !pid.ends_with('\n') {
        let mut byte = [0];
        session.output.read_exact(&mut byte).await.unwrap();
        pid.push(char::from(byte[0]));
    }
    drop(session);
    wait_until_dead(pid.trim()).await;
}

#[tokio::test]
async fn missing_folder_is_reported() {
    let fixture = LocalFixture::new();
    let mut spec = fixture.spec("lost", "true");
    fixture.place(&mut spec, "/nonexistent", None);
    fixture.local.ensure_unit(&spec).await.unwrap();
    let report = wait_for_report(&*fixture.local, &spec.unit, "in error", |r| {
        r.state == UnitState::Error
    })
    .await;
    assert_eq!(report.exit, Some(125));
    let rest = fixture
        .wait_for_log_line(&spec, "tancho: cannot enter /nonexistent")
        .await;
    assert!(rest.contains("No such file"), "{rest}");
}

#[tokio::test]
async fn binary_without_shims_is_refused_at_once() {
    let fixture = LocalFixture::new();
    let mut settings = unlimited_settings(&fixture.root, &fixture.folders);
    settings.exe = "/bin/true".into();
    let local = open_runner(settings);
    let spec = fixture.spec("shimless", "true");
    let refused = local.ensure_unit(&spec).await;
    assert!(
        matches!(refused, Err(ProvisionError::Transient(_))),
        "{refused:?}"
    );
    let report = find_report(&local, &spec.unit).await.unwrap();
    assert_eq!(report.state, UnitState::Stopped);
    local.remove_unit(&spec.unit).await.unwrap();
}

/// Not a test: `units_survive_a_killed_server` runs it as a separate process.
#[tokio::test]
async fn separate_tancho_process() {
    let Some(root) = std::env::var_os("SITE").map(PathBuf::from) else {
        return;
    };
    let folders = VersionFolders::new(Mutex::new(vec![root.clone()]));
    let local = open_runner(settings(&root, &folders));
    let spec = contract::sample_spec("survivor", "echo began; exec sleep 1000");
    local.ensure_unit(&spec).await.unwrap();
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn units_survive_a_killed_server() {
    let fixture = LocalFixture::new();
    let mut tancho = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "separate_tancho_process", "--nocapture"])
        .env("SITE", &fixture.root)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let spec = fixture.spec("survivor", "echo began; exec sleep 1000");
    // Its folder does not exist at first.
    let deadline = Instant::now() + Duration::from_secs(15);
    while find_report(&*fixture.local, &spec.unit)
        .await
        .is_none_or(|r| r.state != UnitState::Started)
    {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let before = fixture.started(&spec).await;
    let pid = fixture.pid(&spec.unit);
    tancho.kill().unwrap();
    // Its pipes close with it: the shim holds none of them.
    tokio::task::spawn_blocking(move || tancho.wait_with_output())
        .await
        .unwrap()
        .unwrap();
    fixture.local.ensure_unit(&spec).await.unwrap();
    assert_eq!(find_report(&*fixture.local, &spec.unit).await, Some(before));
    assert!(is_alive(&pid));
    assert_eq!(fixture.wait_for_log_line(&spec, "began").await, "");
    fixture.local.remove_unit(&spec.unit).await.unwrap();
    assert!(!is_alive(&pid));
}

#[tokio::test]
async fn running_shims_survive_a_replaced_binary() {
    let fixture = LocalFixture::new();
    let exe = fixture.root.join("tancho");
    fs::copy(env!("CARGO_BIN_EXE_tancho"), &exe).unwrap();
    let mut settings = unlimited_settings(&fixture.root, &fixture.folders);
    settings.exe = exe.clone();
    let local = open_runner(settings);
    let spec = fixture.spec("old", "exec sleep 1000");
    local.ensure_unit(&spec).await.unwrap();
    fixture.started(&spec).await;
    fs::write(fixture.root.join("fresh"), "not even a program").unwrap();
    fs::rename(fixture.root.join("fresh"), &exe).unwrap();
    fixture.signal_unit(&spec.unit, Signal::SIGKILL);
    let again = |r: &UnitReport| r.state == UnitState::Started && r.restarts == 1;
    wait_for_report(&local, &spec.unit, "started again", again).await;
    local.remove_unit(&spec.unit).await.unwrap();
}

#[tokio::test]
async fn concurrent_removals_respect_the_grace_period() {
    let fixture = LocalFixture::new();
    let out = fixture.root.join("out");
    let work = format!(
        "trap 'sleep 0.7; echo tidy > {}; exit' TERM; echo ready; while :; do sleep 0.05; done",
        out.display()
    );
    let spec = fixture.spec("twice", &work);
    fixture.start(&spec).await;
    fixture.wait_for_log_line(&spec, "ready").await;
    let successor = fixture.open_next();
    let (one, two) = tokio::join!(
        fixture.local.remove_unit(&spec.unit),
        successor.remove_unit(&spec.unit)
    );
    one.and(two).unwrap();
    assert_eq!(fs::read_to_string(out).unwrap(), "tidy\n");
}

#[tokio::test]
async fn unwritable_state_stops_no_unit() {
    let fixture = LocalFixture::new();
    let spec = fixture.spec("full", "exec sleep 1000");
    let first = fixture.start(&spec).await;
    // As on a full disk: the new state cannot be written.
    let obstacle = fixture.unit(&spec.unit).join("state.new");
    fs::create_dir(&obstacle).unwrap();
    fixture.signal_unit(&spec.unit, Signal::SIGKILL);
    wait_until_dead(&fixture.pid(&spec.unit)).await;
    fixture
        .wait_for_log_line(&spec, "[tancho] killed by signal 9")
        .await;
    assert_eq!(find_report(&*fixture.local, &spec.unit).await, Some(first));
    fs::remove_dir(obstacle).unwrap();
    let again = |r: &UnitReport| r.state == UnitState::Started && r.restarts == 1;
    wait_for_report(&*fixture.local, &spec.unit, "started again", again).await;
    fixture.local.remove_unit(&spec.unit).await.unwrap();
}
