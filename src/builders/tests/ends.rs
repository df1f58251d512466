//! How builds end: failure, cancelling, deadlines, dropping, sudden death; and their bounds.

use super::*;

/// A request whose build hook is the given shell text.
fn hooked(home: &Home, number: u32, hook: &str) -> BuildRequest {
    let yaml = serde_json::json!({ "hooks": { "build": [hook] } }).to_string();
    home.request(
        "procfile",
        number,
        &[("Procfile", "web: true"), ("tsuru.yaml", &yaml)],
    )
}

/// Whether a process is there and alive.
fn lives(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ")
        .next()
        .is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
}

/// A hook that starts a child in its group and one in a session of its own, says both, and hangs.
const HANGS: &str =
    "sleep 1000 & echo $!; setsid sh -c 'echo $$; exec sleep 1001' & sleep 0.2; echo hangs; sleep 1002";

/// Starts a build and waits until its hook hangs; answers the ids that it said.
async fn until_it_hangs(rx: &mut mpsc::Receiver<String>) -> Vec<String> {
    let mut pids = Vec::new();
    while let Some(line) = rx.recv().await {
        if line == "hangs" {
            return pids;
        }
        if line.parse::<u32>().is_ok() {
            pids.push(line);
        }
    }
    panic!("the build ended early");
}

#[tokio::test]
async fn cancelling_ends_every_process_and_leaves_nothing() {
    let home = Home::new();
    let request = hooked(&home, 1, HANGS);
    let (tx, mut rx) = mpsc::channel(16);
    let cancel = CancellationToken::new();
    let building = tokio::spawn({
        let (request, cancel) = (request.clone(), cancel.clone());
        async move { build(&request, tx, cancel).await }
    });
    let pids = until_it_hangs(&mut rx).await;
    assert!(pids.len() == 2 && pids.iter().all(|p| lives(p)), "{pids:?}");
    cancel.cancel();
    let error = building.await.unwrap().unwrap_err();
    assert!(matches!(error, BuildError::Cancelled), "{error:?}");
    assert_eq!(Problem::from(error).kind(), Kind::Cancelled);
    assert!(!pids.iter().any(|p| lives(p)), "{pids:?}");
    assert!(home.leftovers().is_empty() && !request.dest.exists());
}

#[tokio::test]
async fn dropping_a_build_ends_it_too() {
    let home = Home::new();
    let request = hooked(&home, 1, HANGS);
    let (tx, mut rx) = mpsc::channel(16);
    let pids = tokio::select! {
        _ = build(&request, tx, CancellationToken::new()) => panic!("the build ended"),
        pids = until_it_hangs(&mut rx) => pids,
    };
    until("the processes are gone", || !pids.iter().any(|p| lives(p))).await;
    until("the folder is gone", || home.leftovers().is_empty()).await;
}

#[tokio::test]
async fn a_build_that_takes_too_long_is_ended() {
    let home = Home::new();
    let mut request = hooked(&home, 1, "sleep 1000");
    request.limits.deadline = Duration::from_secs(1);
    let (result, _) = build_all(&request).await;
    let error = result.unwrap_err();
    assert_eq!(
        error.to_string(),
        "The build took longer than 1 seconds and was stopped."
    );
    assert_eq!(Problem::from(error).kind(), Kind::Failed);
    assert!(home.leftovers().is_empty());
}

#[tokio::test]
async fn a_slow_reader_does_not_keep_a_cancelled_build() {
    let home = Home::new();
    let request = hooked(&home, 1, "yes");
    let (tx, mut rx) = mpsc::channel(1);
    let cancel = CancellationToken::new();
    let (result, ()) = tokio::join!(build(&request, tx, cancel.clone()), async {
        while rx.recv().await.is_some_and(|line| line != "y") {}
        cancel.cancel();
    });
    assert!(matches!(result, Err(BuildError::Cancelled)), "{result:?}");
}

#[tokio::test]
async fn nor_does_a_reader_that_never_reads_keep_a_late_one() {
    let home = Home::new();
    let mut request = hooked(&home, 1, "true");
    request.limits.deadline = Duration::from_secs(1);
    let (tx, _rx) = mpsc::channel(1);
    let result = build(&request, tx, CancellationToken::new()).await;
    assert!(matches!(result, Err(BuildError::TimedOut(_))), "{result:?}");
    assert!(home.leftovers().is_empty());
}

#[tokio::test]
async fn a_build_goes_on_when_its_reader_has_gone() {
    let home = Home::new();
    let request = hooked(&home, 1, "seq 1 1000");
    let (tx, rx) = mpsc::channel(1);
    drop(rx);
    build(&request, tx, CancellationToken::new()).await.unwrap();
}

#[tokio::test]
async fn a_tree_deeper_than_any_path_is_refused_and_removed() {
    let home = Home::new();
    let hook = "/usr/bin/python3 -c 'import os\nfor _ in range(3000): os.mkdir(\"deep-deep\", 0o700); os.chdir(\"deep-deep\")'";
    let (result, lines) = build_all(&hooked(&home, 1, hook)).await;
    let error = result.unwrap_err();
    assert!(matches!(error, BuildError::Refused(_)), "{error:?} {lines:#?}");
    assert!(error.to_string().contains("too long"), "{error}");
    assert!(home.leftovers().is_empty());
}

