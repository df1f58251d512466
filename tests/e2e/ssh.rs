//! `git` over SSH, with the real `git` and the real `ssh` from a clean home.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Stdio;

use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::{Value, json};

use crate::apps::AppSource;
use crate::git_client::{CommandOutput, WorkingCopy, remote_lines, repository};
use crate::ssh_user::{SshUser, is_ssh_missing, repository_url, ssh_options};
use crate::test_instance::{TestInstance, find_processes, seconds, wait_for};

/// Starts an instance with the app `shop` and a member of its team; none if `ssh` is missing.
async fn start_with_member() -> Option<(TestInstance, SshUser)> {
    if is_ssh_missing() {
        return None;
    }
    let tancho = TestInstance::start().await;
    tancho.create_app("shop").await;
    let ana = SshUser::new(&tancho, "ana").await;
    ana.join_team(&tancho).await;
    Some((tancho, ana))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn git_over_ssh_deploys_and_fetches_with_a_key_only() {
    let Some((tancho, ana)) = start_with_member().await else {
        return;
    };
    // The API and the ready line show the address; `ssh` sees the host key that both name.
    let app = tancho
        .request_as_admin(Method::GET, "/apps/shop")
        .send()
        .await
        .unwrap();
    let app: Value = app.json().await.unwrap();
    assert_eq!(app["Repository"], repository_url(&tancho, "shop"));
    let work = ana.init_copy_of_app(&tancho, "work", "shop");
    let first = work.commit(&AppSource::web("one").hooks(&["echo built by hand"]), "The first");
    let said = work.push(&["main"]).expect_success();
    let lines = remote_lines(&said);
    assert!(
        lines.contains("Deploying ") && lines.contains("built by hand"),
        "{said}"
    );
    assert_eq!(tancho.get_app("shop", "/").await, (200, "one -".to_owned()));
    assert_eq!(work.remote_ref("refs/heads/main"), first);
    let known = ana
        .client
        .program("ssh-keygen", &ana.client.home, &[])
        .args(["-lf", ".ssh/known_hosts"])
        .output();
    let known = CommandOutput::from_output(&known.unwrap()).expect_success();
    let info = tancho.read_json("/1.0/info").await;
    let host_key = info["ssh_host_key"].as_str().unwrap();
    assert!(known.contains(&format!("{host_key} ")), "{known} {info}");
    assert_eq!(tancho.running().host_key, host_key);
    assert_eq!(info["ssh"], tancho.running().ssh.as_str());
    // The event has who, with what, and from where.
    let deploys = tancho.read_json("/1.0/deploys?app=shop").await;
    assert_eq!(
        (&deploys[0]["User"], &deploys[0]["Commit"]),
        (&json!("ana@example.com"), &json!(first))
    );
    let event = tancho
        .read_json(&format!("/1.1/events/{}", deploys[0]["ID"].as_str().unwrap()))
        .await;
    assert_eq!(
        (&event["TokenKind"], &event["SourceIP"]),
        (&json!("ssh-key"), &json!("127.0.0.1")),
        "{event}"
    );

    // A build that fails.
    work.push_broken();
    assert_eq!(work.remote_ref("refs/heads/main"), first);
    assert_eq!(tancho.get_app("shop", "/").await, (200, "one -".to_owned()));

    // A branch and a tag are stored, not deployed; the broken history is replaced by force.
    work.git(&["tag", "v1", &first]).expect_success();
    work.push(&["main:idea", "v1"]).expect_success();
    assert_eq!(tancho.get_app("shop", "/").await, (200, "one -".to_owned()));
    assert_ne!(work.remote_ref("refs/heads/idea"), "");
    assert_eq!(work.remote_ref("refs/tags/v1"), first);
    work.git(&["checkout", "--quiet", "--orphan", "other"])
        .expect_success();
    let third = work.commit(&AppSource::web("three"), "Another history");
    let said = work.push(&["other:main"]).expect_failure();
    assert!(said.contains("rejected"), "{said}");
    work.push(&["--force", "other:main"]).expect_success();
    assert_eq!(tancho.get_app("shop", "/").await, (200, "three -".to_owned()));

    // Everything can be read back, with both versions of the protocol.
    for version in ["protocol.version=0", "protocol.version=2"] {
        let folder = &version[version.len() - 1..];
        ana.git(&[
            "-c",
            version,
            "clone",
            "--quiet",
            &repository_url(&tancho, "shop"),
            folder,
        ])
        .expect_success();
        let clone = WorkingCopy {
            client: &ana.client,
            path: ana.client.home.join(folder),
        };
        assert_eq!(clone.git(&["rev-parse", "HEAD"]).expect_success().trim(), third);
        assert_eq!(clone.git(&["rev-parse", "v1"]).expect_success().trim(), first);
    }
    work.push(&["main:later"]).expect_success();
    let clone = WorkingCopy {
        client: &ana.client,
        path: ana.client.home.join("2"),
    };
    assert!(clone.git(&["fetch", "origin"]).expect_success().contains("later"));
    let archive = ana
        .client
        .command(
            &ana.client.home,
            &[
                "archive",
                "--remote",
                &repository_url(&tancho, "shop"),
                "v1",
                "Procfile",
            ],
        )
        .output()
        .unwrap();
    assert!(archive.status.success(), "{archive:?}");
    let mut tar = tar::Archive::new(archive.stdout.as_slice());
    let names: Vec<PathBuf> = tar
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().into_owned())
        .collect();
    // The first is git's header with the id of the commit.
    assert_eq!(names, ["pax_global_header", "Procfile"].map(PathBuf::from));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_ssh_push_is_rejected_and_the_first_deploys() {
    let Some((tancho, ana)) = start_with_member().await else {
        return;
    };
    let work = ana.init_copy_of_app(&tancho, "work", "shop");
    let gate = tancho.root.join("gate");
    let wait = format!(
        "echo in the build; while [ ! -e {} ]; do sleep 0.1; done",
        gate.display()
    );
    work.commit(&AppSource::web("one").hooks(&[&wait]), "Slow");
    let (mut child, mut lines, mut text) = work.begin_push("main", "in the build");
    let second = ana.init_copy_of_app(&tancho, "second", "shop");
    second.commit(&AppSource::web("two"), "Quick");
    let said = second.push(&["main"]).expect_failure();
    assert!(remote_lines(&said).contains("ERROR: "), "{said}");
    fs::write(&gate, "").unwrap();
    lines.read_to_string(&mut text).unwrap();
    assert!(child.wait().unwrap().success(), "{text}");
    assert_eq!(tancho.get_app("shop", "/").await, (200, "one -".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_during_an_ssh_push_is_reported_and_keeps_the_repository_intact() {
    if is_ssh_missing() {
        return;
    }
    let mut tancho = TestInstance::start().await;
    tancho.create_app("shop").await;
    let ana = SshUser::new(&tancho, "ana").await;
    ana.join_team(&tancho).await;
    let work = ana.init_copy_of_app(&tancho, "work", "shop");
    let first = work.commit(&AppSource::web("one"), "The first");
    work.push(&["main"]).expect_success();
    let host_key = tancho.running().host_key.clone();
    let second = work.commit(
        &AppSource::web("two").hooks(&["echo in the build; sleep 2"]),
        "The second",
    );
    let (mut child, mut lines, mut text) = work.begin_push("main", "in the build");
    tancho.kill();
    lines.read_to_string(&mut text).unwrap();
    assert!(!child.wait().unwrap().success(), "{text}");
    assert!(text.contains("hung up") || text.contains("Connection"), "{text}");
    tancho.serve();
    assert_eq!(tancho.running().host_key, host_key, "clients would be warned");
    let deploys = tancho.read_json("/1.0/deploys?app=shop").await;
    let event = tancho
        .wait_for_event_end(deploys[0]["ID"].as_str().unwrap(), seconds(30))
        .await;
    let right = match event["Error"].as_str().unwrap() {
        "" => "two -",
        _ => "one -",
    };
    assert_eq!(
        tancho.get_app("shop", "/").await,
        (200, right.to_owned()),
        "{event}"
    );
    let folder = tancho.data.join("repositories");
    let repositories: Vec<PathBuf> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "git"))
        .collect();
    assert_eq!(repositories.len(), 1, "{repositories:?}");
    let path = repositories[0].to_str().unwrap();
    ana.git(&["--git-dir", path, "fsck", "--full", "--strict"])
        .expect_success();
    work.git(&["remote", "set-url", "tancho", &repository_url(&tancho, "shop")])
        .expect_success();
    assert_eq!(
        work.remote_ref("refs/heads/main"),
        first,
        "a killed push moves nothing"
    );
    work.push(&["main"]).expect_success();
    assert_eq!(work.remote_ref("refs/heads/main"), second);
    assert_eq!(tancho.get_app("shop", "/").await, (200, "two -".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ssh_push_during_shutdown_is_reported_and_moves_no_ref() {
    let Some((mut tancho, ana)) = start_with_member().await else {
        return;
    };
    tancho.create_app("shelf").await;
    let over_ssh = ana.init_copy_of_app(&tancho, "work", "shop");
    let over_http = ana.client.init_copy_of_app(&tancho, "other", "shelf");
    for work in [&over_ssh, &over_http] {
        work.commit(
            &AppSource::web("one").hooks(&["echo in the build; sleep 600"]),
            "Slow",
        );
    }
    let pushes = [&over_ssh, &over_http].map(|work| work.begin_push("main", "in the build"));
    let mut program = tancho.program.take().unwrap();
    program.signal(Signal::SIGTERM);
    for (mut child, mut lines, mut text) in pushes {
        lines.read_to_string(&mut text).unwrap();
        assert!(!child.wait().unwrap().success(), "{text}");
        assert!(
            remote_lines(&text).contains("ERROR: This server is shutting down")
                && text.contains("[remote rejected] main -> main (pre-receive hook declined)"),
            "{text}"
        );
    }
    assert_eq!(program.wait(seconds(30)), Some(0));
    drop(program);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ssh_push_without_deploy_finishes_before_shutdown() {
    let Some((mut tancho, mut ana)) = start_with_member().await else {
        return;
    };
    // An `ssh` that holds git's output back for a while.
    let gate = tancho.root.join("gate");
    let slow = ana.client.home.join("ssh");
    let script = format!(
        "#!/bin/sh\n(while [ ! -e {} ]; do sleep 0.1; done; exec cat) | {} \"$@\"\n",
        gate.display(),
        ana.client.ssh
    );
    fs::write(&slow, script).unwrap();
    fs::set_permissions(&slow, fs::Permissions::from_mode(0o755)).unwrap();
    ana.client.ssh = slow.display().to_string();
    let work = ana.init_copy_of_app(&tancho, "work", "shop");
    let first = work.commit(&AppSource::default().with("README", "hello"), "The first");
    let mut command = ana.client.command(&work.path, &["push", "tancho", "main:idea"]);
    let push = command.stderr(Stdio::piped()).spawn().unwrap();
    let repositories = tancho.data.join("repositories");
    let speaks = || !find_processes(&format!("GIT_DIR={}", repositories.display())).is_empty();
    wait_for("git sends data", seconds(30), async || speaks().then_some(())).await;
    let mut program = tancho.program.take().unwrap();
    program.signal(Signal::SIGTERM);
    wait_for("the SSH port is closed", seconds(20), async || {
        TcpStream::connect(&program.ssh).is_err().then_some(())
    })
    .await;
    fs::write(&gate, "").unwrap();
    CommandOutput::from_output(&push.wait_with_output().unwrap()).expect_success();
    assert_eq!(program.wait(seconds(30)), Some(0));
    let path = repository(&tancho);
    let moved = ana.git(&["--git-dir", path.to_str().unwrap(), "rev-parse", "idea"]);
    assert_eq!(moved.expect_success().trim(), first);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ssh_exec_is_refused_without_key_permission_or_git_command() {
    let Some((tancho, ana)) = start_with_member().await else {
        return;
    };
    let work = ana.init_copy_of_app(&tancho, "work", "shop");
    work.commit(&AppSource::default().with("README", "hello"), "The first");
    work.push(&["main:idea"]).expect_success();

    // Another user sees no difference between an existing app and none.
    let bob = SshUser::new(&tancho, "bob").await;
    let stranger = |app: &str, what: &str| {
        bob.git(&[what, &repository_url(&tancho, app)])
            .expect_failure()
            .replace(app, "APP")
    };
    // The first time, `ssh` also warns that the host is unknown.
    stranger("shop", "ls-remote");
    let gone = stranger("shop", "ls-remote");
    assert!(
        gone.contains("ERROR: Repository not found, or you have no access to it."),
        "{gone}"
    );
    for bad in [
        "shelf",
        "SHOP",
        "..",
        "../shop",
        "shop/../shop",
        "sh op",
        "$(id)",
        "'",
        "-oProxy",
    ] {
        assert_eq!(stranger(bad, "ls-remote"), gone, "{bad}");
        let said = ana
            .git(&["ls-remote", &repository_url(&tancho, bad)])
            .expect_failure();
        assert!(said.contains("ERROR: Repository not found"), "{said}");
    }
    let copy = bob.init_copy_of_app(&tancho, "work", "shop");
    copy.commit(&AppSource::default().with("README", "mine"), "Mine");
    assert!(
        copy.push(&["main"])
            .expect_failure()
            .contains("ERROR: Repository not found")
    );

    // Everything except git.
    let only = "ERROR: This server accepts git only";
    for words in [
        &["ls"][..],
        &["git", "upload-pack", "shop.git"],
        &["/bin/sh", "-c", "id"],
        &["git-upload-pack"],
        &["scp", "-t", "/tmp"],
        &["git-upload-pack\t'shop.git'"],
        &[],
    ] {
        let said = ana.run_ssh(&tancho, &[], words);
        assert!(
            said.status == Some(1) && said.text.contains(only),
            "{words:?}: {said:?}"
        );
    }
    let said = ana.run_ssh(&tancho, &["-tt"], &["ls"]).expect_failure();
    assert!(said.contains("PTY allocation request failed"), "{said}");
    let said = ana.run_ssh(&tancho, &["-s"], &["sftp"]);
    assert!(said.text.contains(only), "{said:?}");
    let said = ana.run_ssh(&tancho, &["-W", "127.0.0.1:1"], &[]).expect_failure();
    assert!(said.contains("administratively prohibited"), "{said}");
    let remote = ["-o", "ExitOnForwardFailure=yes", "-N", "-R", "0:127.0.0.1:1"];
    let said = ana.run_ssh(&tancho, &remote, &[]).expect_failure();
    assert!(said.contains("forwarding"), "{said}");
    // Neither a variable nor shell syntax reaches git.
    let mut command = ana.ssh(
        &tancho,
        &["-o", "SetEnv=GIT_TRACE=1"],
        &["git-upload-pack 'shop.git'; id"],
    );
    let said = CommandOutput::from_output(&command.output().unwrap()).expect_failure();
    assert!(
        said.contains("ERROR: Repository not found") && !said.contains("uid="),
        "{said}"
    );

    // Keys: unknown, of another type, removed; passwords are never asked for.
    let eve = SshUser::new_without_key(&tancho, "eve").await;
    let denied = "Permission denied (publickey)";
    assert!(
        eve.git(&["ls-remote", &repository_url(&tancho, "shop")])
            .expect_failure()
            .contains(denied)
    );
    for (kind, name) in [("ecdsa", "two"), ("rsa", "three")] {
        ana.make_key(kind, name);
        let public = fs::read_to_string(ana.client.home.join(".ssh").join(format!("{name}.pub"))).unwrap();
        assert_eq!(ana.add_key(&tancho, &public).await.0, 200);
        let key = ana.client.home.join(".ssh").join(name);
        // Without the first one.
        let (host, port) = tancho.running().ssh.split_once(':').unwrap();
        let mut command = ana.client.program("ssh", &ana.client.home, &[]);
        command
            .args(ssh_options(&ana.client, name).split_ascii_whitespace())
            .args(["-p", port])
            .arg(format!("any@{host}"));
        let said = CommandOutput::from_output(&command.output().unwrap());
        assert!(said.text.contains(only), "{}: {said:?}", key.display());
    }
    let public = ana.public_key();
    let (status, said) = eve.add_key(&tancho, &public).await;
    assert!(status == 409 && !said.contains("ana"), "{said}");
    let (status, said) = ana.add_key(&tancho, &format!("{public}{public}")).await;
    assert!(status == 400 && said.contains("line 2"), "{said}");
    assert_eq!(ana.keys(&tancho, Method::DELETE, &public).await.0, 200);
    assert!(
        work.git(&["ls-remote", "tancho"])
            .expect_failure()
            .contains(denied)
    );
    assert_eq!(eve.add_key(&tancho, &eve.public_key()).await.0, 200);
    let said = eve
        .git(&["ls-remote", &repository_url(&tancho, "shop")])
        .expect_failure();
    assert!(said.contains("ERROR: Repository not found"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn user_named_like_a_replica_has_no_extra_permissions() {
    let Some((tancho, ana)) = start_with_member().await else {
        return;
    };
    let bob = SshUser::new(&tancho, "bob").await;
    let eve = SshUser::new_without_key(&tancho, "eve").await;
    let prints = ana
        .client
        .program("ssh-keygen", &ana.client.home, &["-lf", ".ssh/id.pub"])
        .output();
    let prints = CommandOutput::from_output(&prints.unwrap()).expect_success();
    let key = prints
        .split(' ')
        .find(|word| word.starts_with("SHA256:"))
        .unwrap();
    let pretend = format!("SetEnv=TANCHO_SSH_KEY={key} TANCHO_SSH_ADDRESS=192.0.2.7");
    let options = ["-l", "tancho-replica", "-o", &pretend];
    let asks = ["git-upload-pack 'shop.git'"];
    let said = bob.run_ssh(&tancho, &options, &asks).expect_failure();
    assert!(said.contains("ERROR: Repository not found"), "{said}");
    let said = eve.run_ssh(&tancho, &options, &asks).expect_failure();
    assert!(said.contains("Permission denied (publickey)"), "{said}");
    let said = ana.run_ssh(&tancho, &options, &asks);
    assert!(said.text.contains("0000"), "{said:?}");

    // Nor does adding the server's own key as a user's key help.
    let known = fs::read_to_string(bob.client.home.join(".ssh/known_hosts")).unwrap();
    let (_, host_key) = known.lines().next().unwrap().split_once(' ').unwrap();
    let (status, said) = eve.add_key(&tancho, host_key).await;
    assert!(
        status == 400 && said.contains("host key of this server"),
        "{status} {said}"
    );
}

/// Reads the banner of a server, and to the end.
fn read_banner(tancho: &TestInstance) -> String {
    let mut stream = TcpStream::connect(&tancho.running().ssh).unwrap();
    stream.set_read_timeout(Some(seconds(60))).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ssh_connections_are_limited_and_idle_ones_closed() {
    if is_ssh_missing() {
        return;
    }
    let mut tancho = TestInstance::with(&[
        ("TANCHO_SSH_LOGIN_SECONDS", "5"),
        ("TANCHO_SSH_IDLE_SECONDS", "10"),
        ("TANCHO_SSH_MAX_CONNECTIONS", "2"),
    ])
    .await;
    tancho.create_app("shop").await;
    let ana = SshUser::new(&tancho, "ana").await;
    ana.join_team(&tancho).await;
    // Silent clients are disconnected after a while, and too many at once.
    let quiet: Vec<TcpStream> = (0..2)
        .map(|_| {
            let mut stream = TcpStream::connect(&tancho.running().ssh).unwrap();
            stream.set_read_timeout(Some(seconds(60))).unwrap();
            // A connection holds its slot once it has the banner.
            assert_eq!(stream.read(&mut [0; 4]).unwrap(), 4);
            stream
        })
        .collect();
    assert!(read_banner(&tancho).starts_with("Too many connections"));
    for mut stream in quiet {
        let mut rest = String::new();
        // It ends, in whatever way.
        let _ = stream.read_to_string(&mut rest);
    }
    wait_for("a slot is free", seconds(20), async || {
        let mut stream = TcpStream::connect(&tancho.running().ssh).unwrap();
        stream.write_all(b"nonsense\r\n").unwrap();
        let mut greeting = [0; 4];
        (stream.read_exact(&mut greeting).is_ok() && &greeting == b"SSH-").then_some(())
    })
    .await;

    // A client that stops reading does not hold its git forever.
    let work = ana.init_copy_of_app(&tancho, "work", "shop");
    let mut noise = vec![0; 24 << 20];
    let mut state = 7_u32;
    for byte in &mut noise {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = (state >> 24) as u8;
    }
    fs::write(work.path.join("noise"), noise).unwrap();
    work.commit(&AppSource::default(), "Noise");
    wait_for("a push gets a slot", seconds(30), async || {
        (work.push(&["main:idea"]).status == Some(0)).then_some(())
    })
    .await;
    let mut command = ana.client.program("git", &ana.client.home, &[]);
    command.args(["archive", "--remote", &repository_url(&tancho, "shop"), "idea"]);
    let mut deaf = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let repositories = tancho.data.join("repositories").display().to_string();
    let speaks = || find_processes(&format!("GIT_DIR={repositories}")).len();
    wait_for("git sends data", seconds(30), async || {
        (speaks() > 0).then_some(())
    })
    .await;
    wait_for("git has been stopped", seconds(60), async || {
        (speaks() == 0).then_some(())
    })
    .await;
    let (mut out, mut err) = (Vec::new(), String::new());
    deaf.stdout.take().unwrap().read_to_end(&mut out).unwrap();
    deaf.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert!(
        !deaf.wait().unwrap().success() && out.len() < 24 << 20,
        "{} {err}",
        out.len()
    );

    // An idle connection is closed after a while, and immediately when the server stops.
    let mut idle = ana
        .ssh(&tancho, &["-N"], &[])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    idle.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(!idle.wait().unwrap().success(), "{said}");
    let mut idle = ana
        .ssh(&tancho, &["-N", "-v"], &[])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(idle.stderr.take().unwrap());
    let mut said = String::new();
    while !said.contains("Authenticated") {
        assert!(lines.read_line(&mut said).unwrap() > 0, "it ended: {said}");
    }
    let mut program = tancho.program.take().unwrap();
    program.signal(Signal::SIGTERM);
    assert_eq!(program.wait(seconds(20)), Some(0));
    lines.read_to_string(&mut said).unwrap();
    assert!(!idle.wait().unwrap().success(), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_listen_address_ssh_is_disabled_and_git_uses_http() {
    let tancho = TestInstance::with(&[("TANCHO_SSH_LISTEN", "")]).await;
    tancho.create_app("shop").await;
    assert_eq!(tancho.running().ssh, "none");
    let app = tancho
        .request_as_admin(Method::GET, "/apps/shop")
        .send()
        .await
        .unwrap();
    let app: Value = app.json().await.unwrap();
    assert_eq!(
        app["Repository"],
        format!("{}/git/shop.git", tancho.running().api)
    );
    assert!(tancho.read_json("/1.0/info").await.get("ssh").is_none());
}
