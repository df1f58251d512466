//! `git` over SSH with several replicas: each is as good as the one that has the repository.

use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Instant;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::apps::Source;
use crate::cluster::Cluster;
use crate::desk::{Copy, Said, remote_lines, repository};
use crate::fleet::Replica;
use crate::house::{House, processes_with, seconds, until};
use crate::people::{Person, no_ssh, options, url};

/// Two replicas, of which the first has the repository of `shop`, and somebody of its team. Fields go in this
/// order.
struct Scene {
    ana: Person,
    holder: Replica,
    other: Replica,
    _cluster: Cluster,
    _folder: House,
}

impl Scene {
    /// `None` where there is no `ssh`.
    async fn set(env: &[(&str, &str)]) -> Option<Self> {
        if no_ssh() {
            return None;
        }
        let folder = House::empty();
        let cluster = Cluster::start(std::path::PathBuf::from(format!("{}-pg", folder.root.display())));
        let key = format!("1:{}", "5e".repeat(32));
        let [mut holder, mut other] = [(); 2].map(|()| Replica::new(&cluster.url("postgres"), &key));
        for replica in [&mut holder, &mut other] {
            for (name, value) in env {
                replica.house.set(name, value);
            }
            replica.serve();
        }
        holder.house.login().await;
        other.house.token.clone_from(&holder.house.token);
        holder.house.team().await;
        holder.house.create_app("shop").await;
        let mut ana = Person::new(&holder.house, "ana").await;
        ana.join(&holder.house).await;
        // Whoever is asked first has it.
        ana.git(&["ls-remote", &url(&holder.house, "shop")]).must();
        // An address that no replica has.
        ana.desk.ssh = format!("ssh {} -b 127.0.0.2", options(&ana.desk, "id"));
        Some(Self {
            ana,
            holder,
            other,
            _cluster: cluster,
            _folder: folder,
        })
    }

