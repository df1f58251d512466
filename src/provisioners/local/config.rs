//! What the local runner is built with, and how it is opened for a server.

use std::path::PathBuf;
use std::sync::Arc;

use super::{LocalRunner, ProvisionError, Runner, UnitLimits};
use crate::kernel::ids::AppId;
use crate::provisioners::registry::{AppUidRule, RunnerParts, VersionDirRule};
use crate::sandbox::SandboxPolicy;

/// The configuration of the local runner.
#[derive(Clone)]
pub struct LocalRunnerConfig {
    /// The folder that contains the units' folders. The units' users must be able to traverse its parents.
    pub root: PathBuf,
    /// The folder that contains the folders of volumes, as accessible as `root`.
    pub volumes: PathBuf,
    /// The id of this host.
    pub host: String,
    /// The folder of an app's version.
    pub version_dir: VersionDirRule,
    /// The uid and gid of an app's units.
    pub app_uid: AppUidRule,
    /// The executable with the sub-commands `unit-shim` and `unit-exec`; `/proc/self/exe` is this same
    /// program, even after its file was replaced.
    pub exe: PathBuf,
    /// The cgroup below which units get theirs; `None`: Tancho's own.
    pub cgroup: Option<PathBuf>,
    /// The limits of every unit.
    pub limits: UnitLimits,
}

impl LocalRunnerConfig {
    /// Creates a configuration with these rules, this executable, and no limits except those of specs.
    pub fn new(
        root: impl Into<PathBuf>,
        host: &str,
        version_dir: impl Fn(AppId, i32) -> PathBuf + Send + Sync + 'static,
        app_uid: impl Fn(i32) -> Option<u32> + Send + Sync + 'static,
    ) -> Self {
        let root = root.into();
        Self {
            volumes: root.with_extension("volumes"),
            root,
            host: host.to_owned(),
            version_dir: Arc::new(version_dir),
            app_uid: Arc::new(app_uid),
            exe: "/proc/self/exe".into(),
            cgroup: None,
            limits: UnitLimits::default(),
        }
    }
}

/// Opens the local provisioner of a server.
pub fn open_runner(parts: &RunnerParts<'_>) -> Result<Option<Runner>, ProvisionError> {
    let (settings, data_dir) = (parts.settings, parts.data_dir);
    let policy = SandboxPolicy::new(settings, data_dir.path()).with_readable([data_dir.platforms_dir()]);
    let config = LocalRunnerConfig {
        root: data_dir.units_dir(),
        volumes: data_dir.volumes_dir(),
        host: parts.host.to_owned(),
        version_dir: Arc::clone(&parts.version_dir),
        app_uid: Arc::clone(&parts.app_uid),
        exe: parts.exe.clone(),
        cgroup: None,
        limits: UnitLimits::new(&settings.local, policy),
    };
    let runner = LocalRunner::new(config, parts.tasks, parts.stop.clone())?;
    Ok(Some(Runner::Units(Arc::new(runner))))
}