#[tokio::test]
async fn a_failing_hook_is_named_with_its_status_and_last_line() {
    let home = Home::new();
    let mut request = hooked(
        &home,
        1,
        "echo fine; printf '\\033[31mpassword hunter2hunter2 is wrong\\033[0m\\n\\n' >&2; exit 2",
    );
    request.env = vec![(EnvName::parse("PASSWORD").unwrap(), Secret::new("hunter2hunter2"))];
    let (result, lines) = build_all(&request).await;
    let error = result.unwrap_err();
    let words = error.to_string();
    assert!(words.starts_with("The build hook `echo fine; "), "{words}");
    assert!(
        words.ends_with("` exited with status 2; its last line was: password *** is wrong"),
        "{words}"
    );
    assert!(
        lines.contains(&"\u{1b}[31mpassword *** is wrong\u{1b}[0m".to_owned()),
        "{lines:#?}"
    );
    assert_eq!(Problem::from(error).kind(), Kind::Failed);
    assert!(home.leftovers().is_empty() && !request.dest.exists());

    let (result, _) = build_all(&hooked(&home, 2, "kill -9 $$")).await;
    assert_eq!(
        result.unwrap_err().to_string(),
        "The build hook `kill -9 $$` was killed by signal 9"
    );
}

#[tokio::test]
async fn output_is_bounded_and_the_build_goes_on() {
    let home = Home::new();
    let mut request = hooked(
        &home,
        1,
        "seq 1 100000; head -c 100000 /dev/zero | tr '\\0' x; echo; touch done",
    );
    request.limits.output_bytes = 10_000;
    let (version, lines) = built(&request).await;
    assert!(lines.iter().map(|l| l.len() + 1).sum::<usize>() < 10_200);
    assert_eq!(
        lines.last().unwrap(),
        " ---> The output is longer than 10000 bytes; the rest is left out."
    );
    assert!(version.dir.join("done").exists());

    let (_, lines) = built(&hooked(&home, 2, "head -c 100000 /dev/zero | tr '\\0' x")).await;
    assert!(lines.iter().any(|l| l.starts_with("xxx") && l.len() <= 4096));
}

#[tokio::test]
async fn a_daemon_that_a_hook_leaves_behind_does_not_outlive_the_build() {
    let home = Home::new();
    let hook = "sleep 1000 & echo $!; setsid sh -c 'echo $$; exec sleep 1001' & sleep 0.2";
    let (_, lines) = built(&hooked(&home, 1, hook)).await;
    let pids: Vec<_> = lines.iter().filter(|l| l.parse::<u32>().is_ok()).collect();
    assert_eq!(pids.len(), 2, "{lines:#?}");
    until("the daemons are gone", || !pids.iter().any(|p| lives(p))).await;
}

#[tokio::test]
async fn a_refused_archive_is_a_refused_build() {
    let home = Home::new();
    let request = home.request("procfile", 1, &[("x", "")]);
    fs::write(&request.archive, "no archive").unwrap();
    let (result, _) = build_all(&request).await;
    assert_eq!(Problem::from(result.unwrap_err()).kind(), Kind::Invalid);
    let request = home.request("procfile", 2, &[("tsuru.yaml", "hooks: {build: x}")]);
    let (result, _) = build_all(&request).await;
    assert!(result.unwrap_err().to_string().contains("hooks.build: "));
    let request = home.request("cobol", 3, &[("x", "")]);
    let (result, _) = build_all(&request).await;
    assert_eq!(
        result.unwrap_err().to_string(),
        "There is no platform named cobol."
    );
    assert!(home.leftovers().is_empty());
}

#[tokio::test]
async fn a_version_that_is_there_is_not_touched() {
    let home = Home::new();
    let request = hooked(&home, 1, "true");
    built(&request).await;
    let (result, _) = build_all(&request).await;
    assert!(matches!(result, Err(BuildError::Internal(_))), "{result:?}");
    assert!(request.dest.join("Procfile").exists());
}

#[tokio::test]
async fn a_sweep_removes_what_the_dead_left_and_nothing_that_lives() {
    let home = Home::new();
    let request = hooked(&home, 1, "echo hangs; sleep 1000");
    let versions = home.path("versions");
    let (tx, mut rx) = mpsc::channel(16);
    let cancel = CancellationToken::new();
    let building = tokio::spawn({
        let (request, cancel) = (request.clone(), cancel.clone());
        async move { build(&request, tx, cancel).await }
    });
    until_it_hangs(&mut rx).await;
    fs::create_dir_all(versions.join(".building-dead/tree/x")).unwrap();
    fs::create_dir_all(versions.join(".removing-dead/x")).unwrap();
    fs::create_dir_all(versions.join("v7")).unwrap();
    let mark = versions.join(".building-dead");
    let mut stray = std::process::Command::new("/bin/sleep")
        .arg("1000")
        .env("TANCHO_BUILD", &mark)
        .spawn()
        .unwrap();

    assert_eq!(sweep(&versions).unwrap(), 2);
    assert!(!stray.wait().unwrap().success());
    assert_eq!(home.leftovers().len(), 1);
    assert!(versions.join("v7").exists());
    assert_eq!(sweep(&home.path("nowhere")).unwrap(), 0);
    cancel.cancel();
    let _ = building.await.unwrap();
    assert_eq!(sweep(&versions).unwrap(), 0);
}

#[test]
fn when_tancho_dies_its_builds_die() {
    // The watcher's pipe ends just as it does when the process that holds it is killed.
    use std::os::unix::process::CommandExt;
    let home = Home::new();
    let mut child = std::process::Command::new("/bin/sh")
        .args([
            "-c",
            run::GUARD,
            "sh",
            "/bin/sh",
            "-c",
            "sleep 1000 & echo $!; wait",
        ])
        .env("HOME", home.path("home"))
        .process_group(0)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut pid = String::new();
    let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut out, &mut pid).unwrap();
    assert!(lives(pid.trim()));
    drop(child.stdin.take());
    assert!(!child.wait().unwrap().success());
    let mut rest = String::new();
    // The end of the output: the last process that held it is gone.
    std::io::Read::read_to_string(&mut out, &mut rest).unwrap();
}
