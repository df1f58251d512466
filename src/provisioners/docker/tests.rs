//! The contract on a real engine, and what is the docker runner's own.

use std::io::Write;
use std::path::PathBuf;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::super::contract::units::{
    UnitRunnerFixture, check_contract, find_report, sample_spec, wait_for_report,
};
use super::*;
use crate::config::{ContainerCapabilities, Settings};
use crate::kernel::artifact::{Artifact, ImageName};
use crate::kernel::ids::VolumeId;
use crate::provisioners::ExecTerminal;

/// Names the socket of an engine whose containers are the tests' own, and an image in it that has busybox.
const ENGINE: &str = "TANCHO_TEST_DOCKER_HOST";
const IMAGE: &str = "tancho-test-busybox:1";

/// A runner on a real engine, with a host of its own there.
struct DockerFixture {
    runner: DockerRunner,
    config: DockerRunnerConfig,
    folder: PathBuf,
    image: Artifact,
}

impl DockerFixture {
    /// `None`, aloud, where there is no engine.
    async fn open(test: &str) -> Option<Self> {
        #[expect(clippy::disallowed_methods, reason = "names a part for tests, no setting")]
        let (engine, in_ci) = (std::env::var(ENGINE), std::env::var("CI"));
        let Ok(engine) = engine else {
            assert_ne!(in_ci.as_deref(), Ok("true"), "a Docker Engine is missing here");
            // Standard output of a test that passes is not shown.
            let _ = writeln!(std::io::stderr(), "SKIP {test}: a Docker Engine is missing here");
            return None;
        };
        let name = uuid::Uuid::new_v4().simple().to_string();
        let folder = std::env::temp_dir().join(format!("tancho-docker-{name}"));
        let settings = Settings::defaults().docker;
        let config = DockerRunnerConfig {
            socket: engine.trim_start_matches("unix://").to_owned(),
            host: format!("test-{}", &name[..12]),
            folder: folder.clone(),
            publish_address: settings.publish_address,
            networks: settings.networks,
            capabilities: ContainerCapabilities::Common,
            max_processes: 64,
            max_open_files: 1024,
            longest_grace: Duration::from_secs(10),
        };
        let runner = open(&config, true);
        let image = ImageName::parse(IMAGE).unwrap();
        let found = runner.find_image(&image.to_string()).await.unwrap();
        let id = found.expect("the engine has the image of the tests").id.unwrap();
        Some(Self {
            runner,
            config,
            folder,
            image: Artifact::Image(image.pin(&id).unwrap()),
        })
    }

    fn spec(&self, unit: &str, command: &str) -> UnitSpec {
        UnitSpec {
            artifact: self.image.clone(),
            ..sample_spec(unit, command)
        }
    }

    async fn start(&self, unit: &str, command: &str) -> UnitSpec {
        let spec = self.spec(unit, command);
        self.runner.ensure_unit(&spec).await.unwrap();
        let started = |report: &UnitReport| report.state == UnitState::Started;
        wait_for_report(&self.runner, &spec.unit, "started", started).await;
        spec
    }

    /// Removes all that the test has made, and checks that nothing of it is left.
    async fn close(self) {
        for (unit, _) in self.runner.look_at_all().await.unwrap() {
            self.runner.remove_unit(&unit).await.unwrap();
        }
        let docker = self.runner.engine.connect().await.unwrap();
        let networks = docker.list_networks(None).await.unwrap();
        let ours = |name: &Option<String>| name.as_ref().is_some_and(|name| name.contains(&self.config.host));
        assert!(!networks.iter().any(|network| ours(&network.name)));
        assert_eq!(std::fs::read_dir(&self.folder).unwrap().count(), 0);
        std::fs::remove_dir_all(&self.folder).unwrap();
    }

    async fn run(&self, unit: &UnitId, line: &str) -> (String, i32) {
        let request = ExecRequest {
            program: ExecProgram::ShellLine(line.to_owned()),
            streams: ExecStreams::Merged,
        };
        let mut session = self.runner.exec_in_unit(unit, &request).await.unwrap();
        drop(session.input);
        let mut output = String::new();
        session.output.read_to_string(&mut output).await.unwrap();
        (output, session.end.await.unwrap())
    }
}

fn open(config: &DockerRunnerConfig, supervise: bool) -> DockerRunner {
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    DockerRunner::new(config.clone(), supervise, &tasks, stop).unwrap()
}

/// Ends a runner of units of `sample_spec`, whose content is the image of the tests.
struct WithImage(DockerRunner, Artifact);

#[async_trait::async_trait]
impl UnitRunner for WithImage {
    async fn ensure_unit(&self, spec: &UnitSpec) -> Result<(), ProvisionError> {
        let spec = UnitSpec {
            artifact: self.1.clone(),
            ..spec.clone()
        };
        self.0.ensure_unit(&spec).await
    }

    async fn remove_unit(&self, unit: &UnitId) -> Result<(), ProvisionError> {
        self.0.remove_unit(unit).await
    }

    async fn stop_all_units(&self, grace: Duration) -> Result<(), ProvisionError> {
        self.0.stop_all_units(grace).await
    }