    /// A working copy that knows the replica without the repository.
    fn copy(&self, folder: &str) -> Copy<'_> {
        self.ana.copy(&self.other.house, folder, "shop")
    }

    async fn visit(&self) -> String {
        let (status, text) = self.holder.house.visit("shop", "/").await;
        assert_eq!(status, 200, "{text}");
        text
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_over_ssh_to_any_replica_is_seen_by_all() {
    let Some(scene) = Scene::set(&[]).await else {
        return;
    };
    let (ana, holder, other) = (&scene.ana, &scene.holder.house, &scene.other.house);
    let work = scene.copy("work");
    let first = work.commit(&Source::web("one").hooks(&["echo built by hand"]), "The first");
    let said = work.push(&["main"]).must();
    let lines = remote_lines(&said);
    assert!(
        lines.contains("Deploying ") && lines.contains("built by hand"),
        "{said}"
    );
    assert_eq!(scene.visit().await, "one -");
    // As when she had come to the holder herself: who, by what, from where.
    let deploys = holder.read("/1.0/deploys?app=shop").await;
    let event = deploys[0]["ID"].as_str().unwrap();
    let event = holder.read(&format!("/1.1/events/{event}")).await;
    assert_eq!(
        (&event["TokenKind"], &event["SourceIP"], &event["Owner"]["Name"]),
        (&json!("ssh-key"), &json!("127.0.0.2"), &json!("ana@example.com")),
        "{event}"
    );

    work.push_broken();
    assert_eq!(scene.visit().await, "one -");
    work.git(&["tag", "v1", &first]).must();
    work.push(&["v1"]).must();
    for house in [holder, other] {
        let seen = ana
            .git(&[
                "ls-remote",
                &url(house, "shop"),
                "refs/heads/main",
                "refs/tags/v1",
            ])
            .must();
        assert_eq!(seen.matches(&first).count(), 2, "{seen}");
    }
    // Read back through both, in both forms of the protocol.
    for (house, version) in [(holder, "2"), (other, "0"), (other, "2")] {
        let folder = format!("{}-{version}", house.root.file_name().unwrap().to_str().unwrap());
        let form = format!("protocol.version={version}");
        ana.git(&["-c", &form, "clone", "--quiet", &url(house, "shop"), &folder])
            .must();
        let clone = Copy {
            desk: &ana.desk,
            path: ana.desk.home.join(folder),
        };
        assert_eq!(clone.git(&["rev-parse", "HEAD"]).must().trim(), first);
        work.push(&["--force", "main:later"]).must();
        assert!(clone.git(&["fetch", "origin"]).must().contains("later"));
        work.push(&[":later"]).must();
    }
    let from = url(other, "shop");
    let archive = ana
        .desk
        .command(&ana.desk.home, &["archive", "--remote", &from, "v1", "Procfile"])
        .output()
        .unwrap();
    assert!(
        archive.status.success() && archive.stdout.len() > 1024,
        "{archive:?}"
    );
    // Several at once.
    let many: Vec<_> = (0..10)
        .map(|_| {
            let mut command = ana.desk.command(&ana.desk.home, &["ls-remote", &from]);
            command
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    for child in many {
        Said::of(&child.wait_with_output().unwrap()).must();
    }

    // A stranger learns no more than where it lies, nor where.
    let bob = Person::new(holder, "bob").await;
    let words = |house: &House, app: &str| {
        let said = bob.git(&["ls-remote", &url(house, app)]);
        let said = said.must_fail().replace(app, "APP");
        let lines = said.lines().filter(|line| !line.starts_with("Warning: "));
        lines.map(|line| format!("{line}\n")).collect::<String>()
    };
    let gone = words(other, "shelf");
    assert!(gone.contains("ERROR: There is no such repository"), "{gone}");
    assert_eq!(words(other, "shop"), gone);
    assert_eq!(words(holder, "shop"), gone);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_host_of_a_repository_is_away_pushers_are_told_and_it_stays_whole() {
    let Some(mut scene) = Scene::set(&[]).await else {
        return;
    };
    let work = scene.copy("work");
    let first = work.commit(&Source::web("one"), "The first");
    work.push(&["main"]).must();
    let second = work.commit(&Source::web("two").hooks(&["echo in the build; sleep 2"]), "Slow");
    let (mut child, mut lines, mut text) = work.begin_push("main", "in the build");
    drop(work);
    scene.holder.house.kill();
    lines.read_to_string(&mut text).unwrap();
    assert!(!child.wait().unwrap().success(), "{text}");
    assert!(
        text.contains("ERROR: The host ") && text.contains("went away before this was at its end"),
        "{text}"
    );

    let began = Instant::now();
    let said = scene
        .ana
        .git(&["ls-remote", &url(&scene.other.house, "shop")])
        .must_fail();
    assert!(
        said.contains("ERROR: The host ") && said.contains("does not answer: try again when it is back"),
        "{said}"
    );
    assert!(began.elapsed() < seconds(20), "{:?}", began.elapsed());
    let asked = scene
        .ana
        .says(&scene.other.house, &[], &["git-upload-pack 'shop.git'"]);
    assert_eq!(asked.status, Some(1), "{asked:?}");

    scene.holder.serve();
    let holder = &scene.holder.house;
    let deploys = holder.read("/1.0/deploys?app=shop").await;
    holder
        .ended(deploys[0]["ID"].as_str().unwrap(), seconds(60))
        .await;
    let path = repository(holder);
    let path = path.to_str().unwrap();
    scene
        .ana
        .git(&["--git-dir", path, "fsck", "--full", "--strict"])
        .must();
    let work = Copy {
        desk: &scene.ana.desk,
        path: scene.ana.desk.home.join("work"),
    };
    assert_eq!(
        work.remote("refs/heads/main"),
        first,
        "a killed push moves nothing"
    );
    work.push(&["main"]).must();
    assert_eq!(work.remote("refs/heads/main"), second);
    assert_eq!(scene.visit().await, "two -");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_hangs_up_or_does_not_listen_is_treated_as_without_a_replica_between() {
    let Some(scene) = Scene::set(&[("TANCHO_SSH_IDLE_SECONDS", "10")]).await else {
        return;
    };
    let ana = &scene.ana;
    let work = scene.copy("work");
    let gate = scene.holder.house.root.join("gate");
    let wait = format!(
        "echo in the build; while [ ! -e {} ]; do sleep 0.1; done",
        gate.display()
    );
    let mut noise = vec![0; 24 << 20];
    let mut state = 7_u32;
    for byte in &mut noise {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = (state >> 24) as u8;
    }
    let first = work.commit(&Source::web("one").hooks(&[&wait]), "Slow");
    // She goes away; the push goes on.
    let (child, lines, _) = work.begin_push("main", "in the build");
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap()),
        Signal::SIGINT,
    )
    .unwrap();
    drop(lines);
    let mut child = child;
    assert!(!child.wait().unwrap().success());
    fs::write(&gate, "").unwrap();
    until("the branch has moved", seconds(60), async || {
        (work.remote("refs/heads/main") == first).then_some(())
    })
    .await;

    // Who stops reading does not keep a git for ever, wherever that is.
    fs::write(work.path.join("noise"), noise).unwrap();
    work.commit(&Source::default(), "Noise");
    work.push(&["main:idea"]).must();
    let mut command: Command = ana.desk.command(
        &ana.desk.home,
        &["archive", "--remote", &url(&scene.other.house, "shop"), "idea"],
    );
    let mut deaf = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let repositories = scene.holder.house.data.join("repositories").display().to_string();
    let speaks = || processes_with(&format!("GIT_DIR={repositories}")).len();
    until("git speaks", seconds(30), async || (speaks() > 0).then_some(())).await;
    until("git has been stopped", seconds(90), async || {
        (speaks() == 0).then_some(())
    })
    .await;
    // Nor a place in the replica between, which can stop before its time to drain is over.
    let other = &scene.other.house;
    other.running().signal(Signal::SIGTERM);
    let between = other.data.display().to_string();
    until("the replica between has stopped", seconds(25), async || {
        processes_with(&between).is_empty().then_some(())
    })
    .await;
    let mut out = Vec::new();
    deaf.stdout.take().unwrap().read_to_end(&mut out).unwrap();
    assert!(
        !deaf.wait().unwrap().success() && out.len() < 24 << 20,
        "{}",
        out.len()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_stops_says_so_and_what_it_has_passed_on_goes_on() {
    let Some(scene) = Scene::set(&[("TANCHO_API_DRAIN_SECONDS", "6")]).await else {
        return;
    };
    let work = scene.copy("work");
    let gate = scene.holder.house.root.join("gate");
    let wait = format!(
        "echo in the build; while [ ! -e {} ]; do sleep 0.1; done",
        gate.display()
    );
    let first = work.commit(&Source::web("one").hooks(&[&wait]), "Slow");
    let (mut child, mut lines, mut text) = work.begin_push("main", "in the build");
    scene.other.house.running().signal(Signal::SIGTERM);
    lines.read_to_string(&mut text).unwrap();
    assert!(!child.wait().unwrap().success(), "{text}");
    assert!(
        text.contains("ERROR: This server is being stopped before this was at its end"),
        "{text}"
    );
    fs::write(&gate, "").unwrap();
    until("the branch has moved", seconds(60), async || {
        let seen = scene
            .ana
            .git(&["ls-remote", &url(&scene.holder.house, "shop"), "refs/heads/main"]);
        seen.must().contains(&first).then_some(())
    })
    .await;
}
