//! Pools of containers, on a real Docker Engine.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use reqwest::Method;
use serde_json::json;
use tokio::io::copy_bidirectional;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::apps::AppSource;
use crate::test_instance::{TestInstance, seconds, wait_for};

/// Names the socket of an engine whose containers are the tests' own. It has the image below.
const ENGINE: &str = "TANCHO_TEST_DOCKER_HOST";
/// A web server of busybox, whose `/` is a text.
const IMAGE: &str = "tancho-test-web:1";
pub(crate) const TEXT: &str = "hello from docker\n";

/// An engine, by its command line.
pub(crate) struct DockerEngine(pub(crate) String);

impl DockerEngine {
    /// `None`, aloud, where there is none.
    #[expect(clippy::disallowed_methods, reason = "names a part for tests, no setting")]
    pub(crate) fn find(test: &str) -> Option<Self> {
        if let Ok(socket) = std::env::var(ENGINE) {
            return Some(Self(socket));
        }
        assert_ne!(
            std::env::var("CI").as_deref(),
            Ok("true"),
            "a Docker Engine is missing here"
        );
        // Standard output of a test that passes is not shown.
        let _ = writeln!(std::io::stderr(), "SKIP {test}: a Docker Engine is missing here");
        None
    }

    /// Runs `docker`; returns its lines.
    pub(crate) fn run(&self, arguments: &[&str]) -> Vec<String> {
        let mut docker = Command::new("docker");
        docker.arg("--host").arg(&self.0).args(arguments);
        let output = docker.output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        let lines = String::from_utf8(output.stdout).unwrap();
        lines.lines().map(str::to_owned).collect()
    }

    /// Returns the ids of all containers of an app, and of those only that run.
    pub(crate) fn containers(&self, app: &str) -> (Vec<String>, Vec<String>) {
        let filter = format!("label=tancho.app-name={app}");
        let list = |all: bool| {
            let mut found = self.run(&[
                "ps",
                "--no-trunc",
                "--filter",
                &filter,
                "--format",
                "{{.ID}}",
                if all { "--all" } else { "--all=false" },
            ]);
            found.sort();
            found
        };
        (list(true), list(false))
    }

    /// Returns the id of an app of which a container exists.
    pub(crate) fn app_id(&self, app: &str) -> String {
        let filter = format!("label=tancho.app-name={app}");
        self.run(&["ps", "--filter", &filter, "--format", "{{.Label \"tancho.app\"}}"])
            .swap_remove(0)
    }

    /// Returns the tags by which the versions of an app keep images, and the networks of the app.
    pub(crate) fn kept(&self, app_id: &str) -> (Vec<String>, Vec<String>) {
        let tags = self.run(&[
            "images",
            &format!("tancho.invalid/{app_id}"),
            "--format",
            "{{.Tag}}",
        ]);
        let filter = format!("label=tancho.app={app_id}");
        let networks = self.run(&["network", "ls", "--filter", &filter, "--format", "{{.Name}}"]);
        (tags, networks)
    }

    /// Returns what builds of an app have left: containers that are no units, and images without a name that nothing
    /// is made of.
    pub(crate) fn build_leftovers(&self, app_id: &str) -> Vec<String> {
        let filter = format!("label=tancho.build={app_id}");
        let format = "{{.ID}} {{.Label \"tancho.unit\"}}";
        let containers = self.run(&["ps", "--all", "--filter", &filter, "--format", format]);
        let mut left: Vec<String> = containers
            .iter()
            .filter(|line| line.trim().split(' ').count() == 1)
            .cloned()
            .collect();
        left.extend(self.run(&[
            "images",
            "--quiet",
            "--filter",
            "dangling=true",
            "--filter",
            &filter,
        ]));
        left
    }
}

/// A socket that stands for an engine's, and that the test controls.
pub(crate) struct EngineSocket(JoinHandle<()>);

