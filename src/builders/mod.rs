//! Builds: turn a source archive and a platform into a version, the folder that units run from.
//!
//! A build unpacks the archive, runs the platform's scripts, runs the app's build hooks, determines the
//! processes of the version, makes the tree read-only and moves it to its final path. It promises:
//!
//! * **all or nothing**: a version's folder that exists is complete. A build that fails, is cancelled, times
//!   out or is dropped leaves no folder and no process. `remove_leftovers` removes what a killed Tancho
//!   leaves;
//! * **no trust**: a hostile archive is refused as a whole; scripts and hooks run as the app's own user, with
//!   an environment of their own; after they have ended, the app cannot write the files that it runs;
//! * **no secrets** in the output or in errors: values of the app's variables are masked, from six characters
//!   on (shorter values would match everywhere);
//! * **limits** on time, output, memory, processes, sizes and counts; disk usage is measured every few
//!   seconds.
//!
//! This module knows nothing of the database, HTTP or events, and does not decide who may build. Only one
//! build of an app may run at a time, because builds of an app share the cache folder. The parents of `dest`,
//! `cache_dir` and `platforms_dir` must be searchable by the build's user (`o+x`). A tree may contain links
//! that lead out of it (such as an interpreter's): code that reads it with more rights than the app must not
//! follow links.

mod build_session;
mod command;
mod disk_watch;
mod dockerfile;
mod failure_reason;
mod files;
mod freeze;
mod hints;
mod layout;
mod leftovers;
mod output;
mod pax;
pub mod platform_archive;
pub mod platforms;
mod procfile;
pub mod static_server;
mod stream;
#[cfg(test)]
mod tests;
mod tree;
mod tree_writer;
pub mod tsuru_yaml;
mod unpack;

use std::error::Error as StdError;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use dockerfile::{BuiltImage, ImageBuildRequest, build_image, is_harmless_trigger};
pub use procfile::{ProcessCommand, Procfile, find_main_process, merge_processes};
pub use tree::{chown_tree, remove_leftovers, remove_tree, remove_version};
pub use tsuru_yaml::TsuruYaml;
pub use unpack::{UnpackError, UnpackLimits, UnpackSummary, extract_archive};

use crate::kernel::byte_size::ByteSize;
use crate::kernel::error::{Error, ErrorKind};
use crate::kernel::names::{EnvName, PlatformName};
use crate::kernel::secret::Secret;
use crate::sandbox::SandboxPolicy;
use build_session::{BuildSession, run_blocking};
use command::StopCondition;
use output::BuildOutput;
use platforms::PlatformScripts;
use tree::ScratchFolder;

/// The parameters of a build.
#[derive(Clone, Debug)]
pub struct BuildRequest {
    /// A `.tar.gz` or `.tar`, rooted at the app.
    pub archive: PathBuf,
    /// The app's platform.
    pub platform: PlatformName,
    /// The folder that `platforms::install_platforms` returned, or `platform_archive::install_platform_archive`.
    pub platforms_dir: PathBuf,
    /// The version's folder; must not exist.
    pub dest: PathBuf,
    /// The app's cache folder; created if missing, kept between builds.
    pub cache_dir: PathBuf,
    /// The app's variables, including private ones: for `compile` and the build hooks.
    pub env: Vec<(EnvName, Secret)>,
    /// The operator's variables (mirrors, proxies; a `PATH` replaces the default): for every script.
    pub pass_env: Vec<(String, String)>,
    /// The uid and gid that builds and later runs the app. Needs root.
    pub user: Option<u32>,
    /// The sandbox of its scripts, applied by the exec stage of the program that
    /// `platforms::install_platforms` installed. `None`: scripts are isolated by their user only.
    pub sandbox: Option<SandboxPolicy>,
    /// The limits of the build.
    pub limits: BuildLimits,
}

/// The limits of a build.
#[derive(Clone, Debug)]
pub struct BuildLimits {
    /// From start to end.
    pub deadline: Duration,
    /// All output lines together, in bytes; further lines are omitted and the build continues.
    pub output_bytes: u64,
    /// What the build may write: to the version and its scratch files; the same again for the app's caches.
    pub disk_bytes: u64,
    /// Memory of all its processes together, or of each process where no cgroup can be created; 0 is no
    /// limit.
    pub memory_bytes: u64,
    /// Processes and threads of the build.
    pub processes: u64,
    /// The limits on the archive.
    pub unpack: UnpackLimits,
}

impl Default for BuildLimits {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(15 * 60),
            output_bytes: 4 << 20,
            disk_bytes: 8 << 30,
            memory_bytes: 4 << 30,
            processes: 4096,
            unpack: UnpackLimits::default(),
        }
    }
}

