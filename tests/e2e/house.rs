//! A house: one data folder, and the programs that are started on it.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};

/// The administrator of every house.
pub(crate) const EMAIL: &str = "root@example.com";
pub(crate) const PASSWORD: &str = "correct-horse-battery";
const BINARY: &str = env!("CARGO_BIN_EXE_tancho");

static COUNT: AtomicU32 = AtomicU32::new(0);

/// Waits until something is so; the test fails if it is not in time.
pub(crate) async fn until<T>(what: &str, within: Duration, mut look: impl AsyncFnMut() -> Option<T>) -> T {
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

/// A started program of Tancho that has said that it is ready.
pub(crate) struct Program {
    child: Child,
    /// The lines before `tancho ready`.
    pub(crate) before: Vec<String>,
    pub(crate) api: String,
    pub(crate) router: String,
    /// Host and port.
    pub(crate) ssh: String,
    pub(crate) host_key: String,
    pub(crate) took: Duration,
}

impl Program {
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    /// Waits for its end; the exit status.
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

    /// SIGKILL, and gone.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Both fail when it has ended, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// See the module.
pub(crate) struct House {
    pub(crate) root: PathBuf,
    pub(crate) data: PathBuf,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) args: Vec<String>,
    pub(crate) program: Option<Program>,
    pub(crate) token: String,
    pub(crate) http: reqwest::Client,
}

impl House {
    /// A folder with nothing in it and nothing started.
    pub(crate) fn empty() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let root = PathBuf::from(format!("/var/tmp/tancho-e2e-{}-{number}", std::process::id()));
        fs::create_dir(&root).unwrap();
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).unwrap();
        let env = [
            ("TANCHO_ADMIN_EMAIL", EMAIL),
            ("TANCHO_ADMIN_PASSWORD", PASSWORD),
            // Cheap, for the machine is small.
            ("TANCHO_AUTH_HASH_MEMORY_KIB", "64"),
            // Any port.
            ("TANCHO_SSH_LISTEN", "127.0.0.1:0"),
        ];
        Self {
            data: root.join("data"),
            root,
            env: env
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
            args: Vec::new(),
            program: None,
            token: String::new(),
            http: reqwest::Client::builder().timeout(seconds(120)).build().unwrap(),
        }
    }

    /// A running Tancho with a team, and its administrator logged in.
    pub(crate) async fn start() -> Self {
        Self::with(&[]).await
    }

    /// The same, with variables of its own.
    pub(crate) async fn with(env: &[(&str, &str)]) -> Self {
        let mut house = Self::empty();
        for (name, value) in env {
            house.set(name, value);
        }
        house.serve();
        house.login().await;
        house.team().await;
        house
    }

    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.to_owned(), value.to_owned()));
    }

    /// A command line on this folder, in a clean environment.
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
        command
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// The log of everything that was started here.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.root.join("log")).unwrap_or_default()
    }

    /// Starts a program, until it is ready or has ended; then how, and what it said on standard error.
    pub(crate) fn try_start(&self, arguments: &[&str]) -> Result<Program, String> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.root.join("log"))
            .unwrap();
        let length = log.metadata().unwrap().len();
        let began = Instant::now();
        let mut command = self.command(arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let (sender, lines) = mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                // The test has ended, or wants no more of it.
                let _ = sender.send(line);
            }
        });
        let mut program = Program {
            child,
            before: Vec::new(),
            api: String::new(),
            router: String::new(),
            ssh: String::new(),
            host_key: String::new(),
            took: Duration::ZERO,
        };
        loop {
            match lines.recv_timeout(seconds(60)) {
                Ok(line) if line.starts_with("tancho ready ") => {
                    program.took = began.elapsed();
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
                Err(mpsc::RecvTimeoutError::Timeout) => panic!("not ready within 60 s:\n{}", self.log()),
            }
        }
    }

    /// Starts `tancho serve` here, on any ports.
    pub(crate) fn serve(&mut self) {
        self.serve_at("http://127.0.0.1:0");
    }

    /// The same, with an API that is reached under this URL.
    pub(crate) fn serve_at(&mut self, api: &str) {
        let api = api.trim_start_matches("http://");
        let program = self.try_start(&["serve", "--api", api, "--router", "127.0.0.1:0"]);
        self.program = Some(program.unwrap());
    }

    pub(crate) fn running(&self) -> &Program {
        self.program.as_ref().unwrap()
    }

    /// kill -9 of Tancho.
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
            .by(Method::POST, "/1.0/teams")
            .json(&json!({ "name": "crew" }));
        assert_eq!(answer.send().await.unwrap().status(), 201);
    }

    /// A request to the API as the administrator.
    pub(crate) fn by(&self, method: Method, path: &str) -> RequestBuilder {
        self.http
            .request(method, format!("{}{path}", self.running().api))
            .header("authorization", format!("bearer {}", self.token))
    }

    /// Reads JSON; anything but 200 fails the test.
    pub(crate) async fn read(&self, path: &str) -> Value {
        let answer = self.by(Method::GET, path).send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert_eq!(status, 200, "{path}: {text}");
        serde_json::from_str(&text).unwrap()
    }

    pub(crate) async fn create_app(&self, app: &str) {
        self.create(json!({ "name": app, "platform": "procfile", "teamOwner": "crew" }))
            .await;
    }

    pub(crate) async fn create(&self, wish: Value) {
        let answer = self
            .by(Method::POST, "/1.0/apps")
            .json(&wish)
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
        self.parts(app, part, content).send().await.unwrap()
    }

    /// A deploy to be sent.
    pub(crate) fn parts(&self, app: &str, part: &str, content: &[u8]) -> RequestBuilder {
        let (kind, body) = multipart(part, content);
        self.by(Method::POST, &format!("/1.0/apps/{app}/deploy"))
            .header("content-type", kind)
            .body(body)
    }

    /// Deploys; the whole text of the answer, which must end well.
    pub(crate) async fn deploy(&self, app: &str, archive: &[u8]) -> String {
        let answer = self.begin_deploy(app, archive).await;
        let text = answer.text().await.unwrap();
        assert!(text.ends_with("\nOK\n"), "{text}");
        text
    }

    /// A change whose answer is a stream; the whole of it, which must end well.
    pub(crate) async fn change(&self, method: Method, path: &str, form: &[(&str, &str)]) -> String {
        let request = self.by(method.clone(), path);
        let request = match method {
            Method::DELETE => request.query(form),
            _ => request.form(form),
        };
        let answer = request.send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert!(
            status.is_success() && !text.contains("\"Error\""),
            "{path}: {status} {text}"
        );
        text
    }

    pub(crate) async fn set_env(&self, app: &str, name: &str, value: &str) {
        let form = [("Envs.0.Name", name), ("Envs.0.Value", value)];
        self.change(Method::POST, &format!("/1.0/apps/{app}/env"), &form)
            .await;
    }

    /// Asks an app through the router of this house.
    pub(crate) async fn visit(&self, app: &str, path: &str) -> (u16, String) {
        visit(&self.http, &self.running().router, app, path).await
    }

    /// The units of an app, as the API shows them.
    pub(crate) async fn units(&self, app: &str) -> Vec<Value> {
        let app = self.read(&format!("/1.0/apps/{app}")).await;
        app["units"].as_array().unwrap().clone()
    }

    /// Name and process number of every unit that runs here, as its shim has written it down.
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

    /// Waits until an event has ended; the event.
    pub(crate) async fn ended(&self, event: &str, within: Duration) -> Value {
        let path = format!("/1.1/events/{event}");
        until(&format!("the end of event {event}"), within, async || {
            let event = self.read(&path).await;
            (event["Running"] == false).then_some(event)
        })
        .await
    }

    /// Asserts that nothing of a deploy that is over lies about: uploads, scratch folders, versions other
    /// than those of the list, processes of builds.
    pub(crate) async fn assert_tidy(&self, app: &str, versions: &[&str]) {
        let mut last = String::new();
        until(
            &format!("only versions {versions:?} of {app} on disk"),
            seconds(15),
            async || {
                let uploads = names(&self.data.join("uploads"));
                let mut found: Vec<String> = names(&self.data.join("versions"))
                    .iter()
                    .flat_map(|folder| names(&self.data.join("versions").join(folder)))
                    .collect();
                found.sort();
                let builds = processes_with(&format!("TANCHO_BUILD={}", self.data.display()));
                let tidy = uploads.is_empty() && found == versions && builds.is_empty();
                let what = format!("{uploads:?} {found:?} {builds:?}");
                if !tidy && what != last {
                    println!("still there: {what}");
                    last = what;
                }
                tidy.then_some(())
            },
        )
        .await;
    }

    /// Stops everything and looks that nothing is left. Runs also when the test has failed.
    fn end(&mut self) -> Vec<String> {
        self.program = None;
        let mut wrong = Vec::new();
        if self.data.exists() {
            let down = self.run(&["down"]);
            if !down.status.success() {
                wrong.push(format!("tancho down: {}", String::from_utf8_lossy(&down.stderr)));
            }
        }
        let left = processes_with(&self.data.display().to_string());
        for (pid, what) in &left {
            wrong.push(format!("process {pid} is left: {what}"));
            // Ours, by its folder; gone already is as good.
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        wrong
    }
}

