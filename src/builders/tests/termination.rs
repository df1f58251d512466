//! How builds end: failure, cancellation, deadlines, dropping, sudden death; and their limits.

use super::*;

/// A request whose build hook is the given shell script.
fn request_with_hook(home: &BuildFixture, number: u32, hook: &str) -> BuildRequest {
    let yaml = serde_json::json!({ "hooks": { "build": [hook] } }).to_string();
    home.request(
        "procfile",
        number,
        &[("Procfile", "web: true"), ("tsuru.yaml", &yaml)],
    )
}

/// Returns whether a process is alive.
fn is_alive(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ")
        .next()
        .is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
}

/// A hook that starts a child in its group and one in a session of its own, prints both pids, and hangs.
const HANGS: &str =
    "sleep 1000 & echo $!; setsid sh -c 'echo $$; exec sleep 1001' & sleep 0.2; echo hangs; sleep 1002";

/// Starts a build and waits until its hook hangs; returns the pids that it printed.
async fn start_until_hook_hangs(rx: &mut mpsc::Receiver<String>) -> Vec<String> {
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
    let home = BuildFixture::new();
    let request = request_with_hook(&home, 1, HANGS);
    let (tx, mut rx) = mpsc::channel(16);
    let cancel = CancellationToken::new();
    let building = tokio::spawn({
        let (request, cancel) = (request.clone(), cancel.clone());
        async move { build_version(&request, tx, cancel).await }
    });
    let pids = start_until_hook_hangs(&mut rx).await;
    assert!(pids.len() == 2 && pids.iter().all(|p| is_alive(p)), "{pids:?}");
    cancel.cancel();
    let error = building.await.unwrap().unwrap_err();
    assert!(matches!(error, BuildError::Cancelled), "{error:?}");
    assert_eq!(Error::from(error).kind(), ErrorKind::Cancelled);
    assert!(!pids.iter().any(|p| is_alive(p)), "{pids:?}");
    assert!(home.leftovers().is_empty() && !request.dest.exists());
}

#[tokio::test]
async fn dropping_a_build_kills_its_processes() {
    let home = BuildFixture::new();
    let request = request_with_hook(&home, 1, HANGS);
    let (tx, mut rx) = mpsc::channel(16);
    let pids = tokio::select! {
        _ = build_version(&request, tx, CancellationToken::new()) => panic!("the build ended"),
        pids = start_until_hook_hangs(&mut rx) => pids,
    };
    wait_until("the processes are gone", || !pids.iter().any(|p| is_alive(p))).await;
    wait_until("the folder is gone", || home.leftovers().is_empty()).await;
}

#[tokio::test]
async fn build_is_stopped_at_its_deadline() {
    let home = BuildFixture::new();
    let mut request = request_with_hook(&home, 1, "sleep 1000");
    request.limits.deadline = Duration::from_secs(1);
    let (result, _) = build_all(&request).await;
    let error = result.unwrap_err();
    assert_eq!(
        error.to_string(),
        "The build took longer than 1 seconds and was stopped."
    );
    assert_eq!(Error::from(error).kind(), ErrorKind::Failed);
    assert!(home.leftovers().is_empty());
}

#[tokio::test]
async fn cancelled_build_ends_even_if_its_reader_is_slow() {
    let home = BuildFixture::new();
    let request = request_with_hook(&home, 1, "yes");
    let (tx, mut rx) = mpsc::channel(1);
    let cancel = CancellationToken::new();
    let (result, ()) = tokio::join!(build_version(&request, tx, cancel.clone()), async {
        while rx.recv().await.is_some_and(|line| line != "y") {}
        cancel.cancel();
    });
    assert!(matches!(result, Err(BuildError::Cancelled)), "{result:?}");
}

#[tokio::test]
async fn build_times_out_even_if_its_reader_never_reads() {
    let home = BuildFixture::new();
    let mut request = request_with_hook(&home, 1, "true");
    request.limits.deadline = Duration::from_secs(1);
    let (tx, _rx) = mpsc::channel(1);
    let result = build_version(&request, tx, CancellationToken::new()).await;
    assert!(matches!(result, Err(BuildError::TimedOut(_))), "{result:?}");
    assert!(home.leftovers().is_empty());
}

#[tokio::test]
async fn build_continues_when_reader_is_dropped() {
    let home = BuildFixture::new();
    let request = request_with_hook(&home, 1, "seq 1 1000");
    let (tx, rx) = mpsc::channel(1);
    drop(rx);
    build_version(&request, tx, CancellationToken::new())
        .await
        .unwrap();
}

#[tokio::test]
async fn tree_deeper_than_any_path_is_refused_and_removed() {
    let home = BuildFixture::new();
    let hook = "/usr/bin/python3 -c 'import os\nfor _ in range(3000): os.mkdir(\"deep-deep\", 0o700); os.chdir(\"deep-deep\")'";
    let (result, lines) = build_all(&request_with_hook(&home, 1, hook)).await;
    let error = result.unwrap_err();
    assert!(matches!(error, BuildError::Refused(_)), "{error:?} {lines:#?}");
    assert!(error.to_string().contains("too long"), "{error}");
    assert!(home.leftovers().is_empty());
}

