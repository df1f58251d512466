//! An instance of Tancho: one data folder, and the programs started on it.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};

/// The administrator of every instance.
pub(crate) const EMAIL: &str = "root@example.com";
pub(crate) const PASSWORD: &str = "correct-horse-battery";
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_tancho");

static COUNT: AtomicU32 = AtomicU32::new(0);

/// Waits until a condition holds; the test fails if it does not in time.
pub(crate) async fn wait_for<T>(what: &str, within: Duration, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {within:?}: {what}");
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

pub(crate) fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A started Tancho that is ready.
pub(crate) struct RunningTancho {
    child: Child,
    /// The lines before `tancho ready`.
    pub(crate) before: Vec<String>,
    pub(crate) api: String,
    pub(crate) router: String,
    /// Host and port.
    pub(crate) ssh: String,
    pub(crate) host_key: String,
}

impl RunningTancho {
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    /// Waits until it exits; returns the exit status.
    pub(crate) fn wait(&mut self, within: Duration) -> Option<i32> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(
                Instant::now() < deadline,
                "the program does not end within {within:?}"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    /// Sends SIGKILL, and waits for the exit.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for RunningTancho {
    fn drop(&mut self) {
        // Both fail if it has exited.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// See the module.
pub(crate) struct TestInstance {
    pub(crate) root: PathBuf,
    pub(crate) data: PathBuf,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) args: Vec<String>,
    /// What starts the program, with its arguments; empty: the test itself.
    pub(crate) launcher: Vec<String>,
    /// Where its router listens.
    pub(crate) router_listen: String,
    pub(crate) program: Option<RunningTancho>,
    pub(crate) token: String,
    pub(crate) http: reqwest::Client,
    /// The uid and gid of its programs, if they are not those of the tests.
    user: Option<(u32, u32)>,
}

impl TestInstance {
    /// Creates an empty folder without a started program.
    pub(crate) fn new_empty() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let root = PathBuf::from(format!("/var/tmp/tancho-e2e-{}-{number}", std::process::id()));
        fs::create_dir(&root).unwrap();
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).unwrap();
        let env = [
            ("TANCHO_ADMIN_EMAIL", EMAIL),
            ("TANCHO_ADMIN_PASSWORD", PASSWORD),
            // Cheap, because the machine is small.
            ("TANCHO_AUTH_HASH_MEMORY_KIB", "64"),
            // Any port.
            ("TANCHO_SSH_LISTEN", "127.0.0.1:0"),
            // Not that of the machine.
            ("TANCHO_DOCKER_HOST", ""),
        ];
        Self {
            data: root.join("data"),
            root,
            env: env
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
            args: Vec::new(),
            launcher: Vec::new(),
            router_listen: "127.0.0.1:0".to_owned(),
            program: None,
            token: String::new(),
            // Without kept connections: the server behind the address is killed and started again.
            http: reqwest::Client::builder()
                .timeout(seconds(120))
                .pool_max_idle_per_host(0)
                .build()
                .unwrap(),
            user: None,
        }
    }

    /// The same, with programs that run as an ordinary user of the machine: `nobody`, if the tests are run by
    /// root.
    pub(crate) fn of_ordinary_user() -> Self {
        let mut tancho = Self::new_empty();
        if nix::unistd::geteuid().is_root() {
            let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
            let (uid, gid) = (nobody.uid.as_raw(), nobody.gid.as_raw());
            std::os::unix::fs::chown(&tancho.root, Some(uid), Some(gid)).unwrap();
            tancho.user = Some((uid, gid));
        }
        tancho
    }

    /// Starts Tancho with a team and a logged-in administrator.
    pub(crate) async fn start() -> Self {
        Self::with(&[]).await
    }

    /// The same, with environment variables.
    pub(crate) async fn with(env: &[(&str, &str)]) -> Self {
        let mut tancho = Self::new_empty();
        for (name, value) in env {
            tancho.set(name, value);
        }
        tancho.serve();
        tancho.login().await;
        tancho.team().await;
        tancho
    }

    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.to_owned(), value.to_owned()));
    }

    /// Builds a `tancho` command on this folder, in a clean environment.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command
            .args(arguments)
            .arg("--data-dir")
            .arg(&self.data)
            .args(&self.args)
            .current_dir(&self.root)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .envs(self.env.iter().map(|(k, v)| (k, v)))
            .stdin(Stdio::null());
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Returns the log of all programs started here.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.root.join("log")).unwrap_or_default()
    }

    /// Starts a program, and waits until it is ready or exits; the error is the exit status and standard
    /// error.
    pub(crate) fn try_start(&self, arguments: &[&str]) -> Result<RunningTancho, String> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.root.join("log"))
            .unwrap();
        let length = log.metadata().unwrap().len();
        let mut command = self.command(arguments);
        if let Some((launcher, first)) = self.launcher.split_first() {
            command = launch_through(&command, launcher, first);
        }
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let (sender, lines) = mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                // The test has ended, or needs no more lines.
                let _ = sender.send(line);
            }
        });
        let mut program = RunningTancho {
            child,
            before: Vec::new(),
            api: String::new(),
            router: String::new(),
            ssh: String::new(),
            host_key: String::new(),
        };
        loop {
            match lines.recv_timeout(seconds(180)) {
                Ok(line) if line.starts_with("tancho ready ") => {
                    for word in line.split(' ') {
                        match word.split_once('=') {
                            Some(("api", url)) => program.api = url.to_owned(),
                            Some(("router", url)) => program.router = url.to_owned(),
                            Some(("ssh", address)) => program.ssh = address.to_owned(),
                            Some(("host_key", fingerprint)) => program.host_key = fingerprint.to_owned(),
                            _ => {}
                        }
                    }
                    return Ok(program);
                }
                Ok(line) => program.before.push(line),
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    let status = program.wait(seconds(10));
                    let stderr = self.log().split_off(usize::try_from(length).unwrap());
                    return Err(format!("ended with {status:?}: {stderr}"));
                }
                Err(mpsc::RecvTimeoutError::Timeout) => panic!("not ready within 180 s:\n{}", self.log()),
            }
        }
    }

    /// Starts `tancho serve` here, on any ports.
    pub(crate) fn serve(&mut self) {
        self.serve_at("http://127.0.0.1:0");
    }

    /// The same, with an API at this URL.
    pub(crate) fn serve_at(&mut self, api: &str) {
        let api = api.trim_start_matches("http://");
        let program = self.try_start(&["serve", "--api", api, "--router", &self.router_listen]);
        self.program = Some(program.unwrap());
    }

    pub(crate) fn running(&self) -> &RunningTancho {
        self.program.as_ref().unwrap()
    }

    /// Sends SIGKILL to Tancho.
    pub(crate) fn kill(&mut self) {
        self.program.take().unwrap().kill();
    }

    pub(crate) async fn login(&mut self) {
        let body = json!({ "password": PASSWORD });
        let url = format!("{}/1.0/users/{EMAIL}/tokens", self.running().api);
        let answer = self.http.post(url).json(&body).send().await.unwrap();
        let answer: Value = answer.error_for_status().unwrap().json().await.unwrap();
        answer["token"].as_str().unwrap().clone_into(&mut self.token);
    }

    pub(crate) async fn team(&self) {
        let answer = self
            .request_as_admin(Method::POST, "/1.0/teams")
            .json(&json!({ "name": "crew" }));
        assert_eq!(answer.send().await.unwrap().status(), 201);
    }

    /// Builds a request to the API as the administrator.
    pub(crate) fn request_as_admin(&self, method: Method, path: &str) -> RequestBuilder {
        self.http
            .request(method, format!("{}{path}", self.running().api))
            .header("authorization", format!("bearer {}", self.token))
    }

    /// Reads JSON; any status but 200 fails the test.
    pub(crate) async fn read_json(&self, path: &str) -> Value {
        let answer = self.request_as_admin(Method::GET, path).send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert_eq!(status, 200, "{path}: {text}");
        serde_json::from_str(&text).unwrap()
    }

    pub(crate) async fn create_app(&self, app: &str) {
        self.create(json!({ "name": app, "platform": "procfile", "teamOwner": "crew" }))
            .await;
    }

    pub(crate) async fn create(&self, body: Value) {
        let answer = self
            .request_as_admin(Method::POST, "/1.0/apps")
            .json(&body)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 201, "{}", answer.text().await.unwrap());
    }

    /// Begins a deploy of an archive in a multipart body.
    pub(crate) async fn begin_deploy(&self, app: &str, archive: &[u8]) -> Response {
        self.post_parts(app, "file", archive).await
    }

    pub(crate) async fn post_parts(&self, app: &str, part: &str, content: &[u8]) -> Response {
        self.deploy_request(app, part, content).send().await.unwrap()
    }

    /// Builds the request of a deploy.
    pub(crate) fn deploy_request(&self, app: &str, part: &str, content: &[u8]) -> RequestBuilder {
        let (kind, body) = multipart(part, content);
        self.request_as_admin(Method::POST, &format!("/1.0/apps/{app}/deploy"))
            .header("content-type", kind)
            .body(body)
    }

    /// Deploys, which must succeed; returns the whole response.
    pub(crate) async fn deploy(&self, app: &str, archive: &[u8]) -> String {
        let answer = self.begin_deploy(app, archive).await;
        let text = answer.text().await.unwrap();
        assert!(text.ends_with("\nOK\n"), "{text}");
        text
    }

    /// Makes a change whose response is a stream, and which must succeed; returns the whole response. While the
    /// server has no connection to its database to spare (a dozen deploys on a slow machine), nothing is changed and
    /// the request is repeated, as the response asks for.
    pub(crate) async fn change(&self, method: Method, path: &str, form: &[(&str, &str)]) -> String {
        wait_for("an answer other than 503", seconds(60), async || {
            let request = self.request_as_admin(method.clone(), path);
            let request = match method {
                Method::DELETE => request.query(form),
                _ => request.form(form),
            };
            let answer = request.send().await.unwrap();
            let (status, text) = (answer.status(), answer.text().await.unwrap());
            if status == 503 && text.starts_with("The database is unavailable; try again") {
                return None;
            }
            assert!(
                status.is_success() && !text.contains("\"Error\""),
                "{path}: {status} {text}"
            );
            Some(text)
        })
        .await
    }

    pub(crate) async fn set_env(&self, app: &str, name: &str, value: &str) {
        let form = [("Envs.0.Name", name), ("Envs.0.Value", value)];
        self.change(Method::POST, &format!("/1.0/apps/{app}/env"), &form)
            .await;
    }

    /// Sends a request to an app through the router of this instance.
    pub(crate) async fn get_app(&self, app: &str, path: &str) -> (u16, String) {
        get_through_router(&self.http, &self.running().router, app, path).await
    }

    /// Returns the units of an app, as the API shows them.
    pub(crate) async fn units(&self, app: &str) -> Vec<Value> {
        let app = self.read_json(&format!("/1.0/apps/{app}")).await;
        app["units"].as_array().unwrap().clone()
    }

    /// Returns the name and pid of every unit that runs here, from the files of its shim.
    pub(crate) fn pids(&self) -> Vec<(String, u64)> {
        let mut found: Vec<(String, u64)> = fs::read_dir(self.data.join("units"))
            .unwrap()
            .filter_map(|entry| {
                let entry = entry.unwrap();
                let state = fs::read(entry.path().join("state.json")).ok()?;
                let state: Value = serde_json::from_slice(&state).ok()?;
                Some((entry.file_name().into_string().unwrap(), state["child"].as_u64()?))
            })
            .collect();
        found.sort();
        found
    }

    /// Waits until an event has ended, and returns it.
    pub(crate) async fn wait_for_event_end(&self, event: &str, within: Duration) -> Value {
        let path = format!("/1.1/events/{event}");
        wait_for(&format!("the end of event {event}"), within, async || {
            let event = self.read_json(&path).await;
            (event["Running"] == false).then_some(event)
        })
        .await
    }

    /// Asserts that a finished deploy has left nothing: uploads, scratch folders, versions other than those
    /// of the list, processes of builds.
    pub(crate) async fn assert_tidy(&self, app: &str, versions: &[&str]) {
        let mut last = String::new();
        wait_for(
            &format!("only versions {versions:?} of {app} on disk"),
            seconds(15),
            async || {
                let uploads = list_names(&self.data.join("uploads"));
                let mut found: Vec<String> = list_names(&self.data.join("versions"))
                    .iter()
                    .flat_map(|folder| list_names(&self.data.join("versions").join(folder)))
                    .collect();
                found.sort();
                let builds = find_processes(&format!("TANCHO_BUILD={}", self.data.display()));
                let tidy = uploads.is_empty() && found == versions && builds.is_empty();
                let what = format!("{uploads:?} {found:?} {builds:?}");
                if !tidy && what != last {
                    println!("left over: {what}");
                    last = what;
                }
                tidy.then_some(())
            },
        )
        .await;
    }

    /// Stops everything and returns what is left. Runs also when the test has failed.
    fn shut_down(&mut self) -> Vec<String> {
        self.program = None;
        let mut wrong = Vec::new();
        if self.data.exists() {
            let down = self.run(&["down"]);
            if !down.status.success() {
                wrong.push(format!("tancho down: {}", String::from_utf8_lossy(&down.stderr)));
            }
        }
        let left = find_processes(&self.data.display().to_string());
        for (pid, what) in &left {
            wrong.push(format!("process {pid} is left: {what}"));
            // A process of this instance, by its folder; it may have exited.
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        wrong
    }
}

