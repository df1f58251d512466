//! Builds as they are shut in when the program is there to do it.

use tancho::builders::{self, BuildError, BuildLimits, BuildRequest, platforms};
use tancho::config::Settings;
use tancho::kernel::names::PlatformName;

use super::*;

struct Yard(PathBuf);

impl Drop for Yard {
    fn drop(&mut self) {
        let _ = builders::remove_tree(&self.0);
    }
}

impl Yard {
    fn new() -> Self {
        let root = std::env::temp_dir().join(format!("tancho-yard-{}", uuid::Uuid::new_v4()));
        fs::create_dir(&root).unwrap();
        Command::new("chmod").arg("0755").arg(&root).status().unwrap();
        Self(root.canonicalize().unwrap())
    }

    /// A build of one app whose hook is a shell line.
    fn request(&self, hook: &str) -> BuildRequest {
        let source = self.0.join("source");
        fs::create_dir(&source).unwrap();
        fs::write(source.join("Procfile"), "web: true\n").unwrap();
        let yaml = serde_json::json!({"hooks": {"build": [hook]}});
        fs::write(source.join("tsuru.yaml"), yaml.to_string()).unwrap();
        let archive = self.0.join("archive.tar");
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
            platform: PlatformName::parse("procfile").unwrap(),
            platforms_dir: platforms::install(
                &self.0.join("platforms"),
                env!("CARGO_BIN_EXE_tancho").as_ref(),
            )
            .unwrap(),
            dest: self.0.join("versions/v1"),
            cache_dir: self.0.join("cache"),
            env: vec![(EnvName::parse("GREETING").unwrap(), Secret::new("good day"))],
            pass_env: Vec::new(),
            user: Uid::effective().is_root().then_some(20_050),
            confinement: Some(Confinement::new(&Settings::defaults().local, &self.0)),
            limits: BuildLimits::default(),
        }
    }
}

async fn build(request: &BuildRequest) -> (Result<builders::Built, BuildError>, String) {
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
        builders::build(request, sender, CancellationToken::new()),
        reading
    )
}

#[tokio::test]
async fn a_hostile_build_reaches_nothing_and_an_honest_one_works() {
    let yard = Yard::new();
    let outside = std::env::temp_dir().join(format!("tancho-outside-{}", uuid::Uuid::new_v4()));
    for file in [&yard.0.join("seal.keys"), &outside] {
        fs::write(file, "secret").unwrap();
        Command::new("chmod").arg("0644").arg(file).status().unwrap();
    }
    let hook = format!(
        "for f in {keys} {outside} /proc/1/environ /root/.profile; do cat $f 2>/dev/null && echo DONE $f; done; \
         for f in /tmp /var/tmp {root} {root}/platforms; do touch $f/x 2>/dev/null && echo DONE $f; done; \
         mount -t tmpfs none . 2>/dev/null && echo DONE mount; unshare -U true 2>/dev/null && echo DONE unshare; \
         grep -E 'NoNewPrivs|Seccomp:' /proc/self/status; \
         echo own > made && echo tmp > $TMPDIR/x && echo home > $HOME/x && mktemp && id -u && echo \"says $GREETING\"",
        keys = yard.0.join("seal.keys").display(),
        outside = outside.display(),
        root = yard.0.display(),
    );
    let request = yard.request(&hook);
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
async fn a_build_that_writes_too_much_is_stopped() {
    let yard = Yard::new();
    let mut request =
        yard.request("n=0; while :; do head -c 1000000 /dev/zero > big$n; n=$((n+1)); sleep 0.02; done");
    request.limits.disk_bytes = 3 << 20;
    let (built, lines) = build(&request).await;
    assert!(
        matches!(built, Err(BuildError::TooLarge(_))),
        "{built:?}\n{lines}"
    );
    assert_eq!(fs::read_dir(yard.0.join("versions")).unwrap().count(), 0);
}