    async fn observe_units(&self) -> Result<Vec<UnitReport>, ProvisionError> {
        self.0.observe_units().await
    }

    fn subscribe_changes(&self) -> tokio::sync::watch::Receiver<u64> {
        self.0.subscribe_changes()
    }

    async fn read_log(
        &self,
        unit: &UnitId,
        from: LogPosition,
        max_lines: usize,
    ) -> Result<(Vec<LogLine>, LogPosition), ProvisionError> {
        self.0.read_log(unit, from, max_lines).await
    }

    async fn exec_in_unit(
        &self,
        unit: &UnitId,
        request: &ExecRequest,
    ) -> Result<ExecSession, ProvisionError> {
        self.0.exec_in_unit(unit, request).await
    }

    async fn measure_cpu(&self, units: &[UnitId]) -> Result<Vec<(UnitId, Duration)>, ProvisionError> {
        self.0.measure_cpu(units).await
    }

    async fn remove_volume(&self, volume: VolumeId) -> Result<(), ProvisionError> {
        self.0.remove_volume(volume).await
    }
}

#[async_trait::async_trait]
impl UnitRunnerFixture for DockerFixture {
    fn open_runner(&self) -> Arc<dyn UnitRunner> {
        Arc::new(WithImage(self.runner.clone(), self.image.clone()))
    }

    fn open_successor(&self) -> Arc<dyn UnitRunner> {
        Arc::new(WithImage(open(&self.config, false), self.image.clone()))
    }