impl Drop for TestInstance {
    fn drop(&mut self) {
        let wrong = self.shut_down();
        let failed = std::thread::panicking();
        if failed {
            let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(self.root.file_name().unwrap());
            let mut log = self.log();
            let folder = self.data.join("postgres/log");
            for name in list_names(&folder) {
                log.push_str(&fs::read_to_string(folder.join(name)).unwrap_or_default());
            }
            let _ = fs::write(kept.with_extension("log"), log);
            println!("the log is {}.log\n{wrong:#?}", kept.display());
        }
        let _ = fs::remove_dir_all(&self.root);
        assert!(failed || wrong.is_empty(), "{wrong:#?}");
    }
}

/// Returns a command that starts another one, which are its last arguments.
fn launch_through(command: &Command, launcher: &str, first: &[String]) -> Command {
    let mut launching = Command::new(launcher);
    launching
        .args(first)
        .arg(command.get_program())
        .args(command.get_args())
        .env_clear()
        .envs(
            command
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        )
        .stdin(Stdio::null());
    if let Some(folder) = command.get_current_dir() {
        launching.current_dir(folder);
    }
    launching
}

/// Returns the type and body of a deploy with an archive in one of its parts.
pub(crate) fn multipart(part: &str, content: &[u8]) -> (&'static str, Vec<u8>) {
    let mut body = format!(
        "--edge\r\nContent-Disposition: form-data; name=\"origin\"\r\n\r\napp-deploy\r\n--edge\r\n\
         Content-Disposition: form-data; name=\"{part}\"; filename=\"a.tar.gz\"\r\n\r\n"
    )
    .into_bytes();
    body.extend_from_slice(content);
    body.extend_from_slice(b"\r\n--edge--\r\n");
    ("multipart/form-data; boundary=edge", body)
}

