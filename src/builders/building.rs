//! The steps of a build, one after the other, in a scratch folder beside the version.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::files::{LONGEST_PROCFILE, prepare, read_plain, read_procfile, read_yaml};
use super::output::Voice;
use super::platforms::Scripts;
use super::procfile::{Process, Procfile, processes};
use super::run::{Ended, Output, Runner, Watch};
use super::strays::{MARK, kill_strays};
use super::tree::{Scratch, open_top, remove_tree, seal};
use super::tsuru_yaml::TsuruYaml;
use super::unpack::{UnpackError, unpack};
use super::{BuildError, BuildRequest, Built};
use crate::confine::stage::Stage;
use crate::kernel::problem::Problem;

const OPEN_FILES: u64 = 65_536;
/// Of the app's user, whose units count too.
const PROCESSES: u64 = 8_192;
/// Builds go before units when the machine has no memory left.
const EXPENDABLE: u16 = 800;

/// Work that blocks, off the threads of the runtime.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BuildError> + Send + 'static,
) -> Result<T, BuildError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(BuildError::internal)?
}

/// A build under way.
pub(super) struct Building<'a> {
    pub(super) request: &'a BuildRequest,
    pub(super) scripts: Scripts,
    pub(super) scratch: &'a Arc<Scratch>,
    pub(super) watch: &'a Watch,
    pub(super) voice: Voice,
}

/// Whose variables a command sees.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sees {
    /// The operator's.
    Platform,
    /// The app's too.
    App,
}

