//! `git` over SSH with several replicas: each serves every repository, whichever replica holds it.

use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Instant;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::apps::AppSource;
use crate::cluster::PostgresCluster;
use crate::fleet::TanchoReplica;
use crate::git_client::{CommandOutput, WorkingCopy, remote_lines, repository};
use crate::ssh_user::{SshUser, is_ssh_missing, repository_url, ssh_options};
use crate::test_instance::{TestInstance, find_processes, seconds, wait_for};

/// Two replicas, of which the first holds the repository of `shop`, and a member of its team. Fields are
/// dropped in this order.
struct TwoReplicaFixture {
    ana: SshUser,
    holder: TanchoReplica,
    other: TanchoReplica,
    _cluster: PostgresCluster,
    _folder: TestInstance,
}

impl TwoReplicaFixture {
    /// Returns `None` if `ssh` is missing.
    async fn start(env: &[(&str, &str)]) -> Option<Self> {
        if is_ssh_missing() {
            return None;
        }
        let folder = TestInstance::new_empty();
        let cluster =
            PostgresCluster::start(std::path::PathBuf::from(format!("{}-pg", folder.root.display())));
        let key = format!("1:{}", "5e".repeat(32));
        let [mut holder, mut other] = [(); 2].map(|()| TanchoReplica::new(&cluster.url("postgres"), &key));
        for replica in [&mut holder, &mut other] {
            for (name, value) in env {
                replica.tancho.set(name, value);
            }
            replica.serve();
        }
        holder.tancho.login().await;
        other.tancho.token.clone_from(&holder.tancho.token);
        holder.tancho.team().await;
        holder.tancho.create_app("shop").await;
        let mut ana = SshUser::new(&holder.tancho, "ana").await;
        ana.join_team(&holder.tancho).await;
        // The replica that is asked first holds the repository.
        ana.git(&["ls-remote", &repository_url(&holder.tancho, "shop")])
            .expect_success();
        // An address that no replica has.
        ana.client.ssh = format!("ssh {} -b 127.0.0.2", ssh_options(&ana.client, "id"));
        Some(Self {
            ana,
            holder,
            other,
            _cluster: cluster,
            _folder: folder,
        })
    }

