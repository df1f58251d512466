//! Processes that try to outlive the command that started them.

use std::os::unix::process::{CommandExt, ExitStatusExt};

use tancho::builders::{self, BuildError};
use tancho::sandbox::exec_stage::{ExecStage, prefix_env};

use super::builds::{BuildFolder, build};
use super::isolation::*;
use super::*;

/// Leaves two processes behind: one in a session of its own with an empty environment, and one that keeps
/// forking and exiting, so that its pid changes all the time. The marker is on their command lines.
fn escaping_command(mark: &str) -> String {
    format!(
        r#"/usr/bin/python3 -c '
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execve("/usr/bin/python3", ["python3", "-c", "import time; time.sleep(1000)", "{mark}"], {{}})
    os._exit(0)
if os.fork() == 0:
    os.setsid()
    for fd in range(3):
        os.close(fd)
    while True:
        if os.fork() != 0:
            os._exit(0)
time.sleep(0.3)
' {mark}"#
    )
}

fn unique_mark() -> String {
    format!("leftover-{}", uuid::Uuid::new_v4().simple())
}

/// The living processes with the marker on their command lines.
fn find_marked(mark: &str) -> Vec<String> {
    let all = fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|entry| entry.file_name().into_string().ok());
    let pids = pids.filter(|pid| pid.chars().all(|c| c.is_ascii_digit()));
    pids.filter(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(mark) && is_alive(pid)
    })
    .collect()
}

/// Fails if a process with the marker is found in one of many scans: one scan may miss a process whose pid
/// changes.
fn assert_none_left(mark: &str, what: &str) {
    for _ in 0..50 {
        let left = find_marked(mark);
        assert!(left.is_empty(), "{what}: {left:?}");
    }
}

#[tokio::test]
async fn no_process_outlives_a_build_however_it_ends() {
    for (what, rest) in [
        ("done", "true"),
        ("failed", "exit 3"),
        ("cancelled", "echo hangs; sleep 1000"),
    ] {
        let (folder, mark) = (BuildFolder::new(), unique_mark());
        let request = folder.request(&format!("{}; {rest}", escaping_command(&mark)));
        let cancel = CancellationToken::new();
        let (sender, mut lines) = tokio::sync::mpsc::channel::<String>(16);
        let reading = async {
            while let Some(line) = lines.recv().await {
                if line == "hangs" {
                    assert!(
                        !find_marked(&mark).is_empty(),
                        "they are there while the build runs"
                    );
                    cancel.cancel();
                }
            }
        };
        let (built, ()) = tokio::join!(builders::build_version(&request, sender, cancel.clone()), reading);
        assert_none_left(&mark, what);
        match what {
            "done" => assert!(built.is_ok(), "{built:?}"),
            "failed" => assert!(matches!(built, Err(BuildError::Failed { .. })), "{built:?}"),
            _ => assert!(matches!(built, Err(BuildError::Cancelled)), "{built:?}"),
        }
    }
}

