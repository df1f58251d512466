//! The local provisioner with real processes of the built binary.
#![expect(clippy::unwrap_used, reason = "all of this file is tests and their helpers")]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use tancho::confine::Confinement;
use tancho::kernel::names::{AppName, EnvName, ProcessName};
use tancho::kernel::secret::Secret;
use tancho::provisioners::local::{Bounds, Local, LocalSettings};
use tancho::provisioners::{
    ExecRequest, LogPosition, LogStream, ProvisionError, Provisioner, UnitId, UnitReport, UnitSpec, UnitState,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

mod builds;
#[path = "../../src/provisioners/contract.rs"]
mod contract;
mod isolation;

use contract::{report, until};

/// Whether a part of the kernel or of the machine is there that a test is about. If not, the test is skipped, and
/// says so past the harness, so that `script/test` shows it; or it fails, if `TANCHO_TEST_REQUIRES` names the part.
fn has(part: &str, is_there: bool) -> bool {
    if is_there {
        return true;
    }
    let required = tancho::config::of_process("TANCHO_TEST_REQUIRES").unwrap_or_default();
    assert!(
        !required.split(',').any(|required| required.trim() == part),
        "{part} is missing here, and TANCHO_TEST_REQUIRES says that it must not be"
    );
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    // Not by a macro: those are captured.
    let _ = writeln!(std::io::stderr(), "SKIP {test}: {part} is missing here");
    false
}

/// A root of its own; at its end, also after a panic, nothing of it runs any more.
struct Site {
    root: PathBuf,
    local: Arc<Local>,
}

impl Site {
    fn new() -> Self {
        let root = std::env::temp_dir().join(format!("tancho-local-{}", uuid::Uuid::new_v4()));
        fs::create_dir(&root).unwrap();
        Command::new("chmod").arg("0755").arg(&root).status().unwrap();
        let local = Arc::new(open(&root));
        Self { root, local }
    }

    /// One on a host where no cgroup can be made.
    fn without_cgroups() -> Self {
        Self::with(|settings| settings.cgroup = Some("/nonexistent".into()))
    }

    fn with(change: impl FnOnce(&mut LocalSettings)) -> Self {
        let mut site = Self::new();
        let mut settings = settings(site.root.join("units"));
        change(&mut settings);
        site.local = Arc::new(Local::new(settings, &TaskTracker::new(), CancellationToken::new()).unwrap());
        site
    }

    fn state(&self, unit: &UnitId) -> serde_json::Value {
        serde_json::from_slice(&fs::read(self.unit(unit).join("state.json")).unwrap()).unwrap()
    }

    fn folder(&self) -> PathBuf {
        self.root.clone()
    }

    fn unit(&self, unit: &UnitId) -> PathBuf {
        self.root.join("units").join(unit.as_str())
    }

    fn spec(&self, unit: &str, command: &str) -> UnitSpec {
        contract::spec(unit, self.folder(), command)
    }

    async fn start(&self, spec: &UnitSpec) -> UnitReport {
        self.local.ensure(spec).await.unwrap();
        self.started(spec).await
    }

    async fn started(&self, spec: &UnitSpec) -> UnitReport {
        until(&*self.local, &spec.unit, "started", |r| {
            r.state == UnitState::Started
        })
        .await
    }

    /// Waits for a line of the log that begins so, and returns the rest of it.
    async fn said(&self, spec: &UnitSpec, start: &str) -> String {
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

    fn pid(&self, unit: &UnitId) -> String {
        self.state(unit)["child"].to_string()
    }

    fn shim(&self, unit: &UnitId) -> i32 {
        i32::try_from(self.state(unit)["shim"]["pid"].as_i64().unwrap()).unwrap()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let root = self.root.join("units");
        // A runtime of its own: that of the test may be unwinding.
        let end = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let local = {
                let _inside = runtime.enter();
                open_at(root)
            };
            runtime.block_on(local.stop_all(Duration::from_secs(1)))
        });
        let ended = end.join();
        if !std::thread::panicking() {
            ended.unwrap().unwrap();
        }
        let _ = fs::remove_dir_all(&self.root);
    }
}

fn open(root: &Path) -> Local {
    open_at(root.join("units"))
}

fn open_at(root: PathBuf) -> Local {
    Local::new(settings(root), &TaskTracker::new(), CancellationToken::new()).unwrap()
}

