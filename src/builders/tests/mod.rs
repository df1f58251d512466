//! Tests of builds with real archives, scripts and processes.

mod builds;
mod formats;
mod hostile;
mod static_files;
mod termination;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use nix::unistd::Uid;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::*;

/// A user that owns no files on this host.
const OTHER_UID: u32 = 61_234;

/// A temporary folder that other users may pass through; removed on drop.
struct BuildFixture(PathBuf);

impl BuildFixture {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("tancho-builders-{}", uuid::Uuid::new_v4().simple()));
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Installs the platforms with a fake program.
    fn platforms(&self) -> PathBuf {
        let exe = self.path("exe");
        if !exe.exists() {
            fs::write(&exe, "#!/bin/sh\necho \"$@\"\n").unwrap();
            fs::set_permissions(&exe, fs::Permissions::from_mode(0o755)).unwrap();
        }
        platforms::install_platforms(&self.path("platforms"), &exe).unwrap()
    }

    /// A request to build these files, as another user if the test runs as root; version `v<number>`.
    fn request(&self, platform: &str, number: u32, files: &[(&str, &str)]) -> BuildRequest {
        let archive = self.path(&format!("{number}.tar.gz"));
        fs::write(&archive, gzip(&tar_of(files))).unwrap();
        BuildRequest {
            archive,
            platform: PlatformName::parse(platform).unwrap(),
            platforms_dir: self.platforms(),
            dest: self.path(&format!("versions/v{number}")),
            cache_dir: self.path("cache"),
            env: Vec::new(),
            pass_env: mirrors(),
            user: Uid::effective().is_root().then_some(OTHER_UID),
            sandbox: None,
            limits: BuildLimits::default(),
        }
    }

    /// Entries besides finished versions.
    fn leftovers(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path("versions")) else {
            return Vec::new();
        };
        entries
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.starts_with('v'))
            .collect()
    }
}

impl Drop for BuildFixture {
    fn drop(&mut self) {
        let _ = tree::remove_tree(&self.0);
    }
}

/// The package mirrors of this host.
fn mirrors() -> Vec<(String, String)> {
    std::env::vars()
        .filter(|(name, _)| {
            ["PIP_", "GOPROXY", "GOSUMDB", "NPM_CONFIG_", "npm_config_"]
                .iter()
                .any(|p| name.starts_with(p))
        })
        .collect()
}

fn tar_of(files: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(if text.starts_with("#!") { 0o755 } else { 0o644 });
        header.set_mtime(1_700_000_000);
        tar.append_data(&mut header, name, text.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    std::io::Write::write_all(&mut encoder, bytes).unwrap();
    encoder.finish().unwrap()
}

/// Builds; returns the result and the output lines.
async fn build_all(request: &BuildRequest) -> (Result<BuildArtifact, BuildError>, Vec<String>) {
    let (tx, mut rx) = mpsc::channel(16);
    let reader = tokio::spawn(async move {
        let mut lines = Vec::new();
        while let Some(line) = rx.recv().await {
            lines.push(line);
        }
        lines
    });
    let built = build_version(request, tx, CancellationToken::new()).await;
    (built, reader.await.unwrap())
}

/// Builds and panics with the output on failure.
async fn build_ok(request: &BuildRequest) -> (BuildArtifact, Vec<String>) {
    match build_all(request).await {
        (Ok(built), lines) => (built, lines),
        (Err(error), lines) => panic!("{error:?}\n{}", lines.join("\n")),
    }
}

/// Waits until a condition holds, at most ten seconds.
async fn wait_until(what: &str, mut so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !so() {
        assert!(Instant::now() < end, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn read_file(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap()
}