impl Building<'_> {
    pub(super) async fn run(mut self) -> Result<Built, BuildError> {
        let (yaml, procfile) = self.unpack().await?;
        let platform = &self.request.platform;
        self.voice
            .say(&format!(" ---> Building with the platform {platform}"))
            .await;
        self.detect().await?;
        let step = format!("The platform {platform}");
        let (tree, cache) = (self.scratch.tree(), self.request.cache_dir.clone());
        let script = self.scripts.compile.clone();
        let argv = [script.as_os_str(), tree.as_os_str(), cache.as_os_str()];
        self.must(&step, &argv, Sees::Platform, Output::Said).await?;
        for hook in &yaml.hooks.build {
            let shown = shorten(&self.voice.mask(hook));
            self.voice
                .say(&format!(" ---> Running the build hook `{shown}`"))
                .await;
            let argv = ["/bin/sh", "-c", hook].map(OsStr::new);
            let step = format!("The build hook `{shown}`");
            self.must(&step, &argv, Sees::App, Output::Said).await?;
        }
        let processes = self.settle(procfile, &yaml).await?;
        self.watch.check()?;
        let bytes = self.place().await?;
        Ok(Built {
            dir: self.request.dest.clone(),
            processes,
            yaml,
            bytes,
        })
    }

    /// Unpacks, reads what the app says of itself, and hands the tree to its user. After that nothing
    /// in it is believed any more.
    async fn unpack(&mut self) -> Result<(TsuruYaml, Option<String>), BuildError> {
        self.voice.say(" ---> Unpacking the archive").await;
        let (request, scratch, watch) = (self.request.clone(), self.scratch.clone(), self.watch.clone());
        blocking(move || {
            let tree = scratch.tree();
            let stop = || watch.is_over();
            unpack(&request.archive, &tree, &request.limits.unpack, &stop).map_err(|e| match e {
                UnpackError::Refused(words) => BuildError::Refused(words),
                UnpackError::Stopped => watch.why(),
                UnpackError::Disk(cause) => BuildError::internal(cause),
            })?;
            // Ours: an archive that brings it has been made from a built tree.
            remove_tree(&tree.join(".tancho")).map_err(BuildError::internal)?;
            let yaml = read_yaml(&tree)?;
            let procfile = read_procfile(&tree)?;
            prepare(&request, &scratch).map_err(BuildError::internal)?;
            Ok((yaml, procfile))
        })
        .await
    }

    /// Asks the platform whether it knows such an app. The app has named its platform, so a "no" is only
    /// a hint to who reads the output.
    async fn detect(&mut self) -> Result<(), BuildError> {
        let tree = self.scratch.tree();
        let script = self.scripts.detect.clone();
        let argv = [script.as_os_str(), tree.as_os_str()];
        let ended = self.execute(&argv, Sees::Platform, Output::Captured).await?;
        if !ended.status.success() {
            let platform = &self.request.platform;
            self.voice
                .say(&format!(
                    " ---> This does not look like an app for {platform}; trying all the same"
                ))
                .await;
        }
        Ok(())
    }

    /// The processes: of the Procfile (a hook may have written it), tsuru.yaml, else of the platform.
    async fn settle(&mut self, before: Option<String>, yaml: &TsuruYaml) -> Result<Vec<Process>, BuildError> {
        let tree = self.scratch.tree();
        // Whoever follows a link here would do so with our rights.
        let now = read_plain(&tree.join("Procfile"), LONGEST_PROCFILE).unwrap_or_default();
        let text = match now.or(before) {
            Some(text) => text,
            None if yaml.processes.iter().any(|p| p.command.is_some()) => String::new(),
            None => {
                let step = format!("The script `release` of the platform {}", self.request.platform);
                let script = self.scripts.release.clone();
                let argv = [script.as_os_str(), tree.as_os_str()];
                self.must(&step, &argv, Sees::Platform, Output::Captured).await?
            }
        };
        let refused = |p: Problem| BuildError::Refused(p.words().to_owned());
        let procfile = Procfile::parse(&text).map_err(refused)?;
        processes(&procfile, yaml).map_err(refused)
    }

    /// Closes the tree and moves it to its place.
    async fn place(&mut self) -> Result<u64, BuildError> {
        let (dest, scratch, user) = (self.request.dest.clone(), self.scratch.clone(), self.request.user);
        blocking(move || {
            kill_strays(scratch.path());
            let tree = scratch.tree();
            let bytes = seal(&tree, user).map_err(|e| match e.kind() {
                io::ErrorKind::InvalidFilename => {
                    BuildError::Refused("The built tree has paths that are too long.".to_owned())
                }
                io::ErrorKind::PermissionDenied => {
                    BuildError::Refused(format!("The built tree cannot be kept: {e}."))
                }
                _ => BuildError::internal(e),
            })?;
            if user.is_none() {
                open_top(&tree).map_err(BuildError::internal)?;
            }
            fs::rename(&tree, &dest).map_err(BuildError::internal)?;
            Ok(bytes)
        })
        .await
    }

    /// How commands are shut in: they read the platform, and write the tree, the caches, nothing else. What
    /// the operator hands on by name, such as certificates, can be read.
    fn step(&self) -> Option<(PathBuf, Stage)> {
        let request = self.request;
        let confinement = request.confinement.clone()?;
        let named = request
            .pass_env
            .iter()
            .map(|(_, value)| PathBuf::from(value))
            .filter(|path| path.is_absolute() && path.exists());
        let mut confinement = confinement
            .reads(named)
            .reads([request.platforms_dir.clone()])
            .writes([self.scratch.path().to_owned(), request.cache_dir.clone()]);
        confinement.shared_user = request.user.is_none();
        let stage = Stage {
            user: request.user,
            dir: self.scratch.tree(),
            open_files: Some(OPEN_FILES),
            processes: Some(PROCESSES),
            file_bytes: Some(request.limits.disk_bytes),
            expendable: EXPENDABLE,
            confinement,
            ..Stage::default()
        };
        Some((self.scripts.program.clone(), stage))
    }

    async fn execute(&mut self, argv: &[&OsStr], sees: Sees, output: Output) -> Result<Ended, BuildError> {
        let (tree, env) = (self.scratch.tree(), self.environment(sees));
        let runner = Runner {
            dir: &tree,
            user: self.request.user,
            env: &env,
            watch: self.watch,
            step: self.step(),
        };
        runner.run(argv, output, &mut self.voice).await
    }

    /// Runs a command that must succeed; answers its captured output.
    async fn must(
        &mut self,
        step: &str,
        argv: &[&OsStr],
        sees: Sees,
        output: Output,
    ) -> Result<String, BuildError> {
        self.voice.begin();
        let ended = self.execute(argv, sees, output).await?;
        if ended.status.success() {
            return Ok(ended.output);
        }
        Err(BuildError::Failed {
            step: step.to_owned(),
            how: ended.words(),
            last_line: self.voice.last(),
        })
    }

    /// What a script sees; a hook also sees the app's variables.
    fn environment(&self, sees: Sees) -> BTreeMap<OsString, OsString> {
        let request = self.request;
        let mut env: BTreeMap<OsString, OsString> = BTreeMap::new();
        let mut set = |name: &str, value: &OsStr| env.insert(name.into(), value.to_owned());
        set("LANG", OsStr::new("C.UTF-8"));
        set("PATH", OsStr::new(&usual_path()));
        for (name, value) in &request.pass_env {
            set(name, OsStr::new(value));
        }
        set("HOME", request.cache_dir.join("home").as_os_str());
        set("TMPDIR", self.scratch.temp().as_os_str());
        set("TANCHO_FINAL_DIR", request.dest.as_os_str());
        let mut path = self.scratch.tree().join(".tancho/bin").into_os_string();
        if let Some(usual) = env.get(OsStr::new("PATH")) {
            path.push(":");
            path.push(usual);
        }
        env.insert("PATH".into(), path);
        if sees == Sees::App {
            env.extend(
                request
                    .env
                    .iter()
                    .map(|(n, v)| (n.as_str().into(), v.expose().into())),
            );
        }
        env.insert(MARK.into(), self.scratch.path().into());
        env
    }
}

/// Where programs are, whatever the `PATH` of whoever started Tancho: that may lead into folders that
/// only root can read.
fn usual_path() -> String {
    [
        "/usr/local/bin",
        "/usr/bin",
        "/bin",
        "/usr/local/go/bin",
        "/usr/lib/go/bin",
    ]
    .into_iter()
    .filter(|dir| Path::new(dir).is_dir())
    .collect::<Vec<_>>()
    .join(":")
}

/// What of a hook is shown: its first line, 100 characters at most.
fn shorten(text: &str) -> String {
    let line = text.trim().lines().next().unwrap_or_default();
    match line.char_indices().nth(100) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line.to_owned(),
    }
}