impl EngineSocket {
    /// Listens; passes everything on to an engine, or answers nothing.
    pub(crate) fn listen(path: &Path, engine: Option<&DockerEngine>) -> Self {
        let _ = std::fs::remove_file(path);
        let listener = UnixListener::bind(path).unwrap();
        let engine = engine.map(|engine| engine.0.trim_start_matches("unix://").to_owned());
        Self(tokio::spawn(async move {
            // Dropped with all connections when the task is ended.
            let (mut connections, mut hanging) = (JoinSet::new(), Vec::new());
            loop {
                let (mut caller, _) = listener.accept().await.unwrap();
                match &engine {
                    None => hanging.push(caller),
                    Some(engine) => {
                        let engine = engine.clone();
                        connections.spawn(async move {
                            let mut to = UnixStream::connect(engine).await.unwrap();
                            // Either side may go at any time.
                            let _ = copy_bidirectional(&mut caller, &mut to).await;
                        });
                    }
                }
            }
        }))
    }

    /// Ends all connections.
    pub(crate) async fn close(self) {
        self.0.abort();
        assert!(self.0.await.unwrap_err().is_cancelled());
    }
}

/// Starts a server with a pool of containers, `boxes`, on an engine.
pub(crate) async fn start(engine: &DockerEngine) -> TestInstance {
    let tancho = TestInstance::with(&[("TANCHO_DOCKER_HOST", &engine.0)]).await;
    add_pool(&tancho).await;
    tancho
}

/// Starts a server as `start` does, which reaches the engine through a socket of the test; returns the path of that too.
pub(crate) async fn start_behind_socket(engine: &DockerEngine) -> (TestInstance, PathBuf, EngineSocket) {
    let mut tancho = TestInstance::new_empty();
    let path = tancho.root.join("engine.sock");
    let socket = EngineSocket::listen(&path, Some(engine));
    tancho.set("TANCHO_DOCKER_HOST", &format!("unix://{}", path.display()));
    tancho.serve();
    tancho.login().await;
    tancho.team().await;
    add_pool(&tancho).await;
    (tancho, path, socket)
}

pub(crate) async fn add_pool(tancho: &TestInstance) {
    let pool = json!({ "name": "boxes", "public": true, "provisioner": "docker" });
    let added = tancho.request_as_admin(Method::POST, "/1.0/pools").json(&pool);
    let added = added.send().await.unwrap();
    assert_eq!(added.status(), 201, "{}", added.text().await.unwrap());
}

pub(crate) async fn create_app(tancho: &TestInstance, app: &str) {
    let order = json!({ "name": app, "teamOwner": "crew", "pool": "boxes" });
    tancho.create(order).await;
    let info = tancho.read_json(&format!("/1.0/apps/{app}")).await;
    assert_eq!(info["platform"], "", "an app that runs images needs none");
}

