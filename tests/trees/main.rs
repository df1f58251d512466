//! Small source trees, one for each tool: each is built for real with the tools of this machine, prints what
//! it used, and serves a request from the version's final path.
#![expect(clippy::unwrap_used, reason = "all of this file is tests and their helpers")]

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, Uid};
use tancho::builders::{self, BuildArtifact, BuildError, BuildLimits, BuildRequest, platforms};
use tancho::config::Settings;
use tancho::kernel::names::{EnvName, PlatformName};
use tancho::kernel::secret::Secret;
use tancho::sandbox::SandboxPolicy;
use tokio_util::sync::CancellationToken;

/// How long a process may take until it responds.
const STARTS_WITHIN: Duration = Duration::from_secs(60);
const TOKEN: &str = "token-of-a-private-registry";

/// A source tree and the expected result.
struct SourceTree {
    folder: &'static str,
    /// Lines of the build's output.
    says: &'static [&'static str],
    command: &'static str,
    answers: &'static str,
}

/// Returns whether the programs that a test needs are installed. If not, it is skipped with a message, or
/// fails in CI.
fn require_programs(programs: &[&str]) -> bool {
    let missing = programs.iter().find(|program| {
        let found = Command::new(program)
            .arg("--help")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        found.is_err()
    });
    let Some(missing) = missing else { return true };
    let in_ci = tancho::config::process_variable("CI").is_some_and(|ci| ci == "true");
    assert!(!in_ci, "{missing} is missing here");
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    // Not `eprintln!`, whose output is captured.
    let _ = writeln!(std::io::stderr(), "SKIP {test}: {missing} is missing here");
    false
}

/// A folder for the builds of one app; removed on drop.
struct TreeApp {
    root: PathBuf,
    platform: &'static str,
    user: u32,
    builds: u32,
    /// What the app has node preload; it exists only once the modules are installed.
    node_options: &'static str,
}

impl TreeApp {
    fn new(platform: &'static str, user: u32) -> Self {
        let root = std::env::temp_dir().join(format!("tancho-trees-{}", uuid::Uuid::new_v4()));
        fs::create_dir(&root).unwrap();
        Command::new("chmod").arg("0755").arg(&root).status().unwrap();
        let root = root.canonicalize().unwrap();
        Self {
            root,
            platform,
            user,
            builds: 0,
            node_options: "--require ms",
        }
    }

    /// Copies a tree, to modify it.
    fn copy_tree(&self, folder: &str) -> PathBuf {
        let source = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/trees")
            .join(folder);
        let copy = self
            .root
            .join(format!("source-{}-{folder}", uuid::Uuid::new_v4()));
        assert!(
            Command::new("cp")
                .arg("-a")
                .args([&source, &copy])
                .status()
                .unwrap()
                .success()
        );
        copy
    }

    /// Builds the source in a folder; returns the result and the output.
    async fn build(&mut self, source: &Path) -> (Result<BuildArtifact, BuildError>, String) {
        self.builds += 1;
        let archive = self.root.join(format!("{}.tar", self.builds));
        let packed = Command::new("tar")
            .arg("-C")
            .arg(source)
            .arg("-cf")
            .arg(&archive)
            .arg(".")
            .status();
        assert!(packed.unwrap().success());
        let exe = env!("CARGO_BIN_EXE_tancho");
        let variable = |name: &str, value: &str| (EnvName::parse(name).unwrap(), Secret::new(value));
        let request = BuildRequest {
            archive,
            platform: PlatformName::parse(self.platform).unwrap(),
            platforms_dir: platforms::install_platforms(&self.root.join("platforms"), exe.as_ref()).unwrap(),
            dest: self.root.join("versions").join(self.builds.to_string()),
            cache_dir: self.root.join("cache"),
            env: vec![
                variable("VITE_URL", "url-of-the-api"),
                variable("NPM_TOKEN", TOKEN),
                // Would keep the platform's tools from being found or started.
                variable("PATH", "/nonexistent"),
                variable("PYTHONHOME", "/nonexistent"),
                variable("NODE_OPTIONS", self.node_options),
            ],
            pass_env: mirrors(),
            user: Uid::effective().is_root().then_some(self.user),
            sandbox: Some(SandboxPolicy::new(&Settings::defaults(), &self.root)),
            limits: BuildLimits::default(),
        };
        let (sender, mut lines) = tokio::sync::mpsc::channel::<String>(16);
        let reading = async {
            let mut all = String::new();
            while let Some(line) = lines.recv().await {
                all.push_str(&line);
                all.push('\n');
            }
            all
        };
        tokio::join!(
            builders::build_version(&request, sender, CancellationToken::new()),
            reading
        )
    }