    /// Creates a working copy whose remote is the replica without the repository.
    fn copy(&self, folder: &str) -> WorkingCopy<'_> {
        self.ana.init_copy_of_app(&self.other.tancho, folder, "shop")
    }

    async fn visit(&self) -> String {
        let (status, text) = self.holder.tancho.get_app("shop", "/").await;
        assert_eq!(status, 200, "{text}");
        text
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ssh_push_to_any_replica_is_visible_on_all() {
    let Some(fixture) = TwoReplicaFixture::start(&[]).await else {
        return;
    };
    let (ana, holder, other) = (&fixture.ana, &fixture.holder.tancho, &fixture.other.tancho);
    let work = fixture.copy("work");
    let first = work.commit(&AppSource::web("one").hooks(&["echo built by hand"]), "The first");
    let said = work.push(&["main"]).expect_success();
    let lines = remote_lines(&said);
    assert!(
        lines.contains("Deploying ") && lines.contains("built by hand"),
        "{said}"
    );
    assert_eq!(fixture.visit().await, "one -");
    // As if she had connected to the holder herself: who, with what, and from where.
    let deploys = holder.read_json("/1.0/deploys?app=shop").await;
    let event = deploys[0]["ID"].as_str().unwrap();
    let event = holder.read_json(&format!("/1.1/events/{event}")).await;
    assert_eq!(
        (&event["TokenKind"], &event["SourceIP"], &event["Owner"]["Name"]),
        (&json!("ssh-key"), &json!("127.0.0.2"), &json!("ana@example.com")),
        "{event}"
    );

    work.push_broken();
    assert_eq!(fixture.visit().await, "one -");
    work.git(&["tag", "v1", &first]).expect_success();
    work.push(&["v1"]).expect_success();
    for tancho in [holder, other] {
        let seen = ana
            .git(&[
                "ls-remote",
                &repository_url(tancho, "shop"),
                "refs/heads/main",
                "refs/tags/v1",
            ])
            .expect_success();
        assert_eq!(seen.matches(&first).count(), 2, "{seen}");
    }
    // Read back through both, with both versions of the protocol.
    for (tancho, version) in [(holder, "2"), (other, "0"), (other, "2")] {
        let folder = format!("{}-{version}", tancho.root.file_name().unwrap().to_str().unwrap());
        let form = format!("protocol.version={version}");
        ana.git(&[
            "-c",
            &form,
            "clone",
            "--quiet",
            &repository_url(tancho, "shop"),
            &folder,
        ])
        .expect_success();
        let clone = WorkingCopy {
            client: &ana.client,
            path: ana.client.home.join(folder),
        };
        assert_eq!(clone.git(&["rev-parse", "HEAD"]).expect_success().trim(), first);
        work.push(&["--force", "main:later"]).expect_success();
        assert!(clone.git(&["fetch", "origin"]).expect_success().contains("later"));
        work.push(&[":later"]).expect_success();
    }
    let from = repository_url(other, "shop");
    let archive = ana
        .client
        .command(
            &ana.client.home,
            &["archive", "--remote", &from, "v1", "Procfile"],
        )
        .output()
        .unwrap();
    assert!(
        archive.status.success() && archive.stdout.len() > 1024,
        "{archive:?}"
    );
    // Several concurrently.
    let many: Vec<_> = (0..10)
        .map(|_| {
            let mut command = ana.client.command(&ana.client.home, &["ls-remote", &from]);
            command
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    for child in many {
        CommandOutput::from_output(&child.wait_with_output().unwrap()).expect_success();
    }

    // Another user learns neither whether the app exists nor where it lies.
    let bob = SshUser::new(holder, "bob").await;
    let words = |tancho: &TestInstance, app: &str| {
        let said = bob.git(&["ls-remote", &repository_url(tancho, app)]);
        let said = said.expect_failure().replace(app, "APP");
        let lines = said.lines().filter(|line| !line.starts_with("Warning: "));
        lines.map(|line| format!("{line}\n")).collect::<String>()
    };
    let gone = words(other, "shelf");
    assert!(gone.contains("ERROR: Repository not found"), "{gone}");
    assert_eq!(words(other, "shop"), gone);
    assert_eq!(words(holder, "shop"), gone);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn push_while_the_repository_host_is_down_is_rejected_and_keeps_it_intact() {
    let Some(mut fixture) = TwoReplicaFixture::start(&[]).await else {
        return;
    };
    let work = fixture.copy("work");
    let first = work.commit(&AppSource::web("one"), "The first");
    work.push(&["main"]).expect_success();
    let second = work.commit(
        &AppSource::web("two").hooks(&["echo in the build; sleep 2"]),
        "Slow",
    );
    let (mut child, mut lines, mut text) = work.begin_push("main", "in the build");
    drop(work);
    fixture.holder.tancho.kill();
    lines.read_to_string(&mut text).unwrap();
    assert!(!child.wait().unwrap().success(), "{text}");
    assert!(
        text.contains("ERROR: The host ")
            && text.contains("closed the connection before the command was complete"),
        "{text}"
    );

    let began = Instant::now();
    let said = fixture
        .ana
        .git(&["ls-remote", &repository_url(&fixture.other.tancho, "shop")])
        .expect_failure();
    assert!(
        said.contains("ERROR: The host ") && said.contains("does not respond: try again when it is back"),
        "{said}"
    );
    assert!(began.elapsed() < seconds(20), "{:?}", began.elapsed());
    let asked = fixture
        .ana
        .run_ssh(&fixture.other.tancho, &[], &["git-upload-pack 'shop.git'"]);
    assert_eq!(asked.status, Some(1), "{asked:?}");

    fixture.holder.serve();
    let holder = &fixture.holder.tancho;
    let deploys = holder.read_json("/1.0/deploys?app=shop").await;
    holder
        .wait_for_event_end(deploys[0]["ID"].as_str().unwrap(), seconds(60))
        .await;
    let path = repository(holder);
    let path = path.to_str().unwrap();
    fixture
        .ana
        .git(&["--git-dir", path, "fsck", "--full", "--strict"])
        .expect_success();
    let work = WorkingCopy {
        client: &fixture.ana.client,
        path: fixture.ana.client.home.join("work"),
    };
    assert_eq!(
        work.remote_ref("refs/heads/main"),
        first,
        "a killed push moves nothing"
    );
    work.push(&["main"]).expect_success();
    assert_eq!(work.remote_ref("refs/heads/main"), second);
    assert_eq!(fixture.visit().await, "two -");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disconnected_or_stalled_clients_are_handled_alike_through_a_replica() {
    let Some(fixture) = TwoReplicaFixture::start(&[("TANCHO_SSH_IDLE_SECONDS", "10")]).await else {
        return;
    };
    let ana = &fixture.ana;
    let work = fixture.copy("work");
    let gate = fixture.holder.tancho.root.join("gate");
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
    let first = work.commit(&AppSource::web("one").hooks(&[&wait]), "Slow");
    // She disconnects; the push continues.
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
    wait_for("the branch has moved", seconds(60), async || {
        (work.remote_ref("refs/heads/main") == first).then_some(())
    })
    .await;

    // A client that stops reading does not hold a git forever, on whichever replica it runs.
    fs::write(work.path.join("noise"), noise).unwrap();
    work.commit(&AppSource::default(), "Noise");
    work.push(&["main:idea"]).expect_success();
    let mut command: Command = ana.client.command(
        &ana.client.home,
        &[
            "archive",
            "--remote",
            &repository_url(&fixture.other.tancho, "shop"),
            "idea",
        ],
    );
    let mut deaf = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let repositories = fixture
        .holder
        .tancho
        .data
        .join("repositories")
        .display()
        .to_string();
    let speaks = || find_processes(&format!("GIT_DIR={repositories}")).len();
    wait_for("git sends data", seconds(30), async || {
        (speaks() > 0).then_some(())
    })
    .await;
    wait_for("git has been stopped", seconds(90), async || {
        (speaks() == 0).then_some(())
    })
    .await;
    // Nor a slot on the forwarding replica, which can stop before its drain timeout.
    let other = &fixture.other.tancho;
    other.running().signal(Signal::SIGTERM);
    let between = other.data.display().to_string();
    wait_for("the forwarding replica has stopped", seconds(25), async || {
        find_processes(&between).is_empty().then_some(())
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
async fn stopping_replica_notifies_clients_and_forwarded_pushes_continue() {
    let Some(fixture) = TwoReplicaFixture::start(&[("TANCHO_API_DRAIN_SECONDS", "6")]).await else {
        return;
    };
    let work = fixture.copy("work");
    let gate = fixture.holder.tancho.root.join("gate");
    let wait = format!(
        "echo in the build; while [ ! -e {} ]; do sleep 0.1; done",
        gate.display()
    );
    let first = work.commit(&AppSource::web("one").hooks(&[&wait]), "Slow");
    let (mut child, mut lines, mut text) = work.begin_push("main", "in the build");
    fixture.other.tancho.running().signal(Signal::SIGTERM);
    lines.read_to_string(&mut text).unwrap();
    assert!(!child.wait().unwrap().success(), "{text}");
    assert!(
        text.contains("ERROR: This server is shutting down before the command was complete"),
        "{text}"
    );
    fs::write(&gate, "").unwrap();
    wait_for("the branch has moved", seconds(60), async || {
        let seen = fixture.ana.git(&[
            "ls-remote",
            &repository_url(&fixture.holder.tancho, "shop"),
            "refs/heads/main",
        ]);
        seen.expect_success().contains(&first).then_some(())
    })
    .await;
}