#[tokio::test]
async fn failing_hook_is_reported_with_status_and_last_line() {
    let home = BuildFixture::new();
    let mut request = request_with_hook(
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
        words.ends_with("` exited with status 2: password *** is wrong"),
        "{words}"
    );
    assert!(lines.contains(&"password *** is wrong".to_owned()), "{lines:#?}");
    assert_eq!(Error::from(error).kind(), ErrorKind::Failed);
    assert!(home.leftovers().is_empty() && !request.dest.exists());

    let (result, _) = build_all(&request_with_hook(&home, 2, "kill -9 $$")).await;
    assert_eq!(
        result.unwrap_err().to_string(),
        "The build hook `kill -9 $$` was killed by signal 9"
    );
}

#[tokio::test]
async fn build_output_is_limited_and_the_build_continues() {
    let home = BuildFixture::new();
    let mut request = request_with_hook(
        &home,
        1,
        "seq 1 100000; head -c 100000 /dev/zero | tr '\\0' x; echo; touch done",
    );
    request.limits.output_bytes = 10_000;
    let (version, lines) = build_ok(&request).await;
    assert!(lines.iter().map(|l| l.len() + 1).sum::<usize>() < 10_200);
    assert_eq!(
        lines.last().unwrap(),
        " ---> The output is longer than 10000 bytes; the rest is left out."
    );
    assert!(version.dir.join("done").exists());

    let (_, lines) = build_ok(&request_with_hook(
        &home,
        2,
        "head -c 100000 /dev/zero | tr '\\0' x",
    ))
    .await;
    assert!(lines.iter().any(|l| l.starts_with("xxx") && l.len() <= 4096));
}

#[tokio::test]
async fn daemon_of_a_hook_does_not_outlive_the_build() {
    let home = BuildFixture::new();
    let hook = "sleep 1000 & echo $!; setsid sh -c 'echo $$; exec sleep 1001' & sleep 0.2";
    let (_, lines) = build_ok(&request_with_hook(&home, 1, hook)).await;
    let pids: Vec<_> = lines.iter().filter(|l| l.parse::<u32>().is_ok()).collect();
    assert_eq!(pids.len(), 2, "{lines:#?}");
    wait_until("the daemons are gone", || !pids.iter().any(|p| is_alive(p))).await;
}

#[tokio::test]
async fn refused_archive_fails_the_build() {
    let home = BuildFixture::new();
    let request = home.request("procfile", 1, &[("x", "")]);
    fs::write(&request.archive, "no archive").unwrap();
    let (result, _) = build_all(&request).await;
    assert_eq!(Error::from(result.unwrap_err()).kind(), ErrorKind::Invalid);
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
async fn existing_version_is_not_overwritten() {
    let home = BuildFixture::new();
    let request = request_with_hook(&home, 1, "true");
    build_ok(&request).await;
    let (result, _) = build_all(&request).await;
    assert!(matches!(result, Err(BuildError::Internal(_))), "{result:?}");
    assert!(request.dest.join("Procfile").exists());
}

#[tokio::test]
async fn remove_leftovers_spares_running_builds() {
    let home = BuildFixture::new();
    let request = request_with_hook(&home, 1, "echo hangs; sleep 1000");
    let versions = home.path("versions");
    let (tx, mut rx) = mpsc::channel(16);
    let cancel = CancellationToken::new();
    let building = tokio::spawn({
        let (request, cancel) = (request.clone(), cancel.clone());
        async move { build_version(&request, tx, cancel).await }
    });
    start_until_hook_hangs(&mut rx).await;
    fs::create_dir_all(versions.join(".building-dead/tree/x")).unwrap();
    fs::create_dir_all(versions.join(".removing-dead/x")).unwrap();
    fs::create_dir_all(versions.join("v7")).unwrap();
    let mark = versions.join(".building-dead");
    let mut stray = std::process::Command::new("/bin/sleep")
        .arg("1000")
        .env("TANCHO_BUILD", &mark)
        .spawn()
        .unwrap();

    assert_eq!(remove_leftovers(&versions).unwrap(), 2);
    assert!(!stray.wait().unwrap().success());
    assert_eq!(home.leftovers().len(), 1);
    assert!(versions.join("v7").exists());
    assert_eq!(remove_leftovers(&home.path("nowhere")).unwrap(), 0);
    cancel.cancel();
    let _ = building.await.unwrap();
    assert_eq!(remove_leftovers(&versions).unwrap(), 0);
}

#[test]
fn build_processes_end_when_tancho_is_killed() {
    // The watcher's pipe closes just as it does when Tancho is killed.
    use std::os::unix::process::CommandExt;
    let home = BuildFixture::new();
    let mut child = std::process::Command::new("/bin/sh")
        .args([
            "-c",
            command::GUARD_SCRIPT,
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
    assert!(is_alive(pid.trim()));
    drop(child.stdin.take());
    assert!(!child.wait().unwrap().success());
    let mut rest = String::new();
    // End of file: the last process that held the pipe has exited.
    std::io::Read::read_to_string(&mut out, &mut rest).unwrap();
}