impl Drop for House {
    fn drop(&mut self) {
        let wrong = self.end();
        let failed = std::thread::panicking();
        if failed {
            let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(self.root.file_name().unwrap());
            let mut log = self.log();
            let folder = self.data.join("postgres/log");
            for name in names(&folder) {
                log.push_str(&fs::read_to_string(folder.join(name)).unwrap_or_default());
            }
            let _ = fs::write(kept.with_extension("log"), log);
            println!("the log is {}.log\n{wrong:#?}", kept.display());
        }
        let _ = fs::remove_dir_all(&self.root);
        assert!(failed || wrong.is_empty(), "{wrong:#?}");
    }
}

/// The body of a deploy with an archive in one of its parts, and the body's type.
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

/// Asks an app through a router.
pub(crate) async fn visit(http: &reqwest::Client, router: &str, app: &str, path: &str) -> (u16, String) {
    let request = http
        .get(format!("{router}{path}"))
        .header("host", format!("{app}.localhost"));
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

/// The names in a folder, sorted; none if it is not there.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Living processes that have a text in their command line, environment or working folder.
pub(crate) fn processes_with(text: &str) -> Vec<(i32, String)> {
    let me = i32::try_from(std::process::id()).unwrap();
    let numbers = names(Path::new("/proc"))
        .into_iter()
        .filter_map(|name| name.parse::<i32>().ok());
    numbers
        .filter(|pid| *pid != me)
        .filter_map(|pid| {
            let place = Path::new("/proc").join(pid.to_string());
            // What cannot be read has ended, or is the kernel's.
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
