//! Builds in the sandbox of the built binary.

use tancho::builders::{self, BuildError, BuildLimits, BuildRequest, platforms};
use tancho::config::Settings;
use tancho::kernel::names::PlatformName;

use super::isolation::http_get;
use super::*;

pub(super) struct BuildFolder(pub(super) PathBuf);

impl Drop for BuildFolder {
    fn drop(&mut self) {
        let _ = builders::remove_tree(&self.0);
    }
}

impl BuildFolder {
    pub(super) fn new() -> Self {
        let root = std::env::temp_dir().join(format!("tancho-build-{}", uuid::Uuid::new_v4()));
        fs::create_dir(&root).unwrap();
        Command::new("chmod").arg("0755").arg(&root).status().unwrap();
        Self(root.canonicalize().unwrap())
    }

    /// A build request of one app with this shell command as build hook.
    pub(super) fn request(&self, hook: &str) -> BuildRequest {
        let yaml = serde_json::json!({"hooks": {"build": [hook]}}).to_string();
        self.request_of("procfile", &[("Procfile", "web: true\n"), ("tsuru.yaml", &yaml)])
    }

    fn request_of(&self, platform: &str, files: &[(&str, &str)]) -> BuildRequest {
        let source = self.0.join(format!("source-{platform}"));
        fs::create_dir_all(&source).unwrap();
        for (name, text) in files {
            fs::write(source.join(name), text).unwrap();
        }
        let archive = self.0.join(format!("{platform}.tar"));
        let packed = Command::new("tar")
            .arg("-C")
            .arg(&source)
            .arg("-cf")
            .arg(&archive)
            .arg(".")
            .status();
        assert!(packed.unwrap().success());
        BuildRequest {
            archive,
            platform: PlatformName::parse(platform).unwrap(),
            platforms_dir: platforms::install_platforms(
                &self.0.join("platforms"),
                env!("CARGO_BIN_EXE_tancho").as_ref(),
            )
            .unwrap(),
            dest: self.0.join("versions").join(platform),
            cache_dir: self.0.join("cache"),
            env: vec![(EnvName::parse("GREETING").unwrap(), Secret::new("good day"))],
            pass_env: vec![("CGO_ENABLED".into(), "0".into())],
            user: Uid::effective().is_root().then_some(20_050),
            sandbox: Some(SandboxPolicy::new(&Settings::defaults(), &self.0)),
            limits: BuildLimits::default(),
        }
    }
}

pub(super) async fn build(request: &BuildRequest) -> (Result<builders::BuildArtifact, BuildError>, String) {
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
        builders::build_version(request, sender, CancellationToken::new()),
        reading
    )
}

#[tokio::test]
async fn hostile_build_accesses_nothing_and_honest_build_works() {
    let all = SandboxPolicy::new(&Settings::defaults(), Path::new("/nonexistent"));
    if !require_feature(
        &all.list_unsupported().join(" and "),
        all.list_unsupported().is_empty(),
    ) {
        return;
    }
    let folder = BuildFolder::new();
    let outside = std::env::temp_dir().join(format!("tancho-outside-{}", uuid::Uuid::new_v4()));
    for file in [&folder.0.join("seal.keys"), &outside] {
        fs::write(file, "secret").unwrap();
        Command::new("chmod").arg("0644").arg(file).status().unwrap();
    }
    let hook = format!(
        "for f in {keys} {outside} /proc/1/environ /root/.profile; do cat $f 2>/dev/null && echo DONE $f; done; \
         for f in /tmp /var/tmp {root} {root}/platforms; do touch $f/x 2>/dev/null && echo DONE $f; done; \
         mount -t tmpfs none . 2>/dev/null && echo DONE mount; unshare -U true 2>/dev/null && echo DONE unshare; \
         grep -E 'NoNewPrivs|Seccomp:' /proc/self/status; \
         echo own > made && echo tmp > $TMPDIR/x && echo home > $HOME/x && mktemp && id -u && echo \"says $GREETING\"",
        keys = folder.0.join("seal.keys").display(),
        outside = outside.display(),
        root = folder.0.display(),
    );
    let request = folder.request(&hook);
    let (built, lines) = build(&request).await;
    let built = built.unwrap_or_else(|error| panic!("{error}\n{lines}"));
    assert!(!lines.contains("DONE"), "{lines}");
    assert!(
        lines.contains("NoNewPrivs:\t1") && lines.contains("Seccomp:\t2"),
        "{lines}"
    );
    assert!(
        lines.contains("says *") || lines.contains("says good day"),
        "{lines}"
    );
    assert!(built.dir.join("made").exists());
    fs::remove_file(outside).unwrap();
}

#[tokio::test]
async fn build_over_its_disk_limit_is_stopped() {
    let folder = BuildFolder::new();
    let mut request =
        folder.request("n=0; while :; do head -c 1000000 /dev/zero > big$n; n=$((n+1)); sleep 0.02; done");
    request.limits.disk_bytes = 3 << 20;
    let (built, lines) = build(&request).await;
    assert!(
        matches!(built, Err(BuildError::TooLarge(_))),
        "{built:?}\n{lines}"
    );
    assert_eq!(fs::read_dir(folder.0.join("versions")).unwrap().count(), 0);
}

#[tokio::test]
async fn honest_static_and_go_apps_are_built_and_run() {
    let server = r#"package main

import ("net"; "os"; "runtime")

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:"+os.Getenv("PORT"))
	if err != nil { panic(err) }
	for {
		connection, err := listener.Accept()
		if err != nil { panic(err) }
		go func() {
			runtime.GC()
			if _, err := net.LookupHost("localhost"); err != nil { panic(err) }
			if err := os.WriteFile(os.TempDir()+"/x", []byte("x"), 0o600); err != nil { panic(err) }
			connection.Read(make([]byte, 512))
			connection.Write([]byte("HTTP/1.0 200 OK\r\n\r\nhello from go"))
			connection.Close()
		}()
	}
}
"#;
    let folder = BuildFolder::new();
    let fixture = LocalFixture::with(|settings| {
        settings.limits.confinement.writable.clear();
        settings.limits.confinement.readable = vec![folder.0.join("platforms")];
    });
    let mut apps = vec![folder.request_of("static", &[("index.html", "hello from a file")])];
    if Path::new("/usr/local/go/bin/go").exists() || Path::new("/usr/bin/go").exists() {
        let module = "module example.com/hello\n\ngo 1.18\n";
        apps.push(folder.request_of("go", &[("go.mod", module), ("main.go", server)]));
    }
    for request in apps {
        let (built, lines) = build(&request).await;
        let built = built.unwrap_or_else(|error| panic!("{error}\n{lines}"));
        let mut spec = fixture.spec(request.platform.as_str(), &built.processes[0].command);
        fixture.place(&mut spec, built.dir, request.user);
        let report = fixture.start(&spec).await;
        let answer = http_get(report.address.unwrap()).await;
        assert!(answer.contains("hello from"), "{answer}");
    }
}