    async fn crash_unit(&self, unit: &UnitId) {
        let docker = self.runner.engine.connect().await.unwrap();
        let name = self.runner.container_name(unit);
        docker.kill_container(&name, None).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_runner_passes_the_contract() {
    let Some(fixture) = DockerFixture::open("docker_runner_passes_the_contract").await else {
        return;
    };
    check_contract(&fixture).await;
    fixture.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn container_has_the_limits_of_its_unit_and_few_rights() {
    let Some(fixture) = DockerFixture::open("container_has_the_limits_of_its_unit_and_few_rights").await
    else {
        return;
    };
    let mut spec = fixture.spec("limits", "exec sleep 1000");
    (spec.memory_bytes, spec.cpu_milli) = (32 << 20, 500);
    fixture.runner.ensure_unit(&spec).await.unwrap();
    let found = fixture
        .runner
        .inspect(&fixture.runner.container_name(&spec.unit))
        .await
        .unwrap();
    let host = found.host_config.unwrap();
    assert_eq!((host.memory, host.memory_swap), (Some(32 << 20), Some(32 << 20)));
    assert_eq!((host.cpu_shares, host.pids_limit), (Some(512), Some(64)));
    let (status, _) = fixture
        .run(&spec.unit, "grep -E 'NoNewPrivs|CapBnd' /proc/1/status")
        .await;
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    // The nine of `CAPABILITIES`.
    assert!(status.contains("CapBnd:\t00000000000005fb"), "{status}");
    let (output, status) = fixture
        .run(&spec.unit, "ulimit -n; mknod /x c 1 3 2>/dev/null")
        .await;
    assert!(output == "1024\n" && status != 0, "{output}");
    let (output, status) = fixture.run(&spec.unit, "ls /var/run/docker.sock").await;
    assert!(status != 0, "{output}");
    fixture.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unit_over_its_memory_limit_says_so() {
    let Some(fixture) = DockerFixture::open("unit_over_its_memory_limit_says_so").await else {
        return;
    };
    let mut spec = fixture.spec("memory", "tail /dev/zero");
    spec.memory_bytes = 16 << 20;
    fixture.runner.ensure_unit(&spec).await.unwrap();
    let over = |report: &UnitReport| {
        report.reason.as_deref() == Some("killed: over its memory limit of 16M") && report.exit == Some(137)
    };
    wait_for_report(&fixture.runner, &spec.unit, "over its limit", over).await;
    fixture.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn units_reach_those_of_their_app_and_no_others() {
    let Some(fixture) = DockerFixture::open("units_reach_those_of_their_app_and_no_others").await else {
        return;
    };
    let serve = "mkdir /w; echo hi > /w/index.html; exec httpd -f -p 9000 -h /w";
    let server = fixture.start("net-server", serve).await;
    let mut beside = fixture.spec("net-beside", "exec sleep 1000");
    beside.app = server.app.clone();
    let mut other = fixture.spec("net-other", "exec sleep 1000");
    other.app.number = 8;
    // Started at once, those of an app still get one network.
    let more = ["net-a", "net-b", "net-c"].map(|unit| UnitSpec {
        app: other.app.clone(),
        ..fixture.spec(unit, "exec sleep 1000")
    });
    let specs = more.iter().chain([&beside, &other]);
    let started = futures_util::future::join_all(specs.map(|spec| fixture.runner.ensure_unit(spec))).await;
    assert!(started.iter().all(Result::is_ok), "{started:?}");
    let (output, _) = fixture.run(&server.unit, "hostname -i").await;
    let ask = format!(
        "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 2 {} 9000 | grep '^hi'",
        output.trim()
    );
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while fixture.run(&beside.unit, &ask).await != ("hi\n".to_owned(), 0) {
        assert!(
            tokio::time::Instant::now() < deadline,
            "{ask} has no answer in the same app"
        );
    }
    let (output, status) = fixture.run(&other.unit, &ask).await;
    assert!(status != 0 && !output.contains("hi"), "{output}");
    fixture.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn command_ends_with_its_session() {
    let Some(fixture) = DockerFixture::open("command_ends_with_its_session").await else {
        return;
    };
    let spec = fixture.start("exec", "exec sleep 1000").await;
    let request = ExecRequest {
        program: ExecProgram::ShellLine("sleep 4321 & echo begun; sleep 4321".into()),
        streams: ExecStreams::Separate,
    };
    let mut session = fixture.runner.exec_in_unit(&spec.unit, &request).await.unwrap();
    let mut begun = [0; 6];
    session.output.read_exact(&mut begun).await.unwrap();
    assert_eq!(&begun, b"begun\n");
    drop(session);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while fixture.run(&spec.unit, "ps | grep '[s]leep 4321'").await.1 == 0 {
        assert!(tokio::time::Instant::now() < deadline, "the command still runs");
    }
    let (output, status) = fixture
        .run(&spec.unit, "echo to both; echo errors >&2; exit 7")
        .await;
    assert!(
        output.contains("to both\n") && output.contains("errors\n"),
        "{output}"
    );
    assert_eq!((output.len(), status), ("to both\nerrors\n".len(), 7));
    fixture.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn log_has_each_line_once_across_restarts_and_processes() {
    let Some(fixture) = DockerFixture::open("log_has_each_line_once_across_restarts_and_processes").await
    else {
        return;
    };
    let line = "i=0; while [ $i -lt 50 ]; do echo $i; i=$((i+1)); done; exit 3";
    let spec = fixture.spec("log", line);
    fixture.runner.ensure_unit(&spec).await.unwrap();
    let (mut seen, mut position) = (Vec::new(), LogPosition::START);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while seen.len() < 150 {
        assert!(tokio::time::Instant::now() < deadline, "{seen:?}");
        // Another process continues, now and then.
        let reader = match seen.len() % 3 {
            0 => open(&fixture.config, false),
            _ => fixture.runner.clone(),
        };
        let (lines, next) = reader.read_log(&spec.unit, position, 20).await.unwrap();
        position = next;
        seen.extend(lines.into_iter().map(|line| line.message));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let expected: Vec<String> = (0..150).map(|n| (n % 50).to_string()).collect();
    assert_eq!(seen[..150], expected);
    fixture.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn command_that_the_image_lacks_is_said_to_be_missing() {
    let Some(fixture) = DockerFixture::open("command_that_the_image_lacks_is_said_to_be_missing").await
    else {
        return;
    };
    let spec = fixture.spec("missing", "/no/such/program");
    fixture.runner.ensure_unit(&spec).await.unwrap();
    let missing = |report: &UnitReport| {
        let reason = report.reason.as_deref().unwrap_or_default();
        reason.contains("its command is not in the image") && report.exit == Some(127)
    };
    wait_for_report(&fixture.runner, &spec.unit, "missing", missing).await;
    let folder = sample_spec("folder", "true");
    let refused = fixture.runner.ensure_unit(&folder).await;
    assert!(
        matches!(refused, Err(ProvisionError::Permanent(_))),
        "{refused:?}"
    );
    assert_eq!(find_report(&fixture.runner, &folder.unit).await, None);
    fixture.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn command_has_a_terminal_whose_size_changes_and_an_input_that_ends() {
    let test = "command_has_a_terminal_whose_size_changes_and_an_input_that_ends";
    let Some(fixture) = DockerFixture::open(test).await else {
        return;
    };
    let spec = fixture.start("terminal", "exec sleep 1000").await;
    let size = |cols, rows| TerminalSize { cols, rows };
    let line =
        "until stty size | grep -q '40 100'; do sleep 0.05; done; echo $TERM; read x; echo got $x; exit 3";
    let request = ExecRequest {
        program: ExecProgram::ShellLine(line.into()),
        streams: ExecStreams::Terminal(ExecTerminal {
            size: size(80, 24),
            term: "vt100".into(),
        }),
    };
    let mut session = fixture.runner.exec_in_unit(&spec.unit, &request).await.unwrap();
    session.resize.unwrap()(size(100, 40));
    session.input.write_all(b"words\n").await.unwrap();
    let mut output = String::new();
    session.output.read_to_string(&mut output).await.unwrap();
    assert!(
        output.contains("vt100\r\n") && output.contains("got words\r\n"),
        "{output:?}"
    );
    assert_eq!(session.end.await, Ok(3));

    let request = ExecRequest::for_argv(vec!["cat".into()]);
    let mut session = fixture.runner.exec_in_unit(&spec.unit, &request).await.unwrap();
    session.input.write_all(b"all of it").await.unwrap();
    drop(session.input);
    let mut output = String::new();
    session.output.read_to_string(&mut output).await.unwrap();
    assert_eq!((output.as_str(), session.end.await), ("all of it", Ok(0)));
    fixture.close().await;
}
