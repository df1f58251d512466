//! Source into versions: an archive and a platform become the folder that units run from.
//!
//! A build unpacks the archive, lets the platform's scripts compile it, runs the app's own build hooks,
//! settles which processes it has, closes the tree and moves it to its place. It promises:
//!
//! * **all or nothing**: a version's folder that exists is complete; a build that fails, is cancelled,
//!   late or dropped leaves no folder and no process. What a killed Tancho leaves, `sweep` removes;
//! * **no trust**: a hostile archive is refused whole; scripts and hooks run as the app's own user, with
//!   an environment of their own, and when they have ended the app cannot write what it runs;
//! * **no secret** in the output or an error: values of the app's variables are masked (from six
//!   characters on: the shorter ones would be found everywhere);
//! * **bounds** on time, output, sizes and numbers; the disk is looked at every few seconds.
//!
//! It knows nothing of the database, HTTP or events, and decides nothing about who may build. One build
//! of an app at a time: they share the folder of caches. The folders above `dest`, `cache_dir` and
//! `platforms_dir` must let the build's user pass (`o+x`). A tree may hold links that lead out of it
//! (an interpreter's): whoever reads it with more rights than the app follows none.

mod building;
mod files;
mod layout;
mod output;
pub mod platforms;
mod procfile;
mod room;
mod run;
pub mod static_server;
mod strays;
mod stream;
#[cfg(test)]
mod tests;
mod tree;
pub mod tsuru_yaml;
mod unpack;
mod write;

use std::error::Error as StdError;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use procfile::{Process, Procfile, main_process, processes};
pub use tree::{chown_tree, remove_tree, remove_version, sweep};
pub use tsuru_yaml::TsuruYaml;
pub use unpack::{Limits, UnpackError, unpack};

use crate::confine::Confinement;
use crate::kernel::names::{EnvName, PlatformName};
use crate::kernel::problem::{Kind, Problem};
use crate::kernel::secret::Secret;
use crate::kernel::size::Bytes;
use building::{Building, blocking};
use output::Voice;
use platforms::Scripts;
use run::Watch;
use tree::Scratch;

/// What to build, and where.
#[derive(Clone, Debug)]
pub struct BuildRequest {
    /// A `.tar.gz` or `.tar`, rooted at the app.
    pub archive: PathBuf,
    /// The platform that the app names.
    pub platform: PlatformName,
    /// What `platforms::install` has answered.
    pub platforms_dir: PathBuf,
    /// The version's folder; must not exist.
    pub dest: PathBuf,
    /// The app's own folder of caches; made when missing, kept between builds.
    pub cache_dir: PathBuf,
    /// The app's variables: for the build hooks only.
    pub env: Vec<(EnvName, Secret)>,
    /// The operator's variables (mirrors, proxies; a `PATH` replaces the usual one): for every script.
    pub pass_env: Vec<(String, String)>,
    /// The user, and group of the same number, that builds and later runs the app. Needs root.
    pub user: Option<u32>,
    /// How its scripts are shut in, by a step of the program that `platforms::install` has placed; `None`:
    /// by their user alone.
    pub confinement: Option<Confinement>,
    /// Bounds.
    pub limits: BuildLimits,
}

/// The bounds of a build.
#[derive(Clone, Debug)]
pub struct BuildLimits {
    /// From the beginning to the end.
    pub deadline: Duration,
    /// All lines together, in bytes; what is beyond is left out and the build goes on.
    pub output_bytes: u64,
    /// What it may write: the version and what it needs beside it; the app's caches as much again.
    pub disk_bytes: u64,
    /// What the archive may hold.
    pub unpack: Limits,
}

impl Default for BuildLimits {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(15 * 60),
            output_bytes: 4 << 20,
            disk_bytes: 8 << 30,
            unpack: Limits::default(),
        }
    }
}

/// A version that is there.
#[derive(Clone, Debug)]
pub struct Built {
    /// Its folder: `dest`.
    pub dir: PathBuf,
    /// Its processes, by name; at least one.
    pub processes: Vec<Process>,
    /// Its tsuru.yaml, empty if there was none.
    pub yaml: TsuruYaml,
    /// All files together, in bytes.
    pub bytes: u64,
}

/// Why there is no version. The sentences are for the user.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The archive or a file in it breaks a rule.
    #[error("{0}")]
    Refused(String),
    /// A script or a hook failed.
    #[error("{step} {how}{}", .last_line.as_ref().map(|l| format!("; its last line was: {l}")).unwrap_or_default())]
    Failed {
        /// ``The build hook `make` ``.
        step: String,
        /// `exited with status 2`.
        how: String,
        /// The last line it printed that was not blank.
        last_line: Option<String>,
    },
    /// The token said so.
    #[error("The build was cancelled.")]
    Cancelled,
    /// It took longer than allowed.
    #[error("The build took longer than {} seconds and was stopped.", .0.as_secs())]
    TimedOut(Duration),
    /// It wrote more than allowed.
    #[error("The build wrote more than {0} to the disk and was stopped.")]
    TooLarge(Bytes),
    /// The machine's fault or ours.
    #[error("The build failed on our side.")]
    Internal(#[source] Box<dyn StdError + Send + Sync>),
}

impl BuildError {
    fn internal(cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::Internal(cause.into())
    }
}

impl From<BuildError> for Problem {
    fn from(error: BuildError) -> Self {
        let words = error.to_string();
        match error {
            BuildError::Refused(words) => Self::invalid(words),
            BuildError::Failed { .. } | BuildError::TimedOut(_) | BuildError::TooLarge(_) => {
                Self::failed(words)
            }
            BuildError::Cancelled => Self::new(Kind::Cancelled, words),
            BuildError::Internal(cause) => Self::internal(cause),
        }
    }
}

/// Builds a version. Lines go to `lines` as they come; a slow reader slows the build, none does not
/// stop it. When this returns, also by an error, no process of the build runs any more.
pub async fn build(
    request: &BuildRequest,
    lines: mpsc::Sender<String>,
    cancel: CancellationToken,
) -> Result<Built, BuildError> {
    // Cancelled too when this future is dropped: what blocks on another thread hears of it.
    let cancel = cancel.child_token();
    let _dropped = cancel.clone().drop_guard();
    let watch = Watch {
        cancel,
        deadline: Instant::now() + request.limits.deadline,
        allowed: request.limits.deadline,
        full: CancellationToken::new(),
        room: Bytes(request.limits.disk_bytes),
    };
    let scripts = Scripts::find(&request.platforms_dir, &request.platform)
        .ok_or_else(|| BuildError::Refused(format!("There is no platform named {}.", request.platform)))?;
    let versions_dir = request.dest.parent().map(Path::to_owned);
    let (Some(versions_dir), false) = (versions_dir, request.dest.exists()) else {
        return Err(BuildError::internal(format!(
            "{} is there already",
            request.dest.display()
        )));
    };
    let scratch = blocking(move || Scratch::new(&versions_dir).map_err(BuildError::internal)).await?;
    let scratch = Arc::new(scratch);
    let secrets = request.env.iter().map(|(_, value)| value);
    let voice = Voice::new(lines, watch.clone(), secrets, request.limits.output_bytes);
    let building = Building {
        request,
        scripts,
        scratch: &scratch,
        watch: &watch,
        voice,
    };
    let built = tokio::select! {
        built = building.run() => built,
        never = room::look(&scratch, &request.cache_dir, &watch) => match never {},
    };
    blocking(move || {
        drop(scratch);
        Ok(())
    })
    .await?;
    built
}