/// As by default, but what these units write for their tests lies beside their homes.
fn settings(root: PathBuf) -> LocalSettings {
    let mut settings = LocalSettings::new(root.clone());
    settings.exe = env!("CARGO_BIN_EXE_tancho").into();
    let defaults = tancho::config::Settings::defaults();
    let confinement = Confinement::new(&defaults, &root).writes(root.parent().map(Path::to_owned));
    settings.bounds = Bounds::new(&defaults.local, confinement);
    settings
}

#[async_trait::async_trait]
impl contract::House for Site {
    fn provisioner(&self) -> Arc<dyn Provisioner> {
        self.local.clone()
    }

    fn successor(&self) -> Arc<dyn Provisioner> {
        Arc::new(open(&self.root))
    }

    fn folder(&self) -> PathBuf {
        self.root.clone()
    }

    async fn crash(&self, report: &UnitReport) {
        end(report.pid.unwrap(), Signal::SIGKILL);
    }
}

fn end(pid: impl TryInto<i32>, signal: Signal) {
    kill(Pid::from_raw(pid.try_into().ok().unwrap()), signal).unwrap();
}

/// True while the process exists and is no zombie.
fn lives(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(')').unwrap().1.trim_start().starts_with('Z'))
}

async fn dies(pid: &str) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while lives(pid) {
        assert!(Instant::now() < deadline, "process {pid} lives on");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn set(spec: &mut UnitSpec, name: &str, value: &str) {
    spec.env.push((EnvName::parse(name).unwrap(), Secret::new(value)));
}

/// Every regular file below a folder, with its text.
fn files(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
            found.push((path, text));
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_local_provisioner_keeps_the_contract() {
    contract::check(&Site::new()).await;
}

#[tokio::test]
async fn many_ensures_at_once_start_one_process() {
    let site = Site::new();
    let spec = site.spec("one", "echo began; exec sleep 1000");
    let heir = open(&site.root);
    let tries = (0..8).map(|n| {
        if n % 2 == 0 {
            site.local.ensure(&spec)
        } else {
            heir.ensure(&spec)
        }
    });
    for done in futures_util::future::join_all(tries).await {
        done.unwrap();
    }
    site.started(&spec).await;
    site.said(&spec, "began").await;
    let (lines, _) = site
        .local
        .read_log(&spec.unit, LogPosition::START, 100)
        .await
        .unwrap();
    assert_eq!(lines.len(), 1, "{lines:?}");
}

#[tokio::test]
async fn a_crashing_unit_is_started_again_ever_more_slowly() {
    let site = Site::new();
    let spec = site.spec("crasher", "date +%s%N; exit 3");
    site.local.ensure(&spec).await.unwrap();
    let failed = |r: &UnitReport| r.state == UnitState::Error;
    let first = until(&*site.local, &spec.unit, "in error", failed).await;
    assert_eq!(first.reason.as_deref(), Some("exited with status 3"));
    assert_eq!((first.exit, first.pid), (Some(3), None));
    until(&*site.local, &spec.unit, "restarted twice", |r| {
        r.restarts >= 2 && failed(r)
    })
    .await;
    let (lines, _) = site
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
    // Removing does not wait for the pause to end.
    let began = Instant::now();
    site.local.remove(&spec.unit).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_unit_may_end_by_itself_within_its_grace() {
    let site = Site::new();
    let out = site.root.join("out");
    // The shell ends first; its child, which does the work, has the whole grace.
    let work = format!(
        "trap 'sleep 0.5; echo tidy > {}; exit 0' TERM; echo ready; while :; do sleep 0.05; done",
        out.display()
    );
    let spec = site.spec("polite", &format!("sh -c \"{work}\" & wait"));
    site.start(&spec).await;
    site.said(&spec, "ready").await;
    site.local.remove(&spec.unit).await.unwrap();
    assert_eq!(fs::read_to_string(out).unwrap(), "tidy\n");
    assert!(!site.unit(&spec.unit).exists());
}

#[tokio::test]
async fn a_unit_that_will_not_end_is_killed_after_its_grace() {
    let site = Site::new();
    let mut spec = site.spec(
        "stubborn",
        "trap '' TERM; echo ready; while :; do sleep 0.1; done",
    );
    spec.grace = Duration::from_secs(1);
    let report = site.start(&spec).await;
    site.said(&spec, "ready").await;
    let began = Instant::now();
    site.local.remove(&spec.unit).await.unwrap();
    let took = began.elapsed();
    assert!(took >= spec.grace && took < Duration::from_secs(3), "{took:?}");
    assert!(!lives(&report.pid.unwrap().to_string()));
}

#[tokio::test]
async fn stop_all_cuts_a_long_grace_short_and_keeps_the_logs() {
    let site = Site::new();
    let mut spec = site.spec("slow", "trap '' TERM; echo ready; while :; do sleep 0.1; done");
    spec.grace = Duration::from_secs(600);
    let report = site.start(&spec).await;
    site.said(&spec, "ready").await;
    site.local.stop_all(Duration::from_millis(300)).await.unwrap();
    assert!(!lives(&report.pid.unwrap().to_string()));
    let stopped = crate::report(&*site.local, &spec.unit).await.unwrap();
    assert_eq!((stopped.state, stopped.pid), (UnitState::Stopped, None));
    assert_eq!(stopped.reason.as_deref(), Some("stopped on request"));
    site.said(&spec, "ready").await;
    let again = site.start(&spec).await;
    assert_ne!(again.pid, report.pid);
}

#[tokio::test]
async fn daemons_of_a_unit_end_with_it() {
    for site in [Site::new(), Site::without_cgroups()] {
        // In a session of its own, its parent gone: no signal to the group reaches it.
        let command = "setsid sh -c 'sleep 1000 & echo daemon $!'; sleep 1000 & echo child $!; wait";
        let spec = site.spec("forker", command);
        site.start(&spec).await;
        let (daemon, child) = (
            site.said(&spec, "daemon ").await,
            site.said(&spec, "child ").await,
        );
        assert!(lives(&daemon) && lives(&child));
        site.local.remove(&spec.unit).await.unwrap();
        assert!(!lives(&daemon) && !lives(&child));
    }
}

#[tokio::test]
async fn what_a_crashed_command_leaves_is_gone_before_the_next() {
    let site = Site::new();
    let spec = site.spec("leaver", "sleep 1000 & echo left $!; exit 1");
    site.local.ensure(&spec).await.unwrap();
    let left = site.said(&spec, "left ").await;
    until(&*site.local, &spec.unit, "in error", |r| {
        r.state == UnitState::Error
    })
    .await;
    assert!(!lives(&left));
}

#[tokio::test]
async fn a_killed_shim_takes_its_unit_along() {
    for site in [Site::new(), Site::without_cgroups()] {
        let spec = site.spec("orphan", "sleep 1000 & echo child $!; wait");
        let first = site.start(&spec).await;
        let child = site.said(&spec, "child ").await;
        let mut changes = site.local.changes();
        tokio::time::timeout(Duration::from_secs(10), changes.changed())
            .await
            .unwrap()
            .unwrap();
        end(site.shim(&spec.unit), Signal::SIGKILL);
        // Before anybody looks: the kernel sees to the process itself.
        dies(&first.pid.unwrap().to_string()).await;
        let told = tokio::time::timeout(Duration::from_secs(10), changes.changed()).await;
        told.expect("told of the death").unwrap();
        let stopped = until(&*site.local, &spec.unit, "stopped", |r| {
            r.state == UnitState::Stopped
        })
        .await;
        assert_eq!(stopped.reason.as_deref(), Some("its shim was killed"));
        dies(&child).await;
        let second = site.start(&spec).await;
        assert_ne!(second.pid, first.pid);
        assert_eq!(second.reason, None);
    }
}

#[tokio::test]
async fn starting_anew_clears_away_what_a_killed_shim_left() {
    for site in [Site::new(), Site::without_cgroups()] {
        let spec = site.spec("heir", "sleep 1000 & echo child $!; wait");
        site.start(&spec).await;
        let child = site.said(&spec, "child ").await;
        let shim = site.shim(&spec.unit);
        end(shim, Signal::SIGKILL);
        dies(&shim.to_string()).await;
        // Nobody looked in between.
        site.local.ensure(&spec).await.unwrap();
        dies(&child).await;
    }
}

#[tokio::test]
async fn a_failing_hook_keeps_the_command_from_running() {
    let site = Site::new();
    let mut spec = site.spec("hooked", "echo command");
    spec.before = vec!["echo one".into(), "exit 4".into(), "echo three".into()];
    site.local.ensure(&spec).await.unwrap();
    let report = until(&*site.local, &spec.unit, "in error", |r| {
        r.state == UnitState::Error
    })
    .await;
    assert_eq!(
        report.reason.as_deref(),
        Some("the hook \"exit 4\" failed: exited with status 4")
    );
    let (lines, _) = site
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
    let site = Site::new();
    let mut spec = site.spec("hooks", "echo command; exec sleep 1000");
    spec.before = vec!["echo before".into()];
    spec.after = vec!["exit 1".into(), "echo after".into()];
    let report = site.start(&spec).await;
    site.said(&spec, "after").await;
    let (lines, _) = site
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
    assert_eq!(crate::report(&*site.local, &spec.unit).await, Some(report));
}

#[tokio::test]
async fn the_environment_is_exact_and_in_no_file_or_command_line() {
    let site = Site::new();
    let canary = format!("canary{}", uuid::Uuid::new_v4().simple());
    let mut spec = site.spec("env", "env | sort > \"$HOME/env\"; echo done; exec sleep 1000");
    set(&mut spec, "PASSWORD", &canary);
    set(&mut spec, "LD_PRELOAD", "");
    set(&mut spec, "PORT", "1");
    fs::create_dir_all(site.root.join(".tancho/bin")).unwrap();
    let report = site.start(&spec).await;
    site.said(&spec, "done").await;
    let written = site.unit(&spec.unit).join("home/env");
    let text = fs::read_to_string(&written).unwrap();
    // The unit wrote that file; all others are ours.
    fs::remove_file(written).unwrap();
    let (home, port) = (site.unit(&spec.unit).join("home"), report.address.unwrap().port());
    let (home, root) = (home.display(), site.root.display());
    let mut want = format!(
        "HOME={home}\nLANG=C.UTF-8\nLD_PRELOAD=\nPASSWORD={canary}\nPATH={root}/.tancho/bin:/usr/local/bin:/usr/bin:/bin\n\
         PORT={port}\nPWD={root}\nSOME=value\nTMPDIR={home}\nport={port}"
    )
    .lines()
    .map(str::to_owned)
    .collect::<Vec<_>>();
    let mut have: Vec<String> = text.lines().map(str::to_owned).collect();
    want.sort();
    have.sort();
    assert_eq!(have, want);
    for (path, text) in files(&site.root) {
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
async fn a_unit_runs_as_its_user_and_sees_only_its_own() {
    if !has("root", Uid::effective().is_root()) {
        return;
    }
    let site = Site::new();
    let mut other = site.spec(
        "other",
        "umask 000; echo x > \"$HOME/file\"; echo done; exec sleep 1000",
    );
    other.user = Some(20_002);
    site.start(&other).await;
    site.said(&other, "done").await;
    let (there, own) = (site.unit(&other.unit), site.unit(&UnitId::parse("own").unwrap()));
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
    let mut spec = site.spec("own", &command);
    spec.user = Some(20_001);
    site.start(&spec).await;
    site.said(&spec, "end").await;
    let (lines, _) = site
        .local
        .read_log(&spec.unit, LogPosition::START, 100)
        .await
        .unwrap();
    let out: Vec<&str> = lines
        .iter()
        .filter(|l| l.stream == LogStream::Stdout)
        .map(|l| l.message.as_str())
        .collect();
    // Of `ls`, the files open are 0, 1, 2 and the folder it lists.
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
async fn a_unit_over_its_memory_limit_is_killed_and_says_so() {
    for (site, counts) in [(Site::new(), true), (Site::without_cgroups(), false)] {
        let mut spec = site.spec("hungry", "head -c 300000000 /dev/zero | tail | wc -c; exit 9");
        spec.memory_bytes = 64 << 20;
        site.local.ensure(&spec).await.unwrap();
        let report = until(&*site.local, &spec.unit, "in error", |r| {
            r.state == UnitState::Error
        })
        .await;
        let cgroup = site.state(&spec.unit)["cgroup"].as_str().map(PathBuf::from);
        if cgroup.is_some() {
            assert_eq!(
                report.reason.as_deref(),
                Some("killed: over its memory limit of 64M")
            );
        } else {
            // Aloud, unless it is meant so.
            has("cgroup", !counts);
            // Each process has a limit, and says itself what that did to it.
            assert_eq!(report.reason.as_deref(), Some("exited with status 9"));
            site.said(&spec, "tail: ").await;
        }
        site.local.remove(&spec.unit).await.unwrap();
        assert!(cgroup.is_none_or(|path| !path.exists()));
    }
}

#[tokio::test]
async fn hundreds_of_lines_a_second_are_all_logged_in_order() {
    let site = Site::new();
    let spec = site.spec("talker", "seq 1 3000; seq 1 100 >&2; echo done; exec sleep 1000");
    site.start(&spec).await;
    site.said(&spec, "done").await;
    let (mut at, mut out, mut err) = (LogPosition::START, Vec::new(), 0);
    let deadline = Instant::now() + Duration::from_secs(10);
    while out.len() < 3_001 || err < 100 {
        let (lines, next) = site.local.read_log(&spec.unit, at, 700).await.unwrap();
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
async fn a_flood_of_output_neither_blocks_the_unit_nor_fills_the_disk() {
    let site = Site::new();
    let mark = site.root.join("mark");
    let command = format!(
        "head -c 60000000 /dev/zero | tr '\\0' 'x' | fold -w 200; echo > {}; exec sleep 1000",
        mark.display()
    );
    let spec = site.spec("flood", &command);
    site.start(&spec).await;
    let deadline = Instant::now() + Duration::from_secs(60);
    while !mark.exists() {
        assert!(Instant::now() < deadline, "the unit is blocked by its log");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let folder = site.unit(&spec.unit);
    let size: u64 = ["log", "log.1"]
        .iter()
        .filter_map(|f| fs::metadata(folder.join(f)).ok())
        .map(|m| m.len())
        .sum();
    assert!(size < 3 << 20, "{size} bytes of log");
    let status = fs::read_to_string(format!("/proc/{}/status", site.shim(&spec.unit))).unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    assert!(field("RssAnon:") < 16_000, "{status}");
}

#[tokio::test]
async fn a_shim_holds_nothing_of_its_maker_and_leads_its_own_session() {
    let site = Site::new();
    // What a careless library may leave open across an exec.
    let leak = fs::File::open("/dev/null").unwrap();
    nix::fcntl::fcntl(&leak, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
    let spec = site.spec("alone", "exec sleep 1000");
    site.start(&spec).await;
    let shim = site.shim(&spec.unit);
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
async fn a_command_beside_a_unit_has_its_environment_and_streams() {
    let site = Site::new();
    let mut spec = site.spec("exec", "exec sleep 1000");
    set(&mut spec, "PASSWORD", "hunter2");
    spec.user = Uid::effective().is_root().then_some(20_001);
    site.start(&spec).await;
    // Asked of the next Tancho, which never saw the spec.
    let heir = open(&site.root);
    let line = "read word; echo $word $PASSWORD $(id -u); pwd >&2; exit 7";
    let request = ExecRequest {
        argv: ["/bin/sh", "-c", line].map(str::to_owned).into(),
        window: None,
    };
    let mut session = heir.exec(&spec.unit, &request).await.unwrap();
    session.input.write_all(b"good\n").await.unwrap();
    let (mut out, mut err) = (String::new(), String::new());
    session.output.read_to_string(&mut out).await.unwrap();
    session.errors.read_to_string(&mut err).await.unwrap();
    let user = spec.user.unwrap_or_else(|| Uid::effective().as_raw());
    assert_eq!(out, format!("good hunter2 {user}\n"));
    assert_eq!(err, format!("{}\n", site.root.display()));
    assert_eq!(session.end.await, Ok(7));
}

#[tokio::test]
async fn a_dropped_session_ends_its_command() {
    let site = Site::new();
    let spec = site.spec("dropped", "exec sleep 1000");
    site.start(&spec).await;
    let line = "sleep 1000 & echo $!; wait";
    let request = ExecRequest {
        argv: ["/bin/sh", "-c", line].map(str::to_owned).into(),
        window: None,
    };
    let mut session = site.local.exec(&spec.unit, &request).await.unwrap();
    let mut pid = String::new();
    while !pid.ends_with('\n') {
        let mut byte = [0];
        session.output.read_exact(&mut byte).await.unwrap();
        pid.push(char::from(byte[0]));
    }
    drop(session);
    dies(pid.trim()).await;
}

#[tokio::test]
async fn a_folder_that_is_missing_is_said_to_be() {
    let site = Site::new();
    let mut spec = site.spec("lost", "true");
    spec.dir = "/nonexistent".into();
    site.local.ensure(&spec).await.unwrap();
    let report = until(&*site.local, &spec.unit, "in error", |r| {
        r.state == UnitState::Error
    })
    .await;
    assert_eq!(report.exit, Some(125));
    let rest = site.said(&spec, "tancho: cannot enter /nonexistent").await;
    assert!(rest.contains("No such file"), "{rest}");
}

#[tokio::test]
async fn a_binary_without_shims_is_refused_at_once() {
    let site = Site::new();
    let mut settings = LocalSettings::new(site.root.join("units"));
    settings.exe = "/bin/true".into();
    let local = Local::new(settings, &TaskTracker::new(), CancellationToken::new()).unwrap();
    let spec = site.spec("shimless", "true");
    let refused = local.ensure(&spec).await;
    assert!(
        matches!(refused, Err(ProvisionError::Transient(_))),
        "{refused:?}"
    );
    let report = report(&local, &spec.unit).await.unwrap();
    assert_eq!(report.state, UnitState::Stopped);
    local.remove(&spec.unit).await.unwrap();
}

/// Not a test: what `a_killed_tancho_stops_no_unit` runs as a process of its own.
#[tokio::test]
async fn another_tancho() {
    let Some(root) = std::env::var_os("SITE").map(PathBuf::from) else {
        return;
    };
    let local = open(&root);
    local
        .ensure(&contract::spec("survivor", root, "echo began; exec sleep 1000"))
        .await
        .unwrap();
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_killed_tancho_stops_no_unit() {
    let site = Site::new();
    let mut tancho = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "another_tancho", "--nocapture"])
        .env("SITE", &site.root)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let spec = site.spec("survivor", "echo began; exec sleep 1000");
    // Its folder is not there at first.
    let deadline = Instant::now() + Duration::from_secs(15);
    while report(&*site.local, &spec.unit)
        .await
        .is_none_or(|r| r.state != UnitState::Started)
    {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let before = site.started(&spec).await;
    tancho.kill().unwrap();
    // Its pipes end with it: the shim holds none of them.
    tokio::task::spawn_blocking(move || tancho.wait_with_output())
        .await
        .unwrap()
        .unwrap();
    site.local.ensure(&spec).await.unwrap();
    assert_eq!(report(&*site.local, &spec.unit).await, Some(before.clone()));
    assert!(lives(&before.pid.unwrap().to_string()));
    assert_eq!(site.said(&spec, "began").await, "");
    site.local.remove(&spec.unit).await.unwrap();
    assert!(!lives(&before.pid.unwrap().to_string()));
}

#[tokio::test]
async fn a_replaced_binary_disturbs_no_running_shim() {
    let site = Site::new();
    let exe = site.root.join("tancho");
    fs::copy(env!("CARGO_BIN_EXE_tancho"), &exe).unwrap();
    let mut settings = LocalSettings::new(site.root.join("units"));
    settings.exe = exe.clone();
    let local = Local::new(settings, &TaskTracker::new(), CancellationToken::new()).unwrap();
    let spec = site.spec("old", "exec sleep 1000");
    local.ensure(&spec).await.unwrap();
    let first = site.started(&spec).await;
    fs::write(site.root.join("fresh"), "not even a program").unwrap();
    fs::rename(site.root.join("fresh"), &exe).unwrap();
    end(first.pid.unwrap(), Signal::SIGKILL);
    let again = |r: &UnitReport| r.state == UnitState::Started && r.restarts == 1;
    until(&local, &spec.unit, "started again", again).await;
    local.remove(&spec.unit).await.unwrap();
}

#[tokio::test]
async fn two_removes_at_once_leave_the_whole_grace() {
    let site = Site::new();
    let out = site.root.join("out");
    let work = format!(
        "trap 'sleep 0.7; echo tidy > {}; exit' TERM; echo ready; while :; do sleep 0.05; done",
        out.display()
    );
    let spec = site.spec("twice", &work);
    site.start(&spec).await;
    site.said(&spec, "ready").await;
    let heir = open(&site.root);
    let (one, two) = tokio::join!(site.local.remove(&spec.unit), heir.remove(&spec.unit));
    one.and(two).unwrap();
    assert_eq!(fs::read_to_string(out).unwrap(), "tidy\n");
}

#[tokio::test]
async fn a_state_that_cannot_be_written_stops_no_unit() {
    let site = Site::new();
    let spec = site.spec("full", "exec sleep 1000");
    let first = site.start(&spec).await;
    // As a full disk does it: the new state cannot be made.
    let obstacle = site.unit(&spec.unit).join("state.new");
    fs::create_dir(&obstacle).unwrap();
    end(first.pid.unwrap(), Signal::SIGKILL);
    dies(&first.pid.unwrap().to_string()).await;
    site.said(&spec, "[tancho] killed by signal 9").await;
    assert_eq!(report(&*site.local, &spec.unit).await, Some(first));
    fs::remove_dir(obstacle).unwrap();
    let again = |r: &UnitReport| r.state == UnitState::Started && r.restarts == 1;
    until(&*site.local, &spec.unit, "started again", again).await;
    site.local.remove(&spec.unit).await.unwrap();
}