#[tokio::test]
async fn no_process_outlives_a_dropped_build() {
    let (folder, mark) = (BuildFolder::new(), unique_mark());
    let request = folder.request(&format!("{}; echo hangs; sleep 1000", escaping_command(&mark)));
    let (sender, mut lines) = tokio::sync::mpsc::channel::<String>(16);
    tokio::select! {
        _ = builders::build_version(&request, sender, CancellationToken::new()) => panic!("the build ended"),
        () = async { while lines.recv().await.is_some_and(|line| line != "hangs") {} } => {}
    }
    let deadline = Instant::now() + Duration::from_secs(30);
    while fs::read_dir(folder.0.join("versions")).unwrap().count() > 0 {
        assert!(Instant::now() < deadline, "the folder is still there");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_none_left(&mark, "dropped");
}

/// A command with a supervisor, without a cgroup.
fn supervised_command(line: &str, parent: Option<i32>) -> Command {
    let stage = ExecStage {
        user: own_uid(USER),
        dir: "/".into(),
        supervised: true,
        parent,
        ..ExecStage::default()
    };
    let argv = ["/bin/sh", "-c", line].map(str::to_owned);
    let mut command = Command::new(env!("CARGO_BIN_EXE_tancho"));
    command.args(stage.command_args(&argv).unwrap());
    command.env_clear().envs(prefix_env([("PATH", "/usr/bin:/bin")]));
    command
}

#[test]
fn supervisor_without_a_cgroup_kills_all_descendants_and_returns_the_exit_status() {
    let mark = unique_mark();
    let status = supervised_command(&format!("{}; exit 7", escaping_command(&mark)), None)
        .status()
        .unwrap();
    assert_none_left(&mark, "ended");
    assert_eq!(status.code(), Some(7));
    let status = supervised_command("kill -USR1 $$", None).status().unwrap();
    assert_eq!(status.signal(), Some(10));

    let mut supervisor = supervised_command(&format!("{}; sleep 1000", escaping_command(&mark)), None)
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(15);
    while find_marked(&mark).len() < 2 {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
    kill_process(supervisor.id().try_into().unwrap(), Signal::SIGTERM);
    supervisor.wait().unwrap();
    assert_none_left(&mark, "terminated");
}

#[test]
fn supervisor_kills_all_descendants_when_its_parent_is_killed() {
    let mark = unique_mark();
    let template = supervised_command(&format!("{}; sleep 1000", escaping_command(&mark)), Some(-1));
    let settings = template
        .get_args()
        .map(|a| a.to_str().unwrap().to_owned())
        .collect::<Vec<_>>();
    // An intermediate parent, whose pid is in the settings.
    let starts = "import os, subprocess, sys; a = sys.argv[1:]; a[2] = a[2].replace('\"parent\":-1', '\"parent\":%d' % os.getpid()); subprocess.run(a)";
    let mut parent = Command::new("/usr/bin/python3")
        .args(["-c", starts, env!("CARGO_BIN_EXE_tancho")])
        .args(settings)
        .process_group(0)
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(15);
    while find_marked(&mark).len() < 5 {
        assert!(Instant::now() < deadline, "{:?}", find_marked(&mark));
        std::thread::yield_now();
    }
    parent.kill().unwrap();
    parent.wait().unwrap();
    while !find_marked(&mark).is_empty() {
        assert!(Instant::now() < deadline, "{:?}", find_marked(&mark));
        std::thread::yield_now();
    }
    assert_none_left(&mark, "killed");
}

#[tokio::test]
async fn escaped_processes_of_an_app_are_killed_and_supervised_ones_continue() {
    if !require_feature("root", is_root()) {
        return;
    }
    let (fixture, mark) = (isolated_fixture(|_| {}), unique_mark());
    let escape = || {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", &format!("{} &", escaping_command(&mark))])
            .uid(20_123)
            .gid(20_123);
        assert!(command.status().unwrap().success());
        let deadline = Instant::now() + Duration::from_secs(15);
        while find_marked(&mark).len() < 2 {
            assert!(Instant::now() < deadline);
            std::thread::yield_now();
        }
    };
    escape();
    assert!(tancho::sandbox::kill_leftovers_of_user(20_123));
    assert_none_left(&mark, "all");

    let mut spec = fixture.spec("supervised", "sleep 1000 & echo ready; wait");
    fixture.place(&mut spec, fixture.root.join("app"), own_uid(20_123));
    let report = fixture.start(&spec).await;
    fixture.wait_for_log_line(&spec, "ready").await;
    let daemon = "import time; time.sleep(1000)";
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "setsid /usr/bin/python3 -c \"$0\" $1 &", daemon, &mark]);
    assert!(command.uid(20_123).gid(20_123).status().unwrap().success());
    assert!(tancho::sandbox::kill_leftovers_of_user(20_123));
    assert_none_left(&mark, "strays");
    assert_eq!(
        crate::find_report(&*fixture.local, &spec.unit).await,
        Some(report)
    );
}