    /// Builds, and panics on failure.
    async fn build_ok(&mut self, source: &Path) -> (BuildArtifact, String) {
        let (built, output) = self.build(source).await;
        (
            built.unwrap_or_else(|error| panic!("{}: {error}\n{output}", source.display())),
            output,
        )
    }

    /// Starts the process `web` of a version, and requests a page.
    async fn get_page(&self, built: &BuildArtifact) -> String {
        let web = built.processes.iter().find(|p| p.name.as_str() == "web").unwrap();
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let home = self.root.join(format!("home-{port}"));
        fs::create_dir_all(&home).unwrap();
        Command::new("chmod").arg("0777").arg(&home).status().unwrap();
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", &format!("exec {}", web.command)])
            .current_dir(&built.dir)
            .env_clear()
            .env(
                "PATH",
                format!("{}/.tancho/bin:/usr/local/bin:/usr/bin:/bin", built.dir.display()),
            )
            .env("HOME", home)
            .env("NODE_ENV", "production")
            .env("PORT", port.to_string())
            .process_group(0);
        if Uid::effective().is_root() {
            command.uid(self.user).gid(self.user);
        }
        let mut unit = ServedProcess(command.spawn().unwrap());
        let end = Instant::now() + STARTS_WITHIN;
        loop {
            if let Some(body) = get(port) {
                return body;
            }
            let ended = unit.0.try_wait().unwrap();
            assert!(ended.is_none(), "{} ended: {ended:?}", web.command);
            assert!(Instant::now() < end, "{} never answered", web.command);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn check_tree(&mut self, tree: &SourceTree) {
        let source = self.copy_tree(tree.folder);
        let (built, output) = self.build_ok(&source).await;
        for line in tree.says {
            assert!(output.contains(line), "{}: no {line:?} in\n{output}", tree.folder);
        }
        assert!(!output.contains(TOKEN), "{}: a secret in\n{output}", tree.folder);
        let web = built.processes.iter().find(|p| p.name.as_str() == "web").unwrap();
        assert_eq!(web.command, tree.command, "{}", tree.folder);
        assert_eq!(
            self.get_page(&built).await.trim_end(),
            tree.answers,
            "{}\n{output}",
            tree.folder
        );
    }
}

impl Drop for TreeApp {
    fn drop(&mut self) {
        let _ = builders::remove_tree(&self.root);
    }
}

/// A process with its children; killed on drop.
struct ServedProcess(Child);

impl Drop for ServedProcess {
    fn drop(&mut self) {
        let _ = killpg(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

/// Requests `/` and returns the body; `None` if nothing listens.
fn get(port: u16) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    Some(match chunked {
        true => body.lines().nth(1)?.to_owned(),
        false => body.to_owned(),
    })
}

/// The package mirrors of this machine.
fn mirrors() -> Vec<(String, String)> {
    let known = [
        "PIP_",
        "GOPROXY",
        "GOSUMDB",
        "NPM_CONFIG_",
        "npm_config_",
        "UV_",
        // For mirrors with certificates of their own.
        "NODE_EXTRA_CA_CERTS",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "REQUESTS_CA_BUNDLE",
    ];
    std::env::vars()
        .filter(|(name, _)| known.iter().any(|prefix| name.starts_with(prefix)))
        .collect()
}

#[tokio::test]
async fn python_requirements_of_each_tool_are_installed() {
    if !require_programs(&["python3"]) {
        return;
    }
    let mut app = TreeApp::new("python", 20_061);
    for tree in [
        SourceTree {
            folder: "setuptools",
            says: &["requirements.txt says what the app requires"],
            command: "python app.py",
            answers: "from src",
        },
        SourceTree {
            folder: "finder",
            says: &["requirements.txt says what the app requires"],
            command: "python app.py",
            answers: "from code part",
        },
        SourceTree {
            folder: "pipenv",
            says: &["Pipfile.lock says what the app requires"],
            command: "python app.py",
            answers: "itsdangerous alpha",
        },
        SourceTree {
            folder: "poetry",
            says: &[
                "poetry.lock says what the app requires",
                "Installing the app as a package, as Poetry does",
            ],
            command: "python app.py",
            answers: "itsdangerous from Poetry",
        },
        SourceTree {
            folder: "poetry-unlocked",
            says: &[
                "pyproject.toml says what the app requires",
                "There is no poetry.lock: versions may change",
            ],
            command: "python app.py",
            answers: "itsdangerous",
        },
        SourceTree {
            folder: "uv",
            says: &["uv.lock says what the app requires"],
            command: "python app.py",
            answers: "beta",
        },
    ] {
        app.check_tree(&tree).await;
    }
}

#[tokio::test]
async fn changed_local_library_is_reinstalled() {
    if !require_programs(&["python3"]) {
        return;
    }
    let mut app = TreeApp::new("python", 20_062);
    let source = app.copy_tree("pip");
    let (first, _) = app.build_ok(&source).await;
    assert_eq!(app.get_page(&first).await, "itsdangerous alpha");
    // No requirement changes, but the library that one of them names, two files down, does.
    fs::write(source.join("letters/letters.py"), "NAME = \"gamma\"\n").unwrap();
    let (second, output) = app.build_ok(&source).await;
    assert_eq!(app.get_page(&second).await, "itsdangerous gamma", "{output}");
    // Without it, the environment comes from the cache until a nested file changes.
    fs::write(source.join("requirements/local.txt"), "").unwrap();
    app.build_ok(&source).await;
    let (_, output) = app.build_ok(&source).await;
    assert!(
        output.contains("taking the environment from the cache"),
        "{output}"
    );
    fs::write(source.join("requirements/local.txt"), "iniconfig==2.0.0\n").unwrap();
    fs::write(source.join("poetry.lock"), "").unwrap();
    let (_, output) = app.build_ok(&source).await;
    assert!(!output.contains("from the cache"), "{output}");
    assert!(output.contains("Not read: poetry.lock"), "{output}");
}

#[tokio::test]
async fn lock_file_selects_the_node_package_manager() {
    if !require_programs(&["node", "npm"]) {
        return;
    }
    let mut app = TreeApp::new("nodejs", 20_063);
    for tree in [
        SourceTree {
            folder: "npm",
            says: &[
                "package.json asks for Node >=99; this server has",
                "Installing the modules of package-lock.json",
            ],
            command: "node server.js",
            answers: "60000 tool url-of-the-api production",
        },
        SourceTree {
            folder: "pnpm",
            says: &["Using pnpm 9.15.9", "Installing the modules of pnpm-lock.yaml"],
            command: "pnpm start",
            answers: "60000",
        },
        SourceTree {
            folder: "yarn",
            says: &["Using yarn 1.", "Installing the modules of yarn.lock"],
            command: "yarn run serve",
            answers: "60000",
        },
        SourceTree {
            folder: "yarn-berry",
            says: &["Using yarn 4.18.1", "Installing the modules of yarn.lock"],
            command: "yarn start",
            answers: "60000",
        },
        SourceTree {
            folder: "bun",
            says: &["Using bun 1.", "Installing the modules of bun.lock"],
            command: "node server.js",
            answers: "60000",
        },
    ] {
        app.check_tree(&tree).await;
    }
}

#[tokio::test]
async fn go_modules_and_workspaces_are_built() {
    if !require_programs(&["go"]) {
        return;
    }
    let mut app = TreeApp::new("go", 20_064);
    for tree in [
        SourceTree {
            folder: "go",
            says: &["Building with the modules of go.mod"],
            command: "bin/hello",
            answers: "from a mod",
        },
        SourceTree {
            folder: "go-work",
            says: &["Building the modules of go.work"],
            command: "app",
            answers: "workspace!",
        },
    ] {
        app.check_tree(&tree).await;
    }
}

#[tokio::test]
async fn static_files_and_unusual_procfiles_are_served() {
    if !require_programs(&["python3"]) {
        return;
    }
    let mut app = TreeApp::new("static", 20_065);
    app.check_tree(&SourceTree {
        folder: "static",
        says: &["Building with the platform static"],
        command: "static-server public",
        answers: "<!doctype html><title>tree</title>",
    })
    .await;
    app.platform = "procfile";
    let source = app.copy_tree("procfile");
    let (built, output) = app.build_ok(&source).await;
    assert_eq!(built.processes.len(), 1, "{output}");
    // It runs after the build, before the switch.
    assert_eq!(
        built.release_command.as_deref(),
        Some("touch released"),
        "{output}"
    );
    assert!(app.get_page(&built).await.contains("page.txt"));
}

/// Asserts that trees cannot be built: their files, and what the error must contain.
async fn assert_reasons(app: &mut TreeApp, cases: &[(&[(&str, &str)], &str)]) {
    for (files, words) in cases {
        let source = app.root.join(format!("broken-{}", uuid::Uuid::new_v4()));
        for (name, text) in *files {
            let path = source.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let (result, output) = app.build(&source).await;
        let error = result.unwrap_err().to_string();
        assert!(error.contains(words), "{error}\n{output}");
        assert!(!error.contains(TOKEN) && !output.contains(TOKEN), "{output}");
    }
}

#[tokio::test]
async fn failed_build_names_the_cause() {
    if !require_programs(&["python3", "node", "npm", "go"]) {
        return;
    }
    let mut app = TreeApp::new("python", 20_066);
    assert_reasons(
        &mut app,
        &[
            (
                &[("requirements.txt", "itsdangerous==99.99\n")],
                "No matching distribution found for itsdangerous==99.99",
            ),
            (&[("Pipfile.lock", "{")], "Pipfile.lock is not valid JSON"),
            (&[("uv.lock", "")], "there is a uv.lock, but no pyproject.toml"),
            (
                &[("pyproject.toml", "[project\n")],
                "pyproject.toml is not valid TOML",
            ),
        ],
    )
    .await;
    app.platform = "nodejs";
    app.node_options = "";
    assert_reasons(
        &mut app,
        &[
            (&[("package.json", "{")], "package.json is not valid JSON"),
            (&[("package.json", "[]")], "package.json must hold an object"),
            (
                &[(
                    "package.json",
                    r#"{"name": "x", "scripts": {"build": "echo \"$NPM_TOKEN\"; node missing.js"}}"#,
                )],
                "Error: Cannot find module",
            ),
            (
                &[("app/package.json", "{}")],
                "The archive contains only the folder \"app\": pack its contents",
            ),
        ],
    )
    .await;
    app.platform = "go";
    assert_reasons(
        &mut app,
        &[
            (&[("app/go.mod", "module x\n"), ("README", "")], "but one in app"),
            (
                &[("go.mod", "module x\n\ngo 1.20\n"), ("x.go", "package x\n")],
                "there is no main package to build",
            ),
            (
                &[
                    ("go.mod", "module x\n\ngo 1.20\n"),
                    ("a/web/x.go", "package main\n\nfunc main() {}\n"),
                    ("b/web/x.go", "package main\n\nfunc main() {}\n"),
                ],
                "several main packages would make a program named web",
            ),
            (
                &[
                    ("go.mod", "module x\n\ngo 1.20\n"),
                    ("x.go", "package main\n\nfunc main() { y }\n"),
                ],
                "x.go:3:15: undefined: y",
            ),
        ],
    )
    .await;
}