/// Sends a request to an app through a router.
pub(crate) async fn get_through_router(
    http: &reqwest::Client,
    router: &str,
    app: &str,
    path: &str,
) -> (u16, String) {
    let request = http
        .get(format!("{router}{path}"))
        .header("host", format!("{app}.localhost"));
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

/// Returns the names in a folder, sorted; none if it does not exist.
pub(crate) fn list_names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Returns the running processes that have a text in their command line, environment or working folder.
pub(crate) fn find_processes(text: &str) -> Vec<(i32, String)> {
    let me = i32::try_from(std::process::id()).unwrap();
    let numbers = list_names(Path::new("/proc"))
        .into_iter()
        .filter_map(|name| name.parse::<i32>().ok());
    numbers
        .filter(|pid| *pid != me)
        .filter_map(|pid| {
            let place = Path::new("/proc").join(pid.to_string());
            // A process that cannot be read has exited, or is the kernel's.
            let part = |name: &str| {
                let bytes = fs::read(place.join(name)).unwrap_or_default();
                String::from_utf8_lossy(&bytes).replace('\0', " ")
            };
            let cwd = fs::read_link(place.join("cwd")).unwrap_or_default();
            let line = part("cmdline");
            let found = line.contains(text)
                || part("environ").contains(text)
                || cwd.display().to_string().contains(text);
            found.then_some((pid, line))
        })
        .collect()
}
