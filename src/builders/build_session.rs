//! The steps of a build, in order, in a scratch folder beside the version.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::command::{CommandExit, CommandRunner, OutputMode, StopCondition};
use super::files::{LONGEST_PROCFILE, prepare_folders, read_plain_file, read_procfile, read_tsuru_yaml};
use super::freeze::freeze_tree;
use super::hints;
use super::leftovers::{MARK, kill_leftovers};
use super::output::BuildOutput;
use super::platforms::PlatformScripts;
use super::procfile::{ProcessCommand, Procfile, merge_processes};
use super::tree::{ScratchFolder, make_movable, remove_tree};
use super::tsuru_yaml::TsuruYaml;
use super::unpack::{UnpackError, extract_archive};
use super::{BuildArtifact, BuildError, BuildRequest};
use crate::kernel::byte_size::ByteSize;
use crate::kernel::error::Error;
use crate::sandbox::SandboxPolicy;
use crate::sandbox::exec_stage::ExecStage;
use crate::sandbox::shell::shell_for;

const MAX_OPEN_FILES: u64 = 65_536;
/// Per user: the app's units run as the same user and count too.
const MAX_PROCESSES: u64 = 8_192;
/// The OOM killer picks builds before units.
const OOM_SCORE_ADJ: u16 = 800;
/// Shared memory of a build that has no memory limit, or whose shared memory no cgroup counts.
const SHARED_MEMORY: u64 = 64 << 20;

/// Runs blocking work outside of the runtime's threads.
pub(super) async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BuildError> + Send + 'static,
) -> Result<T, BuildError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(BuildError::internal)?
}

/// A running build.
pub(super) struct BuildSession<'a> {
    pub(super) request: &'a BuildRequest,
    pub(super) scripts: PlatformScripts,
    /// The sandbox of the request, without the parts that this host lacks.
    pub(super) sandbox: Option<SandboxPolicy>,
    pub(super) scratch: &'a Arc<ScratchFolder>,
    pub(super) stop: &'a StopCondition,
    pub(super) output: BuildOutput,
}

/// Whose variables a command gets.
#[derive(Clone, Copy, PartialEq, Eq)]
enum EnvVisibility {
    /// The operator's variables.
    Platform,
    /// Also the app's, except those that would break the platform's tools.
    Compile,
    /// Also all of the app's.
    App,
}

/// Variables of the app that only its units and hooks get: with them the platform's own tools would not be
/// found or would not start.
const UNIT_ONLY_VARS: [&str; 7] = [
    "PATH",
    "HOME",
    "TMPDIR",
    "LD_PRELOAD",
    "LD_LIBRARY_PATH",
    "PYTHONHOME",
    "PYTHONPATH",
];

/// What the archive declares about the app.
struct SourceInfo {
    yaml: TsuruYaml,
    procfile: Option<String>,
    /// Notes for the output, one line each.
    notes: Vec<String>,
    /// What to do if the build fails.
    hint: Option<String>,
}