/// A version that was built.
#[derive(Clone, Debug)]
pub struct BuildArtifact {
    /// Its folder: `dest`.
    pub dir: PathBuf,
    /// Its processes, sorted by name; at least one.
    pub processes: Vec<ProcessCommand>,
    /// The `release` line of its Procfile.
    pub release_command: Option<String>,
    /// Its tsuru.yaml; empty if there was none.
    pub yaml: TsuruYaml,
    /// The size of all files, in bytes.
    pub bytes: u64,
}

/// Why a build failed. The messages are for the user.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The archive or a file in it breaks a rule.
    #[error("{0}")]
    Refused(String),
    /// A script or a hook failed.
    #[error("{step} {how}{}{}", sentence(": ", reason), sentence(" ", hint))]
    Failed {
        /// ``The build hook `make` ``.
        step: String,
        /// `exited with status 2`.
        how: String,
        /// The output line that names the cause.
        reason: Option<String>,
        /// What to do about it, if known.
        hint: Option<String>,
    },
    /// The token was cancelled.
    #[error("The build was cancelled.")]
    Cancelled,
    /// The build exceeded its deadline.
    #[error("The build took longer than {} seconds and was stopped.", .0.as_secs())]
    TimedOut(Duration),
    /// The build exceeded its disk limit.
    #[error("The build wrote more than {0} to the disk and was stopped.")]
    TooLarge(ByteSize),
    /// A failure of the host or of Tancho.
    #[error("The build failed because of an internal error.")]
    Internal(#[source] Box<dyn StdError + Send + Sync>),
}

/// Formats an optional part of an error message.
fn sentence(before: &str, text: &Option<String>) -> String {
    text.as_ref().map(|t| format!("{before}{t}")).unwrap_or_default()
}

impl BuildError {
    fn internal(cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::Internal(cause.into())
    }

    /// Adds a hint to errors that the source tree may have caused.
    fn with_hint(self, more: Option<String>) -> Self {
        match (self, more) {
            (Self::Refused(message), Some(more)) => Self::Refused(format!("{message} {more}")),
            (
                Self::Failed {
                    step, how, reason, ..
                },
                hint,
            ) => Self::Failed {
                step,
                how,
                reason,
                hint,
            },
            (other, _) => other,
        }
    }
}

impl From<BuildError> for Error {
    fn from(error: BuildError) -> Self {
        let message = error.to_string();
        match error {
            BuildError::Refused(message) => Self::invalid(message),
            BuildError::Failed { .. } | BuildError::TimedOut(_) | BuildError::TooLarge(_) => {
                Self::failed(message)
            }
            BuildError::Cancelled => Self::new(ErrorKind::Cancelled, message),
            BuildError::Internal(cause) => Self::internal(cause),
        }
    }
}

/// Builds a version. Output lines are sent to `lines` as they arrive: a slow reader slows the build down, a
/// dropped reader does not stop it. When this returns, even with an error, no process of the build is
/// running.
pub async fn build_version(
    request: &BuildRequest,
    lines: mpsc::Sender<String>,
    cancel: CancellationToken,
) -> Result<BuildArtifact, BuildError> {
    // Cancelled when this future is dropped too, so that work on blocking threads stops.
    let cancel = cancel.child_token();
    let _dropped = cancel.clone().drop_guard();
    let stop = StopCondition::begin(cancel, &request.limits);
    let scripts = PlatformScripts::find_scripts(&request.platforms_dir, &request.platform)
        .ok_or_else(|| BuildError::Refused(format!("There is no platform named {}.", request.platform)))?;
    let versions_dir = request.dest.parent().map(Path::to_owned);
    let (Some(versions_dir), false) = (versions_dir, request.dest.exists()) else {
        return Err(BuildError::internal(format!(
            "{} already exists",
            request.dest.display()
        )));
    };
    let sandbox = request.sandbox.clone();
    let (program, limits) = (scripts.program.clone(), request.limits.clone());
    let (scratch, sandbox) = run_blocking(move || {
        let sandbox = sandbox.map(|sandbox| sandbox.with_probed_namespaces(&program));
        let limits = sandbox.as_ref().map(|_| &limits);
        let scratch = ScratchFolder::new(&versions_dir, limits).map_err(BuildError::internal)?;
        Ok((scratch, sandbox))
    })
    .await?;
    let scratch = Arc::new(scratch);
    let secrets = request.env.iter().map(|(_, value)| value);
    let output = BuildOutput::new(lines, stop.clone(), secrets, request.limits.output_bytes);
    let building = BuildSession {
        request,
        scripts,
        sandbox,
        scratch: &scratch,
        stop: &stop,
        output,
    };
    let built = tokio::select! {
        built = building.run_build() => built,
        never = disk_watch::watch_disk(&scratch, &request.cache_dir, &stop) => match never {},
    };
    run_blocking(move || {
        drop(scratch);
        Ok(())
    })
    .await?;
    built
}