#[tokio::test]
async fn no_process_outlives_a_unit() {
    for fixture in [
        isolated_fixture(|_| {}),
        isolated_fixture(|settings| settings.cgroup = Some("/nonexistent".into())),
    ] {
        let mark = unique_mark();
        let sleeper = format!("/usr/bin/python3 -c 'import time; time.sleep(1000)' {mark}");
        let line = format!(
            "nohup setsid {sleeper} & {}; echo ready; exec sleep 1000",
            escaping_command(&mark)
        );
        let mut spec = fixture.spec("leaver", &line);
        fixture.place(&mut spec, fixture.root.join("app"), own_uid(USER));
        fixture.start(&spec).await;
        fixture.wait_for_log_line(&spec, "ready").await;
        assert!(!find_marked(&mark).is_empty());
        spec.grace = Duration::from_secs(1);
        fixture
            .local
            .stop_all_units(Duration::from_millis(200))
            .await
            .unwrap();
        assert_none_left(&mark, "stopped");
    }
}

#[tokio::test]
async fn leftovers_of_a_command_in_a_unit_are_killed_and_the_unit_continues() {
    let (fixture, mark) = (isolated_fixture(|_| {}), unique_mark());
    let mut spec = fixture.spec("beside", "exec sleep 1000");
    fixture.place(&mut spec, fixture.root.join("app"), own_uid(USER));
    let report = fixture.start(&spec).await;
    let line = format!("{}; echo done", escaping_command(&mark));
    let request = ExecRequest::for_argv(["/bin/sh", "-c", &line].map(str::to_owned).into());
    let mut session = fixture.local.exec_in_unit(&spec.unit, &request).await.unwrap();
    let mut said = String::new();
    session.output.read_to_string(&mut said).await.unwrap();
    assert_eq!((said.as_str(), session.end.await), ("done\n", Ok(0)));
    assert_none_left(&mark, "ended");

    let request = ExecRequest::for_argv(
        ["/bin/sh", "-c", &format!("{line}; sleep 1000")]
            .map(str::to_owned)
            .into(),
    );
    let mut session = fixture.local.exec_in_unit(&spec.unit, &request).await.unwrap();
    session.output.read_exact(&mut [0; 5]).await.unwrap();
    drop(session);
    let deadline = Instant::now() + Duration::from_secs(10);
    while !find_marked(&mark).is_empty() {
        assert!(Instant::now() < deadline, "{:?}", find_marked(&mark));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_none_left(&mark, "dropped");
    assert_eq!(
        crate::find_report(&*fixture.local, &spec.unit).await,
        Some(report)
    );
}

#[tokio::test]
async fn build_over_its_memory_limit_fails_with_a_message() {
    let folder = BuildFolder::new();
    let mut request = folder.request("/usr/bin/python3 -c 'x = bytearray(300 << 20); print(len(x))'");
    request.limits.memory_bytes = 64 << 20;
    let (built, lines) = build(&request).await;
    let error = built.unwrap_err().to_string();
    let counted = error.contains("needed more memory than 64M");
    assert!(counted || lines.contains("MemoryError"), "{error}\n{lines}");
    assert!(require_feature("cgroup", counted) || !is_root());
    request.limits.memory_bytes = 512 << 20;
    build(&request).await.0.unwrap();
}

#[tokio::test]
async fn processes_of_a_build_are_limited() {
    let program = r#"/usr/bin/python3 -c '
import os, signal
count = 0
try:
    while count < 500:
        if os.fork() == 0:
            signal.pause()
        count += 1
except OSError as error:
    print("forks", count, error.errno, flush=True)
'"#;
    let folder = BuildFolder::new();
    let mut request = folder.request(program);
    request.limits.processes = 60;
    let (built, lines) = build(&request).await;
    built.unwrap_or_else(|error| panic!("{error}\n{lines}"));
    if !require_feature("cgroup pids", lines.contains("forks")) {
        return;
    }
    let forks = lines
        .lines()
        .find_map(|line| line.strip_prefix("forks "))
        .unwrap();
    let (count, errno) = forks.split_once(' ').unwrap();
    assert!(count.parse::<u32>().unwrap() < 60 && errno == "11", "{forks}");
}