impl BuildSession<'_> {
    pub(super) async fn run_build(mut self) -> Result<BuildArtifact, BuildError> {
        let source = self.unpack_source().await?;
        for note in &source.notes {
            self.output.write_line(note).await;
        }
        let hint = source.hint.clone();
        self.build_source(source)
            .await
            .map_err(|error| error.with_hint(hint))
    }

    async fn build_source(mut self, source: SourceInfo) -> Result<BuildArtifact, BuildError> {
        let SourceInfo { yaml, procfile, .. } = source;
        let platform = &self.request.platform;
        self.output
            .write_line(&format!(" ---> Building with the platform {platform}"))
            .await;
        self.detect_platform().await?;
        let step = format!("The platform {platform}");
        let (tree, cache) = (self.scratch.tree_dir(), self.request.cache_dir.clone());
        let script = self.scripts.compile.clone();
        let argv = [script.as_os_str(), tree.as_os_str(), cache.as_os_str()];
        self.run_required(&step, &argv, EnvVisibility::Compile, OutputMode::Streamed)
            .await?;
        for hook in &yaml.hooks.build {
            let shown = shorten_hook(&self.output.mask_secrets(hook));
            self.output
                .write_line(&format!(" ---> Running the build hook `{shown}`"))
                .await;
            let shell = shell_for(self.request.env.iter().map(|(name, _)| name.as_str()));
            let argv = [shell, "-c", hook].map(OsStr::new);
            let step = format!("The build hook `{shown}`");
            self.run_required(&step, &argv, EnvVisibility::App, OutputMode::Streamed)
                .await?;
        }
        let (processes, release_command) = self.resolve_processes(procfile, &yaml).await?;
        self.stop.fail_if_met()?;
        let bytes = self.install_tree().await?;
        Ok(BuildArtifact {
            dir: self.request.dest.clone(),
            processes,
            release_command,
            yaml,
            bytes,
        })
    }

    /// Unpacks the archive, reads the app's metadata, and gives the tree to the build's user. From then on
    /// the contents of the tree are untrusted.
    async fn unpack_source(&mut self) -> Result<SourceInfo, BuildError> {
        self.output.write_line(" ---> Unpacking the archive").await;
        let (request, scratch, stop_condition) =
            (self.request.clone(), self.scratch.clone(), self.stop.clone());
        run_blocking(move || {
            let tree = scratch.tree_dir();
            let stop = || stop_condition.is_met();
            let unpacked = extract_archive(&request.archive, &tree, &request.limits.unpack, &stop);
            let unpacked = unpacked.map_err(|e| match e {
                UnpackError::Refused(message) => BuildError::Refused(message),
                UnpackError::Stopped => stop_condition.stop_error(),
                UnpackError::Disk(cause) => BuildError::internal(cause),
            })?;
            // The folder belongs to Tancho: an archive that contains it was made from a built tree.
            remove_tree(&tree.join(".tancho")).map_err(BuildError::internal)?;
            let source = SourceInfo {
                yaml: read_tsuru_yaml(&tree)?,
                procfile: read_procfile(&tree)?,
                notes: hints::archive_hints(&tree, &unpacked),
                hint: hints::single_folder_hint(&tree),
            };
            prepare_folders(&request, &scratch).map_err(BuildError::internal)?;
            Ok(source)
        })
        .await
    }

    /// Asks the platform whether it recognizes the app. The user has chosen the platform, so a negative
    /// result is only a note in the output.
    async fn detect_platform(&mut self) -> Result<(), BuildError> {
        let tree = self.scratch.tree_dir();
        let script = self.scripts.detect.clone();
        let argv = [script.as_os_str(), tree.as_os_str()];
        let ended = self
            .run_command(&argv, EnvVisibility::Platform, OutputMode::Captured)
            .await?;
        if !ended.status.success() {
            let platform = &self.request.platform;
            self.output
                .write_line(&format!(
                    " ---> This does not look like an app for {platform}; building it anyway"
                ))
                .await;
        }
        Ok(())
    }

    /// Determines the processes and the release command: from the Procfile (which a hook may have written), from tsuru.yaml, else
    /// from the platform.
    async fn resolve_processes(
        &mut self,
        before: Option<String>,
        yaml: &TsuruYaml,
    ) -> Result<(Vec<ProcessCommand>, Option<String>), BuildError> {
        let tree = self.scratch.tree_dir();
        // Links are not followed: that would happen with Tancho's rights.
        let now = read_plain_file(&tree.join("Procfile"), LONGEST_PROCFILE).unwrap_or_default();
        let text = match now.or(before) {
            Some(text) => text,
            None if yaml.processes.iter().any(|p| p.command.is_some()) => String::new(),
            None => {
                let step = format!("The script `release` of the platform {}", self.request.platform);
                let script = self.scripts.release.clone();
                let argv = [script.as_os_str(), tree.as_os_str()];
                self.run_required(&step, &argv, EnvVisibility::Platform, OutputMode::Captured)
                    .await?
            }
        };
        let refused = |p: Error| BuildError::Refused(p.message().to_owned());
        let mut procfile = Procfile::parse(&text).map_err(refused)?;
        let release_command = procfile.take_release_line(yaml);
        let processes = merge_processes(&procfile, yaml).map_err(refused)?;
        for line in hints::process_hints(&tree, &processes) {
            self.output.write_line(&line).await;
        }
        Ok((processes, release_command))
    }

    /// Makes the tree read-only and moves it to its final path.
    async fn install_tree(&mut self) -> Result<u64, BuildError> {
        let (dest, scratch, user) = (self.request.dest.clone(), self.scratch.clone(), self.request.user);
        let most = self.request.limits.disk_bytes;
        // The kernel sends SIGIO to the holder of a lease, which freezing takes, when the file is opened; its
        // default action would kill this process.
        let _handled = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::io());
        run_blocking(move || {
            kill_leftovers(scratch.path());
            let tree = scratch.tree_dir();
            let bytes = freeze_tree(&tree, user, most).map_err(|e| match e.kind() {
                io::ErrorKind::InvalidFilename => {
                    BuildError::Refused("The built tree has paths that are too long.".to_owned())
                }
                io::ErrorKind::PermissionDenied => {
                    BuildError::Refused(format!("The built tree cannot be stored: {e}."))
                }
                _ => BuildError::internal(e),
            })?;
            if user.is_none() {
                make_movable(&tree).map_err(BuildError::internal)?;
            }
            fs::rename(&tree, &dest).map_err(BuildError::internal)?;
            Ok(bytes)
        })
        .await
    }

    /// Builds the exec stage for commands: they may read the platform, and write the tree and the caches,
    /// nothing else. Files that the operator's variables name, such as certificates, are readable.
    fn sandbox_stage(&self) -> Option<(PathBuf, ExecStage)> {
        let request = self.request;
        let confinement = self.sandbox.clone()?;
        let named = request
            .pass_env
            .iter()
            .map(|(_, value)| PathBuf::from(value))
            .filter(|path| path.is_absolute() && path.exists());
        let mut confinement = confinement
            .with_readable(named)
            .with_readable([request.platforms_dir.clone()])
            .with_writable([
                self.scratch.tree_dir(),
                self.scratch.temp_dir(),
                request.cache_dir.clone(),
            ]);
        confinement.shared_user = request.user.is_none();
        let memory = request.limits.memory_bytes;
        let cgroups: Vec<PathBuf> = self.scratch.cgroup_paths().cloned().collect();
        let counted = self.scratch.memory_cgroup().is_some();
        let stage = ExecStage {
            user: request.user,
            groups: Vec::new(),
            mounts: Vec::new(),
            mount_scratch: PathBuf::new(),
            dir: self.scratch.tree_dir(),
            ends: cgroups.clone(),
            cgroups,
            data: (memory > 0 && !counted).then_some(memory),
            shared_memory: if counted && memory > 0 {
                memory
            } else {
                SHARED_MEMORY
            },
            supervised: true,
            terminal: false,
            parent: i32::try_from(std::process::id()).ok(),
            open_files: Some(MAX_OPEN_FILES),
            processes: Some(MAX_PROCESSES),
            file_bytes: Some(request.limits.disk_bytes),
            expendable: OOM_SCORE_ADJ,
            confinement,
        };
        Some((self.scripts.program.clone(), stage))
    }

    async fn run_command(
        &mut self,
        argv: &[&OsStr],
        sees: EnvVisibility,
        output: OutputMode,
    ) -> Result<CommandExit, BuildError> {
        let (tree, env) = (self.scratch.tree_dir(), self.command_env(sees));
        let runner = CommandRunner {
            dir: &tree,
            user: self.request.user,
            env: &env,
            stop: self.stop,
            scratch: self.scratch,
            stage: self.sandbox_stage(),
        };
        runner.run_command(argv, output, &mut self.output).await
    }

    /// Runs a command that must succeed; returns its captured output.
    async fn run_required(
        &mut self,
        step: &str,
        argv: &[&OsStr],
        sees: EnvVisibility,
        output: OutputMode,
    ) -> Result<String, BuildError> {
        self.output.start_step();
        let kills = self.scratch.count_memory_kills();
        let ended = self.run_command(argv, sees, output).await?;
        if ended.status.success() {
            return Ok(ended.output);
        }
        if self.scratch.count_memory_kills() > kills {
            return Err(BuildError::Failed {
                step: step.to_owned(),
                how: format!(
                    "needed more memory than {}",
                    ByteSize(self.request.limits.memory_bytes)
                ),
                reason: self.output.failure_reason(),
                hint: None,
            });
        }
        Err(BuildError::Failed {
            step: step.to_owned(),
            how: ended.describe_status(),
            reason: self.output.failure_reason(),
            hint: None,
        })
    }

    /// Builds the environment of a script; `compile` and hooks get the app's variables too.
    fn command_env(&self, sees: EnvVisibility) -> BTreeMap<OsString, OsString> {
        let request = self.request;
        let mut env: BTreeMap<OsString, OsString> = BTreeMap::new();
        let mut set = |name: &str, value: &OsStr| env.insert(name.into(), value.to_owned());
        set("LANG", OsStr::new("C.UTF-8"));
        set("PATH", OsStr::new(&default_path()));
        // Keeps output lines in the order in which they were printed.
        set("PYTHONUNBUFFERED", OsStr::new("1"));
        for (name, value) in &request.pass_env {
            set(name, OsStr::new(value));
        }
        let of_app = |name: &str| match sees {
            EnvVisibility::Platform => false,
            EnvVisibility::Compile => !UNIT_ONLY_VARS.contains(&name),
            EnvVisibility::App => true,
        };
        set("HOME", request.cache_dir.join("home").as_os_str());
        set("TMPDIR", self.scratch.temp_dir().as_os_str());
        set("TANCHO_FINAL_DIR", request.dest.as_os_str());
        let mut path = self.scratch.tree_dir().join(".tancho/bin").into_os_string();
        if let Some(usual) = env.get(OsStr::new("PATH")) {
            path.push(":");
            path.push(usual);
        }
        env.insert("PATH".into(), path);
        let own = request.env.iter().filter(|(name, _)| of_app(name.as_str()));
        env.extend(own.map(|(name, value)| (name.as_str().into(), value.expose_secret().into())));
        env.insert(MARK.into(), self.scratch.path().into());
        env
    }
}

/// The default `PATH`. It ignores the `PATH` that Tancho was started with, which may contain folders that
/// only root can read.
fn default_path() -> String {
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

/// Shortens a hook for display: its first line, at most 100 characters.
fn shorten_hook(text: &str) -> String {
    let line = text.trim().lines().next().unwrap_or_default();
    match line.char_indices().nth(100) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line.to_owned(),
    }
}
