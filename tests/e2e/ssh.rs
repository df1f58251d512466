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

use crate::apps::Source;
use crate::desk::{Copy, Said, remote_lines, repository};
use crate::house::{House, processes_with, seconds, until};
use crate::people::{Person, no_ssh, options, url};

/// A house with the app `shop`, and somebody of its team; none where there is no `ssh`.
async fn scene() -> Option<(House, Person)> {
    if no_ssh() {
        return None;
    }
    let house = House::start().await;
    house.create_app("shop").await;
    let ana = Person::new(&house, "ana").await;
    ana.join(&house).await;
    Some((house, ana))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_all_that_git_needs_to_deploy_and_to_read() {
    let Some((house, ana)) = scene().await else {
        return;
    };
    // The API says where, and so does the ready line; `ssh` sees the host key that both name.
    let app = house.by(Method::GET, "/apps/shop").send().await.unwrap();
    let app: Value = app.json().await.unwrap();
    assert_eq!(app["Repository"], url(&house, "shop"));
    let work = ana.copy(&house, "work", "shop");
    let first = work.commit(&Source::web("one").hooks(&["echo built by hand"]), "The first");
    let said = work.push(&["main"]).must();
    let lines = remote_lines(&said);
    assert!(
        lines.contains("Deploying ") && lines.contains("built by hand"),
        "{said}"
    );
    assert_eq!(house.visit("shop", "/").await, (200, "one -".to_owned()));
    assert_eq!(work.remote("refs/heads/main"), first);
    let known = ana
        .desk
        .program("ssh-keygen", &ana.desk.home, &[])
        .args(["-lf", ".ssh/known_hosts"])
        .output();
    let known = Said::of(&known.unwrap()).must();
    let info = house.read("/1.0/info").await;
    let host_key = info["ssh_host_key"].as_str().unwrap();
    assert!(known.contains(&format!("{host_key} ")), "{known} {info}");
    assert_eq!(house.running().host_key, host_key);
    assert_eq!(info["ssh"], house.running().ssh.as_str());
    // As an event: who, by what, from where.
    let deploys = house.read("/1.0/deploys?app=shop").await;
    assert_eq!(
        (&deploys[0]["User"], &deploys[0]["Commit"]),
        (&json!("ana@example.com"), &json!(first))
    );
    let event = house
        .read(&format!("/1.1/events/{}", deploys[0]["ID"].as_str().unwrap()))
        .await;
    assert_eq!(
        (&event["TokenKind"], &event["SourceIP"]),
        (&json!("ssh-key"), &json!("127.0.0.1")),
        "{event}"
    );

    // A build that fails.
    work.push_broken();
    assert_eq!(work.remote("refs/heads/main"), first);
    assert_eq!(house.visit("shop", "/").await, (200, "one -".to_owned()));

    // A branch and a tag are kept, not deployed; the broken history is replaced by force.
    work.git(&["tag", "v1", &first]).must();
    work.push(&["main:idea", "v1"]).must();
    assert_eq!(house.visit("shop", "/").await, (200, "one -".to_owned()));
    assert_ne!(work.remote("refs/heads/idea"), "");
    assert_eq!(work.remote("refs/tags/v1"), first);
    work.git(&["checkout", "--quiet", "--orphan", "other"]).must();
    let third = work.commit(&Source::web("three"), "Another history");
    let said = work.push(&["other:main"]).must_fail();
    assert!(said.contains("rejected"), "{said}");
    work.push(&["--force", "other:main"]).must();
    assert_eq!(house.visit("shop", "/").await, (200, "three -".to_owned()));

    // Read it all back, with both forms of the protocol.
    for version in ["protocol.version=0", "protocol.version=2"] {
        let folder = &version[version.len() - 1..];
        ana.git(&["-c", version, "clone", "--quiet", &url(&house, "shop"), folder])
            .must();
        let clone = Copy {
            desk: &ana.desk,
            path: ana.desk.home.join(folder),
        };
        assert_eq!(clone.git(&["rev-parse", "HEAD"]).must().trim(), third);
        assert_eq!(clone.git(&["rev-parse", "v1"]).must().trim(), first);
    }
    work.push(&["main:later"]).must();
    let clone = Copy {
        desk: &ana.desk,
        path: ana.desk.home.join("2"),
    };
    assert!(clone.git(&["fetch", "origin"]).must().contains("later"));
    let archive = ana
        .desk
        .command(
            &ana.desk.home,
            &["archive", "--remote", &url(&house, "shop"), "v1", "Procfile"],
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
    // The first is git's own way to say which commit it is.
    assert_eq!(names, ["pax_global_header", "Procfile"].map(PathBuf::from));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_pushes_at_once_one_deploys_and_the_other_is_told() {
    let Some((house, ana)) = scene().await else {
        return;
    };
    let work = ana.copy(&house, "work", "shop");
    let gate = house.root.join("gate");
    let wait = format!(
        "echo in the build; while [ ! -e {} ]; do sleep 0.1; done",
        gate.display()
    );
    work.commit(&Source::web("one").hooks(&[&wait]), "Slow");
    let (mut child, mut lines, mut text) = work.begin_push("main", "in the build");
    let second = ana.copy(&house, "second", "shop");
    second.commit(&Source::web("two"), "Quick");
    let said = second.push(&["main"]).must_fail();
    assert!(remote_lines(&said).contains("ERROR: "), "{said}");
    fs::write(&gate, "").unwrap();
    lines.read_to_string(&mut text).unwrap();
    assert!(child.wait().unwrap().success(), "{text}");
    assert_eq!(house.visit("shop", "/").await, (200, "one -".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_whose_tancho_is_killed_is_told_and_leaves_a_whole_repository() {
    if no_ssh() {
        return;
    }
    let mut house = House::start().await;
    house.create_app("shop").await;
    let ana = Person::new(&house, "ana").await;
    ana.join(&house).await;
    let work = ana.copy(&house, "work", "shop");
    let first = work.commit(&Source::web("one"), "The first");
    work.push(&["main"]).must();
    let host_key = house.running().host_key.clone();
    let second = work.commit(
        &Source::web("two").hooks(&["echo in the build; sleep 2"]),
        "The second",
    );
    let (mut child, mut lines, mut text) = work.begin_push("main", "in the build");
    house.kill();
    lines.read_to_string(&mut text).unwrap();
    assert!(!child.wait().unwrap().success(), "{text}");
    assert!(text.contains("hung up") || text.contains("Connection"), "{text}");
    house.serve();
    assert_eq!(house.running().host_key, host_key, "clients would be warned");
    let deploys = house.read("/1.0/deploys?app=shop").await;
    let event = house.ended(deploys[0]["ID"].as_str().unwrap(), seconds(30)).await;
    let right = match event["Error"].as_str().unwrap() {
        "" => "two -",
        _ => "one -",
    };
    assert_eq!(house.visit("shop", "/").await, (200, right.to_owned()), "{event}");
    let folder = house.data.join("repositories");
    let repositories: Vec<PathBuf> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "git"))
        .collect();
    assert_eq!(repositories.len(), 1, "{repositories:?}");
    let path = repositories[0].to_str().unwrap();
    ana.git(&["--git-dir", path, "fsck", "--full", "--strict"]).must();
    work.git(&["remote", "set-url", "tancho", &url(&house, "shop")])
        .must();
    assert_eq!(
        work.remote("refs/heads/main"),
        first,
        "a killed push moves nothing"
    );
    work.push(&["main"]).must();
    assert_eq!(work.remote("refs/heads/main"), second);
    assert_eq!(house.visit("shop", "/").await, (200, "two -".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_under_way_when_the_server_stops_is_told_and_moves_nothing() {
    let Some((mut house, ana)) = scene().await else {
        return;
    };
    house.create_app("shelf").await;
    let over_ssh = ana.copy(&house, "work", "shop");
    let over_http = ana.desk.copy(&house, "other", "shelf");
    for work in [&over_ssh, &over_http] {
        work.commit(
            &Source::web("one").hooks(&["echo in the build; sleep 600"]),
            "Slow",
        );
    }
    let pushes = [&over_ssh, &over_http].map(|work| work.begin_push("main", "in the build"));
    let mut program = house.program.take().unwrap();
    program.signal(Signal::SIGTERM);
    for (mut child, mut lines, mut text) in pushes {
        lines.read_to_string(&mut text).unwrap();
        assert!(!child.wait().unwrap().success(), "{text}");
        assert!(
            remote_lines(&text).contains("ERROR: This server is being stopped")
                && text.contains("[remote rejected] main -> main (pre-receive hook declined)"),
            "{text}"
        );
    }
    assert_eq!(program.wait(seconds(30)), Some(0));
    drop(program);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_that_deploys_nothing_ends_before_the_server_stops() {
    let Some((mut house, mut ana)) = scene().await else {
        return;
    };
    // An `ssh` that keeps what git says to itself for a while.
    let gate = house.root.join("gate");
    let slow = ana.desk.home.join("ssh");
    let script = format!(
        "#!/bin/sh\n(while [ ! -e {} ]; do sleep 0.1; done; exec cat) | {} \"$@\"\n",
        gate.display(),
        ana.desk.ssh
    );
    fs::write(&slow, script).unwrap();
    fs::set_permissions(&slow, fs::Permissions::from_mode(0o755)).unwrap();
    ana.desk.ssh = slow.display().to_string();
    let work = ana.copy(&house, "work", "shop");
    let first = work.commit(&Source::default().with("README", "hello"), "The first");
    let mut command = ana.desk.command(&work.path, &["push", "tancho", "main:idea"]);
    let push = command.stderr(Stdio::piped()).spawn().unwrap();
    let repositories = house.data.join("repositories");
    let speaks = || !processes_with(&format!("GIT_DIR={}", repositories.display())).is_empty();
    until("git speaks", seconds(30), async || speaks().then_some(())).await;
    let mut program = house.program.take().unwrap();
    program.signal(Signal::SIGTERM);
    until("the door is shut", seconds(20), async || {
        TcpStream::connect(&program.ssh).is_err().then_some(())
    })
    .await;
    fs::write(&gate, "").unwrap();
    Said::of(&push.wait_with_output().unwrap()).must();
    assert_eq!(program.wait(seconds(30)), Some(0));
    let path = repository(&house);
    let moved = ana.git(&["--git-dir", path.to_str().unwrap(), "rev-parse", "idea"]);
    assert_eq!(moved.must().trim(), first);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_no_key_no_right_or_another_wish_is_turned_away() {
    let Some((house, ana)) = scene().await else {
        return;
    };
    let work = ana.copy(&house, "work", "shop");
    work.commit(&Source::default().with("README", "hello"), "The first");
    work.push(&["main:idea"]).must();

    // A stranger sees no difference between an app and none.
    let bob = Person::new(&house, "bob").await;
    let stranger = |app: &str, what: &str| {
        bob.git(&[what, &url(&house, app)])
            .must_fail()
            .replace(app, "APP")
    };
    // The first time, `ssh` also says that it has not met this host before.
    stranger("shop", "ls-remote");
    let gone = stranger("shop", "ls-remote");
    assert!(
        gone.contains("ERROR: There is no such repository, or you may not use it."),
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
        let said = ana.git(&["ls-remote", &url(&house, bad)]).must_fail();
        assert!(said.contains("ERROR: There is no such repository"), "{said}");
    }
    let copy = bob.copy(&house, "work", "shop");
    copy.commit(&Source::default().with("README", "mine"), "Mine");
    assert!(
        copy.push(&["main"])
            .must_fail()
            .contains("ERROR: There is no such repository")
    );

    // Everything that is not git.
    let only = "ERROR: This is a git server";
    for words in [
        &["ls"][..],
        &["git", "upload-pack", "shop.git"],
        &["/bin/sh", "-c", "id"],
        &["git-upload-pack"],
        &["scp", "-t", "/tmp"],
        &["git-upload-pack\t'shop.git'"],
        &[],
    ] {
        let said = ana.says(&house, &[], words);
        assert!(
            said.status == Some(1) && said.text.contains(only),
            "{words:?}: {said:?}"
        );
    }
    let said = ana.says(&house, &["-tt"], &["ls"]).must_fail();
    assert!(said.contains("PTY allocation request failed"), "{said}");
    let said = ana.says(&house, &["-s"], &["sftp"]);
    assert!(said.text.contains(only), "{said:?}");
    let said = ana.says(&house, &["-W", "127.0.0.1:1"], &[]).must_fail();
    assert!(said.contains("administratively prohibited"), "{said}");
    let remote = ["-o", "ExitOnForwardFailure=yes", "-N", "-R", "0:127.0.0.1:1"];
    let said = ana.says(&house, &remote, &[]).must_fail();
    assert!(said.contains("forwarding"), "{said}");
    // Neither a variable nor a shell's words get through to git.
    let mut command = ana.ssh(
        &house,
        &["-o", "SetEnv=GIT_TRACE=1"],
        &["git-upload-pack 'shop.git'; id"],
    );
    let said = Said::of(&command.output().unwrap()).must_fail();
    assert!(
        said.contains("ERROR: There is no such repository") && !said.contains("uid="),
        "{said}"
    );

    // Keys: unknown, of another kind, removed; passwords are never asked for.
    let eve = Person::without_key(&house, "eve").await;
    let denied = "Permission denied (publickey)";
    assert!(
        eve.git(&["ls-remote", &url(&house, "shop")])
            .must_fail()
            .contains(denied)
    );
    for (kind, name) in [("ecdsa", "two"), ("rsa", "three")] {
        ana.make_key(kind, name);
        let public = fs::read_to_string(ana.desk.home.join(".ssh").join(format!("{name}.pub"))).unwrap();
        assert_eq!(ana.add_key(&house, &public).await.0, 200);
        let key = ana.desk.home.join(".ssh").join(name);
        // Without the first one.
        let (host, port) = house.running().ssh.split_once(':').unwrap();
        let mut command = ana.desk.program("ssh", &ana.desk.home, &[]);
        command
            .args(options(&ana.desk, name).split_ascii_whitespace())
            .args(["-p", port])
            .arg(format!("any@{host}"));
        let said = Said::of(&command.output().unwrap());
        assert!(said.text.contains(only), "{}: {said:?}", key.display());
    }
    let public = ana.public();
    let (status, said) = eve.add_key(&house, &public).await;
    assert!(status == 409 && !said.contains("ana"), "{said}");
    let (status, said) = ana.add_key(&house, &format!("{public}{public}")).await;
    assert!(status == 400 && said.contains("line 2"), "{said}");
    assert_eq!(ana.keys(&house, Method::DELETE, &public).await.0, 200);
    assert!(work.git(&["ls-remote", "tancho"]).must_fail().contains(denied));
    assert_eq!(eve.add_key(&house, &eve.public()).await.0, 200);
    let said = eve.git(&["ls-remote", &url(&house, "shop")]).must_fail();
    assert!(said.contains("ERROR: There is no such repository"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_takes_the_name_of_a_replica_is_a_user_like_any_other() {
    let Some((house, ana)) = scene().await else {
        return;
    };
    let bob = Person::new(&house, "bob").await;
    let eve = Person::without_key(&house, "eve").await;
    let prints = ana
        .desk
        .program("ssh-keygen", &ana.desk.home, &["-lf", ".ssh/id.pub"])
        .output();
    let prints = Said::of(&prints.unwrap()).must();
    let key = prints
        .split(' ')
        .find(|word| word.starts_with("SHA256:"))
        .unwrap();
    let pretend = format!("SetEnv=TANCHO_SSH_KEY={key} TANCHO_SSH_ADDRESS=192.0.2.7");
    let options = ["-l", "tancho-replica", "-o", &pretend];
    let asks = ["git-upload-pack 'shop.git'"];
    let said = bob.says(&house, &options, &asks).must_fail();
    assert!(said.contains("ERROR: There is no such repository"), "{said}");
    let said = eve.says(&house, &options, &asks).must_fail();
    assert!(said.contains("Permission denied (publickey)"), "{said}");
    let said = ana.says(&house, &options, &asks);
    assert!(said.text.contains("0000"), "{said:?}");

    // Nor does it help to call the server's own key one's own.
    let known = fs::read_to_string(bob.desk.home.join(".ssh/known_hosts")).unwrap();
    let (_, host_key) = known.lines().next().unwrap().split_once(' ').unwrap();
    let (status, said) = eve.add_key(&house, host_key).await;
    assert!(
        status == 400 && said.contains("this server's own"),
        "{status} {said}"
    );
}

/// Reads what a server says first, and to the end.
fn knock(house: &House) -> String {
    let mut stream = TcpStream::connect(&house.running().ssh).unwrap();
    stream.set_read_timeout(Some(seconds(60))).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_few_and_none_stays_without_a_reason() {
    if no_ssh() {
        return;
    }
    let mut house = House::with(&[
        ("TANCHO_SSH_LOGIN_SECONDS", "5"),
        ("TANCHO_SSH_IDLE_SECONDS", "10"),
        ("TANCHO_SSH_MAX_CONNECTIONS", "2"),
    ])
    .await;
    house.create_app("shop").await;
    let ana = Person::new(&house, "ana").await;
    ana.join(&house).await;
    // Those who say nothing are sent away after a while, and too many at once.
    let quiet: Vec<TcpStream> = (0..2)
        .map(|_| {
            let mut stream = TcpStream::connect(&house.running().ssh).unwrap();
            stream.set_read_timeout(Some(seconds(60))).unwrap();
            // It has its place once it is greeted.
            assert_eq!(stream.read(&mut [0; 4]).unwrap(), 4);
            stream
        })
        .collect();
    assert!(knock(&house).starts_with("Too many connections"));
    for mut stream in quiet {
        let mut rest = String::new();
        // Its end, in whatever way.
        let _ = stream.read_to_string(&mut rest);
    }
    until("a place is free", seconds(20), async || {
        let mut stream = TcpStream::connect(&house.running().ssh).unwrap();
        stream.write_all(b"nonsense\r\n").unwrap();
        let mut greeting = [0; 4];
        (stream.read_exact(&mut greeting).is_ok() && &greeting == b"SSH-").then_some(())
    })
    .await;

    // A client that stops reading does not keep its git for ever.
    let work = ana.copy(&house, "work", "shop");
    let mut noise = vec![0; 24 << 20];
    let mut state = 7_u32;
    for byte in &mut noise {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = (state >> 24) as u8;
    }
    fs::write(work.path.join("noise"), noise).unwrap();
    work.commit(&Source::default(), "Noise");
    until("a push finds a place", seconds(30), async || {
        (work.push(&["main:idea"]).status == Some(0)).then_some(())
    })
    .await;
    let mut command = ana.desk.program("git", &ana.desk.home, &[]);
    command.args(["archive", "--remote", &url(&house, "shop"), "idea"]);
    let mut deaf = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let repositories = house.data.join("repositories").display().to_string();
    let speaks = || processes_with(&format!("GIT_DIR={repositories}")).len();
    until("git speaks", seconds(30), async || (speaks() > 0).then_some(())).await;
    until("git has been stopped", seconds(60), async || {
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

    // Nothing runs in it: closed after a while, and at once when the server stops.
    let mut idle = ana
        .ssh(&house, &["-N"], &[])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    idle.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(!idle.wait().unwrap().success(), "{said}");
    let mut idle = ana
        .ssh(&house, &["-N", "-v"], &[])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(idle.stderr.take().unwrap());
    let mut said = String::new();
    while !said.contains("Authenticated") {
        assert!(lines.read_line(&mut said).unwrap() > 0, "it ended: {said}");
    }
    let mut program = house.program.take().unwrap();
    program.signal(Signal::SIGTERM);
    assert_eq!(program.wait(seconds(20)), Some(0));
    lines.read_to_string(&mut said).unwrap();
    assert!(!idle.wait().unwrap().success(), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_address_there_is_no_ssh_and_repositories_are_reached_over_http() {
    let house = House::with(&[("TANCHO_SSH_LISTEN", "")]).await;
    house.create_app("shop").await;
    assert_eq!(house.running().ssh, "none");
    let app = house.by(Method::GET, "/apps/shop").send().await.unwrap();
    let app: Value = app.json().await.unwrap();
    assert_eq!(app["Repository"], format!("{}/git/shop.git", house.running().api));
    assert!(house.read("/1.0/info").await.get("ssh").is_none());
}