/// Deploys an image; returns the status and the whole response.
async fn deploy_image(tancho: &TestInstance, app: &str, image: &str) -> (u16, String) {
    let form = [("image", image), ("origin", "image"), ("message", "an image")];
    let deploy = tancho
        .request_as_admin(Method::POST, &format!("/1.0/apps/{app}/deploy"))
        .form(&form);
    let answer = deploy.send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

async fn deploy_well(tancho: &TestInstance, app: &str, image: &str) -> String {
    let (status, text) = deploy_image(tancho, app, image).await;
    assert!(status == 200 && text.ends_with("\nOK\n"), "{status} {text}");
    text
}

/// Waits until the app responds, for at most ten seconds.
pub(crate) async fn wait_for_text(tancho: &TestInstance, app: &str) {
    wait_for("the app responds", seconds(10), async || {
        (tancho.get_app(app, "/").await == (200, TEXT.to_owned())).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn image_is_deployed_scaled_restarted_rolled_back_and_removed() {
    let Some(engine) = DockerEngine::find("image_is_deployed_scaled_restarted_rolled_back_and_removed")
    else {
        return;
    };
    let tancho = start(&engine).await;
    create_app(&tancho, "crate1").await;
    let text = deploy_well(&tancho, "crate1", IMAGE).await;
    assert!(text.contains("@sha256:"), "{text}");
    assert_eq!(tancho.get_app("crate1", "/").await, (200, TEXT.to_owned()));
    let deploys = tancho.read_json("/1.0/deploys?app=crate1").await;
    let image = deploys[0]["Image"].as_str().unwrap().to_owned();
    assert!(image.starts_with("tancho-test-web:1@sha256:"), "{image}");
    assert_eq!(
        (&deploys[0]["Origin"], &deploys[0]["Version"]),
        (&json!("image"), &json!(1))
    );

    let form = [("units", "1"), ("process", "web")];
    tancho.change(Method::PUT, "/1.0/apps/crate1/units", &form).await;
    wait_for("two containers", seconds(20), async || {
        (engine.containers("crate1").1.len() == 2).then_some(())
    })
    .await;

    let form = [
        (
            "command",
            "echo $PORT $GREETING; cat /proc/1/status | grep NoNewPrivs",
        ),
        ("once", "true"),
    ];
    tancho.set_env("crate1", "GREETING", "good day").await;
    wait_for_text(&tancho, "crate1").await;
    for isolated in ["false", "true"] {
        let form = [form[0], form[1], ("isolated", isolated)];
        let output = tancho.change(Method::POST, "/1.0/apps/crate1/run", &form).await;
        assert!(
            output.contains("8080 good day") && output.contains("NoNewPrivs:\\t1"),
            "{output}"
        );
    }

    deploy_well(&tancho, "crate1", IMAGE).await;
    let form = [("image", image.as_str()), ("origin", "rollback")];
    tancho
        .change(Method::POST, "/1.0/apps/crate1/deploy/rollback", &form)
        .await;
    tancho.change(Method::POST, "/1.0/apps/crate1/restart", &[]).await;
    wait_for_text(&tancho, "crate1").await;
    let app_id = engine.app_id("crate1");
    let (mut tags, networks) = engine.kept(&app_id);
    tags.sort();
    assert_eq!(
        (tags.as_slice(), networks.len()),
        (&["v1".to_owned(), "v2".to_owned()][..], 1)
    );

    tancho.change(Method::POST, "/1.0/apps/crate1/stop", &[]).await;
    wait_for("no container runs", seconds(20), async || {
        engine.containers("crate1").0.is_empty().then_some(())
    })
    .await;
    tancho.change(Method::POST, "/1.0/apps/crate1/start", &[]).await;
    wait_for_text(&tancho, "crate1").await;

    tancho.change(Method::DELETE, "/1.0/apps/crate1", &[]).await;
    wait_for(
        "nothing of the app is left in the engine",
        seconds(30),
        async || {
            let containers = engine.containers("crate1").0;
            (containers.is_empty() && engine.kept(&app_id) == (vec![], vec![])).then_some(())
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containers_outlive_a_killed_server_and_strays_are_removed() {
    let Some(engine) = DockerEngine::find("containers_outlive_a_killed_server_and_strays_are_removed") else {
        return;
    };
    let mut tancho = start(&engine).await;
    create_app(&tancho, "crate2").await;
    deploy_well(&tancho, "crate2", IMAGE).await;
    let before = engine.containers("crate2");
    assert_eq!(before.1.len(), 1);
    tancho.kill();
    tancho.serve();
    wait_for_text(&tancho, "crate2").await;
    assert_eq!(engine.containers("crate2"), before);

    // Killed, it is started again; removed, it is made anew.
    engine.run(&["kill", &before.0[0]]);
    wait_for("the same container runs again", seconds(15), async || {
        (engine.containers("crate2") == before).then_some(())
    })
    .await;
    wait_for_text(&tancho, "crate2").await;
    engine.run(&["rm", "--force", &before.0[0]]);
    wait_for("another container runs", seconds(30), async || {
        let now = engine.containers("crate2").1;
        (now.len() == 1 && now != before.1).then_some(())
    })
    .await;
    wait_for_text(&tancho, "crate2").await;

    // Its log is the app's.
    let form = [
        ("command", "echo a line from a command > /proc/1/fd/1"),
        ("once", "true"),
    ];
    tancho.change(Method::POST, "/1.0/apps/crate2/run", &form).await;
    wait_for("the line is in the log", seconds(10), async || {
        let log = tancho.read_json("/1.0/apps/crate2/log?lines=100").await;
        log.to_string().contains("a line from a command").then_some(())
    })
    .await;

    // The next server finds a container of an app that is not there.
    let host = &engine.run(&[
        "inspect",
        "--format",
        "{{index .Config.Labels \"tancho.host\"}}",
        &engine.containers("crate2").0[0],
    ])[0];
    let labels = [
        format!("tancho.host={host}"),
        "tancho.unit=stray-web-1".to_owned(),
        "tancho.app-name=stray".to_owned(),
    ];
    let mut run = vec!["run", "--detach", "--network", "none"];
    for label in &labels {
        run.extend(["--label", label]);
    }
    let name = format!("tancho-{host}-stray-web-1");
    run.extend(["--name", &name, IMAGE]);
    engine.run(&run);
    wait_for("the stray is gone", seconds(60), async || {
        engine.containers("stray").0.is_empty().then_some(())
    })
    .await;
    tancho.change(Method::DELETE, "/1.0/apps/crate2", &[]).await;
    wait_for(
        "nothing of the app is left in the engine",
        seconds(30),
        async || {
            let containers = engine.containers("crate2").0;
            containers.is_empty().then_some(())
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sources_that_a_pool_does_not_take_and_images_that_are_nowhere_are_refused() {
    let Some(engine) =
        DockerEngine::find("sources_that_a_pool_does_not_take_and_images_that_are_nowhere_are_refused")
    else {
        return;
    };
    let tancho = start(&engine).await;
    create_app(&tancho, "crate3").await;
    for bad in [
        "",
        "UPPER/case",
        "a b",
        "sha256:0a0a",
        "../x",
        "--privileged",
        "a@sha256:00",
    ] {
        let (status, text) = deploy_image(&tancho, "crate3", bad).await;
        assert_eq!(status, 400, "{bad}: {text}");
    }
    let (status, text) = deploy_image(&tancho, "crate3", "tancho.invalid/other:v1").await;
    assert!(
        status == 200 && text.contains("belongs to a version of an app"),
        "{text}"
    );
    let (status, text) = deploy_image(&tancho, "crate3", "registry.invalid/nobody/nothing:1").await;
    assert!(
        status == 200 && text.contains("cannot be fetched") && !text.ends_with("\nOK\n"),
        "{text}"
    );
    assert!(engine.containers("crate3").0.is_empty());

    tancho.create_app("files").await;
    let (status, text) = deploy_image(&tancho, "files", IMAGE).await;
    assert!(
        status == 400 && text.contains("runs no images"),
        "{status} {text}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn engine_that_does_not_answer_holds_up_no_other_pool() {
    let tancho = TestInstance::with(&[("TANCHO_DOCKER_HOST", "unix:///nowhere/docker.sock")]).await;
    add_pool(&tancho).await;
    create_app(&tancho, "crate4").await;
    let (status, text) = deploy_image(&tancho, "crate4", IMAGE).await;
    assert!(
        status == 200 && text.contains("The Docker Engine does not answer: there is no socket"),
        "{status} {text}"
    );
    tancho.create_app("files").await;
    tancho.deploy("files", &AppSource::web("one").pack()).await;
    let (status, text) = tancho.get_app("files", "/").await;
    assert!(status == 200 && text.starts_with("one"), "{status} {text}");
    tancho.change(Method::DELETE, "/1.0/apps/files", &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn engine_that_hangs_and_comes_back_costs_no_unit_and_no_other_pool() {
    let Some(engine) = DockerEngine::find("engine_that_hangs_and_comes_back_costs_no_unit_and_no_other_pool")
    else {
        return;
    };
    let (tancho, path, socket) = start_behind_socket(&engine).await;
    create_app(&tancho, "crate5").await;
    deploy_well(&tancho, "crate5", IMAGE).await;
    let before = engine.containers("crate5");

    socket.close().await;
    let hanging = EngineSocket::listen(&path, None);
    wait_for("the engine is known to hang", seconds(60), async || {
        let (status, text) = deploy_image(&tancho, "crate5", IMAGE).await;
        assert!(status == 200 && !text.ends_with("\nOK\n"), "{text}");
        text.contains("The Docker Engine does not answer").then_some(())
    })
    .await;
    tancho.create_app("files").await;
    tancho.deploy("files", &AppSource::web("one").pack()).await;
    wait_for_text(&tancho, "crate5").await;

    hanging.close().await;
    let socket = EngineSocket::listen(&path, Some(&engine));
    wait_for("the engine is used again", seconds(60), async || {
        let (_, text) = deploy_image(&tancho, "crate5", "registry.invalid/nothing:1").await;
        text.contains("cannot be fetched").then_some(())
    })
    .await;
    assert_eq!(engine.containers("crate5"), before);
    tancho.change(Method::DELETE, "/1.0/apps/crate5", &[]).await;
    wait_for(
        "nothing of the app is left in the engine",
        seconds(30),
        async || engine.containers("crate5").0.is_empty().then_some(()),
    )
    .await;
    // `tancho down` asks the engine once more.
    drop(tancho);
    socket.close().await;
}
